/* What the files of a forward share:
 *
 *     forward.c          the data channel, the local service's address, what comes back
 *     forward_visitor.c  the visitors' sockets: made when needed, closed when silent
 *
 * A forward owns its channel and its visitors, and a visitor its socket; the forward is freed by
 * forward_join when all of them are closed. One worker has all of it. */
#pragma once

#include "client/client_worker.h"
#include "net/datagram.h"
#include "net/udp_table.h"

struct forward {
    struct datagram_channel channel;
    struct list node; /* in worker->forwards */
    struct client_worker *worker;
    struct client_service *service; /* used */
    unsigned int new_count;         /* since the last batch ended */
    unsigned int visitor_count;     /* in use, or with an operation in the ring yet */
    struct udp_table table;
    struct list resting; /* visitors not read from: the channel has no room, or pauses */
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
    uint32_t local_version; /* of the service's addresses; the first of them is in use */
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

/* ---- forward.c ---- */

/* There may be something to receive on an open visitor's socket. */
void forward_ready(struct forward_visitor *visitor);
/* Brings the local service's address up to date, now or later; meanwhile the last one is used. */
void forward_resolve(struct forward *forward);
/* A visitor's datagram did not reach the service. Its socket goes on being used, since the service
 * may be back any moment, unless there is another address to try: then the version changes. */
void forward_refused(struct forward *forward, const struct forward_visitor *visitor);
/* Frees a forward that is closing when all of it is closed. */
void forward_join(struct forward *forward);

/* ---- forward_visitor.c ---- */

/* The visitor that a frame is for, new or known, with a socket to the address in use. NULL: no
 * address, descriptor or memory, which is logged or counted. May close others to make room. */
struct forward_visitor *forward_visitor_find(struct forward *forward,
                                             const struct udp_frame_addr *key);
/* For datagram_fire. */
struct udp_socket *forward_visitor_destination(struct datagram_target *target,
                                               const struct udp_route **ret_route);
/* Waits for what comes back; forward_ready follows. */
void forward_visitor_arm(struct forward_visitor *visitor);
/* Of forward->expiry_timer: closes those for which nothing has moved for udp_timeout. */
void forward_visitor_expire(struct timer *timer);
/* Looks for them soon if there are visitors, for udp_timeout may have changed. */
void forward_visitor_review_timeout(struct forward *forward);
/* Closes all of them; a new one may come with the next frame. Not after the channel has closed. */
void forward_visitor_close_all(struct forward *forward);
