/* What the files of a lane share:
 *
 *     lane.c          the socket, what arrives on it, and the lane's life
 *     lane_visitor.c  the table of visitors: whom it remembers, and who gets answers
 *     lane_header.c   the PROXY headers in front of visitors' payloads
 *     lane_places.c   finding data channels, and which one a visitor gets
 *     lane_channel.c  a data channel: using it, losing it
 *
 * A lane has places for channels. The first one is for a channel of any session. If the clients are
 * side by side (`clients = balance`), each place is for the channel of one session instead:
 *
 *     place    free --(a session begins)--> waits --(its channel comes)--> has a channel
 *                ^                            ^                              | |
 *                | the session has ended      '--- the channel ends ---------' |
 *                '------------------------- RETIRED <--(and there is another)--'
 *
 * A visitor stays with its channel. When that is gone, its next datagram gets another one, of the
 * session with the fewest visitors. A retired channel takes no datagrams any more, but brings
 * answers for another LIMIT_UDP_RETIRE_MS.
 *
 * A lane owns its socket, its visitors and its channels: those in places, and earlier ones that are
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
    struct pool_handle source; /* of its session */
    uint32_t number;           /* among all that the lane has had; the first one has 1 */
    uint32_t batch;            /* of the lane, for which `room` holds */
    enum datagram_room room;
    uint8_t place;
    bool is_retired;
    uint64_t since_ns;
    struct timer retire_timer; /* ends a retired channel */
    struct list node;          /* in lane->retired */
};

/* A place without a channel waits, or is not in use. */
struct lane_place {
    uint64_t not_before_ns; /* a pause between two requests */
    bool is_used;
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
    struct lane_channel *only; /* the channel in use, if there is exactly one */
    unsigned int place_count;  /* those beyond are not in use */
    unsigned int in_use;       /* channels in places */
    uint32_t channel_number;   /* of the newest channel */
    uint32_t batch;            /* number of the batch that is being received */
    struct udp_pace pace;      /* of the socket, whatever the channels */
    struct lane_channel *channels[LIMIT_UDP_CHANNELS]; /* NULL: the place has none */
    struct lane_place places[LIMIT_UDP_CHANNELS];
    struct list retired;
    struct timer retry_timer, expiry_timer, pause_timer;
    struct udp_table table;
    struct lane_visitor *last; /* of the last datagram; the next one is often its too */
    bool is_balanced;          /* clients = balance, when the lane last looked */
    bool closing;
    bool held; /* taken over: datagrams wait in the kernel for the first channel */
};

/* An address that has sent a datagram. */
struct lane_visitor {
    struct udp_table_entry entry;
    struct datagram_target target;
    struct lane *lane;
    struct udp_route route;
    uint32_t channel_number; /* its channel, in `place`; 0: none so far */
    uint8_t place;
    struct pool_handle source; /* that counts it as open; zero: none */
    uint32_t header_on;        /* number of the lane's channel that has its PROXY header; 0: none */
    struct rate rates[2];      /* connection_bandwidth, as pace_rates.service */
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

static inline struct pool_waiter *lane_waiter(const struct lane *lane, unsigned int place)
{
    return &lane->binding->lanes[lane->index].waiters[place];
}

/* The channel that a visitor has. NULL: none any more, or it has not got one yet. */
static inline struct lane_channel *lane_visitor_channel(const struct lane_visitor *visitor)
{
    struct lane_channel *channel = visitor->lane->channels[visitor->place];
    return channel != NULL && channel->number == visitor->channel_number ? channel : NULL;
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
void lane_header_put(struct lane_visitor *visitor, struct datagram_channel *channel,
                     const struct udp_arrival *arrival);

/* ---- lane_places.c ---- */

/* Looks at the sessions of the service: gives each a place, and takes a parked channel or queues
 * for one where one is missing. To be called when a session or a channel has begun or ended. */
void lane_places_review(struct lane *lane);
/* Callback of lane->retry_timer: the same. */
void lane_places_retry(struct timer *timer);
/* Leaves all queues. */
void lane_places_finish(struct lane *lane);
/* A channel for a visitor that has none: that of the session with the fewest. NULL: there is no
 * channel. */
struct lane_channel *lane_places_choose(struct lane_visitor *visitor);
/* No request for this place before LIMIT_UDP_RETRY_MS from now. */
void lane_places_pause(struct lane *lane, unsigned int place);
/* A channel has come into its place, or has left it. */
void lane_places_count(struct lane *lane);

/* ---- lane_channel.c ---- */

/* Uses this channel in place of the old one, or without sessions side by side of all old ones.
 * Takes it over even if there is no memory for it. */
void lane_channel_use(struct lane *lane, unsigned int place, struct transport transport,
                      struct pool_handle source);
/* Resets the channel in this place, if there is one. lane->channel_count has it until it is
 * closed. */
void lane_channel_leave(struct lane *lane, unsigned int place);
/* Has the channel in this place bring only answers from now on, for a while. */
void lane_channel_retire(struct lane *lane, unsigned int place);
/* Resets all channels of the lane. */
void lane_channel_finish(struct lane *lane);
