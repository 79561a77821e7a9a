/* src/config/access.c: allow and deny, in the file and in lists of their own. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "access_priv.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"

static char directory[] = "/tmp/test_access_XXXXXX";
static char list_path[64];

static void make_directory(void)
{
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(list_path, sizeof list_path, "%s/list", directory);
}

static void remove_directory(void)
{
    (void)unlink(list_path);
    (void)rmdir(directory);
}

TestSuite(access, .init = make_directory, .fini = remove_directory);

static void write_list(const char *text, size_t size)
{
    FILE *file = fopen(list_path, "w");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(text, 1, size, file), size);
    (void)fclose(file);
}

#define SERVER  "[server]\nbind_addr=1.2.3.4:1\ndefault_token=t\n"
#define SERVICE "[server.services.a]\nbind_addr=1.2.3.4:2\n"

/* The file with these lines in its service. */
static struct config *parse_service(const char *lines)
{
    struct config *config;
    struct config_report report;
    char text[2048];
    (void)snprintf(text, sizeof text, SERVER SERVICE "%s\n", lines);
    int result = config_parse("f", text, strlen(text), &config, &report);
    cr_assert_eq(result, 0, "%s: %s", lines, report.count > 0 ? report.messages[0].text : "");
    config_report_finish(&report);
    return config;
}

/* The file with these lines is loaded, with one warning. */
static void expect_warning(const char *lines, const char *expected)
{
    struct config *config;
    struct config_report report;
    char text[2048];
    (void)snprintf(text, sizeof text, SERVER SERVICE "%s\n", lines);
    cr_assert_eq(config_parse("f", text, strlen(text), &config, &report), 0);
    cr_assert_eq(report.count, 1);
    cr_expect_not(report.messages[0].is_error);
    cr_expect_not_null(strstr(report.messages[0].text, expected), "%s", report.messages[0].text);
    config_report_finish(&report);
    config_destroy(config);
}

static bool is_allowed(const struct config_access *access, const char *host)
{
    struct host_port name = {.port = 1};
    struct addr addr;
    (void)snprintf(name.host, sizeof name.host, "%s", host);
    cr_assert(addr_from_numeric(&name, &addr));
    return access->set == NULL || cidr_set_allows(access->set, &addr);
}

static bool allows(const char *lines, const char *host)
{
    struct config *config = parse_service(lines);
    bool result = is_allowed(&config->server.services[0].access, host);
    cr_expect_null(config->server.services[0].access.prefixes, "freed at load");
    config_destroy(config);
    return result;
}

static void expect_error(const char *lines, const char *expected)
{
    struct config *config;
    struct config_report report;
    char text[2048];
    (void)snprintf(text, sizeof text, SERVER SERVICE "%s\n", lines);
    cr_expect_eq(config_parse("f", text, strlen(text), &config, &report), ERR_CONFIG, "%s", lines);
    cr_assert_eq(report.count, 1, "%s", lines);
    cr_expect_str_eq(report.messages[0].text, expected);
    config_report_finish(&report);
}

Test(access, without_lists_everybody_may_come)
{
    struct config *config = parse_service("");
    cr_expect_null(config->server.access.set);
    cr_expect_null(config->server.services[0].access.set);
    config_destroy(config);
}

Test(access, who_may_come)
{
    static const char deny[] = "deny = 10.0.0.0/8, ::1", allow[] = "allow = 10.0.0.0/8,::1 ",
                      both[] = "deny = 10.1.0.0/16\nallow = 10.0.0.0/8, 10.1.2.3";
    cr_expect(allows(deny, "11.0.0.1") && allows(deny, "::2"));
    cr_expect_not(allows(deny, "10.0.0.1") || allows(deny, "::1"));
    cr_expect(allows(allow, "10.0.0.1") && allows(allow, "::1"));
    cr_expect_not(allows(allow, "11.0.0.1") || allows(allow, "::2"));
    cr_expect(allows(both, "10.0.0.1") && allows(both, "10.1.2.3"));
    cr_expect_not(allows(both, "10.1.2.4") || allows(both, "11.0.0.1") || allows(both, "::1"));
    cr_expect_not(allows("allow = 10.0.0.0/8\ndeny = 10.0.0.0/8", "10.0.0.1"));
    cr_expect_not(allows("deny = 10.0.0.0/8\nallow = 10.0.0.0/8", "10.0.0.1"));
    cr_expect(allows("deny = \"\"", "10.0.0.1") && allows("deny = []", "10.0.0.1"));
}

