/* Files as people and generators write them: what they are read as, with their messages.
 * tests/e2e/test_config_files.py gives the same files to --check, to a start and to rathole. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crypto/keys.h"
#include "whole_files.h"

enum half { BOTH, SERVER_HALF, CLIENT_HALF }; /* the role that starts */

struct published {
    const char *file;
    enum half half;
    /* All messages, "W " before a warning, without the file name. */
    const char *said;
    /* The halves that run, as written by describe; NULL: refused. */
    const char *described;
};

static char described[8192];
static size_t described_size;

static void add(const char *format, ...) PRINTF_FORMAT(1, 2);
static void add(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    described_size += (size_t)vsnprintf(described + described_size,
                                        sizeof described - described_size, format, args);
    va_end(args);
    cr_assert_lt(described_size, sizeof described);
}

static void describe_tls(const struct config_tls *tls)
{
    if (tls->pkcs12 != NULL)
        add(" %s \"%s\"", tls->pkcs12, tls->pkcs12_password);
    if (tls->trusted_root != NULL)
        add(" root %s", tls->trusted_root);
    if (tls->hostname != NULL)
        add(" name %s", tls->hostname);
}

static void describe_transport(const struct config_transport *transport)
{
    char addr[ADDR_HOST_SIZE + 16];
    if (transport->type == CONFIG_TRANSPORT_NOISE)
        add(" %s%s", noise_pattern_name(transport->noise.pattern),
            transport->noise.has_remote_public_key ? " remote" : "");
    if (transport->type == CONFIG_TRANSPORT_WEBSOCKET)
        add(" websocket");
    if (config_has_tls(transport))
        add(" tls");
    describe_tls(&transport->tls);
    if (transport->proxy.type == CONFIG_PROXY_NONE)
        return;
    add(" by %s %s", transport->proxy.type == CONFIG_PROXY_HTTP ? "http" : "socks5",
        host_port_format(&transport->proxy.addr, addr, sizeof addr));
    if (transport->proxy.user != NULL)
        add(" \"%s\" \"%s\"", transport->proxy.user, transport->proxy.password);
}

/* Writes "server HOST:PORT" and what differs from the defaults, then a line for each service. */
static void describe_peer(const char *role, const struct config_peer *peer)
{
    char addr[ADDR_HOST_SIZE + 16];
    bool is_server = *role == 's';
    add("%s %s", role, host_port_format(&peer->addr, addr, sizeof addr));
    describe_transport(&peer->transport);
    if (!peer->transport.tcp_nodelay)
        add(" delay");
    if (peer->transport.tcp_keepalive_secs != 20 || peer->transport.tcp_keepalive_interval != 8)
        add(" keepalive %u/%u", peer->transport.tcp_keepalive_secs,
            peer->transport.tcp_keepalive_interval);
    if (is_server && peer->heartbeat_interval_ms != 30000)
        add(" interval %u", peer->heartbeat_interval_ms / 1000);
    if (!is_server && peer->heartbeat_timeout_ms != 40000)
        add(" timeout %u", peer->heartbeat_timeout_ms / 1000);
    if (peer->log_level != LOG_INFO)
        add(" %s", log_level_name(peer->log_level));
    add("\n");
    for (size_t i = 0; i < peer->service_count; i++) {
        const struct config_service *service = &peer->services[i];
        add("  %s%s %s \"%s\"", service->name, service->type == CONFIG_SERVICE_UDP ? " udp" : "",
            host_port_format(&service->addr, addr, sizeof addr), service->token);
        if (service->nodelay != CONFIG_UNSET)
            add(service->nodelay == CONFIG_TRUE ? " nodelay" : " delay");
        if (!is_server && service->retry_interval_ms != 1000)
            add(" retry %u", service->retry_interval_ms / 1000);
        add("\n");
    }
}

static const char *describe(const struct config *config)
{
    described_size = 0;
    described[0] = '\0';
    if (config->has_server)
        describe_peer("server", &config->server);
    if (config->has_client)
        describe_peer("client", &config->client);
    return described;
}

static const char *path_of(const char *file)
{
    static char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", CONFIG_TEST_FILES, file);
    return path;
}

/* said() without the file name. */
static const char *said_of(const char *path)
{
    static char text[64 << 10];
    size_t used = 0, path_size = strlen(path);
    text[0] = '\0';
    for (const char *at = said(), *found; *at != '\0'; at = found + path_size + 1) {
        found = strstr(at, path);
        if (found == NULL) {
            used += (size_t)snprintf(text + used, sizeof text - used, "%s", at);
            break;
        }
        used += (size_t)snprintf(text + used, sizeof text - used, "%.*s", (int)(found - at), at);
    }
    return text;
}

