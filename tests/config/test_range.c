/* Ranges of ports: names, what a file may say, and what a client's become. */
#include "config/range.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "config/config_diff.h"
#include "whole_files.h"

static const struct {
    const char *name;
    uint16_t first, last;
    const char *first_name, *last_name;
} names[] = {
    {"game-{port}", 6000, 6999, "game-6000", "game-6999"},
    {"{port}", 1, 65535, "1", "65535"},
    {"a{port}b", 9, 10, "a9b", "a10b"},
    {"g{port-1000}", 7000, 7001, "g6000", "g6001"},
    {"g{port+1}x", 65533, 65534, "g65534x", "g65535x"},
    {"g{port+}{port}", 7, 8, "g{port+}7", "g{port+}8"}, /* the first is no pattern */
};

Test(range, names)
{
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct config_service range = {.name = (char *)(uintptr_t)names[i].name,
                                       .addr.port = names[i].first,
                                       .port_last = names[i].last};
        char name[LIMIT_SERVICE_NAME + 1];
        uint16_t port = 0;
        cr_expect(config_range_is_name(range.name));
        cr_expect(config_range_names_are_ports(&range));
        cr_expect_eq(config_range_count(&range), names[i].last - names[i].first + 1u);
        config_range_name(&range, names[i].last, name);
        cr_expect_str_eq(name, names[i].last_name);
        cr_expect(config_range_find(&range, name, &port));
        cr_expect_eq(port, names[i].last);
        config_range_name(&range, names[i].first, name);
        cr_expect_str_eq(name, names[i].first_name);
        cr_expect(config_range_find(&range, name, &port));
        cr_expect_eq(port, names[i].first);
    }
    cr_expect_not(config_range_is_name("game-port"));
    cr_expect_not(config_range_is_name("{port"));
    cr_expect_not(config_range_is_name("{port+1"));
    cr_expect_not(config_range_is_name("{port-x}"));
    cr_expect_not(config_range_is_name("{port+99999999999}"));
}

Test(range, what_no_member_is_called)
{
    struct config_service range = {.name = (char[]){"g{port}x"},
                                   .addr.port = 60,
                                   .port_last = 6999};
    static const char *const others[] = {"",     "g",       "gx",      "gxx",     "g59x",  "g7000x",
                                         "g60",  "g060x",   "g+60x",   "g 60x",   "g60xx", "gg60x",
                                         "g-1x", "g6553x6", "g99999x", "g{port}x"};
    uint16_t port;
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        cr_expect_not(config_range_find(&range, others[i], &port), "%s", others[i]);
    cr_expect(config_range_find(&range, "g60x", &port));
    struct config_service plain = {.name = (char[]){"plain"}, .addr.port = 60};
    cr_expect(config_range_find(&plain, "plain", &port));
    cr_expect_eq(port, 60);
    cr_expect_eq(config_range_count(&plain), 1);
}

#define RANGE(name, addr) "[server.services.\"" name "\"]\nbind_addr=" addr "\n"
#define OURS(name, addr)  "[client.services.\"" name "\"]\nlocal_addr=" addr "\n"

