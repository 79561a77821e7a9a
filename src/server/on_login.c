#include "server/on_login.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "config/config_diff.h"
#include "io/inherit.h"
#include "io/resolver.h"
#include "server/server_worker.h"
#include "server/service_part.h"

/* ---- the way to the main thread ---- */

void on_login_wake(const struct server *server)
{
    uint64_t one = 1;
    ssize_t written = write(server->on_login_fd, &one, sizeof(one));
    (void)written; /* it fails only if the counter is full, and then the descriptor is readable */
}

void on_login_ask(struct server *server, struct range_set *set, uint32_t member)
{
    atomic_store(&set->asked[member], true);
    on_login_wake(server);
}

int on_login_fd(void *shared)
{
    return ((struct server *)shared)->on_login_fd;
}

/* ---- how long a service stays without a client ---- */

/* True if it may go: it has had no session for long enough, and no visitor is left. Otherwise
 * *next_ms may become the time of the next look. */
static bool is_idle(struct service *service, uint64_t now_ms, uint64_t *next_ms)
{
    uint64_t linger_ms = LIMIT_ON_LOGIN_LINGER_MS;
    if (service->binding != NULL && service->binding->is_shared)
        return false; /* a service manager's socket: there is no other for this address */
    uint32_t sessions = atomic_load(&service->sessions);
    if (atomic_load(&service->up) || sessions != service->sessions_seen) {
        service->sessions_seen = sessions;
        service->idle_since_ms = 0;
    }
    if (atomic_load(&service->up))
        return false; /* on_login_wake will tell */
    /* Its visitors have waited in its queue since the upgrade, for its client. */
    if (service->binding != NULL && service->binding->is_inherited && sessions == 0)
        linger_ms += LIMIT_UPGRADE_HOLD_MS;
    if (service->idle_since_ms == 0 || atomic_load(&service->connections) > 0)
        service->idle_since_ms = now_ms;
    uint64_t at_ms = service->idle_since_ms + linger_ms;
    if (at_ms > now_ms)
        *next_ms = MIN(*next_ms, at_ms);
    return at_ms <= now_ms;
}

bool on_login_due(void *shared, uint64_t now_ms, uint64_t *ret_next_ms)
{
    struct server *server = shared;
    struct range_set *set = server_ranges(server);
    uint64_t count;
    bool is_due = false, is_woken = read(server->on_login_fd, &count, sizeof(count)) > 0;
    if (!is_woken && now_ms < server->on_login_look_ms) {
        *ret_next_ms = server->on_login_look_ms;
        return false;
    }
    server->on_login_look_ms = UINT64_MAX;
    for (uint32_t i = 0; i < set->member_count && is_woken && !is_due; i++)
        is_due = atomic_load_explicit(&set->asked[i], memory_order_relaxed);
    (void)pthread_mutex_lock(&server->services.lock);
    list_for_each (node, &server->services.entries) {
        struct service *service = service_of(container_of(node, struct service_base, node));
        if (!service->entry.removed && service_config(service)->bind == CONFIG_BIND_ON_LOGIN)
            is_due |= is_idle(service, now_ms, &server->on_login_look_ms);
    }
    (void)pthread_mutex_unlock(&server->services.lock);
    if (is_due) /* a new service may never get its session, so it is looked at in any case */
        server->on_login_look_ms = MIN(server->on_login_look_ms, now_ms + LIMIT_ON_LOGIN_LINGER_MS);
    *ret_next_ms = server->on_login_look_ms;
    return is_due;
}

/* ---- the set of a new configuration ---- */

/* The sections of a configuration that are in a set. The array is the caller's. */
static int list_sections(const struct config_service *services, size_t count,
                         struct config_peer *ret)
{
    *ret = (struct config_peer){.services = calloc(count + 1, sizeof(*ret->services))};
    if (ret->services == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (services[i].bind == CONFIG_BIND_ON_LOGIN)
            ret->services[ret->service_count++] = services[i];
    }
    return 0;
}