Test(access, forms_of_a_list)
{
    static const char *const forms[] = {
        "deny = 10.0.0.0/8,11.0.0.0/8",
        "deny = 10.0.0.0/8 , 11.0.0.0/8 # comment",
        "deny = \"10.0.0.0/8, 11.0.0.0/8\"",
        "deny = [\"10.0.0.0/8\", '11.0.0.0/8']",
        "deny = [\n  \"10.0.0.0/8\", # one\n  \"11.0.0.0/8\",\n]",
        "deny = [\"10.0.0.0/8, 11.0.0.0/8\"]",
        "deny = \"\"\"\n10.0.0.0/8,\n11.0.0.0/8\"\"\"",
    };
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        cr_expect_not(allows(forms[i], "10.0.0.1"), "%s", forms[i]);
        cr_expect_not(allows(forms[i], "11.0.0.1"), "%s", forms[i]);
        cr_expect(allows(forms[i], "12.0.0.1"), "%s", forms[i]);
    }
}

Test(access, the_control_port_has_lists_of_its_own)
{
    static const char text[] =
        SERVER "allow = 10.0.0.0/8\n" SERVICE "deny = 10.0.0.0/8\n[server.services.b]\n"
               "bind_addr=1.2.3.4:3\n";
    struct config *config;
    struct config_report report;
    cr_assert_eq(config_parse("f", text, sizeof text - 1, &config, &report), 0);
    cr_expect(is_allowed(&config->server.access, "10.0.0.1"));
    cr_expect_not(is_allowed(&config->server.access, "11.0.0.1"));
    cr_expect_not(is_allowed(&config->server.services[0].access, "10.0.0.1"));
    cr_expect(is_allowed(&config->server.services[0].access, "11.0.0.1"));
    cr_expect_null(config->server.services[1].access.set, "services inherit none");
    config_report_finish(&report);
    config_destroy(config);
}

#define EXPECTED "expected an address or a prefix (10.0.0.0/8) or file:PATH, got "

