/* Valid files as a whole: what they are read as. */
#include "config/config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "whole_files.h"

static void check_addr(const struct host_port *addr, const char *host, uint16_t port)
{
    cr_expect_str_eq(addr->host, host);
    cr_expect_eq(addr->port, port);
}

Test(config, quickstart_of_rathole)
{
    struct config *config = load(CONFIG_TEST_DATA "/quickstart_server.toml");
    cr_expect_str_eq(said(), "");
    cr_expect(config->has_server);
    cr_expect_not(config->has_client);
    check_addr(&config->server.addr, "0.0.0.0", 2333);
    cr_assert_eq(config->server.service_count, 1);
    cr_expect_str_eq(config->server.services[0].name, "my_nas_ssh");
    cr_expect_str_eq(config->server.services[0].token, "use_a_secret_that_only_you_know");
    cr_expect_eq(config->server.services[0].line, 5);
    check_addr(&config->server.services[0].addr, "0.0.0.0", 5202);
    config_destroy(config);

    config = load(CONFIG_TEST_DATA "/quickstart_client.toml");
    cr_expect_str_eq(said(), "");
    cr_expect(config->has_client);
    cr_expect_not(config->has_server);
    check_addr(&config->client.addr, "myserver.example", 2333);
    cr_expect_eq(config->client.more_addr_count, 0);
    cr_expect_eq(config->client.servers, CONFIG_SERVERS_FIRST);
    cr_expect_eq(config->client.resolve_interval_ms, 30000);
    check_addr(&config->client.services[0].addr, "127.0.0.1", 22);
    config_destroy(config);
}

Test(config, defaults_of_a_server)
{
    struct config *config =
        parse("[server]\nbind_addr=[::]:1\ndefault_token=t\n[server.services.a]\nbind_addr=h:2\n");
    const struct config_peer *server = &config->server;
    check_addr(&server->addr, "::", 1);
    cr_expect_eq(server->transport.type, CONFIG_TRANSPORT_TCP);
    cr_expect(server->transport.tcp_nodelay);
    cr_expect_eq(server->transport.tcp_keepalive_secs, 20);
    cr_expect_eq(server->transport.tcp_keepalive_interval, 8);
    cr_expect_eq(server->threads, 0);
    cr_expect_eq(server->drain_delay_ms, 0);
    cr_expect_eq(server->drain_timeout_ms, LIMIT_DRAIN_MS);
    cr_expect_eq(server->log_level, LOG_INFO);
    cr_expect_eq(server->log_format, LOG_TEXT);
    cr_expect_eq(server->heartbeat_interval_ms, LIMIT_HEARTBEAT_INTERVAL_MS);
    cr_expect_eq(server->handshake_timeout_ms, LIMIT_HANDSHAKE_MS);
    cr_expect_eq(server->max_pending_handshakes, LIMIT_PENDING);
    cr_expect_eq(server->max_pending_handshakes_per_ip, LIMIT_PENDING_PER_IP);
    cr_expect_eq(config_prefixes(server).v4, 32);
    cr_expect_eq(config_prefixes(server).v6, 64);
    const struct config_service *service = &server->services[0];
    cr_expect_eq(service->type, CONFIG_SERVICE_TCP);
    cr_expect_eq(service->nodelay, CONFIG_UNSET);
    cr_expect_eq(service->idle_timeout_ms, 0);
    cr_expect_eq(service->max_connections, 0);
    cr_expect_eq(service->max_connections_per_ip, 0);
    cr_expect_eq(service->bandwidth, 0);
    cr_expect_eq(service->connection_bandwidth, 0);
    cr_expect_str_eq(service->token, "t");
    config_destroy(config);
}

Test(config, a_last_line_without_an_end)
{
    static const char text[] =
        "[client]\nremote_addr=h:12\n[client.services.a]\ntoken=t\nlocal_addr=h:34\n";
    static const struct {
        size_t cut;
        bool is_cut_off;
    } cases[] = {{0, false}, {1, true}, {2, true}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct config *config = NULL;
        struct config_report of_it;
        cr_assert_eq(config_parse("f", text, strlen(text) - cases[i].cut, &config, &of_it), 0);
        cr_expect_eq(config->is_cut_off, cases[i].is_cut_off, "%zu bytes less", cases[i].cut);
        config_destroy(config);
        config_report_finish(&of_it);
    }
}

