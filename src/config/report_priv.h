/* Collects what load and check have to say, sorted by line, bounded in number. */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "base/macros.h"
#include "config/config.h"

enum {
    REPORT_ERRORS_MAX = 100, /* a file that has more is not a configuration */
    REPORT_WARNINGS_MAX = 100,
    REPORT_ECHO_SIZE = 80, /* of any text that a message repeats */
};

enum report_line {
    REPORT_WHOLE_FILE = 0, /* no number is shown */
    REPORT_LAST = INT_MAX, /* nor here */
};

/* Appends "FILE:LINE: text". False when the list is full or memory is short; an error is counted
 * all the same, so that nothing that has errors can pass. */
bool report_add(struct config_report *report, const char *file, bool is_error, unsigned int line,
                const char *format, ...) PRINTF_FORMAT(5, 6);
/* An error that is of that half alone. */
bool report_add_of_half(struct config_report *report, const char *file, enum config_role half,
                        unsigned int line, const char *format, ...) PRINTF_FORMAT(5, 6);
/* Makes warnings of the errors of that half, unless the list is cut short. Returns their number. */
size_t report_demote(struct config_report *report, enum config_role half);
/* Moves all messages of `from` to `to`. */
void report_append(struct config_report *to, const struct config_report *from);