static void check_published(const struct published *row)
{
    const char *path = path_of(row->file);
    struct config *config = NULL;
    config_report_finish(&report);
    int result =
        row->half == BOTH
            ? config_load(path, &config, &report)
            : config_load_half(path, row->half == SERVER_HALF ? CONFIG_SERVER : CONFIG_CLIENT,
                               &config, &report);
    cr_expect_eq(result, row->described != NULL ? 0 : ERR_CONFIG, "%s", row->file);
    cr_expect_str_eq(said_of(path), row->said, "%s: got:\n%s\nexpected:\n%s", row->file,
                     said_of(path), row->said);
    if (result == 0 && row->described != NULL)
        cr_expect_str_eq(describe(config), row->described, "%s: got:\n%s\nexpected:\n%s", row->file,
                         described, row->described);
    config_destroy(config);
}

static void check_all(const struct published *rows, size_t count)
{
    for (size_t i = 0; i < count; i++)
        check_published(&rows[i]);
}
#define CHECK_ALL(rows) check_all(rows, ARRAY_SIZE(rows))

static void init_keys(void)
{
    cr_assert_eq(keys_init(), 0);
    (void)unsetenv("RU_NO_SUCH_TOKEN");
}

TestSuite(published, .init = init_keys);

Test(published, addresses)
{
    static const struct published rows[] = {
        {"ipv6_remote.toml", BOTH,
         "W 2: client.remote_addr: \"2001:db8::5:3080\" is read as [2001:db8::5]:3080\n"
         "W 10: client.services.5052.local_addr: \"::1:5052\" is read as [::1]:5052\n",
         "client [2001:db8::5]:3080\n"
         "  5051 127.0.0.1:5051 \"azure_mouse\"\n"
         "  5052 [::1]:5052 \"azure_mouse\"\n"},
        {"ipv6_bind.toml", BOTH,
         "W 2: server.bind_addr: \":::2333\" is read as [::]:2333\n"
         "W 7: server.services.5051.bind_addr: \"::1:5051\" is read as [::1]:5051\n",
         "server [::]:2333\n"
         "  5051 [::1]:5051 \"azure_mouse\"\n"
         "  5052 [::1]:5052 \"azure_mouse\"\n"},
        {"ipv6_no_port.toml", BOTH,
         "2: client.remote_addr: expected host:port, got \"2001:db8:1:2:3:4:5:6\"\n"
         "6: client.services.web.local_addr: expected host:port or unix:/path, got \"::1\"\n",
         NULL},
    };
    CHECK_ALL(rows);
}