Test(config, defaults_of_a_client)
{
    struct config *config =
        parse("[client]\nremote_addr=h:1\n[client.services.a]\nlocal_addr=h:2\ntoken=t\n");
    const struct config_peer *client = &config->client;
    cr_expect_eq(client->heartbeat_timeout_ms, LIMIT_HEARTBEAT_TIMEOUT_MS);
    cr_expect_eq(client->connect_timeout_ms, LIMIT_CONNECT_MS);
    cr_expect_eq(client->udp_descriptors, LIMIT_UDP_DESCRIPTORS);
    cr_expect_eq(client->retry_interval_ms, 1000);
    cr_expect_not(client->prefer_ipv6);
    cr_expect_null(client->default_token);
    cr_expect_eq(client->services[0].retry_interval_ms, 1000);
    cr_expect_not(client->services[0].prefer_ipv6);
    config_destroy(config);
}

Test(config, every_key_of_ours)
{
    struct config *config = parse(
        "[server]\nbind_addr = 1.2.3.4:1\ndefault_token = t\nheartbeat_interval = 7\n"
        "handshake_timeout = 0.5\nmax_pending_handshakes = 10\n"
        "max_pending_handshakes_per_ip = 3\nper_ip_prefix_v4 = 24\nper_ip_prefix_v6 = "
        "128\ndrain_delay = 2.5\ndrain_timeout = 1.25\nthreads = 2\n"
        "log_level = debug\nlog_format = json\nuser = www-data\ngroup = 33\n"
        "[server.transport]\ntype = tcp\n"
        "[server.transport.tcp]\nnodelay = false\nkeepalive_secs = 0\nkeepalive_interval = 1\n"
        "[server.services]\n"
        "[server.services.a]\nbind_addr = 1.2.3.4:2\nidle_timeout = 0.001\n"
        "max_connections = 5\nmax_connections_per_ip = 2\nnodelay = false\n"
        "bandwidth = 1G\nconnection_bandwidth = \"500k\"\n"
        "udp_data_channels = 4\nudp_timeout = 60\nmax_udp_visitors = 10\n");
    const struct config_peer *server = &config->server;
    cr_expect_eq(server->heartbeat_interval_ms, 7000);
    cr_expect_eq(server->handshake_timeout_ms, 500);
    cr_expect_eq(server->max_pending_handshakes, 10);
    cr_expect_eq(server->max_pending_handshakes_per_ip, 3);
    cr_expect_eq(config_prefixes(server).v4, 24);
    cr_expect_eq(config_prefixes(server).v6, 128);
    cr_expect_eq(server->drain_delay_ms, 2500);
    cr_expect_eq(server->drain_timeout_ms, 1250);
    cr_expect_eq(server->threads, 2);
    cr_expect_eq(server->log_level, LOG_DEBUG);
    cr_expect_eq(server->log_format, LOG_JSON);
    cr_expect_str_eq(server->user, "www-data");
    cr_expect_str_eq(server->group, "33");
    cr_expect_not(server->transport.tcp_nodelay);
    cr_expect_eq(server->transport.tcp_keepalive_secs, 0);
    cr_expect_eq(server->transport.tcp_keepalive_interval, 1);
    cr_expect_eq(server->services[0].idle_timeout_ms, 1);
    cr_expect_eq(server->services[0].max_connections, 5);
    cr_expect_eq(server->services[0].udp_data_channels, 4);
    cr_expect_eq(server->services[0].udp_timeout_ms, 60000);
    cr_expect_eq(server->services[0].max_udp_visitors, 10);
    cr_expect_eq(server->services[0].max_connections_per_ip, 2);
    cr_expect_eq(server->services[0].nodelay, CONFIG_FALSE);
    cr_expect_eq(server->services[0].bandwidth, 1000000000);
    cr_expect_eq(server->services[0].connection_bandwidth, 500000);
    config_destroy(config);
}

