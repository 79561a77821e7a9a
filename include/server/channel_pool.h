/* The pool of one service: its idle data channels, and the visitors of all workers that wait.
 *
 *     client --offer--> parked channels --take--> visitor      a channel was there
 *     visitor --take--> waiting visitors --offer--> matched    a channel came later
 *
 * At most one of the two lists has members, except for a moment after an undone match.
 *
 * Each session of the service is a source (pool_source.h), with its own parked channels and
 * requests. The waiting visitors are in one queue: the first channel that comes, from whichever
 * source, is theirs. A visitor that finds parked channels gets one of the source with the fewest
 * open visitors, and missing channels are requested from the sources with the fewest visitors and
 * channels; equal sources take turns. A visitor keeps the handle of its channel's source, and
 * leaves the source at its end (channel_pool_left).
 *
 * A parked channel has no operation in flight and belongs to the pool alone, so any worker may take
 * it. The number of channels that the pool keeps follows the demand: the most that visitors have
 * taken within half a second, remembered for once to twice LIMIT_POOL_HOLD_MS, but at least
 * LIMIT_POOL_MIN and at most LIMIT_POOL_MAX, over all sources; of several sources each has at least
 * LIMIT_POOL_SOURCE_MIN. A source's control channel requests missing ones from its client. A
 * request that has brought no channel after once to twice LIMIT_CHANNEL_REQUEST_MS is forgotten, so
 * that the pool asks again.
 *
 * The pool of a UDP service serves lanes (lane.h) instead of visitors. There are few lanes, each
 * needs one channel for as long as the lane lives, and a lane may queue while no control channel is
 * up. Such a pool requests no more channels than its lanes wait for. A lane may also wait for a
 * channel of one source alone (`only`): it is then in that source's own queue, which comes before
 * the pool's, and leaves it when the source is closed. Lanes are no open visitors of a source,
 * unless whoever has several channels in a lane counts them (channel_pool_enter).
 *
 * Any worker may call; every function takes the pool's lock for a short time. The pool closes no
 * descriptor except in channel_pool_finish: it returns them to the caller. Callers pass the time,
 * by the clock of their loop. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/list.h"
#include "base/macros.h"
#include "net/transport.h"
#include "server/pool_demand.h"
#include "server/pool_source.h"

struct pool_match;
struct server_worker;
struct service;
struct tunnel_worker;

/* A visitor's place in the queue, embedded in the visitor. The visitor must not be freed until it
 * has left the queue, or its match has arrived or been undone. A lane's place is in its binding and
 * may be freed while a match is on its way, so a match names the lane by its id. */
struct pool_waiter {
    struct list node;
    struct tunnel_worker *worker;
    uint64_t visitor_id;     /* or the lane's id (binding.h) */
    struct pool_handle only; /* a lane's: the source that it wants; zero: any */
    /* A visitor's: the source that it has just lost a channel of. It wants another one, if there is
     * one, and comes before the others. Zero: none. */
    struct pool_handle avoid;
    bool waiting; /* in the queue; under the pool's lock, as the next */
    bool matched; /* a lane's: a channel is on its way to it */
};

/* A place for a source. Its generation counts the sources that have had it. */
struct pool_slot {
    struct pool_source *source; /* NULL: free */
    uint32_t generation;
};

/* The workers whose control channels are to send requests: bit i for those with index i modulo 64.
 * 0: none. The caller tells them (exchange_notify). */
typedef uint64_t pool_notice;
enum { POOL_NOTICE_BITS = 64 };

struct channel_pool {
    pthread_mutex_t lock; /* protects all fields below, and those of the sources */
    struct list waiting;
    uint32_t waiting_count;    /* in this queue */
    uint32_t parked_count;     /* of all sources */
    struct pool_slot *slots;   /* by index of the handle */
    uint32_t slot_room;        /* of the array */
    uint32_t slot_count;       /* all beyond are free */
    uint32_t source_count;     /* 0: no control channel is up */
    uint32_t doubted_count;    /* of these; if there are others, they alone are used */
    uint32_t turn, asked_turn; /* of equal sources the first one from here on: takes, requests */
    struct pool_demand demand;
    uint64_t lanes_from; /* lanes with smaller ids are forgotten */
    bool for_lanes;      /* the service is UDP; set once after init */
    /* Gives a channel to the waiter of a match, on the waiter's worker. False: the waiter has no
     * use for it any more, and the channel is still the caller's. Set once after init. */
    bool (*matched)(struct server_worker *worker, struct service *service,
                    const struct pool_match *match, struct transport channel);
};

