/* A source of data channels: what the pool of a service (channel_pool.h) has of one session. It is
 * embedded in the session, and the pool knows it from channel_pool_open to channel_pool_close.
 *
 * Its parked channels are in a ring that begins small and grows. The pool's lock protects all
 * fields while the pool knows the source. Afterwards the source belongs to its session alone, with
 * the channels that are still parked: pool_source_unpark hands them out, and pool_source_finish
 * frees the ring. */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/list.h"
#include "base/macros.h"
#include "net/transport.h"

/* Names a source, in a visitor, a lane or a message, for as long as anybody likes: once the source
 * has gone, the handle stands for nothing. It comes to stand for a later source only after that
 * many sessions have had the same place one after the other. */
struct pool_handle {
    uint32_t index : 10;
    uint32_t generation : 22; /* 0: the handle of no source */
};
enum { POOL_GENERATIONS = (1 << 22) - 1 };
static_assert(LIMIT_SESSIONS == 1 << 10, "an index for each");
static_assert(sizeof(struct pool_handle) == 4, "a visitor's message has no more room");

struct pool_channel {
    struct transport transport;
    uint64_t parked_at_ns; /* by the clock of the worker that parked it */
    struct pool_handle source;
};

struct pool_source {
    struct pool_handle handle;   /* while the pool knows it */
    unsigned int worker_index;   /* of its control channel */
    struct pool_channel *parked; /* a ring, oldest first; its room is a power of two */
    uint32_t parked_room, parked_first, parked_count;
    uint32_t wanted; /* channels that the control channel is still to request */
    uint32_t outstanding, outstanding_older; /* requested: in this period, in the one before */
    uint64_t outstanding_period;
    uint32_t open;               /* visitors that have got a channel of it and have not left */
    bool is_doubted;             /* its client does not answer: others come first */
    _Atomic bool request_posted; /* the control channel's worker was told, and has not looked yet */
    struct list waiting;         /* lanes that wait for a channel of this source alone */
    uint32_t waiting_count;
};

void pool_source_init(struct pool_source *source);
/* Frees the ring. No channel may be left in it. */
void pool_source_finish(struct pool_source *source);
/* Puts a channel behind the others. -ENOMEM. */
MUST_CHECK int pool_source_park(struct pool_source *source, struct transport transport,
                                uint64_t now_ns);
/* Takes the oldest channel. False: none is parked. */
bool pool_source_unpark(struct pool_source *source, struct pool_channel *ret);
/* Forgets requests that are older than the period before this one. Returns their number. */
uint32_t pool_source_age_requests(struct pool_source *source, uint64_t now_ns);
/* A requested channel has come. */
void pool_source_note_arrival(struct pool_source *source);
/* The channels that were requested, or are to be, and have not come. */
static inline uint32_t pool_source_coming(const struct pool_source *source)
{
    return source->wanted + source->outstanding + source->outstanding_older;
}