Test(config, services_inherit_from_their_client)
{
    struct config *config =
        parse("[client.services.own]\nlocal_addr=h:1\ntoken=mine\nretry_interval=3\n"
              "prefer_ipv6=false\n[client.services.heir]\nlocal_addr=h:2\n"
              "[client]\nremote_addr=h:3\ndefault_token=all\nretry_interval=9\nprefer_ipv6=true\n");
    const struct config_service *own = &config->client.services[0];
    const struct config_service *heir = &config->client.services[1];
    cr_expect_str_eq(own->token, "mine");
    cr_expect_eq(own->retry_interval_ms, 3000);
    cr_expect_not(own->prefer_ipv6);
    cr_expect_str_eq(heir->token, "all");
    cr_expect_eq(heir->retry_interval_ms, 9000);
    cr_expect(heir->prefer_ipv6);
    config_destroy(config);
}

Test(config, full_file_of_rathole)
{
    struct config *config = load(CONFIG_TEST_DATA "/full.toml");
    cr_expect_str_eq(said(), "");
    cr_expect(config->has_server && config->has_client);
    cr_assert_eq(config->client.service_count, 2);
    cr_assert_eq(config->server.service_count, 2);
    cr_expect_eq(config->client.services[0].nodelay, CONFIG_TRUE);
    cr_expect_eq(config->client.services[1].nodelay, CONFIG_UNSET);
    cr_expect_str_eq(config->server.services[0].token, "whatever");
    cr_expect_str_eq(config->server.services[1].token, "default_token_if_not_specify");
    check_addr(&config->server.services[1].addr, "0.0.0.1", 8082);
    config_destroy(config);
}

Test(config, an_indented_file)
{
    struct config *config = load(CONFIG_TEST_DATA "/indented.ini");
    cr_expect_str_eq(said(), "");
    cr_expect_str_eq(config->server.default_token, "a;b#c");
    cr_expect_eq(config->server.threads, 4);
    cr_assert_eq(config->server.service_count, 2);
    check_addr(&config->server.services[0].addr, "::1", 8080);
    cr_expect_str_eq(config->server.services[1].name, "my nas: [1]; #2");
    cr_expect_str_eq(config->server.services[1].token, "a;b#c");
    config_destroy(config);
}