static int list_running(const struct range_set *set, struct config_peer *ret)
{
    *ret = (struct config_peer){.services = calloc(set->range_count + 1, sizeof(*ret->services))};
    if (ret->services == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < set->range_count; i++)
        ret->services[ret->service_count++] = *set->ranges[i].section;
    return 0;
}

int on_login_prepare(const struct server *server, const struct config_peer *wanted,
                     struct reload_outcome *outcome, struct range_set **ret)
{
    const struct range_set *running = server_ranges(server);
    struct config_peer old = {0}, new = {0};
    struct config_diff diff = {0};
    *ret = NULL;
    int result = list_running(running, &old);
    if (result == 0)
        result = list_sections(wanted->services, wanted->service_count, &new);
    if (result == 0)
        result = config_diff(CONFIG_SERVER, &old, &new, &diff);
    for (size_t i = 0; i < diff.service_count; i++) {
        outcome->added += diff.services[i].fate == CONFIG_SERVICE_ADDED;
        outcome->removed += diff.services[i].fate == CONFIG_SERVICE_REMOVED;
        outcome->changed += diff.services[i].fate == CONFIG_SERVICE_CHANGED;
    }
    if (result == 0 && diff.service_count > 0)
        result = range_set_create(wanted, running->generation + 1, ret);
    config_diff_finish(&diff);
    free(old.services);
    free(new.services);
    return result;
}

/* ---- which members exist ---- */

enum member_fate {
    MEMBER_ABSENT,
    MEMBER_LIVES,
    MEMBER_LEAVES, /* closed for sessions: it has to be removed before it can exist again */
};

/* Closes it for sessions if it may go. A session may have begun since the look. */
static bool try_to_leave(struct service *service, uint64_t now_ms)
{
    uint64_t unused = UINT64_MAX;
    return is_idle(service, now_ms, &unused) && session_refuse_if_idle(service);
}

/* Returns the number of members that live. */
static size_t choose_members(struct range_set *set, const struct service_view *running,
                             bool decides, uint64_t now_ms, uint8_t *fates)
{
    size_t count = 0;
    uint32_t member;
    for (size_t i = 0; i < running->peer.service_count; i++) {
        struct service *service = service_of(running->entries[i]);
        if (!range_set_find(set, service->digest, &member))
            continue;
        bool leaves = decides && !atomic_load(&set->asked[member]) && try_to_leave(service, now_ms);
        fates[member] = leaves || service->closed ? MEMBER_LEAVES : MEMBER_LIVES;
    }
    for (member = 0; member < set->member_count; member++) {
        if (decides && atomic_load_explicit(&set->asked[member], memory_order_relaxed) &&
            atomic_exchange(&set->asked[member], false) && fates[member] == MEMBER_ABSENT)
            fates[member] = MEMBER_LIVES;
        count += fates[member] == MEMBER_LIVES;
    }
    return count;
}

static struct config_service member_config(const struct range_set *set, uint32_t member,
                                           char name[static LIMIT_SERVICE_NAME + 1])
{
    uint16_t port;
    struct config_service config = *range_set_section(set, member, &port);
    range_set_name(set, member, name);
    config.name = name;
    config.addr.port = port;
    config.port_last = 0;
    return config;
}

/* Members come last: if a service without on_login wants the same address, it is the first. */
static void fill_view(const struct range_set *set, const uint8_t *fates,
                      const struct config_peer *wanted, struct on_login_view *view)
{
    struct config_peer *peer = &view->peer;
    size_t named = 0;
    for (size_t i = 0; i < wanted->service_count; i++) {
        if (wanted->services[i].bind != CONFIG_BIND_ON_LOGIN)
            peer->services[peer->service_count++] = wanted->services[i];
    }
    for (uint32_t member = 0; member < set->member_count; member++) {
        if (fates[member] == MEMBER_LIVES)
            peer->services[peer->service_count++] =
                member_config(set, member, view->names[named++]);
    }
}

