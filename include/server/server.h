/* The server: the control port where clients log in and bring data channels, and the services'
 * ports where visitors arrive.
 *
 *     control port --accept--> login --+--> server_control (one per service: its session)
 *                                             +--> channel_pool (a data channel)
 *     service port --accept--> visitor --channel_pool--> relay --> closed
 *     UDP service port --datagrams--> lane --channel_pool--> data channel
 *
 * struct server is shared: made before the workers, ended after them. Each worker has a struct
 * server_worker with its own listeners, logins, control channels and visitors. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/slab.h"
#include "config/config.h"
#include "server/binding.h"
#include "server/gate.h"
#include "server/service.h"
#include "server/service_index.h"
#include "tunnel/handover.h"
#include "tunnel/plan.h"
#include "tunnel/tunnel_worker.h"

struct inherited;
struct server_worker;

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
    size_t plan_at;            /* the next step of a reload's plan */
    struct timer plan_timer;   /* goes on with it in the next turn */
    unsigned int closing_lanes;
    struct timer hold_timer, handover_timer; /* handover.h */
    bool draining, stopping;
};

/* Makes all but the sockets, and begins to look up the names of addresses. What is needed of config
 * is copied. thread_begins: see resolver_create_polled. -errno. */
MUST_CHECK int server_allocate(const struct config_peer *config, unsigned int workers,
                               void (*thread_begins)(void), struct server **ret);
/* Then this, until it does not return -EAGAIN, with the time since the first call: binds what it
 * can, and listens on the control port. What inherited (NULL: nothing) has for the configured
 * addresses is taken out of it. 0: a service whose address can't be had is without it from here on,
 * which is logged, and reloads try it again. Another error: the control port can't be had, which is
 * logged. */
MUST_CHECK int addresses_bind(struct server *server, struct inherited *inherited,
                              uint32_t waited_ms);
/* Both, without waiting for anything. */
MUST_CHECK int server_create(const struct config_peer *config, unsigned int workers,
                             struct inherited *inherited, struct server **ret);
void server_destroy(struct server *server); /* accepts NULL */
extern const struct tunnel_role server_role;

/* The server's own settings, without services. As service_config: read where needed, never kept. */
static inline const struct config_peer *server_config(const struct server *server)
{
    return atomic_load_explicit(&server->config, memory_order_acquire);
}

/* How many connections may not have logged in yet: as configured, but only so many that neither
 * they nor visitors can take all descriptors. What visitors may have follows from it. */
void server_limit_strangers(struct server *server, const struct config_peer *config);
/* Tells the owner of the service's control channel that its pool wants channels. */
void server_notify_owner(struct server_worker *worker, struct service *service);
/* Has all workers look at the services' state. */
void server_signal_services(struct server_worker *worker);
/* Whether a channel that was parked may be used: it has not ended, and was heard from within the
 * time that its keepalive takes. */
bool server_channel_is_live(const struct server_worker *worker, const struct pool_channel *channel);
/* Offers a data channel to the service's visitors; it is taken over in every case. requested: it
 * came from the client; otherwise a visitor of ours has no use for it. */
void server_offer_channel(struct server_worker *worker, struct service *service,
                          struct transport channel, bool requested, const struct addr_key *client);
