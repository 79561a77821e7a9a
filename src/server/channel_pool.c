#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "channel_pool_priv.h"
#include "io/socket.h"

int channel_pool_init(struct channel_pool *pool)
{
    memset(pool, 0, sizeof(*pool));
    pool->slots = calloc(1, sizeof(*pool->slots));
    if (pool->slots == NULL)
        return -ENOMEM;
    pool->slot_room = 1;
    (void)pthread_mutex_init(&pool->lock, NULL);
    list_init(&pool->waiting);
    return 0;
}

void channel_pool_finish(struct channel_pool *pool)
{
    struct pool_channel channel;
    if (pool->slots == NULL)
        return;
    for (uint32_t i = 0; i < pool->slot_count; i++) {
        struct pool_source *source = pool->slots[i].source;
        while (source != NULL && pool_source_unpark(source, &channel)) {
            socket_close_cleanly(channel.transport.fd);
            (void)close(channel.transport.fd);
            link_free(channel.transport.link);
        }
        if (source != NULL)
            pool_source_finish(source);
    }
    free(pool->slots);
    pool->slots = NULL;
    (void)pthread_mutex_destroy(&pool->lock);
}

/* ---- sources, under the lock ---- */

static uint32_t load_of_taking(const struct pool_source *source)
{
    return source->parked_count > 0 ? source->open : UINT32_MAX;
}

static uint32_t load_of_asking(const struct pool_source *source)
{
    return source->open + source->parked_count + pool_source_coming(source);
}

/* The one source of a pool that has no other: most have one client. NULL: it has none, or several.
 * It is in the last slot, not in the first one, if it came before its predecessor had gone. */
static struct pool_source *sole_source(const struct channel_pool *pool)
{
    return pool->source_count == 1 ? pool->slots[pool->slot_count - 1].source : NULL;
}

/* The source with the least load, the first from *turn on. NULL: none has less than UINT32_MAX.
 * avoid: not this one; NULL: none. */
static struct pool_source *pick(const struct channel_pool *pool, uint32_t *turn,
                                uint32_t (*load_of)(const struct pool_source *source),
                                const struct pool_source *avoid)
{
    struct pool_source *best = NULL;
    uint32_t least = UINT32_MAX;
    uint32_t at = *turn;
    for (uint32_t i = 0; i < pool->slot_count; i++, at++) {
        at = at < pool->slot_count ? at : 0;
        struct pool_source *source = pool->slots[at].source;
        bool is_usable = source != NULL && source != avoid && pool_uses(pool, source);
        uint32_t load = is_usable ? load_of(source) : UINT32_MAX;
        if (load < least) {
            least = load;
            best = source;
        }
    }
    if (best != NULL)
        *turn = best->handle.index + 1;
    return best;
}

/* ---- requests, under the lock ---- */

/* Has the sources request as many more channels as are missing. */
static void spread(struct channel_pool *pool, uint32_t missing)
{
    while (missing > 0) {
        struct pool_source *source = pick(pool, &pool->asked_turn, load_of_asking, NULL);
        if (source == NULL)
            return;
        /* Not all at once, so that the others get their part, and not one by one. */
        uint32_t part = (missing + pool->source_count - 1) / pool->source_count;
        source->wanted += part;
        missing -= part;
    }
}

/* True: the source's worker has to be told that it is to request channels. */
static bool has_to_be_told(struct pool_source *source)
{
    /* Relaxed: the message that tells the worker orders what it reads. */
    if (source->wanted == 0 || atomic_load_explicit(&source->request_posted, memory_order_relaxed))
        return false;
    atomic_store_explicit(&source->request_posted, true, memory_order_relaxed);
    return true;
}

static pool_notice notice_of(const struct pool_source *source)
{
    return UINT64_C(1) << source->worker_index % POOL_NOTICE_BITS;
}

pool_notice channel_pool_find_wanted(struct channel_pool *pool, uint64_t now_ns)
{
    struct pool_source *sole = sole_source(pool);
    if (sole != NULL && !pool->for_lanes) {
        uint32_t all = pool_target(pool, now_ns) + pool->waiting_count;
        uint32_t has = sole->parked_count + pool_source_coming(sole);
        sole->wanted += all > has ? all - has : 0;
        return has_to_be_told(sole) ? notice_of(sole) : 0;
    }
    uint32_t needed = pool->waiting_count, there = 0;
    pool_notice notice = 0;
    for (uint32_t i = 0; i < pool->slot_count; i++) {
        struct pool_source *source = pool->slots[i].source;
        if (source == NULL || !pool_uses(pool, source))
            continue;
        uint32_t own = pool_own_target(pool, source);
        uint32_t has = source->parked_count + pool_source_coming(source);
        if (has < own)
            source->wanted += own - has;
        there += MAX(has, own);
        needed += pool->for_lanes ? own : 0;
    }
    if (!pool->for_lanes)
        needed += pool_target(pool, now_ns);
    if (needed > there && pool->source_count > 0)
        spread(pool, needed - there);
    for (uint32_t i = 0; i < pool->slot_count; i++) {
        struct pool_source *source = pool->slots[i].source;
        if (source != NULL && has_to_be_told(source))
            notice |= notice_of(source);
    }
    return notice;
}

