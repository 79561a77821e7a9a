/* What the files of a channel pool share: channel_pool.c has visitors and channels,
 * channel_pool_sources.c what the control channels do with their sources. The caller of each
 * function holds the pool's lock. */
#pragma once

#include "server/channel_pool.h"

/* NULL: it has gone. */
static inline struct pool_source *pool_find(const struct channel_pool *pool,
                                            struct pool_handle handle)
{
    if (handle.generation == 0 || handle.index >= pool->slot_count ||
        pool->slots[handle.index].generation != handle.generation)
        return NULL;
    return pool->slots[handle.index].source;
}

static inline bool pool_has(const struct channel_pool *pool, const struct pool_source *source)
{
    return pool_find(pool, source->handle) == source;
}

static inline void pool_unpark(struct channel_pool *pool, struct pool_source *source,
                               struct pool_channel *ret)
{
    (void)pool_source_unpark(source, ret);
    pool->parked_count--;
}

/* Whether visitors go to it. */
static inline bool pool_uses(const struct channel_pool *pool, const struct pool_source *source)
{
    return !source->is_doubted || pool->doubted_count == pool->source_count;
}

static inline void pool_set_doubted(struct channel_pool *pool, struct pool_source *source,
                                    bool is_doubted)
{
    pool->doubted_count += (uint32_t)is_doubted - (uint32_t)source->is_doubted;
    source->is_doubted = is_doubted;
}

/* ---- requests ---- */

/* What a source shall have of its own. */
static inline uint32_t pool_own_target(const struct channel_pool *pool,
                                       const struct pool_source *source)
{
    if (pool->for_lanes)
        return source->waiting_count;
    return pool->source_count > 1 ? LIMIT_POOL_SOURCE_MIN : 0;
}

/* What all sources together shall have parked. */
static inline uint32_t pool_target(struct channel_pool *pool, uint64_t now_ns)
{
    uint32_t least = pool->source_count > 1 ? pool->source_count * LIMIT_POOL_SOURCE_MIN : 0;
    return MAX(pool_demand_target(&pool->demand, now_ns), least);
}

/* Updates what the sources are to request. Returns the workers that have to be told. */
pool_notice channel_pool_find_wanted(struct channel_pool *pool, uint64_t now_ns);

/* ---- queues ---- */

/* True if it was in one. */
bool pool_leave_queue(struct channel_pool *pool, struct pool_waiter *waiter);
