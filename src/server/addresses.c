#include "server/addresses.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "config/addresses.h"
#include "io/inherit.h"
#include "io/resolver.h"
#include "io/udp_socket.h"
#include "server/on_login.h"
#include "server/server_worker.h"

/* ---- one address ---- */

/* True if this machine does not have the address, so that the name's next address is tried. */
static bool is_elsewhere(int error)
{
    return error == -EADDRNOTAVAIL || error == -EAFNOSUPPORT;
}

/* What a start knows besides the configuration; all zero for a reload. */
struct origin {
    struct inherited *inherited; /* NULL: no sockets */
    bool may_guess;              /* may take an inherited socket by its name alone */
    bool knows_names;            /* all look-ups have ended */
};

static const struct origin no_origin;

/* The addresses of a name. One with inherited sockets comes first. If the name has no known
 * address, a successor goes on with its predecessor's sockets for it, which it finds by their name
 * in LISTEN_FDNAMES (passed_as) and the port. */
static size_t find_addrs(const struct server *server, const struct host_port *name, int type,
                         const char *passed_as, const struct origin *origin,
                         struct addr ret[static LIMIT_ADDRESSES])
{
    size_t count = resolver_find(server->resolver, name, ret);
    if (count == 0 && origin->may_guess &&
        inherited_find_named(origin->inherited, passed_as, type, name->port, &ret[0]))
        return 1;
    for (size_t i = 1; i < count; i++) {
        struct addr addr = ret[i];
        if (inherited_count(origin->inherited, &addr, type) == 0)
            continue;
        memmove(&ret[1], &ret[0], i * sizeof(ret[0]));
        ret[0] = addr;
        break;
    }
    return count;
}

/* The options of a listener. Accepted sockets inherit them. */
static struct socket_options listener_options(const struct config_peer *own)
{
    return (struct socket_options){
        .nodelay = own->transport.tcp_nodelay,
        .keepalive_secs = own->transport.tcp_keepalive_secs,
        .keepalive_interval = own->transport.tcp_keepalive_interval,
    };
}

static int listen_all(const struct binding *binding)
{
    int result = 0;
    for (unsigned int i = 0; i < binding->count && result == 0; i++)
        result = socket_listen(binding->fds[i]);
    return result;
}

/* The listeners have no TCP_DEFER_ACCEPT: docs/decisions.md, "No TCP_DEFER_ACCEPT on the control
 * port". */
static int bind_control_at(struct server *server, const struct config_peer *own,
                           const struct addr *addr, struct inherited *inherited,
                           struct binding **ret)
{
    struct binding_options options = {
        .addr = addr,
        .tcp = listener_options(own),
        .inherited = inherited,
        .count = server->worker_count,
    };
    struct binding *binding;
    int result = binding_create(&options, &binding);
    if (result < 0)
        return result;
    result = listen_all(binding);
    if (result < 0)
        binding_destroy(binding);
    else
        *ret = binding;
    return result;
}

static int bind_control(struct server *server, const struct config_peer *own,
                        const struct origin *origin, struct binding **ret, struct addr *ret_tried)
{
    struct addr addrs[LIMIT_ADDRESSES];
    size_t count = find_addrs(server, &own->addr, SOCK_STREAM, "control", origin, addrs);
    int result = ERR_RESOLVE;
    for (size_t i = 0; i < count && (i == 0 || is_elsewhere(result)); i++) {
        *ret_tried = addrs[i];
        result = bind_control_at(server, own, &addrs[i], origin->inherited, ret);
    }
    return result;
}

int addresses_bind_control(struct server *server, const struct config_peer *own,
                           struct binding **ret, struct addr *ret_tried)
{
    return bind_control(server, own, &no_origin, ret, ret_tried);
}

