#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report_priv.h"
#include "text_priv.h"

/* Inserts behind messages of the same line. Owns message.text in every case. False: no memory. */
static bool insert(struct config_report *report, struct config_message message)
{
    size_t room = sizeof *report->messages * (report->count + 1);
    struct config_message *messages = realloc(report->messages, room);
    if (messages == NULL) {
        free(message.text);
        return false;
    }
    report->messages = messages;
    size_t at = report->count++;
    for (; at > 0 && messages[at - 1].line > message.line; at--)
        messages[at] = messages[at - 1];
    messages[at] = message;
    return true;
}

static size_t warning_count(const struct config_report *report)
{
    size_t count = 0;
    for (size_t i = 0; i < report->count; i++)
        count += !report->messages[i].is_error;
    return count;
}

/* message lacks only its text. */
static bool report_append_message(struct config_report *report, const char *file,
                                  struct config_message message, const char *format, va_list args)
    PRINTF_FORMAT(4, 0);
static bool report_append_message(struct config_report *report, const char *file,
                                  struct config_message message, const char *format, va_list args)
{
    if (message.is_error && ++report->error_count > REPORT_ERRORS_MAX + 1)
        return false;
    if (!message.is_error && warning_count(report) >= REPORT_WARNINGS_MAX)
        return false;
    CLEANUP_FREE char *text = NULL;
    bool is_last = message.is_error && report->error_count == REPORT_ERRORS_MAX + 1;
    if (is_last) {
        message.line = REPORT_LAST;
        message.is_of_half = false;
        text = strdup("more errors than are listed here");
    } else if (vasprintf(&text, format, args) < 0) {
        text = NULL;
    }
    if (text == NULL)
        return false;
    char name[512], number[16] = "";
    if (message.line != REPORT_WHOLE_FILE && message.line != REPORT_LAST)
        (void)snprintf(number, sizeof number, ":%u", message.line);
    if (asprintf(&message.text, "%s%s: %s", text_escape(file, name, sizeof name), number, text) < 0)
        return false;
    return insert(report, message) && report->error_count <= REPORT_ERRORS_MAX;
}

bool report_add(struct config_report *report, const char *file, bool is_error, unsigned int line,
                const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct config_message message = {.is_error = is_error, .line = line};
    bool is_added = report_append_message(report, file, message, format, args);
    va_end(args);
    return is_added;
}

bool report_add_of_half(struct config_report *report, const char *file, enum config_role half,
                        unsigned int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct config_message message = {
        .is_error = true, .is_of_half = true, .half = half, .line = line};
    bool is_added = report_append_message(report, file, message, format, args);
    va_end(args);
    return is_added;
}

size_t report_demote(struct config_report *report, enum config_role half)
{
    size_t count = 0;
    if (report->error_count > REPORT_ERRORS_MAX)
        return 0;
    for (size_t i = 0; i < report->count; i++) {
        struct config_message *message = &report->messages[i];
        if (!message->is_error || !message->is_of_half || message->half != half)
            continue;
        char *text;
        if (asprintf(&text, "%s (in the half that does not run)", message->text) >= 0) {
            free(message->text);
            message->text = text;
        }
        message->is_error = false;
        report->error_count--;
        count++;
    }
    return count;
}

void report_append(struct config_report *to, const struct config_report *from)
{
    for (size_t i = 0; i < from->count; i++) {
        struct config_message copy = from->messages[i];
        copy.text = strdup(copy.text);
        if (copy.text != NULL && insert(to, copy))
            to->error_count += copy.is_error;
    }
}

void config_report_finish(struct config_report *report)
{
    for (size_t i = 0; i < report->count; i++)
        free(report->messages[i].text);
    free(report->messages);
    *report = (struct config_report){0};
}
