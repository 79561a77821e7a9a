/* The messages of load and check: sorted by line, bounded in number. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "base/macros.h"
#include "config/config.h"

enum {
    REPORT_ERRORS_MAX = 100, /* a file with more is not a configuration */
    REPORT_WARNINGS_MAX = 100,
    REPORT_ECHO_SIZE = 80, /* of any text that a message quotes */
};

enum report_line {
    REPORT_WHOLE_FILE = 0, /* shown without a line number, before all others */
    REPORT_LAST = INT_MAX, /* the same, behind all others */
};

/* Adds "FILE:LINE: text". False: the list is full, or memory is short. An error counts even then,
 * so that a file with errors never passes. */
bool report_add(struct config_report *report, const char *file, bool is_error, unsigned int line,
                const char *format, ...) PRINTF_FORMAT(5, 6);
/* Adds an error that concerns one role only. */
bool report_add_of_half(struct config_report *report, const char *file, enum config_role half,
                        unsigned int line, const char *format, ...) PRINTF_FORMAT(5, 6);
/* Turns the errors of that half into warnings, unless the list was cut. Returns their number. */
size_t report_demote(struct config_report *report, enum config_role half);
/* Copies all messages of `from` to `to`. */
void report_append(struct config_report *to, const struct config_report *from);