static void hint_receive_room(const struct service *service, const struct binding *binding)
{
    size_t room = udp_socket_receive_room(binding->fds[0]);
    if (room < LIMIT_UDP_SOCKET_BUFFER)
        log_service(LOG_INFO, service_name(service),
                    "the system allows %zu KiB of receive buffer: bursts beyond that are lost; "
                    "sysctl net.core.rmem_max=%d would allow what is asked for",
                    room >> 10, LIMIT_UDP_SOCKET_BUFFER);
}

/* Gives the file of a unix socket the configured owner and mode, unless it is a service manager's.
 */
static void update_access(const struct config_service *config, const struct binding *binding)
{
    const struct unix_access access = service_unix_access(config);
    int result = host_port_is_unix(&config->addr) && !binding->is_shared
                     ? unix_socket_set_access(config->addr.host, &access)
                     : 0;
    if (result < 0)
        log_service(LOG_ERROR, config->name, "%s: socket_mode, socket_owner: %s", config->addr.host,
                    error_text(result));
}

static int bind_service(struct server *server, const struct service *service,
                        const struct config_service *config, const struct config_peer *own,
                        const struct origin *origin, struct binding **ret, struct addr *ret_tried)
{
    struct socket_options options = listener_options(own);
    struct addr addrs[LIMIT_ADDRESSES];
    char passed_as[LIMIT_SERVICE_NAME + 16];
    (void)snprintf(passed_as, sizeof(passed_as), "%s-%s", service->is_udp ? "udp" : "service",
                   config->name);
    size_t count = find_addrs(server, &config->addr, service->is_udp ? SOCK_DGRAM : SOCK_STREAM,
                              passed_as, origin, addrs);
    struct binding *binding = NULL;
    int result = ERR_RESOLVE;
    for (size_t i = 0; i < count && (i == 0 || is_elsewhere(result)); i++) {
        *ret_tried = addrs[i];
        result = service_bind(service, config, &addrs[i], &options, origin->inherited, &binding);
    }
    if (binding == NULL)
        return result;
    if (service->is_udp)
        hint_receive_room(service, binding);
    if (binding->is_inherited)
        update_access(config, binding);
    *ret = binding;
    return 0;
}

int addresses_bind_service(struct server *server, const struct service *service,
                           const struct config_service *config, const struct config_peer *own,
                           struct binding **ret, struct addr *ret_tried)
{
    return bind_service(server, service, config, own, &no_origin, ret, ret_tried);
}

/* ---- who holds an address ---- */

bool addresses_is_held_by(const struct binding *binding, const struct addr *addrs, size_t count,
                          bool is_udp)
{
    bool is_held = false;
    for (size_t i = 0; binding != NULL && binding->is_udp == is_udp && i < count; i++)
        is_held |= addr_overlaps(&binding->addr, &addrs[i]);
    return is_held;
}

bool addresses_is_held_by_others(const struct addr *addr, bool is_udp)
{
    static const struct socket_options none;
    int fd;
    int result = is_udp ? udp_socket_join_group(addr, &fd) : socket_join_group(addr, &none, &fd);
    if (result == 0)
        (void)close(fd);
    return result < 0;
}

struct server_holder server_find_holder(struct server *server, const struct config_peer *wanted,
                                        const struct config_service *config)
{
    struct server_holder holder = {0};
    struct addr addrs[LIMIT_ADDRESSES];
    bool is_udp = config != NULL && config->type == CONFIG_SERVICE_UDP;
    size_t count =
        resolver_find(server->resolver, config != NULL ? &config->addr : &wanted->addr, addrs);
    holder.is_control =
        config != NULL && addresses_is_held_by(server->control_binding, addrs, count, is_udp);
    if (holder.is_control)
        return holder;
    struct service_registry *registry = &server->services;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service *service = service_of(container_of(node, struct service_base, node));
        if (holder.service == NULL &&
            addresses_is_held_by(service->binding, addrs, count, is_udp) &&
            (config == NULL || strcmp(service_name(service), config->name) != 0))
            holder.service = service;
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return holder;
}

/* ---- logging ---- */

