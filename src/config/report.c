#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "report_priv.h"
#include "text_priv.h"

/* Takes over message->text in every case. */
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

bool report_add(struct config_report *report, const char *file, bool is_error, unsigned int line,
                const char *format, ...)
{
    if (is_error && ++report->error_count > REPORT_ERRORS_MAX + 1)
        return false;
    if (!is_error && warning_count(report) >= REPORT_WARNINGS_MAX)
        return false;
    if (is_error && report->error_count == REPORT_ERRORS_MAX + 1) {
        line = REPORT_LAST;
        format = "more errors than are listed here";
    }

    CLEANUP_FREE char *text = NULL;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0) {
        text = NULL;
        return false;
    }
    char name[512], number[16] = "";
    if (line != REPORT_WHOLE_FILE && line != REPORT_LAST)
        (void)snprintf(number, sizeof number, ":%u", line);
    struct config_message message = {.is_error = is_error, .line = line};
    if (asprintf(&message.text, "%s%s: %s", text_escape(file, name, sizeof name), number, text) < 0)
        return false;
    return insert(report, message) && report->error_count <= REPORT_ERRORS_MAX;
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
