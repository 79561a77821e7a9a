/* What the files of a forward share:
 *
 *     forward.c          the data channel, the local service's addresses, datagrams to the server
 *     forward_visitor.c  the visitors' sockets: opened when needed, closed when silent
 *
 * A forward owns its channel and its visitors, and a visitor owns its socket. forward_join frees
 * the forward when all of them are closed. One worker's thread uses all of it. */
#pragma once

#include "client/client_worker.h"
#include "net/datagram.h"
#include "net/udp_table.h"

struct forward {
    struct datagram_channel channel;
    struct list node; /* in worker->forwards */
    struct client_worker *worker;
    struct client_service *service; /* used */
    unsigned int new_count;         /* new visitors since the last batch ended */
    unsigned int visitor_count;     /* visitors in use, or with an operation still in the ring */
    struct udp_table table;
    struct list resting; /* visitors not read from, while the channel has no room or pauses */
    struct timer expiry_timer, pause_timer;
    struct resolver_query *query;
    bool started, closing, channel_closed;
};

struct forward_visitor {
    struct udp_table_entry entry;
    struct datagram_target target;
    struct udp_socket udp;
    struct loop_op poll_op;
    struct list resting_node;
    struct forward *forward;
    uint32_t local_version; /* the version of the addresses that its socket was connected by */
    bool closing;
};

static inline struct loop *forward_loop(const struct forward *forward)
{
    return forward->worker->tunnel->loop;
}

static inline void forward_count(const struct forward *forward, enum metric metric, uint64_t amount)
{
    metrics_add(&forward->worker->tunnel->metrics, metric, amount);
}

static inline struct udp_share *forward_share(const struct forward *forward)
{
    return &forward->worker->client->fds.udp;
}

static inline struct client_local *forward_local(const struct forward *forward)
{
    return &forward->service->locals[forward->worker->tunnel->index];
}

static inline struct service_stats *forward_stats(const struct forward *forward)
{
    return service_stats_of(&forward_local(forward)->stats);
}

/* Counts METRIC_UDP_DROPPED_..., also for the service. */
static inline void forward_count_drop(const struct forward *forward, enum metric metric,
                                      uint64_t amount)
{
    forward_count(forward, metric, amount);
    counter_add(&forward_stats(forward)->reasons[service_drop_reason(metric)], amount);
}

/* ---- forward.c ---- */

/* To be called when an open visitor's socket may have datagrams: receives them, now or after the
 * channel's pause. */
void forward_ready(struct forward_visitor *visitor);
/* Looks up the local service's name if its addresses are too old. The old ones are used until the
 * answer comes. */
void forward_resolve(struct forward *forward);
/* To be called when a visitor's datagram did not reach the local service. The visitor keeps its
 * socket, because the service may come back at any moment. But if there are several addresses, the
 * next one comes first from now on, and the version changes. */
void forward_refused(struct forward *forward, const struct forward_visitor *visitor);
/* Frees a closing forward if all of it is closed. */
void forward_join(struct forward *forward);

/* ---- forward_visitor.c ---- */

/* The visitor of this address. A new one gets a socket connected to the local service's first
 * address; other visitors may be closed for it. NULL: no address, descriptor or memory, which is
 * logged or counted. */
struct forward_visitor *forward_visitor_find(struct forward *forward,
                                             const struct udp_frame_addr *key);
/* The datagram_fire_fn of visitors. */
struct udp_socket *forward_visitor_destination(struct datagram_target *target,
                                               const struct udp_route **ret_route);
/* Polls the visitor's socket; forward_ready follows when it is readable. */
void forward_visitor_arm(struct forward_visitor *visitor);
/* Runs by forward->expiry_timer: closes the visitors that have been silent for udp_timeout. */
void forward_visitor_expire(struct timer *timer);
/* Has the expiry timer run soon, because udp_timeout may have changed. */
void forward_visitor_review_timeout(struct forward *forward);
/* Closes all visitors. The next frame makes a new one, unless the forward is closing. Not to be
 * called after the channel has closed. */
void forward_visitor_close_all(struct forward *forward);
