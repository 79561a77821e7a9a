/* A service on the server: its configuration, the sockets of its address, the sessions of the
 * clients that serve it, its pool of data channels, and the number of its visitors. All workers
 * share it, and each has a part of its own.
 *
 * It is freed by its last user (service_base.h): the server while the service is configured,
 * visitors, lanes, control channels, logins, and messages that name it. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "config/config.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "relay/pace.h"
#include "server/addr_table.h"
#include "server/binding.h"
#include "server/channel_pool.h"
#include "tunnel/service_base.h"
#include "tunnel/service_stats.h"

struct service;

/* A worker's part of a service; only that worker's thread uses it, except for `changed`. */
struct service_part {
    struct list node;    /* in worker->parts */
    struct list changed; /* in server->changes of that worker, and under its lock */
    struct service_part *next_in_index;
    struct service *service;
    struct list ports;    /* its listeners */
    struct list sessions; /* whose control channels this worker has: session.of_part */
    service_stats_slot stats;
};

/* How a reload that exchanges addresses gets on (reload_ports.c). */
struct address_move {
    bool has_given_up; /* the old address, for a new one that is not bound yet */
    bool was_in_vain;  /* took it back, so it is not given up again before the file is read anew */
};

struct service {
    struct service_base entry;
    struct service_part *parts; /* one for each worker */
    unsigned int worker_count;
    uint8_t digest[KEYS_DIGEST_SIZE];
    bool is_udp;
    struct channel_pool pool;
    struct pace_rates rates; /* bandwidth, connection_bandwidth */

    pthread_mutex_t
        lock; /* protects closed, is_claimed, session_list, binding, per_ip; changes of the epoch */
    bool closed;              /* removed: no session begins any more */
    bool is_claimed;          /* a login is about to begin a session: session_claim */
    struct list session_list; /* the newest login last; empty: down */
    struct binding *binding;  /* owned; NULL: its address could not be bound yet */
    struct addr_table per_ip; /* counts visitors by address */

    /* The main thread's: */
    unsigned int failures_said; /* causes that were logged (addresses.h) */
    struct address_move move;
    uint64_t idle_since_ms; /* with bind = on_login (on_login.c); 0: it has a session */
    uint32_t sessions_seen; /* likewise: `sessions` at the last look */

    _Atomic uint32_t epoch;       /* a login that began in an older one can't become a session */
    _Atomic uint32_t sessions;    /* counts those that have begun */
    _Atomic bool up;              /* has a session, or is a front: its listeners listen */
    _Atomic uint32_t connections; /* visitors */
    _Atomic uint32_t arriving;    /* visitors without their PROXY header, or that await a client */
};

/* Creates a service and registers it. The configuration is copied, and the caller is the first
 * user. -ENOMEM. */
MUST_CHECK int service_create(struct service_registry *registry,
                              const struct config_service *config, unsigned int workers,
                              struct service **ret);
static inline void service_use(struct service *service)
{
    service_base_use(&service->entry);
}
static inline void service_drop(struct service *service) /* accepts NULL; may free it */
{
    if (service != NULL)
        service_base_drop(&service->entry);
}
/* Any thread. Never keep the pointer over a callback: see service_base_config. */
static inline const struct config_service *service_config(const struct service *service)
{
    return service_base_config(&service->entry);
}
/* Whether it has the address of services that differ by name, and no client (config/routes.h). */
static inline bool service_is_front(const struct service *service)
{
    return service_config(service)->routes != NULL;
}
/* Whether it has no address of its own, because a front has it. */
static inline bool service_is_routed(const struct service *service)
{
    return service_config(service)->is_routed;
}
/* A reload never changes the name, but it may move: do not keep the pointer. */
static inline const char *service_name(const struct service *service)
{
    return service_config(service)->name;
}
/* A worker's numbers of the service. For that worker's thread. */
static inline struct service_stats *service_worker_stats(struct service *service,
                                                         unsigned int worker_index)
{
    return service_stats_of(&service->parts[worker_index].stats);
}
static inline struct service *service_of(struct service_base *entry)
{
    return container_of(entry, struct service, entry);
}
/* Takes the limits of the bandwidth over from the configuration. */
void service_update_rates(struct service *service);
/* For service_registry_init. */
void service_free(struct service_base *entry);

/* Who may connect to the unix socket of a service; borrows from the configuration. */
struct unix_access service_unix_access(const struct config_service *config);
/* Binds `addr`, one of the addresses that config's bind_addr stands for, as `config` says. As
 * binding_create. inherited may be NULL. */
MUST_CHECK int service_bind(const struct service *service, const struct config_service *config,
                            const struct addr *addr, const struct socket_options *options,
                            struct inherited *inherited, struct binding **ret);
/* Replaces the binding, and returns the old one. The caller frees it (service_release_binding) when
 * every worker has changed to the new one. */
struct binding *service_set_binding(struct service *service, struct binding *binding);
/* Frees a binding of the service that no worker uses any more. Accepts NULL. */
void service_release_binding(struct service *service, struct binding *binding);
