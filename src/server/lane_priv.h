/* What the files of a lane share:
 *
 *     lane.c          the socket, what arrives on it, and the lane's life
 *     lane_visitor.c  who has spoken, for how long that is remembered, who gets answers
 *     lane_channel.c  finding a data channel, using it and losing it
 *
 * A lane owns its socket, its visitors and its channels (the one in use, and earlier ones that are
 * still being closed), and is freed by lane_join when none of them is busy any more. One worker
 * has all of it; channels from other workers come by lane_matched. */
#pragma once

#include <assert.h>

#include "net/datagram.h"
#include "net/udp_table.h"
#include "server/server_worker.h"

struct lane_channel {
    struct datagram_channel base;
    struct lane *lane;
};

struct lane {
    struct list node; /* in worker->lanes */
    struct server_worker *worker;
    struct service *service;
    struct binding *binding;    /* of the service */
    unsigned int index;         /* in the binding */
    unsigned int channel_count; /* of this lane, in use or still being closed */
    struct udp_socket udp;
    struct loop_op poll_op;
    struct lane_channel *channel; /* NULL: waits for one */
    uint64_t channel_since_ns;
    struct timer retry_timer, expiry_timer, pause_timer;
    struct udp_table table;
    struct lane_visitor *last; /* of the last datagram: the next is often its too */
    bool closing;
    bool held; /* taken over: what has arrived waits in the kernel for the first channel */
};

/* Somebody who has sent a datagram. */
struct lane_visitor {
    struct udp_table_entry entry;
    struct datagram_target target;
    struct lane *lane;
    struct udp_route route;
};
static_assert(sizeof(struct lane_visitor) <= 512, "the budget of a UDP visitor");

static inline struct loop *lane_loop(const struct lane *lane)
{
    return lane->worker->tunnel->loop;
}

static inline struct datagram_engine *lane_engine(const struct lane *lane)
{
    return &lane->worker->tunnel->datagrams;
}

static inline void lane_count(const struct lane *lane, enum metric metric, uint64_t amount)
{
    metrics_add(&lane->worker->tunnel->metrics, metric, amount);
}

static inline struct pool_waiter *lane_waiter(const struct lane *lane)
{
    return &lane->binding->lanes[lane->index].waiter;
}

/* ---- lane.c ---- */

/* Waits for datagrams, unless something else is to happen first. */
void lane_arm(struct lane *lane);
/* Frees a lane that is closing when nothing of it is in use any more. */
void lane_join(struct lane *lane);

/* ---- lane_visitor.c ---- */

/* The visitor that a datagram came from, new or known; its route is the datagram's. NULL: there is
 * no memory for it, which is counted. */
struct lane_visitor *lane_visitor_heard(struct lane *lane, const struct udp_arrival *arrival);
/* The visitor that an answer is for. NULL: a stranger, which is counted. */
struct lane_visitor *lane_visitor_answered(struct lane *lane, const struct udp_frame_addr *addr);
/* For datagram_fire. */
struct udp_socket *lane_visitor_destination(struct datagram_target *target,
                                            const struct udp_route **ret_route);
/* Of lane->expiry_timer: forgets those that have been silent for udp_timeout. */
void lane_visitor_expire(struct timer *timer);
/* Looks for them soon if there are visitors, for udp_timeout may have changed. */
void lane_visitor_review_timeout(struct lane *lane);
/* Forgets all of them, for good. */
void lane_visitor_finish(struct lane *lane);

/* ---- lane_channel.c ---- */

/* Takes a parked channel, or has the lane wait for one in the service's pool. */
void lane_channel_take(struct lane *lane);
/* Of lane->retry_timer: the same if there is no channel by now. */
void lane_channel_retry(struct timer *timer);
/* Starts on a channel that was found, in place of the old one. The transport is the lane's from
 * here on, also if there is no memory for it. */
void lane_channel_use(struct lane *lane, struct transport transport);
/* Ends the channel, if there is one. It closes later, and is in lane->channel_count until then. */
void lane_channel_leave(struct lane *lane);
