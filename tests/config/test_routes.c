/* Services that share an address: their keys, their front, and which one a name is for. */
#include "config/routes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "config/config.h"
#include "config/config_copy.h"
#include "config/config_diff.h"

#define HEAD          "[server]\nbind_addr = 127.0.0.1:2333\ndefault_token = t\n"
#define SERVICE(name) "[server.services." name "]\nbind_addr = 127.0.0.1:443\n"

static struct config_report report;

static struct config *parsed(const char *text)
{
    struct config *config = NULL;
    int result = config_parse("f", text, strlen(text), &config, &report);
    cr_assert_eq(result, 0, "%s", report.count > 0 ? report.messages[0].text : "");
    config_report_finish(&report);
    return config;
}

static void expect_error(const char *services, const char *expected)
{
    char text[2048];
    struct config *config = NULL;
    (void)snprintf(text, sizeof(text), HEAD "%s", services);
    cr_assert_eq(config_parse("f", text, strlen(text), &config, &report), ERR_CONFIG, "%s",
                 expected);
    bool is_there = false;
    for (size_t i = 0; i < report.count; i++)
        is_there |=
            report.messages[i].is_error && strstr(report.messages[i].text, expected) != NULL;
    cr_expect(is_there, "%s: %s", expected, report.count > 0 ? report.messages[0].text : "nothing");
    config_report_finish(&report);
}

/* The name of the service that gets it; "": none. */
static const char *target(const struct config *config, enum route_kind kind, const char *name)
{
    const struct config_peer *server = config_half(config, CONFIG_SERVER);
    const struct config_service *front = &server->services[server->service_count - 1];
    cr_assert_not_null(front->routes);
    const uint8_t *digest = route_set_find(front->routes, kind, name);
    for (size_t i = 0; digest != NULL && i < server->service_count; i++) {
        uint8_t own[KEYS_DIGEST_SIZE];
        const char *service = server->services[i].name;
        keys_service_digest(service, strlen(service), own);
        if (memcmp(own, digest, sizeof(own)) == 0)
            return service;
    }
    return "";
}

static const char whole[] = HEAD SERVICE("a") "sni = A.example.com, *.b.example.com\n" SERVICE(
    "b") "sni = b.example.com, *.deep.b.example.com , *.com\nhost = "
         "a.example.com.\n" SERVICE("c") "host = [\"*.example.com\", \"x\"]\n";

