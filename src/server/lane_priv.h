/* What the files of a lane share:
 *
 *     lane.c          the socket, what arrives on it, and the lane's life
 *     lane_visitor.c  the table of visitors: whom it remembers, and who gets answers
 *     lane_header.c   the PROXY headers in front of visitors' payloads
 *     lane_channel.c  the data channel: finding it, using it, losing it
 *
 * A lane owns its socket, its visitors and its channels: the one in use, and earlier ones that are
 * still being closed. lane_join frees it when none of them is busy any more. Only its worker's
 * thread uses a lane; channels from other workers come by lane_matched. */
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
    struct binding *binding;    /* of the service; outlives the lane */
    unsigned int index;         /* of the socket in the binding */
    unsigned int channel_count; /* channels in use or still being closed */
    struct service_stats *stats;
    uint32_t overflows_noted; /* of udp.overflows: they are in the stats */
    struct udp_socket udp;
    struct loop_op poll_op;
    struct lane_channel *channel; /* in use; NULL: the lane waits for one */
    uint64_t channel_since_ns;
    uint32_t channel_number; /* of the channel in use; the first one has 1 */
    struct timer retry_timer, expiry_timer, pause_timer;
    struct udp_table table;
    struct lane_visitor *last; /* of the last datagram; the next one is often its too */
    bool closing;
    bool held; /* taken over: datagrams wait in the kernel for the first channel */
};

/* An address that has sent a datagram. */
struct lane_visitor {
    struct udp_table_entry entry;
    struct datagram_target target;
    struct lane *lane;
    struct udp_route route;
    uint32_t header_on;   /* number of the lane's channel that has its PROXY header; 0: none */
    struct rate rates[2]; /* connection_bandwidth, as pace_rates.service */
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

/* The same for METRIC_UDP_DROPPED_..., also for the service. */
static inline void lane_count_drop(const struct lane *lane, enum metric metric, uint64_t amount)
{
    lane_count(lane, metric, amount);
    counter_add(&lane->stats->reasons[service_drop_reason(metric)], amount);
}

static inline struct pool_waiter *lane_waiter(const struct lane *lane)
{
    return &lane->binding->lanes[lane->index].waiter;
}

/* ---- lane.c ---- */

/* Polls for datagrams, unless the lane is closing, held or paused, or polls already. */
void lane_arm(struct lane *lane);
/* Frees a closing lane if none of its channels and operations is busy any more. */
void lane_join(struct lane *lane);

/* ---- lane_visitor.c ---- */

/* The visitor that sent a datagram. It is added if it is new and may come, and answers take the
 * datagram's route back. NULL: dropped, and counted. */
struct lane_visitor *lane_visitor_heard(struct lane *lane, const struct udp_arrival *arrival);
/* The visitor that an answer is for. NULL: no such visitor, which is counted. */
struct lane_visitor *lane_visitor_answered(struct lane *lane, const struct udp_frame_addr *addr);
/* How many bytes of an arrival from a visitor, or of an answer to it, the limits of the bandwidth
 * let through: whole datagrams from the first one on. The others are counted as dropped. from: the
 * enum relay_end that they come from. */
uint32_t lane_visitor_police(struct lane_visitor *visitor, unsigned int from, uint32_t size,
                             uint32_t segment_size);
/* For datagram_fire. */
struct udp_socket *lane_visitor_destination(struct datagram_target *target,
                                            const struct udp_route **ret_route);
/* Callback of lane->expiry_timer: forgets visitors that have been silent for udp_timeout. */
void lane_visitor_expire(struct timer *timer);
/* udp_timeout may have changed: runs lane_visitor_expire soon if there are visitors. */
void lane_visitor_review_timeout(struct lane *lane);
/* Forgets visitors that may not come any more. */
void lane_visitor_review_access(struct lane *lane);
/* Forgets all visitors, and frees the table. */
void lane_visitor_finish(struct lane *lane);

/* ---- lane_header.c ---- */

/* Packs a visitor's arrival with the PROXY headers that the configuration asks for. */
void lane_header_put(struct lane_visitor *visitor, const struct udp_arrival *arrival);

/* ---- lane_channel.c ---- */

/* Takes a parked channel, or queues the lane in the service's pool. */
void lane_channel_take(struct lane *lane);
/* Callback of lane->retry_timer: the same if the lane still has no channel. */
void lane_channel_retry(struct timer *timer);
/* Uses this channel in place of the old one. Takes it over even if there is no memory for it. */
void lane_channel_use(struct lane *lane, struct transport transport);
/* Resets the channel in use, if there is one. lane->channel_count has it until it is closed. */
void lane_channel_leave(struct lane *lane);
