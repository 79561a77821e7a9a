/* What the files of the server share: struct server, made before the workers and ended after them,
 * and struct server_worker, each worker's own part with its listeners, logins, control channels and
 * visitors. Who makes and ends them: server.h. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/slab.h"
#include "config/config.h"
#include "server/binding.h"
#include "server/gate.h"
#include "server/service.h"
#include "server/service_index.h"
#include "server/session.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/tunnel_worker.h"

struct resolver;

struct server {
    _Atomic(const struct config_peer *) config; /* owned; see server_config */
    struct noise_keys *noise_keys;              /* NULL: transport.type = tcp */
    struct plan_slot plan;                      /* of a reload */
    struct gate gate;
    struct session_table sessions;
    struct service_registry services;
    struct binding *control_binding; /* NULL: a reload has found its new address in use */
    /* Of the main thread, for addresses (addresses.h): */
    struct resolver *resolver;          /* polled */
    const char *file;                   /* for messages; borrowed; NULL: there is none */
    unsigned int control_failures_said; /* as a service's */
    uint32_t start_until_ms;            /* the services' addresses are waited for, at the start */
    _Atomic unsigned int unbound_count; /* services whose address can't be had yet; any thread */
    unsigned int worker_count;
    _Atomic int fd_visitors_max; /* from this number on: for strangers and control channels */
    _Atomic unsigned int waiting_visitors;
    struct handover handover;
};

struct server_worker {
    struct server *server;
    struct tunnel_worker *tunnel;
    struct list control_ports, closing_ports; /* listener.h; a service's are in its part */
    struct list parts;                        /* of all services that are configured */
    struct service_index services;            /* the same, by what clients call them */
    struct gate_desk gate_desk;
    struct list logins, control_list, waiting_visitors, relaying_visitors;
    struct list lanes; /* of UDP services */
    struct slab login_slab, visitor_slab, udp_visitor_slab;
    struct timer resume_timer; /* accepting again, after descriptors ran out */
    uint32_t pause_ms;         /* until resume_timer looks */
    struct timer tend_timer;   /* pools of the control channels here */
    struct plan_walk plan_walk;
    unsigned int closing_lanes;
    struct timer hold_timer, handover_timer; /* handover.h */
    bool draining, stopping;
};

/* The server's own settings, without services. As service_config: read where needed, never kept. */
static inline const struct config_peer *server_config(const struct server *server)
{
    return atomic_load_explicit(&server->config, memory_order_acquire);
}
