/* A service on the server: its configuration, the sockets of its address, the session of the client
 * that serves it, its pool of data channels, and how many visitors it has. Shared by all workers;
 * each has a part of it that is its alone.
 *
 * Its users (service_base.h) are the server while it is configured, visitors, lanes, control
 * channels, logins, and messages that name it. */
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
#include "server/addr_table.h"
#include "server/binding.h"
#include "server/channel_pool.h"
#include "tunnel/service_base.h"

struct server_control;
struct service;
struct session;

/* What one worker has of a service. */
struct service_part {
    struct list node; /* in worker->parts */
    struct service_part *next_in_index;
    struct service *service;
    struct list ports;              /* listener.h */
    struct server_control *control; /* the newest of this worker's, or NULL */
    void (*send_requests)(struct server_control *control); /* what its pool wants; set with it */
};

struct service {
    struct service_base entry;
    struct service_part *parts; /* by worker */
    unsigned int worker_count;
    uint8_t digest[KEYS_DIGEST_SIZE];
    bool is_udp;
    struct channel_pool pool;

    pthread_mutex_t lock;    /* over session, binding, per_ip and changes of the epoch */
    bool closed;             /* no session begins any more */
    struct session *session; /* of the newest login; NULL = down */
    struct binding *binding; /* owned; NULL: its address can't be had yet, which is tried again */
    struct addr_table per_ip;

    unsigned int failures_said; /* of its address (addresses.h): the main thread's */

    _Atomic uint32_t epoch;     /* sessions that began their login in an older one are over */
    _Atomic bool up;            /* listeners should listen */
    _Atomic unsigned int owner; /* worker of the control channel, while up */
    _Atomic uint32_t connections;
};

/* The configuration is copied. The caller is the first user. -ENOMEM. */
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
/* Read where it is needed, and never kept: see service_base_config. */
static inline const struct config_service *service_config(const struct service *service)
{
    return service_base_config(&service->entry);
}
/* The name stays the same. */
static inline const char *service_name(const struct service *service)
{
    return service_config(service)->name;
}
static inline struct service *service_of(struct service_base *entry)
{
    return container_of(entry, struct service, entry);
}
/* For service_registry_init. */
void service_free(struct service_base *entry);

/* Binds an address (one that the configuration's bind_addr stands for) as that configuration says.
 * The cause of a failure is not logged. inherited may be NULL. */
MUST_CHECK int service_bind(const struct service *service, const struct config_service *config,
                            const struct addr *addr, const struct socket_options *options,
                            struct inherited *inherited, struct binding **ret);
/* Puts it in the place of the one before, which is returned: its sockets are in use until every
 * worker has changed to the new one. */
struct binding *service_set_binding(struct service *service, struct binding *binding);
/* Frees a binding that no worker uses any more. Accepts NULL. */
void service_release_binding(struct service *service, struct binding *binding);
/* A visitor from key comes in. ERR_LIMIT, -ENOMEM. Without a limit per address the key becomes all
 * zero; service_leave gets it as it is then. */
MUST_CHECK int service_enter(struct service *service, struct addr_key *key);
void service_leave(struct service *service, const struct addr_key *key);
