#include "config/config_diff.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "options_priv.h"

static struct config *old_config, *new_config;
static struct config_diff diff;

static struct config *parse(const char *text)
{
    struct config *config;
    struct config_report report;
    int result = config_parse("test", text, strlen(text), &config, &report);
    cr_assert_eq(result, 0, "%s", report.count > 0 ? report.messages[0].text : "");
    config_report_finish(&report);
    return config;
}

static void compare(const char *old, const char *new, enum config_role role)
{
    old_config = parse(old);
    new_config = parse(new);
    cr_assert_eq(
        config_diff(role, role == CONFIG_SERVER ? &old_config->server : &old_config->client,
                    role == CONFIG_SERVER ? &new_config->server : &new_config->client, &diff),
        0);
}

static void tear_down(void)
{
    config_diff_finish(&diff);
    config_destroy(old_config);
    config_destroy(new_config);
    old_config = new_config = NULL;
}

/* A server's file with these lines in [server], in [server.transport], and in its one service. */
static const char *server_file(const char *own, const char *transport, const char *service)
{
    static char texts[2][1000];
    static unsigned int next;
    char *text = texts[next++ % 2];
    (void)snprintf(text, sizeof(texts[0]),
                   "[server]\nbind_addr = 0.0.0.0:1\ndefault_token = t\n%s\n"
                   "[server.transport]\n%s\n"
                   "[server.services.a]\nbind_addr = 0.0.0.0:2\n%s\n",
                   own, transport, service);
    return text;
}

Test(config_diff, the_same_file_is_no_change, .fini = tear_down)
{
    const char *text = server_file("", "", "token = x");
    compare(text, text, CONFIG_SERVER);
    cr_expect_eq(diff.changes, 0);
    cr_expect_eq(diff.service_count, 0);
}