Test(config, examples_of_ours_say_the_same_in_both_forms)
{
    static const char *const pairs[][2] = {
        {CONFIG_EXAMPLES "/server.ini", CONFIG_EXAMPLES "/rathole-server.toml"},
        {CONFIG_EXAMPLES "/client.ini", CONFIG_EXAMPLES "/rathole-client.toml"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        struct config *ini = load(pairs[i][0]);
        cr_expect_str_eq(said(), "");
        struct config *toml = load(pairs[i][1]);
        cr_expect_str_eq(said(), "");
        cr_expect_eq(ini->has_server, toml->has_server);
        const struct config_peer *a = ini->has_server ? &ini->server : &ini->client;
        const struct config_peer *b = toml->has_server ? &toml->server : &toml->client;
        check_addr(&a->addr, "127.0.0.1", 2333);
        check_addr(&b->addr, "127.0.0.1", 2333);
        cr_assert_eq(a->service_count, 1);
        cr_assert_eq(b->service_count, 1);
        cr_expect_str_eq(a->services[0].name, "web");
        cr_expect_str_eq(b->services[0].name, "web");
        cr_expect_str_eq(a->services[0].token, "change-me");
        cr_expect_str_eq(b->services[0].token, "change-me");
        check_addr(&a->services[0].addr, "127.0.0.1", ini->has_server ? 8080 : 8000);
        check_addr(&b->services[0].addr, "127.0.0.1", ini->has_server ? 8080 : 8000);
        config_destroy(ini);
        config_destroy(toml);
    }
}

/* The lines that the examples comment out are valid too. */
Test(config, examples_of_ours_show_what_exists)
{
    static const char *const names[] = {CONFIG_EXAMPLES "/server.ini",
                                        CONFIG_EXAMPLES "/client.ini"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        static char text[16 << 10];
        FILE *file = fopen(names[i], "r");
        cr_assert_not_null(file);
        size_t used = 0, shown = 0;
        for (char line[256]; fgets(line, sizeof line, file) != NULL;) {
            const char *at = line;
            if (strncmp(line, "# ", 2) == 0 &&
                (strstr(line, " = ") != NULL || strncmp(line, "# [server.", 10) == 0 ||
                 strncmp(line, "# [client.", 10) == 0 || strcmp(line, "# [status]\n") == 0)) {
                at += 2;
                shown++;
            }
            used += (size_t)snprintf(text + used, sizeof text - used, "%s", at);
        }
        (void)fclose(file);
        cr_expect_gt(shown, 10);
        struct config *config = parse(text);
        cr_expect_str_eq(said(), "");
        config_destroy(config);
    }
}

Test(config, long_names_and_tokens)
{
    static const int lengths[] = {1, 49, 50, 51, 199, 200, 255};
    static char text[16 << 10], name[LIMIT_SECRET + 1];
    memset(name, 'x', sizeof name);
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        /* Two names and two tokens that differ in the last byte only. */
        (void)snprintf(text, sizeof text,
                       "[client]\nremote_addr = h:1\n"
                       "[client.services.%.*sa]\nlocal_addr = h:1\ntoken = %.*s1\n"
                       "[client.services.%.*sb]\nlocal_addr = h:2\ntoken = \"%.*s2\"\n",
                       lengths[i] - 1, name, lengths[i], name, lengths[i] - 1, name, lengths[i],
                       name);
        struct config *config = parse(text);
        cr_assert_not_null(config, "%s", said());
        cr_assert_eq(config->client.service_count, 2);
        for (size_t j = 0; j < 2; j++) {
            const struct config_service *service = &config->client.services[j];
            cr_expect_eq(strlen(service->name), (size_t)lengths[i]);
            cr_expect_eq(service->name[lengths[i] - 1], "ab"[j]);
            cr_expect_eq(strlen(service->token), (size_t)lengths[i] + 1);
            cr_expect_eq(service->token[lengths[i]], "12"[j]);
        }
        config_destroy(config);
    }
}

Test(config, print_options_lists_every_row)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    cr_assert_not_null(out);
    config_print_options(out);
    (void)fclose(out);
    cr_expect_not_null(strstr(text, "| `server.bind_addr` | host:port | required | "));
    cr_expect_not_null(strstr(text, "| `*.transport.tcp.nodelay` | bool | true | "));
    cr_expect_not_null(strstr(text, "| `client.services.NAME.retry_interval` | s |  | "));
    free(text);
}

Test(config, servers_of_a_client)
{
    static const char *const lists[] = {"a:1, [::1]:2,c:3", "[\"a:1\", \"[::1]:2\",\n \"c:3\"]",
                                        "\"a:1 ,[::1]:2, c:3\"",
                                        "a:1, [::1]:2, c:3#and nothing else"};
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        char text[300];
        (void)snprintf(text, sizeof(text),
                       "[client]\nremote_addr = %s\nservers = all\nresolve_interval = 5.5\n"
                       "[client.services.a]\nlocal_addr=h:2\ntoken=t\n",
                       lists[i]);
        struct config *config = parse(text);
        const struct config_peer *client = &config->client;
        cr_expect_str_eq(said(), "");
        cr_assert_eq(client->more_addr_count, 2);
        check_addr(config_server_addr(client, 0), "a", 1);
        check_addr(config_server_addr(client, 1), "::1", 2);
        check_addr(config_server_addr(client, 2), "c", 3);
        cr_expect_str_eq(config_addrs_format(client, text, sizeof(text)), "a:1, [::1]:2, c:3");
        cr_expect_str_eq(config_addrs_format(client, text, 8), "a:1, [:");
        cr_expect_eq(client->servers, CONFIG_SERVERS_ALL);
        cr_expect_eq(client->resolve_interval_ms, 5500);
        config_destroy(config);
    }
}
