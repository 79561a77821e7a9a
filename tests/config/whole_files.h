/* For tests of whole files: one report, its messages as one text, and tables of files with the
 * messages they get. */
#pragma once

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "config/config.h"

static struct config_report report;

/* All messages, one line each, "W " before a warning. */
static inline const char *said(void)
{
    static char text[64 << 10];
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < report.count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s\n",
                                 report.messages[i].is_error ? "" : "W ", report.messages[i].text);
    cr_assert_lt(used, sizeof text);
    return text;
}

static inline struct config *parse(const char *text)
{
    struct config *config = NULL;
    config_report_finish(&report);
    int result = config_parse("f", text, strlen(text), &config, &report);
    cr_assert_eq(result == 0, report.error_count == 0);
    cr_assert_eq(result == 0, config != NULL);
    cr_assert(result == 0 || result == ERR_CONFIG);
    return config;
}

static inline struct config *load(const char *path)
{
    struct config *config = NULL;
    config_report_finish(&report);
    cr_assert_eq(config_load(path, &config, &report), 0, "%s", said());
    return config;
}

#define SERVER  "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\n" /* lines 1 to 3 */
#define SERVICE "[server.services.a]\nbind_addr=1.2.3.4:2\n"       /* 4 and 5 */
#define CLIENT  "[client]\nremote_addr=h:1\ndefault_token=t\n"     /* 1 to 3 */
#define LOCAL   "[client.services.a]\nlocal_addr=h:2\n"            /* 4 and 5 */
#define SERVER_KEYS                                                                       \
    "the keys here are bind_addr, default_token, heartbeat_interval, handshake_timeout, " \
    "half_close_timeout, max_pending_handshakes, max_pending_handshakes_per_ip, "         \
    "per_ip_prefix_v4, per_ip_prefix_v6, allow, deny, drain_delay, drain_timeout, "       \
    "threads, log_level, log_format, user, group, sandbox\n"

struct example {
    const char *text, *expected;
};

static inline void check_examples(const struct example *examples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        config_destroy(parse(examples[i].text));
        cr_expect_str_eq(said(), examples[i].expected, "of:\n%s\ngot:\n%sexpected:\n%s",
                         examples[i].text, said(), examples[i].expected);
    }
}
#define CHECK_EXAMPLES(examples) check_examples(examples, ARRAY_SIZE(examples))