/* ---- visitors and channels ---- */

static void join_queue(struct channel_pool *pool, struct pool_waiter *waiter, bool first)
{
    struct pool_source *own = pool_find(pool, waiter->only);
    struct list *queue = own != NULL ? &own->waiting : &pool->waiting;
    if (first)
        list_push_front(queue, &waiter->node);
    else
        list_push_back(queue, &waiter->node);
    waiter->waiting = true;
    *(own != NULL ? &own->waiting_count : &pool->waiting_count) += 1;
}

bool pool_leave_queue(struct channel_pool *pool, struct pool_waiter *waiter)
{
    bool was_waiting = waiter->waiting;
    if (was_waiting) {
        struct pool_source *own = pool_find(pool, waiter->only);
        list_remove(&waiter->node);
        waiter->waiting = false;
        *(own != NULL ? &own->waiting_count : &pool->waiting_count) -= 1;
    }
    return was_waiting;
}

/* Whether nobody can ever give it a channel: it waits for that of a source that has gone. */
static bool is_orphan(const struct channel_pool *pool, const struct pool_waiter *waiter)
{
    return waiter->only.generation != 0 && pool_find(pool, waiter->only) == NULL;
}

static bool has_other(const struct channel_pool *pool, const struct pool_source *source)
{
    uint32_t used = pool->source_count - pool->doubted_count;
    if (used == 0)
        used = pool->source_count;
    return used > (source != NULL && pool_uses(pool, source) ? 1 : 0);
}

/* The source whose channels the waiter leaves to others. NULL: none, or it is the only one. */
static const struct pool_source *avoided_by(const struct channel_pool *pool,
                                            const struct pool_waiter *waiter)
{
    const struct pool_source *avoided = pool_find(pool, waiter->avoid);
    return avoided != NULL && has_other(pool, avoided) ? avoided : NULL;
}

/* A source with a parked channel for the waiter. NULL: there is none. */
static struct pool_source *source_for(struct channel_pool *pool, const struct pool_waiter *waiter)
{
    if (waiter->only.generation == 0 && sole_source(pool) != NULL)
        return pool->parked_count > 0 ? sole_source(pool) : NULL;
    if (waiter->only.generation == 0)
        return pool->parked_count > 0
                   ? pick(pool, &pool->turn, load_of_taking, avoided_by(pool, waiter))
                   : NULL;
    struct pool_source *own = pool_find(pool, waiter->only);
    return own != NULL && own->parked_count > 0 ? own : NULL;
}

