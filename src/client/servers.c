#include "client/servers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "config/config.h"
#include "crypto/keys.h"
#include "io/resolver.h"
#include "net/recipe.h"
#include "tunnel/tunnel_worker.h"

enum {
    ABSENCES = 2,                        /* a record that is being replaced may be missing once */
    AGAIN_MS = LIMIT_RESOLVER_FAILED_MS, /* between two look-ups of a name without an address */
    INTERVAL_JITTER_PART = 10,
};

static void name_expired(struct timer *timer);

/* ---- entries ---- */

static struct client_server *server_create(uint64_t id, const struct addr *addr)
{
    struct client_server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return NULL;
    server->users = 1;
    server->id = id;
    if (addr != NULL)
        server->addr = *addr;
    return server;
}

void client_server_use(struct client_server *server)
{
    (void)atomic_fetch_add(&server->users, 1);
}

void client_server_drop(struct client_server *server)
{
    if (server != NULL && atomic_fetch_sub(&server->users, 1) == 1)
        free(server);
}

/* ---- the list; only worker 0 changes it, under the lock ---- */

static unsigned int bit_of(const struct server_name *name)
{
    return 1u << (name - name->servers->names);
}

static bool is_at(const struct client_server *server, const struct addr *addr, uint64_t id)
{
    return addr->len == 0 ? server->addr.len == 0 && server->id == id
                          : addr_equal(&server->addr, addr);
}

static void servers_drop(struct client_servers *servers, size_t index)
{
    client_server_drop(servers->list[index]);
    servers->count--;
    memmove(&servers->list[index], &servers->list[index + 1],
            (servers->count - index) * sizeof(servers->list[0]));
}

/* The names that have the entry have changed. False: none has it. A session stays with the name it
 * was made with, while there is that name; the next attempt takes the new one. */
static bool server_set_names(struct client_server *server, const struct client_servers *servers,
                             unsigned int names)
{
    bool has_owner = false;
    server->names = (uint16_t)names;
    for (size_t i = 0; i < servers->name_count; i++)
        has_owner |= (names & (1u << i)) != 0 && servers->names[i].id == server->id;
    if (names != 0 && !has_owner)
        server->id = servers->names[__builtin_ctz(names)].id;
    return names != 0;
}

/* True: there is an entry that was not there. */
static bool servers_add(struct client_servers *servers, const struct server_name *name,
                        const struct addr *addr)
{
    static struct log_limit limit;
    uint32_t suppressed;
    for (size_t i = 0; i < servers->count; i++) {
        if (is_at(servers->list[i], addr, name->id)) {
            servers->list[i]->names |= (uint16_t)bit_of(name);
            servers->list[i]->absent[name - servers->names] = 0;
            return false;
        }
    }
    struct client_server *server =
        servers->count < LIMIT_SERVERS ? server_create(name->id, addr) : NULL;
    if (server == NULL) {
        if (log_allowed(&limit, &suppressed))
            log_warn("servers: no place for more than %d addresses, or no memory", LIMIT_SERVERS);
        return false;
    }
    server->names = (uint16_t)bit_of(name);
    servers->list[servers->count++] = server;
    return true;
}

/* The name was looked up. True: it has lost the entry. is_other: of another family than those that
 * were found. */
static bool has_lost(struct client_server *server, const struct server_name *name, bool is_there,
                     bool is_other)
{
    uint8_t *absent = &server->absent[name - name->servers->names];
    *absent = is_there ? 0 : *absent + 1;
    return *absent >= ABSENCES || (is_other && name->changes_family);
}

/* The name has these addresses, of one family. An address of another family than the name's entries
 * may be the same server, where two control channels of a service would replace each other: it
 * waits until they have left. True: the list has changed. */
static bool servers_take(struct client_servers *servers, struct server_name *name,
                         const struct addr *addrs, size_t count)
{
    char text[ADDR_TEXT_SIZE];
    bool has_changed = false, has_others = false;
    for (size_t i = servers->count; i-- > 0;) {
        struct client_server *server = servers->list[i];
        bool is_there = false, is_other = server->addr.any.sa_family != addrs[0].any.sa_family;
        if ((server->names & bit_of(name)) == 0)
            continue;
        for (size_t j = 0; j < count && !is_there; j++)
            is_there = is_at(server, &addrs[j], name->id);
        if (!has_lost(server, name, is_there, is_other)) {
            has_others |= is_other;
            continue;
        }
        if (server_set_names(server, servers, server->names & ~bit_of(name)))
            continue;
        log_info("servers: %s has left %s", addr_format(&server->addr, text, sizeof(text)),
                 name->addr.host);
        servers_drop(servers, i);
        has_changed = true;
    }
    name->changes_family = false;
    for (size_t i = 0; i < count && !has_others; i++)
        has_changed |= servers_add(servers, name, &addrs[i]);
    return has_changed;
}

static bool has_entry(const struct server_name *name)
{
    bool found = false;
    for (size_t i = 0; i < name->servers->count; i++)
        found |= (name->servers->list[i]->names & bit_of(name)) != 0;
    return found;
}