int on_login_expand(const struct server *server, struct range_set *set,
                    const struct service_view *running, const struct config_peer *wanted,
                    bool decides, uint64_t now_ms, struct on_login_view *ret)
{
    uint8_t *fates = calloc(set->member_count + 1u, sizeof(*fates));
    *ret = (struct on_login_view){.peer = *wanted};
    ret->peer.services = NULL;
    ret->peer.service_count = 0;
    if (fates == NULL)
        return -ENOMEM;
    size_t count = choose_members(set, running, decides, now_ms, fates);
    ret->names = calloc(count + 1, sizeof(*ret->names));
    ret->peer.services = calloc(wanted->service_count + count + 1, sizeof(*ret->peer.services));
    int result = ret->names != NULL && ret->peer.services != NULL ? 0 : -ENOMEM;
    if (result == 0)
        fill_view(set, fates, wanted, ret);
    else
        on_login_view_finish(ret);
    free(fates);
    return result;
}

void on_login_view_finish(struct on_login_view *view)
{
    free(view->names);
    free(view->peer.services);
    view->names = NULL;
    view->peer.services = NULL;
}

/* ---- at the start ---- */

/* Whether a socket is for this port of a range: it has the address, or serves it as a dual-stack
 * socket. If the host is a name, the socket was passed under the name of the member. */
static bool is_socket_of(const struct inherited *inherited, const struct inherited_socket *socket,
                         const struct config_service *section, uint16_t port, const char *member)
{
    bool is_udp = section->type == CONFIG_SERVICE_UDP;
    struct host_port at_port = section->addr;
    struct addr addr, unused;
    char passed_as[LIMIT_SERVICE_NAME + 16];
    at_port.port = port;
    if (socket->type != (is_udp ? SOCK_DGRAM : SOCK_STREAM))
        return false;
    if (addr_from_numeric(&at_port, &addr))
        return addr_equal(&socket->addr, &addr) ||
               (socket->addr.any.sa_family != addr.any.sa_family &&
                inherited_count(inherited, &addr, socket->type) > 0);
    (void)snprintf(passed_as, sizeof(passed_as), "%s-%s", is_udp ? "udp" : "service", member);
    return inherited_find_named(inherited, passed_as, socket->type, port, &unused);
}

static bool find_member(const struct range_set *set, const struct inherited *inherited,
                        const struct inherited_socket *socket, uint32_t *ret)
{
    uint16_t port = addr_port(&socket->addr);
    char name[LIMIT_SERVICE_NAME + 1];
    for (size_t i = 0; i < set->range_count; i++) {
        const struct range *range = &set->ranges[i];
        const struct config_service *section = range->section;
        if (port < section->addr.port || port - section->addr.port >= (int)range->count)
            continue;
        *ret = range->first + (uint32_t)(port - section->addr.port);
        range_set_name(set, *ret, name);
        if (is_socket_of(inherited, socket, section, port, name))
            return true;
    }
    return false;
}

int on_login_adopt(struct server *server, const struct inherited *inherited)
{
    struct range_set *set = server_ranges(server);
    uint32_t member;
    int result = 0;
    if (server->has_adopted || inherited == NULL)
        return 0;
    for (size_t i = 0; i < inherited->count; i++) {
        const struct inherited_socket *socket = &inherited->items[i];
        if (socket->fd >= 0 && socket->addr.len != 0 &&
            find_member(set, inherited, socket, &member))
            atomic_store(&set->asked[member], true);
    }
    for (member = 0; member < set->member_count && result == 0; member++) {
        char name[LIMIT_SERVICE_NAME + 1];
        struct service *service; /* owned by the registry */
        if (!atomic_exchange(&set->asked[member], false))
            continue;
        struct config_service config = member_config(set, member, name);
        result = service_part_create_all(server, &config, &service);
    }
    server->has_adopted = true;
    return result;
}