static unsigned int cause_of(int error)
{
    switch (error) {
    case ERR_RESOLVE:
        return 1u << 0;
    case -EADDRINUSE:
        return 1u << 1;
    case -EADDRNOTAVAIL:
        return 1u << 2;
    case -EACCES:
        return 1u << 3;
    default:
        return 1u << 4;
    }
}

static const struct config_service *find_service(const struct config_peer *peer, const char *name)
{
    for (size_t i = 0; i < peer->service_count; i++) {
        if (strcmp(peer->services[i].name, name) == 0)
            return &peer->services[i];
    }
    return NULL;
}

static const char again[] = "; it is tried again every second";

/* If the file gives one address to two of our own, logs that in the words of --check. */
static bool log_taken(struct server *server, const struct config_peer *wanted,
                      const struct config_service *config)
{
    struct server_holder holder = server_find_holder(server, wanted, config);
    const struct config_service *first = NULL;
    char text[CONFIG_TAKEN_SIZE];
    if (config == NULL || (!holder.is_control && holder.service == NULL))
        return false;
    if (holder.service != NULL) {
        /* At the start `wanted` is server_config, which has no services. */
        first = wanted->service_count > 0 ? find_service(wanted, service_name(holder.service))
                                          : service_config(holder.service);
        if (first == NULL)
            return false; /* the file does not have the holder any more */
    }
    log_service(LOG_WARN, config->name, "%s%s",
                config_taken_text(server->file != NULL ? server->file : "", wanted, config, first,
                                  text),
                again);
    return true;
}

static const char *unix_remedy_of(int error)
{
    switch (error) {
    case -EADDRINUSE:
        return " (another process is bound to it; is a server running already?)";
    case -EACCES:
        return " (the server's user must be allowed to write in the directory)";
    case -EEXIST:
        return " (there is a file that is no socket; it is not removed)";
    case -EINVAL:
        return " (socket_owner: no such user or group on this machine)";
    case -EPERM:
        return " (socket_owner: only root can give a file to others, and a user to his groups)";
    default:
        return "";
    }
}

static const char *remedy_of(const struct host_port *addr, int error)
{
    if (host_port_is_unix(addr))
        return unix_remedy_of(error);
    if (error == -EADDRINUSE)
        return " (another process has it; is a server running already?)";
    if (error == -EACCES)
        return " (ports below 1024 need CAP_NET_BIND_SERVICE)";
    return "";
}

void addresses_bind_failed(struct server *server, const struct config_peer *wanted,
                           const struct config_service *config, unsigned int *said, int error)
{
    const struct host_port *addr = config != NULL ? &config->addr : &wanted->addr;
    char text[ADDR_HOST_SIZE + 8];
    resolver_begin(server->resolver, addr);
    if ((*said & cause_of(error)) != 0)
        return;
    *said |= cause_of(error);
    if (error == -EADDRINUSE && log_taken(server, wanted, config))
        return;
    log_service(LOG_ERROR, config != NULL ? config->name : NULL, "bind_addr %s: %s%s%s",
                host_port_format(addr, text, sizeof(text)), error_text(error),
                remedy_of(addr, error), config != NULL ? again : "");
}

void addresses_bind_succeeded(const struct config_service *config, const struct binding *binding,
                              unsigned int *said)
{
    char text[ADDR_HOST_SIZE + 8];
    bool is_unix = config != NULL && host_port_is_unix(&config->addr);
    if (*said != 0)
        log_service(LOG_INFO, config != NULL ? config->name : NULL, "bind_addr %s: bound now",
                    is_unix ? host_port_format(&config->addr, text, sizeof(text))
                            : addr_format(&binding->addr, text, sizeof(text)));
    *said = 0;
}

void server_count_unbound(struct server *server)
{
    struct service_registry *registry = &server->services;
    unsigned int count = 0;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        const struct service_base *entry = container_of(node, struct service_base, node);
        const struct service *service = container_of(entry, struct service, entry);
        count += !entry->removed && service->binding == NULL && !service_is_routed(service);
    }
    (void)pthread_mutex_unlock(&registry->lock);
    atomic_store(&server->unbound_count, count);
}

