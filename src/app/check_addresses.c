#include "app/check_addresses.h"

#include <poll.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "config/addresses.h"
#include "io/resolver.h"
#include "io/socket.h"
#include "io/unix_socket.h"

static size_t check_find(void *owner, const struct host_port *name,
                         struct addr ret[LIMIT_ADDRESSES])
{
    return resolver_find(owner, name, ret);
}

static int check_probe(UNUSED void *owner, const struct host_port *name, const struct addr *addr,
                       bool is_udp)
{
    return host_port_is_unix(name) ? unix_socket_probe(name->host) : socket_probe(addr, is_udp);
}

static void check_look_up(struct resolver *resolver, const struct config_peer *server)
{
    uint64_t until_ms = clock_monotonic_ms() + LIMIT_CHECK_NAMES_MS, at_ms;
    resolver_begin(resolver, &server->addr);
    for (size_t i = 0; i < server->service_count; i++)
        resolver_begin(resolver, &server->services[i].addr);
    while (!resolver_poll(resolver) && (at_ms = clock_monotonic_ms()) < until_ms) {
        struct pollfd fd = {.fd = resolver_fd(resolver), .events = POLLIN};
        (void)poll(&fd, 1, (int)(until_ms - at_ms));
    }
}

void check_addresses(const char *path, const struct config_peer *server,
                     struct config_report *report)
{
    struct resolver *resolver;
    int result = resolver_create_polled(NULL, &resolver);
    if (result < 0) {
        (void)fprintf(stderr, "warning: %s: cannot check the addresses: %s\n", path,
                      error_text(result));
        return;
    }
    const struct config_network network = {.owner = resolver,
                                           .find = check_find,
                                           .probe = check_probe};
    check_look_up(resolver, server);
    config_check_addresses(path, server, &network, report);
    resolver_destroy(resolver);
}
