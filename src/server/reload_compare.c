/* The first part of a reload: what differs from the file, and the look-ups of the names that this
 * needs. */
#include "reload_priv.h"

#include "io/resolver.h"
#include "server/on_login.h"

/* Clears the address of services that are not bound yet, so that config_diff finds their address
 * changed and the reload tries it again. */
static void mark_unbound(struct service_view *running)
{
    for (size_t i = 0; i < running->peer.service_count; i++) {
        const struct service *service = service_of(running->entries[i]);
        if (service->binding == NULL && !service_is_routed(service))
            running->peer.services[i].addr = (struct host_port){0};
    }
}

void server_reload_compared(struct preparation *prep)
{
    config_diff_finish(&prep->diff);
    on_login_view_finish(&prep->expanded);
    service_view_finish(&prep->running);
    range_set_destroy(prep->new_ranges);
}

int server_reload_compare(struct preparation *prep, bool decides)
{
    struct server *server = prep->server;
    int result = service_view_init(&prep->running, &server->services, server_config(server));
    if (result < 0) {
        range_set_destroy(prep->new_ranges);
        return result;
    }
    mark_unbound(&prep->running);
    struct range_set *set = prep->new_ranges != NULL ? prep->new_ranges : server_ranges(server);
    result = on_login_expand(server, set, &prep->running, prep->wanted, decides, prep->now_ms,
                             &prep->expanded);
    if (result == 0) {
        prep->wanted = &prep->expanded.peer;
        result = config_diff(CONFIG_SERVER, &prep->running.peer, prep->wanted, &prep->diff);
    }
    if (result < 0)
        server_reload_compared(prep);
    return result;
}

/* ---- looking names up, before a reload begins ---- */

static bool needs_address(const struct config_service_diff *item)
{
    return item->fate == CONFIG_SERVICE_ADDED ||
           (item->fate == CONFIG_SERVICE_CHANGED && (item->changes & CONFIG_CHANGE_ADDRESS) != 0);
}

void server_reload_look_up(void *shared, const struct config_peer *wanted)
{
    struct server *server = shared;
    struct preparation prep = {.server = server, .wanted = wanted};
    for (size_t i = 0; i < wanted->service_count; i++) {
        if (wanted->services[i].bind == CONFIG_BIND_ON_LOGIN)
            resolver_begin(server->resolver, &wanted->services[i].addr);
    }
    if (server_reload_compare(&prep, false) < 0)
        return; /* no memory: server_reload_begin will fail and say so */
    if (server->control_binding == NULL || (prep.diff.changes & CONFIG_CHANGE_ADDRESS) != 0)
        resolver_begin(server->resolver, &wanted->addr);
    for (size_t i = 0; i < prep.diff.service_count; i++) {
        if (needs_address(&prep.diff.services[i]))
            resolver_begin(server->resolver, &prep.diff.services[i].new->addr);
    }
    server_reload_compared(&prep);
}

bool server_reload_has_looked_up(void *shared)
{
    return resolver_poll(((struct server *)shared)->resolver);
}

int server_reload_names_fd(void *shared)
{
    return resolver_fd(((struct server *)shared)->resolver);
}