Test(config_diff, a_file_that_ends_too_soon)
{
    static const char all[] = "[server]\nbind_addr = 0.0.0.0:1\ndefault_token = t\n"
                              "[server.services.b]\nbind_addr = 0.0.0.0:2\n"
                              "[server.services.a]\nbind_addr = 0.0.0.0:3\n";
    static const char other_order[] = "[server]\nbind_addr = 0.0.0.0:1\ndefault_token = t\n"
                                      "[server.services.a]\nbind_addr = 0.0.0.0:3\n"
                                      "[server.services.c]\nbind_addr = 0.0.0.0:4\n";
    const struct {
        const char *old, *new;
        int new_size; /* of it; 0: all */
        bool lacks;
    } rows[] = {
        {all, all, 0, false},
        {all, all, sizeof("[server]\nbind_addr = 0.0.0.0:1\ndefault_token = t\n") - 1, true},
        {all, all, (int)(strstr(all, "[server.services.a]") - all), true},
        {all, other_order, 0, false}, /* b is gone, which was not the last one */
        {other_order, all, 0, true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[400];
        int size = rows[i].new_size != 0 ? rows[i].new_size : (int)strlen(rows[i].new);
        (void)snprintf(text, sizeof(text), "%.*s", size, rows[i].new);
        struct config *old = parse(rows[i].old), *new = parse(text);
        cr_expect_eq(config_lacks_last(&old->server, &new->server), rows[i].lacks, "%zu", i);
        config_destroy(old);
        config_destroy(new);
    }
}

Test(config_diff, services_come_and_go, .fini = tear_down)
{
    compare("[client]\nremote_addr = h:1\ndefault_token = t\n"
            "[client.services.b]\nlocal_addr = h:2\n[client.services.c]\nlocal_addr = h:3\n"
            "[client.services.a]\nlocal_addr = h:4\n",
            "[client]\nremote_addr = h:1\ndefault_token = t\n"
            "[client.services.d]\nlocal_addr = h:5\n[client.services.a]\nlocal_addr = h:9\n"
            "[client.services.c]\nlocal_addr = h:3\n",
            CONFIG_CLIENT);
    cr_expect_eq(diff.changes, 0);
    cr_assert_eq(diff.service_count, 3);
    cr_expect_eq(diff.services[0].fate, CONFIG_SERVICE_CHANGED);
    cr_expect_str_eq(diff.services[0].old->name, "a");
    cr_expect_eq(diff.services[0].old->addr.port, 4);
    cr_expect_eq(diff.services[0].new->addr.port, 9);
    cr_expect_eq(diff.services[0].changes, CONFIG_CHANGE_ADDRESS);
    cr_expect_eq(diff.services[1].fate, CONFIG_SERVICE_REMOVED);
    cr_expect_str_eq(diff.services[1].old->name, "b");
    cr_expect_null(diff.services[1].new);
    cr_expect_eq(diff.services[2].fate, CONFIG_SERVICE_ADDED);
    cr_expect_str_eq(diff.services[2].new->name, "d");
    cr_expect_null(diff.services[2].old);
}

#define KEYS                                   \
    "type = noise\n[server.transport.noise]\n" \
    "local_private_key = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=\n"
#define OTHER_KEYS                             \
    "type = noise\n[server.transport.noise]\n" \
    "local_private_key = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=\n"

#define TLS(keys) "type = tls\n[server.transport.tls]\n" keys
#define PKCS12    "pkcs12 = p\npkcs12_password = w\n"
#define PEM       "certificate = c\nprivate_key = k\n"

static const struct {
    const char *own[2], *transport[2], *service[2];
    unsigned int changes, service_changes;
} cases[] = {
    {.own = {"", "heartbeat_interval = 3"}, .changes = CONFIG_CHANGE_HEARTBEAT},
    {.own = {"", "handshake_timeout = 3"}, .changes = CONFIG_CHANGE_LIMITS},
    {.own = {"max_pending_handshakes = 3", ""}, .changes = CONFIG_CHANGE_LIMITS},
    {.own = {"", "per_ip_prefix_v4 = 24"}, .changes = CONFIG_CHANGE_LIMITS},
    {.own = {"", "allow = 10.0.0.0/8"}, .changes = CONFIG_CHANGE_ACCESS},
    {.own = {"deny = 10.0.0.0/8", "deny = 10.0.0.0/9"}, .changes = CONFIG_CHANGE_ACCESS},
    {.own = {"deny = ::1, 10.0.0.0/8", "deny = [\"10.0.0.0/9\", \"10.128.0.0/9\", '::1']"}},
    {.own = {"per_ip_prefix_v6 = 56", "per_ip_prefix_v6 = 64"}, .changes = CONFIG_CHANGE_LIMITS},
    {.own = {"", "drain_delay = 5"}, .changes = CONFIG_CHANGE_LIMITS},
    {.own = {"drain_timeout = 1", "drain_timeout = 2"}, .changes = CONFIG_CHANGE_LIMITS},
    {.own = {"threads = 1", "threads = 2"}, .changes = CONFIG_CHANGE_RESTART},
    {.own = {"user = nobody", "user = nobodies"}, .changes = CONFIG_CHANGE_RESTART},
    {.own = {"user = nobody", "user = nobody"}, .changes = 0},
    {.own = {"log_level = info", "log_level = debug"}, .changes = CONFIG_CHANGE_LOG},
    {.own = {"log_format = json", "log_format = text"}, .changes = CONFIG_CHANGE_LOG},
    {.transport = {"", KEYS}, .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {KEYS, OTHER_KEYS}, .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {KEYS, KEYS}},
    {.transport = {"", TLS(PKCS12)}, .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {TLS(PKCS12), TLS(PKCS12)}},
    {.transport = {TLS(PKCS12), TLS(PEM)}, .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {TLS(PKCS12), TLS("pkcs12 = q\npkcs12_password = w\n")},
     .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {TLS(PKCS12), TLS("pkcs12 = p\npkcs12_password = \"\"\n")},
     .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {TLS(PEM), TLS(PEM "client_ca = a\n")}, .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {TLS(PKCS12), "type = websocket\nwebsocket.tls = true\n"
                                "[server.transport.tls]\n" PKCS12},
     .changes = CONFIG_CHANGE_TRANSPORT},
    {.transport = {"type = websocket\nwebsocket.tls = false",
                   "type = websocket\nwebsocket.tls = true\ntls.certificate = c\n"
                   "tls.private_key = k"},
     .changes = CONFIG_CHANGE_TRANSPORT},
    /* Keys that are not used. */
    {.transport = {"type = tcp", "type = tcp\ntls.pkcs12 = p\nwebsocket.tls = true"}},
    {.transport = {"[server.transport.tcp]\nnodelay = false", ""},
     .changes = CONFIG_CHANGE_SOCKETS},
    {.transport = {"[server.transport.tcp]\nkeepalive_secs = 7", ""},
     .changes = CONFIG_CHANGE_SOCKETS},
    {.service = {"token = x", "token = y"}, .service_changes = CONFIG_CHANGE_TOKEN},
    {.service = {"token = x", ""}, .service_changes = CONFIG_CHANGE_TOKEN},
    {.service = {"type = udp", ""}, .service_changes = CONFIG_CHANGE_TYPE},
    {.service = {"nodelay = true", ""}, .service_changes = CONFIG_CHANGE_SOCKETS},
    {.service = {"idle_timeout = 3", ""}, .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"bind = on_login", "bind = always"}, .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"max_connections = 3", ""}, .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"proxy_protocol = v1", ""}, .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"proxy_protocol = v1", "enable_proxy_protocol = true"}, .service_changes = 0},
    {.service = {"type = udp\nproxy_protocol_udp = always", "type = udp"},
     .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"accept_proxy_protocol = 10.0.0.0/8", ""},
     .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"accept_proxy_protocol = 10.0.0.0/8, 10.0.0.1",
                 "accept_proxy_protocol = 10.0.0.0/8"},
     .service_changes = 0},
    {.service = {"deny = 10.0.0.0/8", ""}, .service_changes = CONFIG_CHANGE_ACCESS},
    {.service = {"allow = 10.0.0.0/8", "deny = 10.0.0.0/8"},
     .service_changes = CONFIG_CHANGE_ACCESS},
    {.service = {"allow = ::1", "allow = ::1/128"}},
    {.service = {"bandwidth = 100M", ""}, .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"bandwidth = 1000M", "bandwidth = 1G"}},
    {.service = {"clients = balance", ""}, .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"clients = replace", ""}},
    /* Numbers that differ only beyond 32 bits. */
    {.service = {"connection_bandwidth = 10G", "connection_bandwidth = 14294967296"},
     .service_changes = CONFIG_CHANGE_LIMITS},
    {.service = {"udp_data_channels = 3", ""}, .service_changes = 0},
    {.service = {"type = udp\nudp_data_channels = 3", "type = udp"},
     .service_changes = CONFIG_CHANGE_LANES},
    {.service = {"token = x\nmax_connections = 3", "token = y"},
     .service_changes = CONFIG_CHANGE_TOKEN | CONFIG_CHANGE_LIMITS},
};

