/* The addresses of a reload: what is in the way, and whether it is ours and leaves. */
#include <errno.h>
#include <string.h>

#include "io/resolver.h"
#include "reload_priv.h"
#include "server/addresses.h"

/* ---- what is in the way ---- */

/* Whether what is bound is in the way of an address, and so will not be when it has gone. */
static bool is_ours_in_the_way(const struct preparation *prep, const struct binding *binding,
                               const struct host_port *wanted)
{
    struct addr addrs[LIMIT_ADDRESSES];
    size_t count = binding != NULL ? resolver_find(prep->server->resolver, wanted, addrs) : 0;
    bool is_held = false;
    for (size_t i = 0; i < count; i++)
        is_held |= addr_overlaps(&binding->addr, &addrs[i]);
    return is_held;
}

static bool is_same_port(const struct config_service *a, const struct config_service *b)
{
    return a->addr.port == b->addr.port && a->type == b->type;
}

static const struct config_service *find_service(const struct config_peer *peer, const char *name)
{
    for (size_t i = 0; i < peer->service_count; i++) {
        if (strcmp(peer->services[i].name, name) == 0)
            return &peer->services[i];
    }
    return NULL;
}

/* The running service that has the address which that one wants, perhaps as a part of its own. */
static const struct config_service *holder_of(const struct preparation *prep,
                                              const struct config_service *wanted)
{
    const struct config_peer *running = &prep->running.peer;
    for (size_t i = 0; i < running->service_count; i++) {
        if (is_same_port(&running->services[i], wanted) &&
            is_ours_in_the_way(prep, service_of(prep->running.entries[i])->binding, &wanted->addr))
            return &running->services[i];
    }
    return NULL;
}

/* Where the holder of a port goes: NULL if it is removed, or stays where it is. */
static const struct config_service *destination_of(const struct preparation *prep,
                                                   const struct config_service *holder,
                                                   bool *ret_leaves)
{
    const struct config_service *wanted = find_service(prep->wanted, holder->name);
    *ret_leaves = wanted == NULL || !is_same_port(wanted, holder) ||
                  strcmp(wanted->addr.host, holder->addr.host) != 0;
    return *ret_leaves ? wanted : NULL;
}

bool server_reload_is_given_up(const struct preparation *prep, const struct config_service *config)
{
    const struct config_service *holder = holder_of(prep, config);
    bool leaves = false;
    if (holder != NULL)
        (void)destination_of(prep, holder, &leaves);
    else if (config->type == CONFIG_SERVICE_TCP)
        leaves = prep->running.peer.addr.port == config->addr.port &&
                 (prep->diff.changes & CONFIG_CHANGE_ADDRESS) != 0;
    return leaves;
}

/* Services that want each other's ports, or one its own on another host: none can be first. */
static bool is_in_circle(const struct preparation *prep, const struct config_service *config)
{
    const struct config_service *at = config;
    for (size_t i = 0; i <= prep->running.peer.service_count; i++) {
        const struct config_service *holder = holder_of(prep, at);
        bool leaves;
        if (holder == NULL)
            return false;
        at = destination_of(prep, holder, &leaves);
        if (at == NULL)
            return false;
        if (strcmp(holder->name, config->name) == 0)
            return true;
    }
    return false;
}

bool server_reload_note_failed(struct preparation *prep, const struct config_service *config,
                               unsigned int *said, int error, bool is_ours)
{
    prep->outcome->failed++;
    if (is_ours && error == -EADDRINUSE && prep->attempt == RELOAD_FIRST) {
        prep->outcome->deferred++;
        return true;
    }
    addresses_bind_failed(prep->server, prep->wanted, config, said, error);
    return false;
}

/* ---- new addresses ---- */

bool server_reload_is_same_addr(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

int server_reload_prepare_address(struct preparation *prep, const struct config_service *wanted,
                                  struct service *service, struct binding **ret)
{
    bool is_new = !server_reload_is_same_addr(&service_config(service)->addr, &wanted->addr);
    if (prep->attempt == RELOAD_FIRST && is_new)
        service->failures_said = 0;
    int result = addresses_bind_service(prep->server, service, wanted, prep->wanted, ret);
    if (result == 0)
        return RELOAD_MOVED;
    if (result == -ENOMEM)
        return result;
    if (result == -EADDRINUSE && is_in_circle(prep, wanted))
        return RELOAD_REPLACED;
    return server_reload_note_failed(prep, wanted, &service->failures_said, result,
                                     server_reload_is_given_up(prep, wanted))
               ? RELOAD_LATER
               : RELOAD_STAYS;
}

void server_reload_prepare_control(struct preparation *prep, unsigned int *changes)
{
    struct server *server = prep->server;
    if (prep->attempt == RELOAD_FIRST)
        server->control_failures_said = 0;
    int result = addresses_bind_control(server, prep->wanted, &prep->plan->control_binding);
    if (result == 0)
        return;
    *changes &= ~(unsigned int)CONFIG_CHANGE_ADDRESS;
    bool is_ours = is_ours_in_the_way(prep, server->control_binding, &prep->wanted->addr);
    if (result == -EADDRINUSE && is_ours)
        prep->plan->closes_control = true; /* another host, the same port */
    for (size_t i = 0; i < prep->running.peer.service_count; i++)
        is_ours |= prep->running.peer.services[i].addr.port == prep->wanted->addr.port;
    (void)server_reload_note_failed(prep, NULL, &server->control_failures_said, result, is_ours);
}