static void tell_workers(const struct client_servers *servers)
{
    if (servers->worker == NULL)
        return; /* they have not begun */
    struct tunnel_worker *own = servers->worker;
    for (unsigned int i = 0; i < own->all->count; i++)
        mailbox_signal(own->all->items[i].mailbox, own->mailbox, TUNNEL_SIGNAL_SERVERS);
}

/* After servers = first the old control channels stay until all names were looked up: some of them
 * are the new set's, and must not get a second one beside them. They also stay while no name has an
 * address: when DNS fails, the tunnels go on. */
static bool may_follow(const struct client_servers *servers)
{
    bool may = servers->is_all && (servers->follows || servers->count > 0);
    for (size_t i = 0; i < servers->name_count && !servers->follows; i++)
        may &= servers->names[i].is_known;
    return may;
}

/* ---- look-ups ---- */

static void name_take(struct server_name *name, const struct addr *addrs, size_t count)
{
    struct client_servers *servers = name->servers;
    name->is_known = true;
    (void)pthread_mutex_lock(&servers->lock);
    bool has_changed = count > 0 && servers_take(servers, name, addrs, count);
    bool follows = may_follow(servers);
    has_changed = (has_changed && follows) || follows != servers->follows;
    servers->follows = follows;
    (void)pthread_mutex_unlock(&servers->lock);
    if (has_changed)
        tell_workers(servers);
}

uint64_t client_servers_interval_ms(uint64_t interval_ms, uint32_t random)
{
    return interval_ms - random % (interval_ms / INTERVAL_JITTER_PART + 1);
}

static void look_up_later(struct server_name *name)
{
    const struct tunnel_worker *worker = name->servers->worker;
    uint64_t interval_ms = name->servers->interval_ms;
    uint32_t random;
    keys_random(&random, sizeof(random));
    if (name->has_failed && !has_entry(name))
        interval_ms = MIN(interval_ms, (uint64_t)AGAIN_MS);
    loop_timer_start(worker->loop, &name->timer, client_servers_interval_ms(interval_ms, random));
}

/* Says so once for each outage. */
static void name_set_failed(struct server_name *name, int error)
{
    const char *stays = has_entry(name) ? ": its addresses stay" : "";
    if (error < 0 && !name->has_failed)
        log_warn("servers: cannot look up %s: %s%s", name->addr.host, error_text(error), stays);
    if (error == 0 && name->has_failed)
        log_info("servers: %s is found again", name->addr.host);
    name->has_failed = error < 0;
}

static void name_resolved(void *asker, const struct resolver_answer *answer)
{
    struct server_name *name = asker;
    const struct tunnel_worker *worker = name->servers->worker;
    struct addr addrs[LIMIT_SERVERS];
    uint32_t look_up = name->look_up;
    name->query = NULL;
    size_t count = answer->error < 0 ? 0
                                     : resolver_list(worker->all->resolver, &name->addr,
                                                     name->servers->prefer_ipv6, &look_up, addrs);
    /* The same look-up as before: the last one has failed, or is late. */
    if (look_up == name->look_up && has_entry(name))
        count = 0;
    name_set_failed(name, count > 0 ? 0 : answer->error < 0 ? answer->error : ERR_RESOLVE);
    name->look_up = look_up;
    name_take(name, addrs, count);
    look_up_later(name);
}

/* True: the name needs no look-up. */
static bool name_take_fixed(struct server_name *name)
{
    struct addr addr = {.len = 0};
    if (!name->servers->has_proxy && !addr_from_numeric(&name->addr, &addr))
        return false;
    name_take(name, &addr, 1);
    return true;
}

static void name_look_up(struct server_name *name)
{
    struct tunnel_worker *worker = name->servers->worker;
    if (name_take_fixed(name)) {
        if (!has_entry(name))
            look_up_later(name); /* there was no place, or no memory */
        return;
    }
    name->query = resolver_ask(worker->all->resolver, &name->addr, name->servers->prefer_ipv6,
                               worker->mailbox, name_resolved, name);
    if (name->query != NULL)
        return;
    name_set_failed(name, -ENOMEM);
    look_up_later(name);
}

static void name_expired(struct timer *timer)
{
    name_look_up(container_of(timer, struct server_name, timer));
}

static void stop_look_ups(struct client_servers *servers)
{
    for (size_t i = 0; i < servers->name_count && servers->worker != NULL; i++) {
        struct server_name *name = &servers->names[i];
        loop_timer_stop(servers->worker->loop, &name->timer);
        resolver_abandon(name->query);
        name->query = NULL;
    }
}

static void look_up_all(struct client_servers *servers)
{
    for (size_t i = 0; i < servers->name_count && servers->is_all; i++)
        name_look_up(&servers->names[i]);
}

/* ---- */

struct old_names {
    size_t count;
    uint64_t ids[LIMIT_SERVER_NAMES];
    uint32_t look_ups[LIMIT_SERVER_NAMES];
};