static const char *or_empty(const char *text)
{
    return text != NULL ? text : "";
}

Test(config_diff, what_a_change_is)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *old = server_file(or_empty(cases[i].own[0]), or_empty(cases[i].transport[0]),
                                      or_empty(cases[i].service[0]));
        const char *new = server_file(or_empty(cases[i].own[1]), or_empty(cases[i].transport[1]),
                                      or_empty(cases[i].service[1]));
        compare(old, new, CONFIG_SERVER);
        cr_expect_eq(diff.changes, cases[i].changes, "case %zu: %u", i, diff.changes);
        cr_expect_eq(diff.service_count, cases[i].service_changes != 0 ? 1 : 0, "case %zu", i);
        if (diff.service_count == 1)
            cr_expect_eq(diff.services[0].changes, cases[i].service_changes, "case %zu", i);
        tear_down();
    }
}

/* A client's file with these lines in [client.transport]. */
static const char *client_file(const char *transport)
{
    static char texts[2][1000];
    static unsigned int next;
    char *text = texts[next++ % 2];
    (void)snprintf(text, sizeof(texts[0]),
                   "[client]\nremote_addr = h:1\ndefault_token = t\n[client.transport]\n%s\n"
                   "[client.services.a]\nlocal_addr = h:2\n",
                   transport);
    return text;
}

Test(config_diff, the_servers_of_a_client)
{
    static const char base[] = "a:1, b:2";
    static const struct {
        const char *text;
        unsigned int changes;
    } rows[] = {
        {"a:1,b:2", 0},
        {"b:2, a:1", CONFIG_CHANGE_ADDRESS},
        {"a:1, b:3", CONFIG_CHANGE_ADDRESS},
        {"a:1, b:2, c:3", CONFIG_CHANGE_ADDRESS},
        {"a:1", CONFIG_CHANGE_ADDRESS},
        {"a:1, b:2\nservers = first\nresolve_interval = 30", 0},
        {"a:1, b:2\nservers = all", CONFIG_CHANGE_ADDRESS},
        {"a:1, b:2\nresolve_interval = 31", CONFIG_CHANGE_LIMITS},
    };
    static const char format[] = "[client]\nremote_addr = %s\ndefault_token = t\n"
                                 "[client.services.a]\nlocal_addr = h:2\n";
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char old[300], new[300];
        (void)snprintf(old, sizeof(old), format, base);
        (void)snprintf(new, sizeof(new), format, rows[i].text);
        compare(old, new, CONFIG_CLIENT);
        cr_expect_eq(diff.changes, rows[i].changes, "row %zu: %u", i, diff.changes);
        tear_down();
    }
}