Test(range, errors)
{
    static const struct example examples[] = {
        {SERVER RANGE("g{port}", "1.2.3.4:6000-6999"), ""},
        {SERVER RANGE("g{port}", "[::]:6000-6000"), ""},
        {SERVER RANGE("g{port}", "h:1-65535"), ""},
        {SERVER RANGE("g", "1.2.3.4:6-7"),
         "f:5: server.services.g.bind_addr: a range needs {port} in the name of the service, as in "
         "[server.services.\"game-{port}\"]\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:6"),
         "f:5: server.services.\"g{port}\".bind_addr: expected host:FIRST-LAST: {port} in the name "
         "of the service stands for the ports of a range\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:7-6"),
         "f:5: server.services.\"g{port}\".bind_addr: expected host:FIRST-LAST, two ports with the "
         "lower one first, got \"1.2.3.4:7-6\"\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:6-65536"),
         "f:5: server.services.\"g{port}\".bind_addr: expected host:FIRST-LAST, two ports with the "
         "lower one first, got \"1.2.3.4:6-65536\"\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:0-6"),
         "f:5: server.services.\"g{port}\".bind_addr: expected host:FIRST-LAST, two ports with the "
         "lower one first, got \"1.2.3.4:0-6\"\n"},
        {SERVER RANGE("g{port+9}", "1.2.3.4:65530-65535"),
         "f:5: server.services.\"g{port+9}\".bind_addr: the numbers in the names of this range are "
         "no ports: 1 to 65535\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:6-7") "bind=always\n",
         "f:6: server.services.\"g{port}\".bind: expected on_login: a range is bound port by port, "
         "when clients log in\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:6-7") "bind=on_login\n", ""},
        {SERVER SERVICE "bind=later\n",
         "f:6: server.services.a.bind: expected always or on_login, got \"later\"\n"},
        {SERVER RANGE("g{port}", "1.2.3.4:6-7") "type=socket_stream\n",
         "f:5: server.services.\"g{port}\".bind_addr: expected /path: type = socket_stream is for "
         "unix sockets\n"},
        {SERVER RANGE("g", "/run/a:1-2"), ""}, /* a path */
        {SERVER RANGE("a{port}", "1.2.3.4:2-60000") RANGE("b{port}", "1.2.3.5:2-60000"),
         "f:7: server.services.\"b{port}\".bind_addr: too many ports: all ranges have 119998 "
         "together, and a server has at most 65536\n"},
        {CLIENT OURS("b{port}", "1.2.3.5:2-4096"), ""},
        {CLIENT OURS("b{port}", "1.2.3.5:2-4097"),
         "f:5: client.services.\"b{port}\".local_addr: too many ports: all ranges have 4096 "
         "together, and a client has at most 4096 services\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(range, pairs)
{
    static const struct example examples[] = {
        {SERVER SERVICE RANGE("g{port}", "0.0.0.0:2-7"),
         "f:7: server.services.\"g{port}\".bind_addr: 0.0.0.0:2-7 overlaps 1.2.3.4:2 of "
         "server.services.a.bind_addr in line 5\n"},
        {SERVER SERVICE RANGE("g{port}", "0.0.0.0:3-7"), ""},
        {SERVER SERVICE RANGE("g{port}", "1.2.3.5:2-7"), ""},
        {SERVER SERVICE RANGE("g{port}", "1.2.3.4:2-7") "type=udp\n", ""},
        {SERVER RANGE("g{port}", "0.0.0.0:5-7") RANGE("h{port}", "0.0.0.0:7-9"),
         "f:5: server.services.\"g{port}\".bind_addr: 0.0.0.0:5-7 overlaps 0.0.0.0:7-9 of "
         "server.services.\"h{port}\".bind_addr in line 7\n"},
        {SERVER RANGE("g{port}", "0.0.0.0:5-7") RANGE("h{port}", "0.0.0.0:5-7") "type=udp\n", ""},
        {SERVER RANGE("g{port}", "Host:5-7") RANGE("h{port}", "hOST:6-6"),
         "f:5: server.services.\"g{port}\".bind_addr: Host:5-7 overlaps hOST:6-6 of "
         "server.services.\"h{port}\".bind_addr in line 7\n"},
        {SERVER RANGE("g{port}", "0.0.0.0:1-7"),
         "f:5: server.services.\"g{port}\".bind_addr: 0.0.0.0:1-7 overlaps 1.2.3.4:1 of "
         "server.bind_addr in line 2\n"},
        {SERVER RANGE("g{port}", "0.0.0.0:5-7") RANGE("g6", "1.2.3.4:9"),
         "f:4: server.services.\"g{port}\": the name g6 is also one of [server.services.g6] in "
         "line 6\n"},
        {SERVER RANGE("g{port}", "0.0.0.0:5-7") RANGE("g8", "1.2.3.4:9"), ""},
        {SERVER RANGE("g{port}", "1.2.3.4:12000-12010") RANGE("g1{port}", "1.2.3.4:2000-2001"),
         "f:4: server.services.\"g{port}\": the name g12000 is also one of "
         "[server.services.\"g1{port}\"] in line 6\n"},
        {SERVER RANGE("g{port}1", "1.2.3.4:200-201") RANGE("g{port}", "1.2.3.4:2000-2011"),
         "f:4: server.services.\"g{port}1\": the name g2001 is also one of "
         "[server.services.\"g{port}\"] in line 6\n"},
        {CLIENT LOCAL OURS("{port}", "0.0.0.0:2-7") OURS("5", "1.2.3.4:5"),
         "f:6: client.services.\"{port}\": the name 5 is also one of [client.services.5] in "
         "line 8\n"},
        {CLIENT LOCAL OURS("x{port}", "h:2-7"), ""},
    };
    CHECK_EXAMPLES(examples);
}

Test(range, of_a_server_stays_one_service)
{
    struct config *config = parse(SERVER RANGE("g{port}", "[::]:6000-6999"));
    const struct config_service *service = &config->server.services[0];
    char text[CONFIG_ADDR_SIZE];
    cr_assert_eq(config->server.service_count, 1);
    cr_expect_str_eq(service->addr.host, "::");
    cr_expect_eq(service->addr.port, 6000);
    cr_expect_eq(service->port_last, 6999);
    cr_expect_eq(service->bind, CONFIG_BIND_ON_LOGIN);
    cr_expect_str_eq(config_addr_format(service, text, sizeof text), "[::]:6000-6999");
    config_destroy(config);
    config = parse(SERVER SERVICE);
    cr_expect_eq(config->server.services[0].bind, CONFIG_BIND_ALWAYS);
    cr_expect_eq(config->server.services[0].port_last, 0);
    config_destroy(config);
}

Test(range, of_a_client_becomes_services)
{
    struct config *config =
        parse(CLIENT LOCAL OURS("g{port-1000}", "h:7000-7002") "token=own\n" OURS("z", "h:9"));
    const struct config_peer *client = &config->client;
    static const char *const expected[] = {"a", "g6000", "g6001", "g6002", "z"};
    static const uint16_t ports[] = {2, 7000, 7001, 7002, 9};
    cr_assert_eq(client->service_count, ARRAY_SIZE(expected));
    for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
        cr_expect_str_eq(client->services[i].name, expected[i]);
        cr_expect_eq(client->services[i].addr.port, ports[i]);
        cr_expect_eq(client->services[i].port_last, 0);
        cr_expect_str_eq(client->services[i].token, i > 0 && i < 4 ? "own" : "t");
        cr_expect_eq(client->services[i].retry_interval_ms, 1000);
    }
    config_destroy(config);
}

