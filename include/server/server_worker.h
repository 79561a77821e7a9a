/* What the files of the server share. struct server exists once, from before the workers start
 * until after they have ended; its fields are atomic, have a lock, or name their thread. struct
 * server_worker is one worker's part, and only that worker's thread uses it. server.h creates and
 * destroys both. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/slab.h"
#include "config/config.h"
#include "server/binding.h"
#include "server/gate.h"
#include "server/lobby.h"
#include "server/range_set.h"
#include "server/service.h"
#include "server/service_index.h"
#include "server/session.h"
#include "server/visitor_rate.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/tunnel_worker.h"

struct resolver;

/* Services that came up or went down, which the worker has not looked at yet (exchange.h). */
struct server_changes {
    pthread_mutex_t lock;
    struct list parts; /* service_part.changed; each is a use of its service */
};

struct server {
    _Atomic(const struct config_peer *) config; /* owned; see server_config */
    struct recipe *recipe;                      /* of connections to the other side */
    struct plan_slot plan;                      /* of the reload that is being applied */
    struct gate gate;
    struct gate arrivals; /* visitors of shared addresses, whose service is not known yet */
    struct visitor_rate rate;
    struct session_table sessions;
    struct server_changes *changes; /* owned; one for each worker */
    struct service_registry services;
    _Atomic(struct range_set *) ranges; /* owned; see server_ranges */
    int on_login_fd;                    /* an eventfd: workers wake the main thread (on_login.h) */
    /* The main thread's, and read by workers at their start. NULL: not bound, or a reload has given
     * the old address up and could not bind the new one yet. */
    struct binding *control_binding;
    /* The main thread's, for addresses.h: */
    struct resolver *resolver;          /* polled */
    const char *file;                   /* the configuration file's name; borrowed, may be NULL */
    unsigned int control_failures_said; /* as service.failures_said, for the control port */
    struct address_move control_move;
    uint64_t on_login_look_ms;          /* the next look at services without a client */
    bool has_adopted;                   /* on_login_adopt has run */
    uint32_t start_until_ms;            /* the start waits for services' addresses until then */
    _Atomic unsigned int unbound_count; /* services without an address */
    unsigned int worker_count;
    _Atomic int fd_visitors_max; /* descriptors from this number on are not for visitors */
    _Atomic int fds_fixed;       /* those that are open without any visitor */
    /* Visitors: all, those who wait for a channel or arrive, and those of the latter whose name is
     * known, and who await a client after an upgrade. */
    _Atomic unsigned int visitors, waiting_visitors, awaiting_visitors;
    struct handover handover;
    _Atomic bool hold_is_over; /* services that were handed over wait for their client no longer */
};

struct server_worker {
    struct server *server;
    struct tunnel_worker *tunnel;
    struct list control_ports, closing_ports; /* listeners; a service's own are in its part */
    struct list parts;                        /* of all configured services */
    struct service_index services;            /* the same, by digest */
    struct gate_desk gate_desk, arrivals_desk;
    struct lobby lobby;
    struct list logins, control_list, waiting_visitors, relaying_visitors;
    struct list awaiting_logins; /* those of `logins` that wait for their service (login.h) */
    struct list lanes;
    struct slab login_slab, visitor_slab, udp_visitor_slab;
    struct timer resume_timer; /* looks for descriptors after they ran out */
    uint32_t pause_ms;         /* from one such look to the next */
    struct timer tend_timer;   /* tends the pools of this worker's control channels */
    struct plan_walk plan_walk;
    unsigned int closing_lanes;
    struct timer hold_timer, handover_timer; /* handover.c */
    bool refusing, draining, stopping;
};

/* The server's own settings, without its services. Any thread. Like service_base_config: read them
 * where they are needed and never keep the pointer over a callback. */
static inline const struct config_peer *server_config(const struct server *server)
{
    return atomic_load_explicit(&server->config, memory_order_acquire);
}

/* The services with bind = on_login. Any thread; never keep the pointer over a callback. */
static inline struct range_set *server_ranges(const struct server *server)
{
    return atomic_load_explicit(&server->ranges, memory_order_acquire);
}
