/* Sessions: one begins with a client's login for one service, and ends with its control channel or
 * with a newer login. Its key is the ticket for data channels: the table finds the service by it.
 *
 *     login --session_begin--> service->session, table --session_end--> gone
 *                                      '--session_begin of a newer one--> replaced --session_end-->
 *
 * What a session has asked its client for and has not got is what the gate expects from that
 * address; whatever ends the session takes it back.
 *
 * Any worker. Under two locks: a service's own (which session it has, whether one may begin, who
 * asks for channels), and in it the table's, or the gate's. */
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
#include "net/transport.h"

struct gate;
struct service;

/* Made and freed by the control channel it belongs to. In the table and in its service only between
 * session_begin and session_end; others see it under those two locks alone. */
struct session {
    struct list node; /* in a bucket of the table */
    uint8_t key[KEYS_DIGEST_SIZE];
    struct service *service;
    /* As the login came, whatever prefixes a reload has set since: what was expected of this key is
     * taken back from it. Channels that come under another key are those of a known address, but do
     * not raise the caps until the client logs in again. */
    struct addr_key client;
    unsigned int worker_index;
    uint32_t epoch;         /* the service's, when the login began */
    _Atomic uint32_t asked; /* data channels that the gate expects from `client` for it */
    _Atomic bool replaced;  /* a newer login took over: its owner closes it */
};

enum { SESSION_BUCKETS = 1024 }; /* a few in each, even with all the services there may be */
struct session_table {
    struct gate *gate; /* outlives it */
    pthread_mutex_t lock;
    struct list buckets[SESSION_BUCKETS];
};

void session_table_init(struct session_table *table, struct gate *gate);
void session_table_finish(struct session_table *table);
/* A data channel has come. False: its key is no session's. Takes the same time for all keys of one
 * bucket. The caller becomes a user of the service that the key opens. ret_expected: one that was
 * asked for; the caller tells the gate that it expects one less from ret_client. */
bool session_table_find(struct session_table *table, const uint8_t key[static KEYS_DIGEST_SIZE],
                        struct service **ret_service, bool *ret_expected,
                        struct addr_key *ret_client);

/* What a session leaves behind when it ends or is replaced. */
struct session_leftovers {
    struct transport channels[LIMIT_POOL_PARKED]; /* parked; to be closed by the caller */
    size_t channel_count;
    bool replaced; /* there was an older session; its owner closes it */
};

/* A login succeeded: from here on the key opens data channels. The session that was there before is
 * out of the table and marked replaced. ERR_RECONFIGURED: the login began in an older epoch, or the
 * service is closed. */
MUST_CHECK int session_begin(struct session_table *table, struct session *session, uint64_t now_ns,
                             struct session_leftovers *ret);
/* The control channel has ended. True: the service is down now; false: a newer session goes on, and
 * nothing is left behind. */
bool session_end(struct session_table *table, struct session *session,
                 struct session_leftovers *ret);

/* The service's sessions, and those that are being logged in to, are over: each worker ends its own
 * (control.h). */
void session_expire_all(struct service *service);
/* The same, and none begins any more: the service is not configured. */
void session_refuse_all(struct service *service);

/* How many channels the client is to be asked for, at most max; the caller does. None for a
 * session that is over: they are its successor's to ask for. */
uint32_t session_ask(struct session_table *table, struct session *session, uint32_t max);
/* So many of them are given up. */
void session_give_up(struct session_table *table, struct session *session, uint32_t count);