Test(published, empty_texts)
{
    static const struct published rows[] = {
        {"empty_default_token.toml", BOTH,
         "W 3: server.default_token: is empty and counts as not given\n",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"use_a_secret_that_only_you_know\"\n"},
        {"empty_default_token_used.toml", BOTH,
         "W 3: server.default_token: is empty and counts as not given\n"
         "5: server.services.ssh.token: missing, and there is no server.default_token\n",
         NULL},
        {"empty_keys.toml", BOTH,
         "W 12: server.transport.noise.remote_public_key: is empty and counts as not given\n",
         "server 127.0.0.1:2333 Noise_NK_25519_ChaChaPoly_BLAKE2s\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
    };
    CHECK_ALL(rows);
}

Test(published, numbers_and_times)
{
    static const struct published rows[] = {
        {"numbers.toml", BOTH, "",
         "server 127.0.0.1:2333 keepalive 1000/30\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"
         "client 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:22 \"t\" retry 3\n"},
        {"numbers_bad.toml", BOTH,
         "4: server.heartbeat_interval: expected whole seconds from 0 to 604800, got \"1__000\"\n"
         "10: server.transport.tcp.keepalive_secs: expected a number from 0 to 32767, got \"0x\"\n"
         "11: server.transport.tcp.keepalive_interval: expected a number from 1 to 32767, got "
         "\"8.0\"\n",
         NULL},
        {"keepalive.toml", BOTH,
         "W 10: client.transport.tcp.keepalive_secs: 86400 is read as 32767\n"
         "W 11: client.transport.tcp.keepalive_interval: 0 is read as 1\n",
         "client 127.0.0.1:2333 keepalive 32767/1\n"
         "  ssh 127.0.0.1:22 \"t\"\n"},
        {"long_intervals.toml", BOTH,
         "W 4: server.heartbeat_interval: 99999999 is read as 604800\n"
         "W 11: client.heartbeat_timeout: 100000000 is read as 604800\n"
         "W 11: client.heartbeat_timeout: should be more than server.heartbeat_interval\n"
         "W 12: client.retry_interval: 31536000 is read as 604800\n"
         "W 15: client.services.ssh.retry_interval: 604801 is read as 604800\n",
         "server 127.0.0.1:2333 interval 604800\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"
         "client 127.0.0.1:2333 timeout 604800\n"
         "  ssh 127.0.0.1:22 \"t\" retry 604800\n"},
    };
    CHECK_ALL(rows);
}

#define NO_TABLE                                                                               \
    "missing: TLS needs the section; an empty one trusts the system's root certificates, and " \
    "trusted_root adds another one"

/* Errors in the other half are warnings. */
Test(published, the_half_that_does_not_run)
{
    static const struct published rows[] = {
        {"tls_no_table_other_half.toml", SERVER_HALF,
         "W 13: client.transport.tls: " NO_TABLE " (in the half that does not run)\n",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"tls_no_table_other_half.toml", CLIENT_HALF, "13: client.transport.tls: " NO_TABLE "\n",
         NULL},
        {"tls_no_table_other_half.toml", BOTH, "13: client.transport.tls: " NO_TABLE "\n", NULL},
        {"other_half_env.toml", SERVER_HALF,
         "W 11: client.default_token: environment variable \"RU_NO_SUCH_TOKEN\" is not set (in the "
         "half that does not run)\n"
         "W 17: client.services.web.token: cannot take the secret from file "
         "\"/nonexistent/token\": no such file or directory (in the half that does not run)\n",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"other_half_env.toml", CLIENT_HALF,
         "11: client.default_token: environment variable \"RU_NO_SUCH_TOKEN\" is not set\n"
         "17: client.services.web.token: cannot take the secret from file \"/nonexistent/token\": "
         "no such file or directory\n",
         NULL},
        {"other_half_env.toml", BOTH,
         "11: client.default_token: environment variable \"RU_NO_SUCH_TOKEN\" is not set\n"
         "17: client.services.web.token: cannot take the secret from file \"/nonexistent/token\": "
         "no such file or directory\n",
         NULL},
    };
    CHECK_ALL(rows);
}

#define NOISE_NK_NAME "Noise_NK_25519_ChaChaPoly_BLAKE2s"

/* The structures of all example files of rathole v0.5.0, and of those that its tests use. */
Test(published, examples_of_rathole)
{
    static const struct published rows[] = {
        {"tls_client.toml", BOTH, "",
         "client 127.0.0.1:2333 tls root examples/tls/rootCA.crt name localhost\n"
         "  foo1 127.0.0.1:80 \"123\"\n"},
        {"tls_server.toml", BOTH, "",
         "server 127.0.0.1:2333 tls examples/tls/identity.pfx \"1234\"\n"
         "  foo1 127.0.0.1:5202 \"123\"\n"},
        {"websocket_tls.toml", BOTH, "",
         "server 127.0.0.1:2333 websocket tls examples/tls/identity.pfx \"1234\"\n"
         "  echo udp 127.0.0.1:2334 \"default_token_if_not_specify\"\n"
         "client 127.0.0.1:2333 websocket tls root examples/tls/rootCA.crt name localhost\n"
         "  echo udp 127.0.0.1:8080 \"default_token_if_not_specify\"\n"},
        {"websocket_alone.toml", BOTH, "",
         "server 127.0.0.1:2333 websocket\n"
         "  echo 127.0.0.1:2334 \"default_token_if_not_specify\"\n"
         "client 127.0.0.1:2333 websocket\n"
         "  echo 127.0.0.1:8080 \"default_token_if_not_specify\"\n"},
        {"noise_nk.toml", BOTH, "",
         "server 127.0.0.1:2333 " NOISE_NK_NAME "\n"
         "  echo 127.0.0.1:2334 \"default_token_if_not_specify\"\n"
         "client 127.0.0.1:2333 " NOISE_NK_NAME " remote\n"
         "  echo 127.0.0.1:8080 \"default_token_if_not_specify\"\n"},
        {"proxy_socks5.toml", BOTH, "",
         "client 127.0.0.1:2333 by socks5 127.0.0.1:1080 \"myuser\" \"mypass\"\n"
         "  foo1 127.0.0.1:80 \"123\"\n"},
        {"proxy_http.toml", BOTH, "",
         "client tunnel.example.invalid:2333 by http 127.0.0.1:8080 \"my user\" \"p@ss\"\n"
         "  foo1 127.0.0.1:80 \"123\"\n"},
        {"unified.toml", BOTH, "",
         "server 127.0.0.1:2333\n"
         "  foo1 127.0.0.1:5202 \"123\"\n"
         "client localhost:2333\n"
         "  foo1 127.0.0.1:80 \"123\"\n"},
    };
    CHECK_ALL(rows);
}

Test(published, tls_websocket_and_proxy)
{
    static const struct published rows[] = {
        {"other_half_tls.toml", CLIENT_HALF, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"
         "client 127.0.0.1:2333 tls root ca-cert.pem name localhost\n"
         "  ssh 127.0.0.1:22 \"t\"\n"},
        {"other_half_proxy.toml", CLIENT_HALF, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"
         "client 127.0.0.1:2333 by socks5 127.0.0.1:1080\n"
         "  ssh 127.0.0.1:22 \"t\"\n"},
        {"websocket.toml", BOTH, "",
         "server 127.0.0.1:2333 websocket\n"
         "  web 127.0.0.1:18080 \"0123456789abcdef\" nodelay\n"},
    };
    CHECK_ALL(rows);
}

Test(published, comments)
{
    static const struct published rows[] = {
        {"glued_comments.toml", BOTH, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"a # is no comment here\" delay\n"},
        {"glued_comments.ini", BOTH, "",
         "server 127.0.0.1:2333 debug\n"
         "  ssh 127.0.0.1:5202 \"file#name\"\n"},
        {"long_comment.toml", BOTH, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"template_comments.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  home-assistant.local 127.0.0.1:8123 \"#not;a=comment\"\n"},
    };
    CHECK_ALL(rows);
}

Test(published, braces)
{
    static const struct published rows[] = {
        {"services_empty.toml", BOTH, "W 1: server: no services: nothing will be tunnelled\n",
         "server 127.0.0.1:2333\n"},
        {"inline_whole.toml", BOTH, "",
         "server 127.0.0.1:2333 Noise_NK_25519_ChaChaPoly_BLAKE2s\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"
         "  my nas udp 127.0.0.1:5203 \"}, x\"\n"},
        {"inline_services.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:22 \"t\"\n"
         "  web 127.0.0.1:80 \"t\" nodelay\n"
         "  dns udp 127.0.0.1:53 \"t\"\n"},
        {"inline_transport.toml", BOTH, "",
         "server 127.0.0.1:2333 delay keepalive 5/8\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"unused_tables.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:22 \"t\"\n"},
        {"serializer_quoted.toml", BOTH, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\" nodelay\n"},
    };
    CHECK_ALL(rows);
}

/* The first two are not TOML 1.0, and rathole refuses them as well. */
Test(published, braces_that_are_wrong)
{
    static const struct published rows[] = {
        {"inline_trailing_comma.toml", BOTH, "6: a comma before } is not supported here\n", NULL},
        {"inline_lines.toml", BOTH,
         "6: the } is missing: a table in braces ends on its line\n"
         "6: server.services.ssh.bind_addr: missing, expected host:port\n"
         "7: server.services.bind_addr: unknown key, did you mean bind_addr in [server]?\n"
         "8: expected [section] or key = value\n",
         NULL},
        {"inline_unknown.toml", BOTH,
         "4: [server.transprt]: unknown section, did you mean [server.transport]?\n"
         "5: server.services.ssh.bind_adr: unknown key, did you mean bind_addr?\n"
         "5: [server.services.ssh.limits]: unknown section, did you mean [server.services.NAME]?\n",
         NULL},
    };
    CHECK_ALL(rows);
}

Test(published, dots)
{
    static const struct published rows[] = {
        {"dotted_root.toml", BOTH, "",
         "server 127.0.0.1:2333 delay\n"
         "  ssh 127.0.0.1:5202 \"of its own\"\n"
         "  web 127.0.0.1:5203 \"t\"\n"},
        {"dotted_sections.toml", BOTH, "",
         "server 127.0.0.1:2333 Noise_NK_25519_ChaChaPoly_BLAKE2s interval 15\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"dotted_services.toml", BOTH, "",
         "client 127.0.0.1:2333 keepalive 60/10\n"
         "  ssh 127.0.0.1:22 \"first\"\n"
         "  my.nas 127.0.0.1:445 \"second\"\n"
         "  web 127.0.0.1:80 \"t\" nodelay\n"},
    };
    CHECK_ALL(rows);
}

Test(published, what_stands_twice)
{
    static const struct published rows[] = {
        {"twice_dots_and_section.toml", BOTH,
         "7: [server.transport]: defined twice, first in line 4\n"
         "10: [server.services.ssh]: defined twice, first in line 5\n",
         NULL},
        {"twice_braces.toml", BOTH,
         "4: [server.services.ssh]: defined twice, first in line 4\n"
         "6: [server.transport]: defined twice, first in line 5\n"
         "7: server.services.web.bind_addr: defined twice, first in line 7\n",
         NULL},
        {"twice_sections.toml", BOTH,
         "8: [server.services.tunnel]: defined twice, first in line 6\n", NULL},
    };
    CHECK_ALL(rows);
}

Test(published, strings_of_many_lines)
{
    static const struct published rows[] = {
        {"multiline.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:22 \"a\\n\"b\"\"\n"
         "  web 127.0.0.1:80 \"\"\"two quotes and a tab:\t\"\n"},
        {"multiline_open.toml", BOTH, "3: the string is not finished\n", NULL},
    };
    CHECK_ALL(rows);
}

Test(published, other_ways_to_write_a_file)
{
    static const struct published rows[] = {
        {"bom_crlf.toml", BOTH, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"utf16.toml", BOTH, " is UTF-16, expected UTF-8: save it as UTF-8\n", NULL},
        {"utf16_no_mark.toml", BOTH, " is UTF-16, expected UTF-8: save it as UTF-8\n", NULL},
        {"tabs.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:22 \"t\"\n"
         "  web server 127.0.0.1:80 \"t\"\n"},
        {"services_first.toml", BOTH, "",
         "server 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:5202 \"t\"\n"},
        {"serializer_sorted.toml", BOTH, "",
         "server 127.0.0.1:2333 Noise_NK_25519_ChaChaPoly_BLAKE2s\n"
         "  ad-hoc 127.0.0.1:5202 \"3b0c\"\n"
         "  web 127.0.0.1:5203 \"t\"\n"},
        {"ports_as_names.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  443 0.0.0.0:443 \"musical_chair\" retry 3\n"
         "  tcp_2096 0.0.0.0:2096 \"musical_chair\" retry 3\n"},
        {"quoted_bool.toml", BOTH, "",
         "client 127.0.0.1:2333\n"
         "  ssh 127.0.0.1:22 \"t\" nodelay\n"},
    };
    CHECK_ALL(rows);
}

Test(published, what_is_refused)
{
    static const struct published rows[] = {
        {"env_token.toml", BOTH,
         "3: server.default_token: environment variable \"RU_NO_SUCH_TOKEN\" is not set\n", NULL},
        {"pattern_ik.toml", BOTH,
         "9: server.transport.noise.pattern: expected one of Noise_NK_25519_ChaChaPoly_BLAKE2s, "
         "Noise_XX_25519_ChaChaPoly_BLAKE2s, Noise_KK_25519_ChaChaPoly_BLAKE2s, got "
         "\"Noise_IK_25519_ChaChaPoly_BLAKE2s\"\n",
         NULL},
        {"unknown_keys.toml", BOTH,
         "4: server.heart_beat_interval: unknown key, did you mean heartbeat_interval?\n"
         "8: server.services.http.bind_addr_v6: unknown key, did you mean bind_addr?\n"
         "9: server.services.http.type: expected tcp, udp or socket_stream, got "
         "\"tcp+udp\"\n",
         NULL},
        {"no_token.toml", BOTH,
         "4: client.services.my_service.token: missing, and there is no client.default_token\n",
         NULL},
        {"tls_no_table.toml", BOTH, "5: client.transport.tls: " NO_TABLE "\n", NULL},
        {"tls_no_pkcs12.toml", BOTH,
         "7: server.transport.tls.pkcs12_password: needs pkcs12 as well\n", NULL},
    };
    CHECK_ALL(rows);
}

/* One message, not one for each line. */
Test(published, files_of_frp)
{
    static const struct published rows[] = {
        {"frps_old.ini", BOTH,
         " looks like a file of frp's ([common] in line 1): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frpc_old.ini", BOTH,
         " looks like a file of frp's ([common] in line 2): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frps.toml", BOTH,
         " looks like a file of frp's (bindPort in line 1): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frpc.toml", BOTH,
         " looks like a file of frp's (serverAddr in line 1): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frpc_include.toml", BOTH,
         " looks like a file of frp's ([[proxies]] in line 1): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frpc.yaml", BOTH,
         " looks like a file of frp's (serverAddr in line 1): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frpc.json", BOTH,
         " looks like a file of frp's (serverAddr in line 2): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
        {"frps_line.json", BOTH,
         " looks like a file of frp's (bindPort in line 1): frp has another protocol and other "
         "keys, see docs/moving.md\n",
         NULL},
    };
    CHECK_ALL(rows);
}