/* -ENOMEM. */
MUST_CHECK int channel_pool_init(struct channel_pool *pool);
/* The parked channels of sources that are still open are closed. */
void channel_pool_finish(struct channel_pool *pool);

enum pool_take { POOL_TAKEN, POOL_WAITING, POOL_FULL, POOL_CLOSED };
/* A visitor needs a channel. It gets the oldest parked one of the source with the fewest open
 * visitors, or joins the queue. first: the visitor is new and counts as demand.
 *
 * POOL_TAKEN: *ret is the caller's, and the visitor is counted as open (channel_pool_left).
 * POOL_FULL: LIMIT_VISITORS_WAITING wait already. POOL_CLOSED: no control channel is up. */
enum pool_take channel_pool_take(struct channel_pool *pool, struct pool_waiter *waiter, bool first,
                                 uint64_t now_ns, struct pool_channel *ret,
                                 pool_notice *ret_notice);
/* A visitor has ended, or has no use for its channel, which is not offered again. Does nothing if
 * the source has gone. */
void channel_pool_left(struct channel_pool *pool, struct pool_handle source);
/* Whether there is a source but for this one, which may have gone. */
bool channel_pool_has_other(struct channel_pool *pool, struct pool_handle source);
/* For a lane that has several channels: counts a visitor as open at the source with the fewest, and
 * returns its place in the array. count: at least 1. */
size_t channel_pool_enter(struct channel_pool *pool, const struct pool_handle *sources,
                          size_t count);
/* The sources, at most max of them, from one that `turn` chooses; returns their number. */
size_t channel_pool_list(struct channel_pool *pool, uint32_t turn, struct pool_handle *ret,
                         size_t max);
/* Whether a source has neither gone nor been replaced. */
bool channel_pool_is_open(struct channel_pool *pool, struct pool_handle source);
/* Has a lane's waiter wait for a channel of that source alone (zero: of any) from its next take on.
 * It leaves the queue, and a channel that is on its way does not count any more. */
void channel_pool_assign(struct channel_pool *pool, struct pool_waiter *waiter,
                         struct pool_handle only);
/* Puts a lane into the queue unless it is there already. A new session does this for all lanes, so
 * that its first requests count them. */
void channel_pool_queue(struct channel_pool *pool, struct pool_waiter *waiter);
/* A lane has got the channel of its match. Until then channel_pool_take does not ask for another
 * one: a login may have come before the lane's start. */
void channel_pool_arrived(struct channel_pool *pool, struct pool_waiter *waiter);
struct pool_match {
    struct tunnel_worker *worker; /* NULL for a lane: its id tells the worker */
    struct pool_waiter *waiter;   /* a lane's may be freed: only channel_pool_undo may use it */
    uint64_t visitor_id;
    struct pool_handle source; /* of the channel; the visitor is counted as open there */
    bool wakes; /* the offer has ended a doubt (channel_pool_doubt), and others still wait */
};

/* A channel for the pool. */
struct pool_offer {
    struct transport transport;
    struct pool_handle source;
    bool requested; /* it comes from the client; false: a visitor had no use for it, and leaves the
                       source */
    bool may_park;  /* false: descriptors are scarce, so only a waiting visitor gets it */
    uint64_t now_ns;
};

enum pool_offered { POOL_PARKED, POOL_MATCHED, POOL_SURPLUS };
/* POOL_PARKED: the pool owns the channel now. POOL_MATCHED: the caller delivers it to the waiter in
 * *ret_match. POOL_SURPLUS: the caller closes it; so it is with all channels of a source that has
 * gone. ret_match->wakes is set in every case. */
enum pool_offered channel_pool_offer(struct channel_pool *pool, const struct pool_offer *offer,
                                     struct pool_match *ret_match);
