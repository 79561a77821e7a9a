/* The idle data channels of one service and the visitors that wait for one, across all workers.
 *
 *     client --offer--> parked channels --take--> visitor      a channel was there
 *     visitor --take--> waiting visitors --offer--> matched    a channel came later
 *
 * At most one of the two lists is not empty, save for the moment after an undone match.
 *
 * A parked channel has no operation in flight and no owner but the pool, so any worker may take it.
 * How many are kept follows the demand: what visitors took within half a second, remembered for
 * LIMIT_POOL_HOLD_MS to twice that, between LIMIT_POOL_MIN and LIMIT_POOL_MAX. What is missing is
 * requested from the client over the control channel; a request that brings no channel in
 * LIMIT_CHANNEL_REQUEST_MS is forgotten, and so made anew.
 *
 * Every function takes the pool's own short lock; any worker may call. Descriptors are never closed
 * under it. Time comes from the callers. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/list.h"
#include "base/macros.h"
#include "net/transport.h"

struct pool_match;
struct server_worker;
struct tunnel_worker;

/* A visitor's place in the queue; embedded in the visitor. It stays where it is until the visitor
 * has left the queue, or a match has reached it or been undone: the visitor sees to that. A lane's
 * is its binding's and may go while a match is on its way; so a match names the lane by its id. */
struct pool_waiter {
    struct list node;
    struct tunnel_worker *worker;
    uint64_t visitor_id; /* a lane's: binding_lane_id */
    bool waiting;        /* under the pool's lock */
};

struct pool_channel {
    struct transport transport;
    uint64_t parked_at_ns; /* by the clock of the worker that parked it */
};

/* Demand: takes in the last half second, as a ring of small buckets, and the highest such sum in
 * this and in the last period of LIMIT_POOL_HOLD_MS. */
enum { POOL_BUCKETS = 5, POOL_BUCKET_MS = 100 };
struct pool_demand {
    uint32_t buckets[POOL_BUCKETS];
    uint64_t bucket_index;
    uint32_t peak, last_peak;
    uint64_t period_index;
};

struct channel_pool {
    pthread_mutex_t lock; /* over everything below */
    struct list waiting;
    uint32_t waiting_count;
    struct pool_channel *parked; /* a ring of LIMIT_POOL_PARKED, oldest first */
    uint32_t parked_first, parked_count;
    struct pool_demand demand;
    uint32_t wanted;                         /* to be requested by the control channel's owner */
    uint32_t outstanding, outstanding_older; /* requested: lately, and in the period before */
    uint64_t outstanding_period;
    bool request_posted; /* the owner has been told and has not looked yet */
    uint64_t lanes_from; /* the waiters of lanes with smaller ids are gone */
    bool open;           /* a control channel is up */
    bool for_lanes;      /* of a UDP service, set once after init; see below */
    /* Set once after init: a channel for one who waits, on that one's worker. False: he has no use
     * for it any more, and it is still the caller's. */
    bool (*matched)(struct server_worker *worker, const struct pool_match *match,
                    struct transport channel);
};

/* The pool of a UDP service serves lanes (lane.h) instead of visitors: there are few, each
 * needs one channel for as long as it lives, and has its place in the queue whether a control
 * channel is up or not. Nothing is kept beyond what they wait for. */

MUST_CHECK int channel_pool_init(struct channel_pool *pool);
void channel_pool_finish(struct channel_pool *pool); /* closes what is parked */

enum pool_take { POOL_TAKEN, POOL_WAITING, POOL_FULL, POOL_CLOSED };
/* A visitor needs a channel: the oldest parked one, as upstream, or a place in the queue. first:
 * the visitor is new (it counts as demand). ret_notify: the caller tells the control channel's
 * owner that channels are wanted. */
enum pool_take channel_pool_take(struct channel_pool *pool, struct pool_waiter *waiter, bool first,
                                 uint64_t now_ns, struct pool_channel *ret, bool *ret_notify);
/* For lanes: joins the queue, unless it is there already. A new session does this for all, so that
 * its first requests are for them. */
void channel_pool_queue(struct channel_pool *pool, struct pool_waiter *waiter);
struct pool_match {
    struct tunnel_worker *worker; /* NULL for lanes, whose id says theirs */
    struct pool_waiter *waiter;   /* of a lane: for channel_pool_undo alone, it may be gone */
    uint64_t visitor_id;
};

/* How a channel comes to the pool. */
struct pool_offer {
    struct transport transport;
    bool requested; /* by us, from the client; otherwise a visitor of ours had no use for it */
    bool may_park;  /* false: descriptors are scarce, so only for a visitor that waits */
    uint64_t now_ns;
};

enum pool_offered { POOL_PARKED, POOL_MATCHED, POOL_SURPLUS };
/* POOL_MATCHED: a visitor waits, ret_match says whose is to get it. POOL_SURPLUS: not wanted, and
 * still the caller's. */
enum pool_offered channel_pool_offer(struct channel_pool *pool, const struct pool_offer *offer,
                                     struct pool_match *ret_match);
/* The match could not be delivered: the waiter is first in the queue again, unless it has been
 * forgotten meanwhile, and the channel is parked (false: not, it is the caller's). */
MUST_CHECK bool channel_pool_undo(struct channel_pool *pool, const struct pool_match *match,
                                  struct transport transport, uint64_t now_ns);
/* The visitor does not wait any more. False: a channel is on its way to it. */
bool channel_pool_leave(struct channel_pool *pool, struct pool_waiter *waiter);
/* Of a lane that is no more, before its memory goes: out of the queue, and no undo puts it back.
 * Lanes are forgotten in the order of their ids. */
void channel_pool_forget(struct channel_pool *pool, struct pool_waiter *waiter);

/* A control channel came up: the first requests. */
void channel_pool_open(struct channel_pool *pool, uint64_t now_ns);
/* It went down, or another takes its place: hands out what was parked (at most LIMIT_POOL_PARKED
 * channels, to be closed by the caller) and forgets all requests. Visitors stay in the queue. */
size_t channel_pool_close(struct channel_pool *pool, struct transport *ret, bool reopening);
/* What to request now, at most max; the caller does. */
uint32_t channel_pool_claim_requests(struct channel_pool *pool, uint32_t max);
/* Once a second or so: forgets stale requests, finds out what is wanted, and hands out channels
 * beyond what the demand of late justifies (to be closed). ret_lost: requests given up, ret_notify
 * as above. */
size_t channel_pool_tend(struct channel_pool *pool, uint64_t now_ns, struct transport *ret,
                         size_t max, uint32_t *ret_lost, bool *ret_notify);
/* Descriptors have run out: hands out half of what is parked, the oldest, and forgets the demand
 * that led to it. */
size_t channel_pool_shed(struct channel_pool *pool, struct transport *ret, size_t max);
/* How many visitors wait for a channel. */
uint32_t channel_pool_waiting(struct channel_pool *pool);
/* For logs and tests. */
uint32_t channel_pool_target(struct channel_pool *pool, uint64_t now_ns);