/* ---- the start ---- */

/* -EAGAIN: the start may still wait for the control port's name or port. */
static int start_control(struct server *server, const struct origin *origin, uint32_t waited_ms)
{
    const struct config_peer *own = server_config(server);
    struct addr tried;
    if (server->control_binding != NULL)
        return 0;
    int result = bind_control(server, own, origin, &server->control_binding, &tried);
    /* The services get LIMIT_START_MS from now on, because a predecessor closes its ports one by
     * one. */
    server->start_until_ms = waited_ms + MIN(UINT32_MAX - waited_ms, (uint32_t)LIMIT_START_MS);
    if (result == -EADDRINUSE && waited_ms < LIMIT_BIND_RETRY_MS)
        return -EAGAIN;
    if (result == ERR_RESOLVE && waited_ms < LIMIT_START_CONTROL_NAME_MS && !origin->knows_names)
        return -EAGAIN;
    if (result < 0)
        addresses_bind_failed(server, own, NULL, &server->control_failures_said, result);
    return result;
}

static int addresses_start_service(struct server *server, struct service *service,
                                   const struct origin *origin, bool is_last)
{
    const struct config_peer *own = server_config(server);
    const struct config_service *config = service_config(service);
    struct addr tried;
    if (service->binding != NULL || config->is_routed)
        return 0;
    struct binding *binding = NULL;
    int result = bind_service(server, service, config, own, origin, &binding, &tried);
    if (result == 0)
        (void)service_set_binding(service, binding); /* the status may be asked for already */
    if (result == 0 || result == -ENOMEM)
        return result;
    struct server_holder holder = server_find_holder(server, own, config);
    if (result == -EADDRINUSE && !is_last && !holder.is_control && holder.service == NULL)
        return -EAGAIN;
    addresses_bind_failed(server, own, config, &service->failures_said, result);
    return 0;
}

int addresses_bind(struct server *server, struct inherited *inherited, uint32_t waited_ms)
{
    struct origin origin = {.inherited = inherited,
                            .may_guess = waited_ms >= LIMIT_START_MS,
                            .knows_names = resolver_poll(server->resolver)};
    /* The control port comes first: it refuses a second server with the same file at once. */
    int result = start_control(server, &origin, waited_ms);
    if (result < 0)
        return result;
    bool is_last = waited_ms >= server->start_until_ms;
    if (!is_last && !origin.knows_names)
        return -EAGAIN; /* bind in the file's order: of two with one address the first gets it */
    result = on_login_adopt(server, inherited);
    if (result < 0)
        return result;
    bool is_waiting = false;
    list_for_each (node, &server->services.entries) { /* no lock: the workers do not run yet */
        struct service *service = service_of(container_of(node, struct service_base, node));
        result = addresses_start_service(server, service, &origin, is_last);
        if (result < 0 && result != -EAGAIN)
            return result;
        is_waiting |= result == -EAGAIN;
    }
    server_count_unbound(server);
    return is_waiting ? -EAGAIN : 0;
}

/* ---- options of accepted sockets ---- */

static void update(const struct binding *binding, const struct socket_options *options)
{
    for (unsigned int i = 0; i < binding->count; i++) {
        if (binding->fds[i] >= 0)
            socket_change_options(binding->fds[i], options);
    }
}

void server_update_control_options(const struct binding *binding, const struct config_peer *own)
{
    struct socket_options options = listener_options(own);
    if (binding != NULL)
        update(binding, &options);
}

void server_update_service_options(const struct service *service, const struct config_peer *own)
{
    const struct config_service *config = service_config(service);
    struct socket_options options = listener_options(own);
    if (service->is_udp || service->binding == NULL)
        return;
    if (addr_is_unix(&service->binding->addr)) {
        update_access(config, service->binding);
        return;
    }
    if (config->nodelay != CONFIG_UNSET)
        options.nodelay = config->nodelay == CONFIG_TRUE;
    update(service->binding, &options);
}