Test(config_diff, the_transport_of_a_client)
{
    static const struct {
        const char *transport[2];
        unsigned int changes;
    } rows[] = {
        {{"", "tcp.proxy = socks5://h:1"}, CONFIG_CHANGE_TRANSPORT},
        {{"tcp.proxy = socks5://h:1", "tcp.proxy = SOCKS5://h:1/"}, 0},
        {{"tcp.proxy = socks5://h:1", "tcp.proxy = http://h:1"}, CONFIG_CHANGE_TRANSPORT},
        {{"tcp.proxy = socks5://h:1", "tcp.proxy = socks5://h:2"}, CONFIG_CHANGE_TRANSPORT},
        {{"tcp.proxy = socks5://h:1", "tcp.proxy = socks5://u:p@h:1"}, CONFIG_CHANGE_TRANSPORT},
        {{"tcp.proxy = socks5://u:q@h:1", "tcp.proxy = socks5://u:p@h:1"}, CONFIG_CHANGE_TRANSPORT},
        {{"tcp.proxy = socks5://%75:p@h:1", "tcp.proxy = socks5://u:p@h:1"}, 0},
        {{"type = tls\ntls.hostname = a", "type = tls\ntls.hostname = b"}, CONFIG_CHANGE_TRANSPORT},
        {{"type = tls\ntls.hostname = a", "type = tls\ntls.trusted_root = b"},
         CONFIG_CHANGE_TRANSPORT},
        {{"type = tls\ntls.trusted_root = a",
          "type = tls\ntls.trusted_root = a\ntls.trust_only_file = true"},
         CONFIG_CHANGE_TRANSPORT},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        compare(client_file(rows[i].transport[0]), client_file(rows[i].transport[1]),
                CONFIG_CLIENT);
        cr_expect_eq(diff.changes, rows[i].changes, "row %zu: %u", i, diff.changes);
        tear_down();
    }
}

/* A new default_token changes only the services without their own token. */
Test(config_diff, the_default_token_is_the_services, .fini = tear_down)
{
    compare("[server]\nbind_addr = 0.0.0.0:1\ndefault_token = one\n"
            "[server.services.a]\nbind_addr = 0.0.0.0:2\n"
            "[server.services.b]\nbind_addr = 0.0.0.0:3\ntoken = own\n",
            "[server]\nbind_addr = 0.0.0.0:1\ndefault_token = two\n"
            "[server.services.a]\nbind_addr = 0.0.0.0:2\n"
            "[server.services.b]\nbind_addr = 0.0.0.0:3\ntoken = own\n",
            CONFIG_SERVER);
    cr_expect_eq(diff.changes, 0);
    cr_assert_eq(diff.service_count, 1);
    cr_expect_str_eq(diff.services[0].new->name, "a");
}

Test(config_diff, every_row_says_what_a_change_is)
{
    for (size_t i = 0; i < option_count; i++) {
        bool of_service = options[i].section == SECTION_SERVICE;
        unsigned int change = options[i].change;
        cr_expect_eq(change & (change - 1), 0, "%s: one kind", options[i].key);
        if (of_service)
            cr_expect_neq(change, CONFIG_CHANGE_NONE, "%s", options[i].key);
        if ((options[i].flags & OPTION_UNUSED) != 0)
            cr_expect_eq(change, CONFIG_CHANGE_NONE, "%s", options[i].key);
    }
}

Test(config_diff, in_words)
{
    char text[100], small[9];
    cr_expect_str_eq(config_changes_format(0, text, sizeof(text)), "");
    cr_expect_str_eq(config_changes_format(CONFIG_CHANGE_ADDRESS | CONFIG_CHANGE_RESTART, text,
                                           sizeof(text)),
                     "address, threads");
    cr_expect_str_eq(config_changes_format(CONFIG_CHANGE_ADDRESS | CONFIG_CHANGE_TOKEN, small,
                                           sizeof(small)),
                     "address,");
}
