/* What --check says about a server's addresses, on a fake network. */
#include "config/addresses.h"

#include <errno.h>

#include "whole_files.h"

/* "home" and "HOME" are 127.0.0.1, "two" is 9.9.9.9 and 127.0.0.1; no other name exists. */
static size_t find(void *owner, const struct host_port *name, struct addr ret[LIMIT_ADDRESSES])
{
    struct host_port numeric = {.port = name->port, .host = "127.0.0.1"};
    if (addr_from_numeric(name, &ret[0]))
        return 1;
    if (strcasecmp(name->host, "home") == 0)
        return addr_from_numeric(&numeric, &ret[0]);
    if (strcmp(name->host, "two") != 0)
        return 0;
    (void)addr_from_numeric(&numeric, &ret[1]);
    (void)snprintf(numeric.host, sizeof numeric.host, "9.9.9.9");
    (void)addr_from_numeric(&numeric, &ret[0]);
    return 2;
}

static uint16_t taken_ports[2];

/* 9.9.9.9 is not an address of this machine, and ports 10 to 1023 are privileged. */
static int probe(void *owner, const struct host_port *name, const struct addr *addr, bool is_udp)
{
    if (host_port_is_unix(name)) /* of unix sockets, /run/busy alone is in use */
        return strcmp(name->host, "/run/busy") == 0 ? -EADDRINUSE : 0;
    uint16_t port = addr_port(addr);
    if (addr->any.sa_family == AF_INET && addr->v4.sin_addr.s_addr == htonl(0x09090909))
        return -EADDRNOTAVAIL;
    if (port == taken_ports[0] || port == taken_ports[1])
        return -EADDRINUSE;
    return port >= 10 && port < 1024 ? -EACCES : 0;
}

static void check_examples_here(const struct example *examples, size_t count)
{
    static const struct config_network network = {.find = find, .probe = probe};
    for (size_t i = 0; i < count; i++) {
        struct config *config = parse(examples[i].text);
        cr_assert_not_null(config, "%s", said());
        config_check_addresses("f", &config->server, &network, &report);
        cr_expect_str_eq(said(), examples[i].expected, "of:\n%s\ngot:\n%sexpected:\n%s",
                         examples[i].text, said(), examples[i].expected);
        config_destroy(config);
    }
}

#define B "[server.services.b]\nbind_addr="
#define C "[server.services.\"c d\"]\nbind_addr="

Test(addresses, that_collide)
{
    static const struct example examples[] = {
        {SERVER SERVICE B "1.2.3.4:2\n",
         "W f:7: server.services.b.bind_addr: 1.2.3.4:2 is taken by server.services.a.bind_addr in "
         "line 5\n"},
        /* The first service holds the address. One that lost its address blocks no other. */
        {SERVER SERVICE B "0.0.0.0:2\n" C "1.2.3.4:2\n",
         "W f:7: server.services.b.bind_addr: 0.0.0.0:2 is taken by server.services.a.bind_addr in "
         "line 5\n"
         "W f:9: server.services.\"c d\".bind_addr: 1.2.3.4:2 is taken by "
         "server.services.a.bind_addr in line 5\n"},
        {SERVER SERVICE B "0.0.0.0:2\n" C "1.2.3.5:2\n",
         "W f:7: server.services.b.bind_addr: 0.0.0.0:2 is taken by server.services.a.bind_addr in "
         "line 5\n"},
        /* A conflict with the control port is an error. */
        {SERVER "[server.services.a]\nbind_addr=1.2.3.4:1\n",
         "f:5: server.services.a.bind_addr: 1.2.3.4:1 is taken by server.bind_addr in line 2\n"},
        {SERVER "[server.services.a]\nbind_addr=[::]:1\n",
         "f:5: server.services.a.bind_addr: [::]:1 is taken by server.bind_addr in line 2\n"},
        /* UDP and TCP ports do not conflict. */
        {SERVER SERVICE B "1.2.3.4:2\ntype=udp\n", ""},
        {SERVER SERVICE "type=udp\n" B "1.2.3.4:2\ntype=udp\n",
         "W f:8: server.services.b.bind_addr: 1.2.3.4:2 is taken by server.services.a.bind_addr in "
         "line 5\n"},
        {SERVER "[server.services.a]\nbind_addr=1.2.3.4:1\ntype=udp\n", ""},
        /* One address in two notations. */
        {SERVER "[server.services.a]\nbind_addr=[::1]:7\n" B "[0:0:0:0:0:0:0:1]:7\n",
         "W f:7: server.services.b.bind_addr: [0:0:0:0:0:0:0:1]:7 is taken by "
         "server.services.a.bind_addr in line 5\n"},
        {SERVER "[server.services.a]\nbind_addr=home:7\n" B "127.0.0.1:7\n",
         "W f:7: server.services.b.bind_addr: 127.0.0.1:7 is taken by server.services.a.bind_addr "
         "in line 5\n"},
        {SERVER SERVICE B "1.2.3.5:2\n", ""},
    };
    check_examples_here(examples, ARRAY_SIZE(examples));
}

#define LATER "the server would retry it every second and serve the other services\n"

Test(addresses, that_cannot_be_had_now)
{
    static const struct example examples[] = {
        {SERVER "[server.services.a]\nbind_addr=9.9.9.9:7\n",
         "W f:5: server.services.a.bind_addr: 9.9.9.9:7: address not available now; " LATER},
        {SERVER "[server.services.a]\nbind_addr=two:7\n", ""}, /* its second address is free */
        {SERVER "[server.services.a]\nbind_addr=1.2.3.4:99\n",
         "W f:5: server.services.a.bind_addr: 1.2.3.4:99: permission denied now; " LATER},
        /* Names that cannot be resolved conflict if they are the same. */
        {SERVER "[server.services.a]\nbind_addr=host:7\n" B "HOST:7\n",
         "W f:5: server.services.a.bind_addr: host:7: the host name has no usable address "
         "now; " LATER
         "W f:7: server.services.b.bind_addr: HOST:7 is taken by server.services.a.bind_addr in "
         "line 5\n"},
        {"[server]\ndefault_token=t\nbind_addr=host:1\n" SERVICE,
         "W f:3: server.bind_addr: host:1: the host name has no usable address now; the server "
         "would not start\n"},
    };
    taken_ports[0] = 0;
    check_examples_here(examples, ARRAY_SIZE(examples));
}

/* If the control port is in use as well, a server of this file is running: no warnings. */
Test(addresses, of_a_server_that_runs)
{
    static const struct example stopped = {
        SERVER SERVICE,
        "W f:5: server.services.a.bind_addr: 1.2.3.4:2: address in use now; " LATER};
    static const struct example running = {SERVER SERVICE, ""};
    taken_ports[0] = 2;
    check_examples_here(&stopped, 1);
    taken_ports[1] = 1;
    check_examples_here(&running, 1);
}
