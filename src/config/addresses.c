#include "config/addresses.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "draft_priv.h"
#include "report_priv.h"
#include "text_priv.h"

struct listener {
    const struct config_service *service; /* NULL: the control port */
    const struct host_port *name;
    bool is_udp;      /* TCP and UDP ports do not conflict */
    bool is_on_login; /* has its address only while a client serves it */
    bool is_routed;   /* its front has the address */
    bool is_taken;
    size_t count;
    struct addr addrs[LIMIT_ADDRESSES];
};

static const char *path_of(const struct config_service *service, char out[static DRAFT_PATH_SIZE])
{
    if (service != NULL && service->routes != NULL)
        (void)snprintf(out, DRAFT_PATH_SIZE, "server.services.*.bind_addr");
    else if (service != NULL)
        return draft_service_path(CONFIG_SERVER, service->name, "bind_addr", out);
    else
        (void)snprintf(out, DRAFT_PATH_SIZE, "server.bind_addr");
    return out;
}

static unsigned int line_of(const struct config_peer *server, const struct config_service *service)
{
    return service != NULL ? service->addr_line : server->addr_line;
}

static void describe_taken(const struct config_peer *server, const struct config_service *second,
                           const struct config_service *first, char *out, size_t out_size)
{
    char path[DRAFT_PATH_SIZE], other[DRAFT_PATH_SIZE], text[ADDR_HOST_SIZE + 8];
    (void)snprintf(out, out_size, "%s: %.80s is taken by %s in line %u", path_of(second, path),
                   host_port_format(&second->addr, text, sizeof text), path_of(first, other),
                   line_of(server, first));
}

const char *config_taken_text(const char *path, const struct config_peer *server,
                              const struct config_service *second,
                              const struct config_service *first,
                              char out[static CONFIG_TAKEN_SIZE])
{
    char file[512];
    int used = snprintf(out, CONFIG_TAKEN_SIZE, "%s:%u: ", text_escape(path, file, sizeof file),
                        second->addr_line);
    describe_taken(server, second, first, out + used, CONFIG_TAKEN_SIZE - (size_t)used);
    return out;
}

/* ---- conflicts in the file ---- */

static bool is_in_the_way(const struct listener *a, const struct listener *b)
{
    if (a->is_udp != b->is_udp || a->name->port != b->name->port || a->is_routed || b->is_routed ||
        (a->is_on_login && b->is_on_login))
        return false;
    if (a->count == 0 || b->count == 0)
        return config_is_same_addr(a->name, b->name);
    return addr_overlaps(&a->addrs[0], &b->addrs[0]);
}

/* The listener before this one that gets the address: the control port, or the first service. */
static const struct listener *find_holder(const struct listener *listeners, size_t at)
{
    for (size_t i = 0; i < at; i++) {
        if (!listeners[i].is_taken && is_in_the_way(&listeners[i], &listeners[at]))
            return &listeners[i];
    }
    return NULL;
}

static void check_taken(const char *path, const struct config_peer *server,
                        struct listener *listeners, size_t count, struct config_report *report)
{
    char text[CONFIG_TAKEN_SIZE];
    for (size_t i = 1; i < count; i++) {
        const struct config_service *service = listeners[i].service;
        const struct listener *holder = find_holder(listeners, i);
        if (holder == NULL)
            continue;
        listeners[i].is_taken = true;
        describe_taken(server, service, holder->service, text, sizeof text);
        (void)report_add(report, path, holder->service == NULL, service->addr_line, "%s", text);
    }
}

/* ---- addresses that cannot be bound now ---- */

static int address_probe(const struct listener *listener, const struct config_network *network)
{
    int first = ERR_RESOLVE;
    for (size_t i = 0; i < listener->count; i++) {
        int result =
            network->probe(network->owner, listener->name, &listener->addrs[i], listener->is_udp);
        if (i == 0 || result == 0)
            first = result;
    }
    return first;
}

static void check_now(const char *path, const struct config_peer *server,
                      const struct listener *listeners, size_t count,
                      const struct config_network *network, struct config_report *report)
{
    /* If the control port is in use, a server of this file is probably running and holds the
     * others as well. */
    bool is_running = false;
    for (size_t i = 0; i < count; i++) {
        const struct listener *listener = &listeners[i];
        char key[DRAFT_PATH_SIZE], text[ADDR_HOST_SIZE + 8];
        int result = listener->is_taken || listener->is_on_login || listener->is_routed
                         ? 0
                         : address_probe(listener, network);
        if (i == 0)
            is_running = result == -EADDRINUSE;
        if (result == 0 || (is_running && result == -EADDRINUSE))
            continue;
        (void)report_add(
            report, path, false, line_of(server, listener->service), "%s: %.80s: %s now; %s",
            path_of(listener->service, key), host_port_format(listener->name, text, sizeof text),
            error_text(result),
            listener->service == NULL
                ? "the server would not start"
                : "the server would retry it every second and serve the other services");
    }
}

void config_check_addresses(const char *path, const struct config_peer *server,
                            const struct config_network *network, struct config_report *report)
{
    size_t count = server->service_count + 1;
    CLEANUP_FREE struct listener *listeners = calloc(count, sizeof *listeners);
    if (listeners == NULL)
        return;
    for (size_t i = 0; i < count; i++) {
        struct listener *listener = &listeners[i];
        listener->service = i == 0 ? NULL : &server->services[i - 1];
        listener->name = i == 0 ? &server->addr : &listener->service->addr;
        listener->is_udp = i > 0 && listener->service->type == CONFIG_SERVICE_UDP;
        listener->is_on_login = i > 0 && listener->service->bind == CONFIG_BIND_ON_LOGIN;
        listener->is_routed = i > 0 && listener->service->is_routed;
        listener->count = network->find(network->owner, listener->name, listener->addrs);
    }
    check_taken(path, server, listeners, count, report);
    check_now(path, server, listeners, count, network, report);
}
