/* The client: one control channel per service to the server, and per request of the server a data
 * channel that waits for a visitor and is then joined with the local service.
 *
 *     client_control --CreateDataChannel--> data_channel (least busy worker)
 *          dials, logs in, stays               dials, says hello, parks, gets the command,
 *                                              connects to the local service, relays;
 *                                              or becomes a forward
 *
 * struct client is shared: made before the workers, ended after them. Control channels are spread
 * over the workers; a data channel stays on the worker that opened it until its relay becomes bulk.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/slab.h"
#include "client/descriptors.h"
#include "client/service.h"
#include "config/config.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/tunnel_worker.h"

/* What data channels need of the control channel that asked for them: made at login, shared by the
 * workers, counted by its users, wiped with the last. */
struct client_session {
    _Atomic unsigned int users;
    _Atomic bool ended;             /* parked channels of an ended session are reset */
    _Atomic unsigned int unstarted; /* channels without a visitor yet; bounded */
    struct client_service *service;
    struct addr server; /* where the control channel went */
    uint8_t key[KEYS_DIGEST_SIZE];
};

struct client {
    _Atomic(const struct config_peer *) config; /* owned; see client_config */
    struct noise_keys *noise_keys;              /* NULL: transport.type = tcp */
    struct plan_slot plan;                      /* of a reload */
    struct service_registry services;
    unsigned int next_control; /* the main thread's: control channels go round the workers */
    unsigned int worker_count;
    struct dial_memory memory; /* which of the server's addresses worked */
    struct client_fds fds;
    _Atomic unsigned int logins_in_progress;
    _Atomic unsigned int next_worker; /* ties among equally busy workers go round */
    struct handover handover;
};

struct client_worker {
    struct client *client;
    struct tunnel_worker *tunnel;
    struct socket_options channel_options; /* of connections to the server */
    struct list controls, channels, relaying;
    struct list forwards; /* UDP data channels in use */
    struct slab channel_slab, udp_visitor_slab;
    uint64_t dial_pause_until_ns; /* out of descriptors: no new data channel until then */
    size_t plan_at;               /* the next step of a reload's plan */
    struct timer plan_timer;      /* goes on with it in the next turn */
    struct timer leave_timer;     /* the control channels that no successor has replaced */
    bool draining, stopping, leaving;
};

/* What is needed of config is copied. -errno. */
MUST_CHECK int client_create(const struct config_peer *config, unsigned int workers,
                             struct client **ret);
void client_destroy(struct client *client); /* accepts NULL */
extern const struct tunnel_role client_role;

/* The client's own settings, without services. As service_config: read where needed, never kept. */
static inline const struct config_peer *client_config(const struct client *client)
{
    return atomic_load_explicit(&client->config, memory_order_acquire);
}
/* Takes the options of connections to the server from the configuration. */
void client_set_channel_options(struct client_worker *worker);

/* -ENOMEM leaves NULL. The session starts with one user. */
struct client_session *client_session_create(struct client_service *service,
                                             const struct addr *server,
                                             const uint8_t key[static KEYS_DIGEST_SIZE]);
void client_session_use(struct client_session *session);
void client_session_drop(struct client_session *session);
/* Ends it: all workers reset its parked channels. The caller's use goes on. */
void client_session_end(struct client_worker *worker, struct client_session *session);
/* Opens `count` data channels for the session, spread over the workers. */
void client_open_channels(struct client_worker *worker, struct client_session *session,
                          size_t count);
