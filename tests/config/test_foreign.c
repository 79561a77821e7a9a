/* Which texts count as a file of frp. Whole files are in tests/config/files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "foreign_priv.h"

static struct config_report report;

/* Uses a heap copy without a NUL, so that a sanitizer sees a read behind it. */
static bool is_refused(const char *text)
{
    size_t size = strlen(text);
    char *exact = malloc(size > 0 ? size : 1);
    cr_assert_not_null(exact);
    memcpy(exact, text, size);
    config_report_finish(&report);
    bool result = foreign_refuse("f", exact, size, &report);
    free(exact);
    cr_expect_eq(report.count, result ? 1 : 0, "%s", text);
    cr_expect_eq(report.error_count, report.count);
    return result;
}

Test(foreign, files_of_frp)
{
    static const struct {
        const char *text, *mark;
    } rows[] = {
        {"[common]", "[common] in line 1"},
        {"# c\n\n  [common]\nbind_port = 1\n", "[common] in line 3"},
        {"bindPort=1", "bindPort in line 1"},
        {"bindPort = 1\r\n", "bindPort in line 1"},
        {"\"serverAddr\" = \"x\"", "serverAddr in line 1"},
        {"user = \"me\"\nserverAddr = \"x\"\n[transport]\n", "serverAddr in line 2"},
        {"[[visitors]]\nname = \"x\"\n", "[[visitors]] in line 1"},
        {"[ssh]\ntype = tcp\nlocal_port = 22\n", "local_port in line 3"},
        {"server_port = 7000\n", "server_port in line 1"},
        {"proxies:\n- name: x\n", "proxies in line 1"},
        {"x:\n  - localPort: 22\n", "localPort in line 2"},
        {"{\"a\":1,\"serverPort\":1}", "serverPort in line 1"},
        {" { \"a\" : { \"bindPort\" : 1 } }", "bindPort in line 1"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char expected[160];
        (void)snprintf(expected, sizeof expected,
                       "f: looks like a file of frp's (%s): frp has another protocol and other "
                       "keys, see docs/moving.md",
                       rows[i].mark);
        cr_assert(is_refused(rows[i].text), "%s", rows[i].text);
        cr_expect_str_eq(report.messages[0].text, expected);
    }
    config_report_finish(&report);
}

/* A file with [server] or [client] is ours, and gets the errors of its lines. */
Test(foreign, other_files)
{
    static const char *const texts[] = {
        "",
        "\n",
        "{",
        "{}",
        "x",
        "# serverAddr = 1",
        "serverAddr",
        "serverAddress = 1",
        "myserverAddr = 1",
        "[common",
        "commonbindPort = 1",
        "{\"serverAddress\":1}",
        "{\"x\":\"serverAddr\"}",
        "[server]\nbind_addr = \"h:1\"\n",
        "[common]\n[server.one]\nlocal_port = 1\n",
        "serverAddr = 1\n[client]\n",
        "serverAddr = 1\n  [ \"client\" . services.a ]\n",
        "serverPort = 1\nserver = {}\n",
        "serverPort = 1\nclient.remote_addr = \"h:1\"\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        cr_expect_not(is_refused(texts[i]), "%s", texts[i]);
}