Test(range, another_end_is_another_address)
{
    struct config *old = parse(SERVER RANGE("g{port}", "[::]:6000-6999"));
    struct config *new = parse(SERVER RANGE("g{port}", "[::]:6000-7999"));
    struct config_diff diff;
    cr_assert_eq(config_diff(CONFIG_SERVER, &old->server, &new->server, &diff), 0);
    cr_assert_eq(diff.service_count, 1);
    cr_expect_eq(diff.services[0].changes, CONFIG_CHANGE_ADDRESS);
    config_diff_finish(&diff);
    config_destroy(old);
    config_destroy(new);
}

/* The half that is left out has errors, and the other is whole all the same. */
Test(range, of_a_client_beside_a_bad_server)
{
    char path[] = "/tmp/test_range_XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    FILE *file = fdopen(fd, "w");
    cr_assert_not_null(file);
    (void)fputs("[server]\nbind_addr=22\n" CLIENT OURS("g{port}", "h:7-9"), file);
    (void)fclose(file);
    struct config *config = NULL;
    config_report_finish(&report);
    cr_assert_eq(config_load_half(path, CONFIG_CLIENT, &config, &report), 0, "%s", said());
    (void)remove(path);
    cr_expect_eq(config->client.service_count, 3);
    config_destroy(config);
}

Test(range, examples)
{
    struct config *config = load(CONFIG_EXAMPLES "/range-server.ini");
    cr_expect_str_eq(said(), "");
    cr_assert_eq(config->server.service_count, 3);
    for (size_t i = 0; i < 3; i++)
        cr_expect_eq(config->server.services[i].bind, CONFIG_BIND_ON_LOGIN);
    config_destroy(config);
    config = load(CONFIG_EXAMPLES "/range-client.ini");
    cr_expect_str_eq(said(), "");
    cr_assert_eq(config->client.service_count, 7);
    cr_expect_str_eq(config->client.services[2].name, "game-6010");
    config_destroy(config);
}
