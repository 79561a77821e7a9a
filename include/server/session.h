/* Sessions. A session begins with a client's login for one service, and ends with its control
 * channel or with a newer login. Each data channel of the client presents the session's key, by
 * which the table finds the service and the session's part of its pool, a source (pool_source.h).
 *
 *     login --session_begin--> service->session_list, table --session_end--> gone
 *                                      '--session_begin of a newer one--> replaced --session_end-->
 *
 * The gate expects as many connections from the client's address as the session has requested and
 * not got. The end of the session takes this back.
 *
 * Any worker may call. Two locks protect sessions: the service's (which sessions it has, whether
 * one may begin, which ones request channels) and, taken inside it, the table's, the gate's or the
 * pool's. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/macros.h"
#include "crypto/keys.h"
#include "server/channel_pool.h"

struct gate;
struct service;

/* Embedded in its control channel. Between session_begin and session_end the table and the service
 * point to it, and other workers read it under their locks. */
struct session {
    struct list node;       /* in a bucket of the table */
    struct list of_service; /* in service->session_list */
    /* The control channel's, and its worker's alone: */
    struct list of_part; /* in service_part.sessions */
    void (*send_requests)(struct session *session);
    uint8_t key[KEYS_DIGEST_SIZE];
    struct service *service;
    /* The key of the login's address. It stays when a reload changes the prefixes, because
     * connections expected under this key are taken back under it. Channels that then come under
     * another key do not raise the gate's limits until the client logs in again. */
    struct addr_key client;
    struct addr peer; /* of the control channel */
    struct pool_source source;
    unsigned int worker_index;
    uint32_t epoch;         /* the service's, when the login began */
    _Atomic uint32_t asked; /* data channels that the gate expects from `client` for it */
    _Atomic bool replaced;  /* by a newer login: the worker of its control channel closes it */
    _Atomic bool doubted;   /* another login came from its address: that worker asks the client */
};

enum { SESSION_BUCKETS = 1024 }; /* four sessions in each with LIMIT_SERVICES services */
struct session_table {
    struct gate *gate; /* outlives the table */
    pthread_mutex_t lock;
    struct list buckets[SESSION_BUCKETS];
};

void session_table_init(struct session_table *table, struct gate *gate);
/* All sessions must have ended. */
void session_table_finish(struct session_table *table);
/* What a session's key stands for. */
struct session_found {
    struct service *service; /* the caller becomes a user of it */
    struct pool_handle source;
    bool expected;
    struct addr_key client;
};
/* A data channel has come with this key. False: no session has the key. ret->expected: the session
 * had requested a channel, and the caller tells the gate to expect one connection less from
 * ret->client. Takes the same time for all keys of one bucket. */
bool session_table_find(struct session_table *table, const uint8_t key[static KEYS_DIGEST_SIZE],
                        struct session_found *ret);

/* What the beginning or the end of a session leads to. */
struct session_change {
    bool replaced;      /* older sessions were replaced; their workers close the control channels */
    bool is_down;       /* the service has no session any more */
    pool_notice notice; /* other sessions are to request channels (exchange_notify) */
};

/* Begins a session, after a login that succeeded: from now on data channels may present the key.
 * Older sessions are removed from the table and marked replaced, unless the service has clients =
 * balance. ERR_RECONFIGURED: the login began
 * in an older epoch, or the service was removed. ERR_LIMIT: the service has LIMIT_SESSIONS.
 * -ENOMEM. */
MUST_CHECK int session_begin(struct session_table *table, struct session *session, uint64_t now_ns,
                             struct session_change *ret);
/* Ends a session, with its control channel. The caller closes the channels that are left in its
 * source, which nobody else knows any more. */
void session_end(struct session_table *table, struct session *session, uint64_t now_ns,
                 struct session_change *ret);

/* `clients` may not be balance any more: then all sessions but the newest are replaced. */
void session_keep_newest(struct session_table *table, struct service *service, uint64_t now_ns,
                         struct session_change *ret);
/* The token has changed: begins a new epoch, so that logins in progress fail. Each worker ends the
 * control channels of older epochs (control.h). */
void session_expire_all(struct service *service);
/* The service was removed: no session begins any more. */
void session_refuse_all(struct service *service);
/* The same, unless it has a session or a login has claimed it since the last call. True: no session
 * begins any more. */
MUST_CHECK bool session_refuse_if_idle(struct service *service);
/* To be called just before session_begin by a login that can wait for another service of the same
 * name. False: this one is being removed. */
MUST_CHECK bool session_claim(struct service *service);

/* Returns how many channels the caller requests from the client, at most max. 0 for a session that
 * was replaced: its successor requests them. */
uint32_t session_ask(struct session_table *table, struct session *session, uint32_t max);
/* `count` requested channels are given up: the gate does not expect them any more. */
void session_give_up(struct session_table *table, struct session *session, uint32_t count);