enum pool_take channel_pool_take(struct channel_pool *pool, struct pool_waiter *waiter, bool first,
                                 uint64_t now_ns, struct pool_channel *ret, pool_notice *ret_notice)
{
    enum pool_take result;
    struct pool_source *source;
    *ret_notice = 0;
    (void)pthread_mutex_lock(&pool->lock);
    if (first)
        pool_demand_note(&pool->demand, now_ns);
    if (waiter->waiting || waiter->matched) {
        result = POOL_WAITING; /* a lane that a new session has queued (channel_pool_queue) */
    } else if (is_orphan(pool, waiter) || (pool->source_count == 0 && !pool->for_lanes)) {
        result = POOL_CLOSED;
    } else if ((source = source_for(pool, waiter)) != NULL) {
        pool_unpark(pool, source, ret);
        source->open += !pool->for_lanes;
        result = POOL_TAKEN;
        *ret_notice = channel_pool_find_wanted(pool, now_ns);
    } else if (pool->waiting_count >= LIMIT_VISITORS_WAITING) {
        result = POOL_FULL;
    } else {
        join_queue(pool, waiter, waiter->avoid.generation != 0);
        result = POOL_WAITING;
        *ret_notice = channel_pool_find_wanted(pool, now_ns);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return result;
}

static void leave_source(const struct channel_pool *pool, struct pool_handle handle)
{
    struct pool_source *source = pool_find(pool, handle);
    if (source != NULL && source->open > 0)
        source->open--;
}

void channel_pool_left(struct channel_pool *pool, struct pool_handle source)
{
    if (source.generation == 0)
        return;
    (void)pthread_mutex_lock(&pool->lock);
    leave_source(pool, source);
    (void)pthread_mutex_unlock(&pool->lock);
}

void channel_pool_queue(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    if (!waiter->waiting && !is_orphan(pool, waiter))
        join_queue(pool, waiter, false);
    (void)pthread_mutex_unlock(&pool->lock);
}

void channel_pool_arrived(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    waiter->matched = false;
    (void)pthread_mutex_unlock(&pool->lock);
}

/* The first that waits for a channel of the source. NULL: nobody does. */
static struct pool_waiter *first_waiter(struct channel_pool *pool, struct pool_source *source)
{
    struct list *queue = !list_is_empty(&source->waiting) ? &source->waiting : &pool->waiting;
    list_for_each (node, queue) {
        struct pool_waiter *waiter = container_of(node, struct pool_waiter, node);
        if (avoided_by(pool, waiter) == source)
            continue;
        (void)pool_leave_queue(pool, waiter);
        return waiter;
    }
    return NULL;
}

static bool park(struct channel_pool *pool, struct pool_source *source, struct transport transport,
                 uint64_t now_ns)
{
    bool has_room = pool->parked_count < LIMIT_POOL_PARKED ||
                    (pool->source_count > 1 && source->parked_count < LIMIT_POOL_SOURCE_MIN);
    if (!has_room || pool_source_park(source, transport, now_ns) < 0)
        return false;
    pool->parked_count++;
    return true;
}

/* True: the source was doubted until now. */
static bool note_arrival(struct channel_pool *pool, struct pool_source *source)
{
    pool_source_note_arrival(source);
    if (!source->is_doubted)
        return false;
    pool_set_doubted(pool, source, false);
    return true;
}

enum pool_offered channel_pool_offer(struct channel_pool *pool, const struct pool_offer *offer,
                                     struct pool_match *ret_match)
{
    enum pool_offered result = POOL_SURPLUS;
    (void)pthread_mutex_lock(&pool->lock);
    struct pool_source *source = pool_find(pool, offer->source);
    struct pool_waiter *waiter = NULL;
    bool ends_doubt = false;
    if (source != NULL) {
        if (offer->requested)
            ends_doubt = note_arrival(pool, source);
        else if (!pool->for_lanes)
            leave_source(pool, offer->source);
        waiter = first_waiter(pool, source);
    }
    if (waiter != NULL) {
        waiter->matched = pool->for_lanes;
        source->open += !pool->for_lanes;
        *ret_match = (struct pool_match){waiter->worker, waiter, waiter->visitor_id, offer->source,
                                         .wakes = false};
        result = POOL_MATCHED;
    } else if (!offer->may_park) {
        /* Lower the demand, or the pool would go on requesting channels that it can't keep. */
        pool_demand_lower(&pool->demand, pool->parked_count);
    } else if (source != NULL && park(pool, source, offer->transport, offer->now_ns)) {
        result = POOL_PARKED;
    }
    ret_match->wakes = ends_doubt && pool->waiting_count > 0 && pool->parked_count > 0;
    (void)pthread_mutex_unlock(&pool->lock);
    return result;
}

bool channel_pool_undo(struct channel_pool *pool, const struct pool_match *match,
                       struct transport transport, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&pool->lock);
    bool is_gone = pool->for_lanes && match->visitor_id < pool->lanes_from;
    if (!is_gone)
        match->waiter->matched = false;
    /* A new session may have queued the lane again. */
    if (!is_gone && !match->waiter->waiting && !is_orphan(pool, match->waiter))
        join_queue(pool, match->waiter, true);
    struct pool_source *source = pool_find(pool, match->source);
    if (!pool->for_lanes)
        leave_source(pool, match->source);
    bool parked = source != NULL && park(pool, source, transport, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    return parked;
}

bool channel_pool_leave(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    bool was_waiting = pool_leave_queue(pool, waiter);
    (void)pthread_mutex_unlock(&pool->lock);
    return was_waiting;
}

void channel_pool_forget(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    (void)pool_leave_queue(pool, waiter);
    pool->lanes_from = MAX(pool->lanes_from, waiter->visitor_id + 1);
    (void)pthread_mutex_unlock(&pool->lock);
}

/* ---- for those who look on ---- */

uint32_t channel_pool_target(struct channel_pool *pool, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t target = pool_target(pool, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    return target;
}

uint32_t channel_pool_sources(struct channel_pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t count = pool->source_count;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

uint32_t channel_pool_parked(struct channel_pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t count = pool->parked_count;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

bool channel_pool_has_other(struct channel_pool *pool, struct pool_handle source)
{
    (void)pthread_mutex_lock(&pool->lock);
    bool result = has_other(pool, pool_find(pool, source));
    (void)pthread_mutex_unlock(&pool->lock);
    return result;
}

bool channel_pool_has_parked(struct channel_pool *pool)
{
    return channel_pool_parked(pool) > 0;
}

uint32_t channel_pool_waiting(struct channel_pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t count = pool->waiting_count;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}