static void take_names(struct client_servers *servers, const struct recipe *recipe,
                       struct old_names *old)
{
    old->count = servers->name_count;
    for (size_t i = 0; i < old->count; i++) {
        old->ids[i] = servers->names[i].id;
        old->look_ups[i] = servers->names[i].look_up;
    }
    servers->name_count = recipe->server_count;
    for (size_t i = 0; i < servers->name_count; i++) {
        struct server_name *name = &servers->names[i];
        *name = (struct server_name){.servers = servers,
                                     .id = recipe->servers[i].id,
                                     .addr = recipe->servers[i].addr};
        timer_init(&name->timer, name_expired);
        for (size_t j = 0; j < old->count; j++)
            if (old->ids[j] == name->id)
                name->look_up = old->look_ups[j];
    }
}

/* The names have changed their places. False: none of those that have the entry is left. */
static bool server_move(struct client_server *server, const struct client_servers *servers,
                        const struct old_names *old)
{
    uint8_t absent[LIMIT_SERVER_NAMES] = {0};
    unsigned int names = 0;
    for (size_t i = 0; i < servers->name_count; i++) {
        for (size_t j = 0; j < old->count; j++) {
            if (old->ids[j] != servers->names[i].id || (server->names & (1u << j)) == 0)
                continue;
            names |= 1u << i;
            absent[i] = server->absent[j];
        }
    }
    memcpy(server->absent, absent, sizeof(absent));
    return server_set_names(server, servers, names);
}

void client_servers_configure(struct client_servers *servers, const struct recipe *recipe,
                              const struct config_peer *config)
{
    bool is_all = config->servers == CONFIG_SERVERS_ALL;
    bool has_changed = false;
    struct old_names old;
    stop_look_ups(servers);
    take_names(servers, recipe, &old);
    for (size_t i = 0; i < servers->name_count; i++)
        servers->names[i].changes_family = servers->prefer_ipv6 != config->prefer_ipv6;
    servers->has_proxy = recipe->has_proxy;
    servers->is_all = is_all;
    servers->prefer_ipv6 = config->prefer_ipv6;
    servers->interval_ms = config->resolve_interval_ms;
    (void)pthread_mutex_lock(&servers->lock);
    for (size_t i = servers->count; i-- > 0;) {
        if (is_all && server_move(servers->list[i], servers, &old))
            continue;
        servers_drop(servers, i);
        has_changed = true;
    }
    if (servers->worker == NULL)
        servers->follows = is_all; /* at the start names may become known one by one */
    has_changed |= servers->follows && !is_all;
    servers->follows &= is_all;
    (void)pthread_mutex_unlock(&servers->lock);
    if (has_changed)
        tell_workers(servers);
    if (servers->worker != NULL)
        look_up_all(servers);
    else
        for (size_t i = 0; i < servers->name_count && is_all; i++)
            (void)name_take_fixed(&servers->names[i]);
}

int client_servers_init(struct client_servers *servers)
{
    (void)pthread_mutex_init(&servers->lock, NULL);
    servers->any = server_create(0, NULL);
    return servers->any != NULL ? 0 : -ENOMEM;
}

void client_servers_finish(struct client_servers *servers)
{
    while (servers->count > 0)
        servers_drop(servers, servers->count - 1);
    client_server_drop(servers->any);
    servers->any = NULL;
    (void)pthread_mutex_destroy(&servers->lock);
}

void client_servers_begin(struct client_servers *servers, struct tunnel_worker *worker)
{
    assert(servers->worker == NULL);
    servers->worker = worker;
    look_up_all(servers);
}

void client_servers_stop(struct client_servers *servers, struct tunnel_worker *worker)
{
    if (worker->index != 0 || servers->worker == NULL)
        return; /* the others do not read what is worker 0's */
    stop_look_ups(servers);
    servers->worker = NULL;
}

size_t client_servers_list(struct client_servers *servers,
                           struct client_server *ret[static LIMIT_SERVERS])
{
    (void)pthread_mutex_lock(&servers->lock);
    size_t count = servers->follows ? servers->count : 1;
    memcpy(ret, servers->follows ? servers->list : &servers->any, count * sizeof(ret[0]));
    for (size_t i = 0; i < count; i++)
        client_server_use(ret[i]);
    (void)pthread_mutex_unlock(&servers->lock);
    return count;
}

/* ---- servers = first ---- */

void client_servers_prefer(struct client_servers *servers, const struct recipe *recipe, uint64_t id,
                           uint64_t now_ns)
{
    bool is_first = recipe->servers[0].id == id;
    if (client_servers_preferred(servers, now_ns) == id)
        return; /* not again, so that the configured order comes back in the end */
    atomic_store(&servers->preferred_until_ns, now_ns + ms_to_ns(LIMIT_DIAL_WORKED_MS));
    atomic_store(&servers->preferred_id, is_first ? 0 : id);
}

uint64_t client_servers_preferred(struct client_servers *servers, uint64_t now_ns)
{
    bool counts = atomic_load(&servers->preferred_until_ns) > now_ns;
    return counts ? atomic_load(&servers->preferred_id) : 0;
}