Test(routes, the_most_specific_pattern_wins)
{
    struct config *config = parsed(whole);
    static const struct {
        enum route_kind kind;
        const char *name, *service;
    } rows[] = {
        {ROUTE_SNI, "a.example.com", "a"},
        {ROUTE_SNI, "x.b.example.com", "a"},
        {ROUTE_SNI, "x.y.b.example.com", "a"},
        {ROUTE_SNI, "b.example.com", "b"},
        {ROUTE_SNI, "x.deep.b.example.com", "b"},
        {ROUTE_SNI, "deep.b.example.com", "a"},
        {ROUTE_SNI, "example.com", "b"},
        {ROUTE_SNI, "com", ""},
        {ROUTE_SNI, "x.org", ""},
        {ROUTE_SNI, NULL, ""},
        {ROUTE_HOST, "a.example.com", "b"},
        {ROUTE_HOST, "z.example.com", "c"},
        {ROUTE_HOST, "x", "c"},
        {ROUTE_HOST, "example.com", ""},
        {ROUTE_HOST, "x.b.example.com", "c"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        cr_expect_str_eq(target(config, rows[i].kind, rows[i].name), rows[i].service, "%s",
                         rows[i].name != NULL ? rows[i].name : "no name");
    config_destroy(config);
}

Test(routes, the_default_gets_the_rest)
{
    struct config *config =
        parsed(HEAD SERVICE("a") "sni = a\n" SERVICE("rest") "default = true\n");
    cr_expect_str_eq(target(config, ROUTE_SNI, "a"), "a");
    cr_expect_str_eq(target(config, ROUTE_SNI, "b"), "rest");
    cr_expect_str_eq(target(config, ROUTE_SNI, NULL), "rest");
    cr_expect_str_eq(target(config, ROUTE_HOST, "a"), "rest");
    config_destroy(config);
}

Test(routes, fronts_are_the_last_services)
{
    struct config *config = parsed(HEAD SERVICE(
        "a") "sni = a\naccept_proxy_protocol = 10.0.0.0/8\n"
             "[server.services.other]\nbind_addr = [::]:443\nsni = a\n" SERVICE(
                 "b") "host = a\naccept_proxy_protocol = 10.0.0.0/8\n"
                      "[server.services.plain]\nbind_addr = 127.0.0.1:80\n"
                      "[server.services.quic]\nbind_addr = 127.0.0.1:443\ntype = udp\n");
    const struct config_peer *server = config_half(config, CONFIG_SERVER);
    cr_assert_eq(server->service_count, 7);
    cr_expect_str_eq(server->services[5].name, "127.0.0.1:443");
    cr_expect_str_eq(server->services[6].name, "[::]:443");
    for (size_t i = 0; i < 7; i++) {
        bool is_routed = i == 0 || i == 1 || i == 2;
        cr_expect_eq(server->services[i].is_routed, is_routed, "%zu", i);
        cr_expect_eq(server->services[i].routes != NULL, i >= 5, "%zu", i);
    }
    cr_expect_not_null(server->services[5].balancers.set);
    cr_expect_null(server->services[6].balancers.set);
    config_destroy(config);
}

Test(routes, errors)
{
    expect_error(SERVICE("a") "sni = a\n" SERVICE("b") "", "others of this address have sni");
    expect_error(SERVICE("b") "" SERVICE("a") "sni = a\n", "services.b.bind_addr: others of this");
    expect_error(SERVICE("a") "sni = a\n" SERVICE("b") "sni = b, A.\n",
                 "services.b.sni: a is a name of [server.services.a] in line 4 already");
    expect_error(SERVICE("a") "sni = a, a\n", "a is a name of [server.services.a]");
    expect_error(SERVICE("a") "default = true\n" SERVICE("b") "default = true\n",
                 "is the default of this address already");
    expect_error(SERVICE("a") "sni = a\n" SERVICE("b") "sni = b\nnodelay = false\n",
                 "services.b.nodelay: expected the same as of [server.services.a]");
    expect_error(SERVICE("a") "sni = a\n" SERVICE("b") "sni = b\naccept_proxy_protocol = ::/0\n",
                 "services.b.accept_proxy_protocol: expected the same");
    expect_error(SERVICE("a") "sni = a\ntype = udp\n", "sni: is for type = tcp");
    expect_error("[server.services.a]\nbind_addr = unix:/run/x\nhost = a\n",
                 "not for a unix socket");
    expect_error("[server.services.\"a-{port}\"]\nbind_addr = 127.0.0.1:1-9\nhost = a\n",
                 "not for a range");
    expect_error(SERVICE("a") "default = true\nbind = on_login\n", "not for bind = on_login");
    static const char *const wrong[] = {"a,,b", "a b",  "*",         "*a.b",
                                        "a.*",  "a:80", "https://a", "::1"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        char text[128];
        (void)snprintf(text, sizeof(text), SERVICE("a") "host = %s\n", wrong[i]);
        expect_error(text, "host: expected names such as a.example.com");
    }
    expect_error(SERVICE("a") "sni = a\n[server.services.\"127.0.0.1:443\"]\nbind_addr = a:9\n",
                 "expected another name: services share the address 127.0.0.1:443");
}

Test(routes, a_client_has_none)
{
    struct config *config = NULL;
    const char text[] = "[client]\nremote_addr = a:1\ndefault_token = t\n"
                        "[client.services.a]\nlocal_addr = a:2\nsni = a\n";
    cr_expect_eq(config_parse("f", text, strlen(text), &config, &report), ERR_CONFIG);
    config_report_finish(&report);
}

static unsigned int changes_of(const char *old_text, const char *new_text, const char *name,
                               size_t *ret_count)
{
    struct config *old = parsed(old_text), *new = parsed(new_text);
    struct config_diff diff;
    unsigned int changes = 0;
    cr_assert_eq(config_diff(CONFIG_SERVER, config_half(old, CONFIG_SERVER),
                             config_half(new, CONFIG_SERVER), &diff),
                 0);
    for (size_t i = 0; i < diff.service_count; i++) {
        const struct config_service_diff *item = &diff.services[i];
        const struct config_service *service = item->new != NULL ? item->new : item->old;
        if (strcmp(service->name, name) == 0)
            changes = item->fate == CONFIG_SERVICE_CHANGED ? item->changes : ~0u;
    }
    *ret_count = diff.service_count;
    config_diff_finish(&diff);
    config_destroy(old);
    config_destroy(new);
    return changes;
}

Test(routes, what_a_reload_finds)
{
    static const char a[] = HEAD SERVICE("a") "sni = a\n" SERVICE("b") "sni = b\n";
    static const char moved[] = HEAD SERVICE("a") "sni = a, b\n" SERVICE("b") "sni = c\n";
    static const char plain[] = HEAD SERVICE("a") ""
                                                  "[server.services.b]\nbind_addr = a:80\n";
    static const char port[] = HEAD "[server.services.a]\nbind_addr = a:444\nsni = a\n"
                                    "[server.services.b]\nbind_addr = a:444\nsni = b\n";
    size_t count;
    cr_expect_eq(changes_of(a, a, "a", &count), 0);
    cr_expect_eq(count, 0);
    cr_expect_eq(changes_of(a, moved, "127.0.0.1:443", &count), CONFIG_CHANGE_LIMITS);
    cr_expect_eq(changes_of(a, moved, "a", &count), CONFIG_CHANGE_LIMITS);
    cr_expect_eq(count, 3);
    cr_expect(changes_of(a, plain, "a", &count) & CONFIG_CHANGE_TYPE, "it gets sockets");
    cr_expect_eq(changes_of(a, plain, "127.0.0.1:443", &count), ~0u, "the front goes");
    cr_expect_eq(changes_of(a, port, "a", &count), CONFIG_CHANGE_LIMITS, "the front's matter");
    cr_expect_eq(count, 4);
}

/* A file that is being written has no front yet, or has it although services are missing. */
Test(routes, the_last_service_of_a_file_is_no_front)
{
    static const char half[] = HEAD SERVICE("a") "sni = a\n";
    static const char all[] = HEAD SERVICE("a") "sni = a\n" SERVICE("b") "sni = b\n";
    struct config *old = parsed(all), *new = parsed(half);
    cr_expect(config_lacks_last(config_half(old, CONFIG_SERVER), config_half(new, CONFIG_SERVER)));
    cr_expect_not(
        config_lacks_last(config_half(new, CONFIG_SERVER), config_half(old, CONFIG_SERVER)));
    config_destroy(old);
    config_destroy(new);
}

Test(routes, copies_share_a_set)
{
    struct config *config = parsed(whole);
    const struct config_peer *server = config_half(config, CONFIG_SERVER);
    struct config_service copy;
    cr_assert_eq(config_service_copy_to(&server->services[server->service_count - 1], &copy), 0);
    cr_assert_eq(copy.routes, server->services[server->service_count - 1].routes);
    config_destroy(config);
    cr_expect_not_null(route_set_find(copy.routes, ROUTE_SNI, "b.example.com"));
    config_service_finish(&copy);
}
