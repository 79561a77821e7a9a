/* A service on the server: its configuration, its listeners (or the sockets of its UDP lanes), the
 * session of the client that serves it, its pool of data channels, and how many visitors it has.
 * Shared by all workers; made at start and there until the end.
 *
 * A session begins with a login and ends with its control channel or with a newer login. Its key is
 * the ticket for data channels; session_table finds the service by it. */
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
#include "tunnel/addr_table.h"
#include "tunnel/channel_pool.h"

struct service;

/* Made and freed by the control channel it belongs to. In the table and in its service only between
 * service_begin_session and service_end_session; others see it under those two locks alone. */
struct session {
    struct list node; /* in a bucket of the table */
    uint8_t key[KEYS_DIGEST_SIZE];
    struct service *service;
    struct addr_key client;
    unsigned int worker_index;
    _Atomic bool replaced; /* a newer login took over: its owner closes it */
};

enum { SESSION_BUCKETS = 256 };
struct session_table {
    pthread_mutex_t lock;
    struct list buckets[SESSION_BUCKETS];
};

void session_table_init(struct session_table *table);
void session_table_finish(struct session_table *table);
/* The service that a session key opens, and the address its client logged in from. False: no such
 * session. Takes the same time for all keys of one bucket. */
bool session_table_find(struct session_table *table, const uint8_t key[static KEYS_DIGEST_SIZE],
                        struct service **ret_service, struct addr_key *ret_client);

/* The place of a UDP lane in the pool's queue; the lane itself is its worker's (udp_lane.h). */
struct service_lane {
    struct pool_waiter waiter;
};

struct service {
    const struct config_service *config;
    unsigned int index;
    uint8_t digest[KEYS_DIGEST_SIZE];
    struct addr addr;
    int *fds; /* one bound socket per worker, or per lane; owned */
    unsigned int fd_count;
    struct service_lane *lanes; /* UDP: fd_count of them; lane i is worker i modulo workers */
    int claim_fd;               /* socket_claim of addr; -1 = none */
    struct channel_pool pool;

    pthread_mutex_t lock;    /* over session and per_ip */
    struct session *session; /* of the newest login; NULL = down */
    struct addr_table per_ip;

    _Atomic bool up;            /* listeners should listen */
    _Atomic unsigned int owner; /* worker of the control channel, while up */
    _Atomic uint32_t connections;
    _Atomic uint32_t asked; /* channels that the gate expects */
};

MUST_CHECK int service_init(struct service *service, const struct config_service *config,
                            unsigned int index);
void service_finish(struct service *service); /* accepts a zeroed service */
/* Binds the listeners, one per worker. */
MUST_CHECK int service_bind(struct service *service, const struct addr *addr,
                            const struct socket_options *options, unsigned int workers);
/* The same for a UDP service: the sockets of its lanes. */
MUST_CHECK int service_bind_udp(struct service *service, const struct addr *addr,
                                unsigned int workers);
static inline bool service_is_udp(const struct service *service)
{
    return service->config->type == CONFIG_SERVICE_UDP;
}

/* What a session leaves behind when it ends or is replaced. */
struct service_leftovers {
    int fds[LIMIT_POOL_PARKED]; /* parked channels, to be closed by the caller */
    size_t fd_count;
    uint32_t asked; /* channels asked for, to be taken back at the gate */
    struct addr_key client;
    bool replaced; /* there was an older session; its owner closes it */
};

/* A login succeeded: from here on the key opens data channels. The session that was there before is
 * out of the table and marked replaced. */
void service_begin_session(struct service *service, struct session_table *table,
                           struct session *session, uint64_t now_ns, struct service_leftovers *ret);
/* The control channel has ended. True: the service is down now; false: a newer session goes on, and
 * nothing is left behind. */
bool service_end_session(struct service *service, struct session_table *table,
                         struct session *session, struct service_leftovers *ret);

/* Channels have been asked for, have come, or were given up: returns how many of `count` were
 * counted, so that the gate counts the same. */
void service_asked(struct service *service, uint32_t count);
uint32_t service_answered(struct service *service, uint32_t count);

/* A visitor from key comes in (key may be NULL without a limit per address). ERR_LIMIT, -ENOMEM. */
MUST_CHECK int service_enter(struct service *service, const struct addr_key *key);
void service_leave(struct service *service, const struct addr_key *key);