/* A match could not be delivered. Puts the waiter first in the queue again, unless it has been
 * forgotten meanwhile, and parks the channel. False: the channel was not parked and is the
 * caller's. */
MUST_CHECK bool channel_pool_undo(struct channel_pool *pool, const struct pool_match *match,
                                  struct transport transport, uint64_t now_ns);
/* Takes a waiter out of the queue. False: it was not queued, so a channel may be on its way. */
bool channel_pool_leave(struct channel_pool *pool, struct pool_waiter *waiter);
/* To be called before a lane's waiter is freed: takes it out of the queue, and no undo puts it
 * back. Lanes are forgotten in the order of their ids. */
void channel_pool_forget(struct channel_pool *pool, struct pool_waiter *waiter);

/* A control channel is up: adds its source, and computes its first requests, which its first write
 * claims. *ret_notice: of the others. ERR_LIMIT: LIMIT_SESSIONS are there. -ENOMEM. */
MUST_CHECK int channel_pool_open(struct channel_pool *pool, struct pool_source *source,
                                 unsigned int worker_index, uint64_t now_ns,
                                 pool_notice *ret_notice);
/* The control channel is down, or another takes its place. The source's requests are made to
 * others, and visitors stay in the queue. Afterwards the caller closes the channels that are parked
 * in the source, without any lock. Does nothing if the source is closed. */
void channel_pool_close(struct channel_pool *pool, struct pool_source *source, uint64_t now_ns,
                        pool_notice *ret_notice);
/* The source's client does not answer (any more), or does: while others do, it gets no visitors and
 * no requests. A channel that comes from it is an answer. True: this is a change, and visitors that
 * wait may find parked channels that they could not take before (exchange_wake_waiters). */
bool channel_pool_doubt(struct channel_pool *pool, struct pool_source *source, bool is_doubted,
                        uint64_t now_ns, pool_notice *ret_notice);
/* A channel of the source has failed before its client answered with a byte: the client may be
 * dying, or can't reach its local service. While it closes its connections one by one, it would be
 * the least loaded of all, and get one visitor after the other. Doubts it if there are others, as
 * channel_pool_doubt. */
bool channel_pool_lost(struct channel_pool *pool, struct pool_handle handle, uint64_t now_ns,
                       pool_notice *ret_notice);
/* The number of channels, at most max, that the caller requests from the source's client now. */
uint32_t channel_pool_claim_requests(struct channel_pool *pool, struct pool_source *source,
                                     uint32_t max);
/* To be called about once a second for each source. Forgets its old requests, finds out how many
 * channels are wanted, and returns how many of its parked channels are more than the demand
 * justifies; `ret` gets these, at most max, and the caller closes them. *ret_lost: requests that
 * were forgotten. */
size_t channel_pool_tend(struct channel_pool *pool, struct pool_source *source, uint64_t now_ns,
                         struct transport *ret, size_t max, uint32_t *ret_lost,
                         pool_notice *ret_notice);
/* Whether a parked channel is kept. Called under the pool's lock. */
typedef bool pool_keeps_fn(void *arg, const struct transport *channel);
/* Looks at each parked channel of a source, in their order. Those that are not kept go to ret, at
 * most max, and are the caller's. Returns their number. */
size_t channel_pool_review(struct channel_pool *pool, struct pool_source *source,
                           pool_keeps_fn *keeps, void *arg, struct transport *ret, size_t max);
/* Descriptors have run out. Hands out the older half of each source's parked channels, at most max,
 * for the caller to close, and lowers the remembered demand to the rest. Returns their number. */
size_t channel_pool_shed(struct channel_pool *pool, struct transport *ret, size_t max);
/* Whether a channel is parked, which is so beside waiting visitors only after channel_pool_undo. */
bool channel_pool_has_parked(struct channel_pool *pool);
/* The number of sources. */
uint32_t channel_pool_sources(struct channel_pool *pool);
/* The number of parked channels. */
uint32_t channel_pool_parked(struct channel_pool *pool);
/* The number of visitors, or lanes, that wait for a channel. */
uint32_t channel_pool_waiting(struct channel_pool *pool);
/* The number of channels that the demand justifies. For tests. */
uint32_t channel_pool_target(struct channel_pool *pool, uint64_t now_ns);
