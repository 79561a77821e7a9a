/* What the files of the client share. struct client exists once, from before the workers start
 * until after they have ended; its fields are atomic, have a lock, or name their thread. struct
 * client_worker is one worker's part, and only that worker's thread uses it. client.h creates and
 * destroys both. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/slab.h"
#include "client/descriptors.h"
#include "client/servers.h"
#include "client/service.h"
#include "config/config.h"
#include "io/socket.h"
#include "io/udp_ports.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/tunnel_worker.h"

struct client {
    _Atomic(const struct config_peer *) config; /* owned; see client_config */
    struct recipe *recipe;                      /* of connections to the other side */
    struct plan_slot plan;                      /* of the reload that is being applied */
    struct service_registry services;
    unsigned int next_control; /* main thread; spreads control channels over the workers */
    unsigned int worker_count;
    struct client_servers servers;
    struct dial_memory memory; /* which of the server's addresses worked */
    struct client_fds fds;
    struct udp_ports udp_ports;       /* of the sockets of UDP visitors */
    _Atomic unsigned int next_worker; /* takes turns among equally busy workers */
    _Atomic unsigned int sessions;    /* control channels that are up */
    struct handover handover;
    _Atomic bool draining; /* some worker is, and the others are about to */
};

struct client_worker {
    struct client *client;
    struct tunnel_worker *tunnel;
    struct socket_options channel_options; /* of connections to the server */
    struct list services;                  /* those whose control channels are this worker's */
    struct list controls, channels, relaying;
    struct list login_waiters; /* controls that wait for a turn to log in, in this order */
    struct timer turn_timer;   /* looks for one, while there are any */
    struct list forwards;      /* UDP data channels in use */
    struct slab channel_slab, udp_visitor_slab;
    uint64_t dial_pause_until_ns; /* out of descriptors: no new data channel until then */
    struct plan_walk plan_walk;
    struct timer follow_timer; /* runs client_control_follow_all's next services */
    size_t follow_left;
    /* The limit for a successor's logins; then, when the last session has ended, or after SIGTERM,
     * for the server to close the parked channels. */
    struct timer leave_timer;
    bool draining, stopping, leaving;
};

/* The client's own settings, without its services. Any thread. Like service_base_config: read them
 * where they are needed and never keep the pointer over a callback. */
static inline const struct config_peer *client_config(const struct client *client)
{
    return atomic_load_explicit(&client->config, memory_order_acquire);
}
/* The words for a failure of a connection to the server: those of the handshake that has failed, or
 * of the error. To be called in the callback that tells it, or before the stream is terminated. */
const char *client_failure_text(const struct stream *stream, int error);
/* Sets channel_options, for new connections to the server, from the configuration. */
void client_set_channel_options(struct client_worker *worker);