Test(access, errors)
{
    static const struct {
        const char *lines, *expected;
    } rows[] = {
        {"allow = 10.0.0.1/8", "f:6: server.services.a.allow: \"10.0.0.1/8\" has bits behind its "
                               "length: 10.0.0.0/8, or the address alone?"},
        {"deny = 10.0.0.0/33", "f:6: server.services.a.deny: " EXPECTED "\"10.0.0.0/33\""},
        {"deny = 10.0.0.0/8,", "f:6: server.services.a.deny: " EXPECTED "\"\""},
        {"deny = 10.0.0.0/8,,::1", "f:6: server.services.a.deny: " EXPECTED "\"\""},
        {"allow = localhost", "f:6: server.services.a.allow: " EXPECTED "\"localhost\""},
        {"allow = \"\"", "f:6: server.services.a.allow: " EXPECTED "\"\""},
        {"allow = []", "f:6: server.services.a.allow: " EXPECTED "\"\""},
        {"allow = env:X", "f:6: server.services.a.allow: " EXPECTED "\"env:X\""},
        {"allow = \"1.2.3.4\\u0007\"",
         "f:6: server.services.a.allow: " EXPECTED "\"1.2.3.4\\x07\""},
        {"allow = 10.0.0.0/8\nallow = ::1",
         "f:7: server.services.a.allow: defined twice, first in line 6"},
        {"deny = file:/nonexistent", "f:6: server.services.a.deny: \"/nonexistent\": no such file "
                                     "or directory"},
        {"deny = file:", "f:6: server.services.a.deny: \"\": no such file or directory"},
        {"deny = file:/dev", "f:6: server.services.a.deny: \"/dev\": Is a directory"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        expect_error(rows[i].lines, rows[i].expected);
}

/* quote: around the path, in errors of the whole file. rest: of the message, behind the path. */
static void expect_list_error(const char *list, size_t size, const char *key, const char *quote,
                              const char *rest)
{
    char lines[128], text[512];
    write_list(list, size);
    (void)snprintf(lines, sizeof lines, "%s = file:%s", key, list_path);
    (void)snprintf(text, sizeof text, "f:6: server.services.a.%s: %s%s%s%s", key, quote, list_path,
                   quote, rest);
    expect_error(lines, text);
}

#define LIST_ERROR(list, key, rest)  expect_list_error(list, sizeof list - 1, key, "", rest)
#define WHOLE_ERROR(list, key, rest) expect_list_error(list, sizeof list - 1, key, "\"", rest)

Test(access, lists_in_files)
{
    static const char list[] = "\xef\xbb\xbf# who\r\n\r\n  10.0.0.0/8\t# inner\n\n11.0.0.0/8\r\n"
                               "2001:db8::/32#x\n::ffff:12.0.0.0/104";
    char lines[256];
    write_list(list, sizeof list - 1);
    (void)snprintf(lines, sizeof lines, "deny = file:%s, 13.0.0.0/8", list_path);
    static const char *const denied[] = {"10.0.0.1", "11.0.0.1", "2001:db8::1", "12.0.0.1",
                                         "13.0.0.1"};
    for (size_t i = 0; i < ARRAY_SIZE(denied); i++)
        cr_expect_not(allows(lines, denied[i]), "%s", denied[i]);
    cr_expect(allows(lines, "14.0.0.1"));
    (void)snprintf(lines, sizeof lines, "allow = [\"9.0.0.0/8\", \"file:%s\"]\ndeny = 11.0.0.0/16",
                   list_path);
    cr_expect(allows(lines, "9.0.0.1") && allows(lines, "10.0.0.1") && allows(lines, "11.1.0.1"));
    cr_expect_not(allows(lines, "11.0.0.1") || allows(lines, "14.0.0.1"));
}

Test(access, an_empty_file_denies_nobody_and_allows_an_error)
{
    char lines[128];
    write_list("# none\n", 7);
    (void)snprintf(lines, sizeof lines, "deny = file:%s", list_path);
    cr_expect(allows(lines, "10.0.0.1"));
    expect_warning(lines, "the file has no address in it, so it denies nobody");
    WHOLE_ERROR("# none\n", "allow", ": the file has no address in it, so nobody could come");
}

#define IN_FILE ": expected an address or a prefix (10.0.0.0/8), got "

Test(access, errors_in_files)
{
    LIST_ERROR("10.0.0.0/8\n\nx\ny\n", "deny", ":3" IN_FILE "\"x\"");
    LIST_ERROR("10.0.0.0/8, 11.0.0.0/8\n", "deny", ":1" IN_FILE "\"10.0.0.0/8, 11.0.0.0/8\"");
    LIST_ERROR("::1\n10.0.0.1/8\n", "allow",
               ":2: \"10.0.0.1/8\" has bits behind its length: 10.0.0.0/8, or the address alone?");
    LIST_ERROR("file:/etc/passwd\n", "deny", ":1" IN_FILE "\"file:/etc/passwd\"");
    LIST_ERROR("1.2.3.4\0\n", "deny", ":1" IN_FILE "\"1.2.3.4\"");
    WHOLE_ERROR("1\0"
                "0\0.\0",
                "deny", ": the file is UTF-16; save it as UTF-8");
}

Test(access, a_file_that_is_too_large)
{
    char *text = malloc(LIMIT_ACCESS_FILE + 1);
    cr_assert_not_null(text);
    memset(text, '\n', LIMIT_ACCESS_FILE + 1);
    expect_list_error(text, LIMIT_ACCESS_FILE + 1, "deny", "\"",
                      ": the file is larger than 16 MiB");
    size_t line_size = strlen("::1\n"), count = LIMIT_ACCESS_PREFIXES + 1;
    for (size_t i = 0; i < count; i++)
        memcpy(text + i * line_size, "::1\n", line_size);
    expect_list_error(text, count * line_size, "deny", "", ":524289: more than 524288 prefixes");
    free(text);
}

Test(access, a_unix_socket_has_no_addresses)
{
    static const char text[] =
        SERVER "[server.services.a]\nbind_addr=unix:/x\nallow=10.0.0.0/8\ndeny=::1\n";
    struct config *config;
    struct config_report report;
    cr_assert_eq(config_parse("f", text, sizeof text - 1, &config, &report), 0);
    cr_assert_eq(report.count, 2);
    cr_expect_str_eq(report.messages[0].text,
                     "f:6: server.services.a.allow: has no effect: visitors of a unix socket have "
                     "no address");
    config_report_finish(&report);
    config_destroy(config);
}
