#include "server/channel_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/socket.h"

int channel_pool_init(struct channel_pool *pool)
{
    memset(pool, 0, sizeof(*pool));
    pool->parked = calloc(LIMIT_POOL_PARKED, sizeof(*pool->parked));
    if (pool->parked == NULL)
        return -ENOMEM;
    (void)pthread_mutex_init(&pool->lock, NULL);
    list_init(&pool->waiting);
    return 0;
}

void channel_pool_finish(struct channel_pool *pool)
{
    if (pool->parked == NULL)
        return;
    while (pool->parked_count > 0) {
        socket_close_cleanly(pool->parked[pool->parked_first].transport.fd);
        (void)close(pool->parked[pool->parked_first].transport.fd);
        link_free(pool->parked[pool->parked_first].transport.link);
        pool->parked_first = (pool->parked_first + 1) % LIMIT_POOL_PARKED;
        pool->parked_count--;
    }
    free(pool->parked);
    pool->parked = NULL;
    (void)pthread_mutex_destroy(&pool->lock);
}

/* ---- demand ---- */

static void demand_advance(struct pool_demand *demand, uint64_t now_ns)
{
    uint64_t bucket = now_ns / (ms_to_ns(POOL_BUCKET_MS));
    uint64_t period = now_ns / (ms_to_ns(LIMIT_POOL_HOLD_MS));
    /* Each worker passes the time of its own turn, which may be a little behind another's. */
    if (bucket < demand->bucket_index || period < demand->period_index)
        return;
    if (period != demand->period_index) {
        demand->last_peak = period == demand->period_index + 1 ? demand->peak : 0;
        demand->peak = 0;
        demand->period_index = period;
    }
    if (bucket - demand->bucket_index >= POOL_BUCKETS) {
        memset(demand->buckets, 0, sizeof(demand->buckets));
    } else {
        for (uint64_t i = demand->bucket_index + 1; i <= bucket; i++)
            demand->buckets[i % POOL_BUCKETS] = 0;
    }
    demand->bucket_index = bucket;
}

static void demand_note(struct pool_demand *demand, uint64_t now_ns)
{
    demand_advance(demand, now_ns);
    demand->buckets[demand->bucket_index % POOL_BUCKETS]++;
    uint32_t sum = 0;
    for (size_t i = 0; i < POOL_BUCKETS; i++)
        sum += demand->buckets[i];
    if (sum > demand->peak)
        demand->peak = sum;
}

static uint32_t demand_target(struct pool_demand *demand, uint64_t now_ns)
{
    demand_advance(demand, now_ns);
    uint32_t peak = MAX(demand->peak, demand->last_peak);
    return MIN(MAX(peak, (uint32_t)LIMIT_POOL_MIN), (uint32_t)LIMIT_POOL_MAX);
}

/* ---- under the lock ---- */

static void park(struct channel_pool *pool, struct transport transport, uint64_t now_ns)
{
    uint32_t last = (pool->parked_first + pool->parked_count) % LIMIT_POOL_PARKED;
    pool->parked[last] = (struct pool_channel){transport, now_ns};
    pool->parked_count++;
}

static struct pool_channel unpark(struct channel_pool *pool)
{
    struct pool_channel channel = pool->parked[pool->parked_first];
    pool->parked_first = (pool->parked_first + 1) % LIMIT_POOL_PARKED;
    pool->parked_count--;
    return channel;
}

/* Updates pool->wanted. True: the worker of the control channel has to be told. */
static bool find_wanted(struct channel_pool *pool, uint64_t now_ns)
{
    if (!pool->open)
        return false;
    uint32_t target = pool->for_lanes ? 0 : demand_target(&pool->demand, now_ns);
    uint32_t needed = target + pool->waiting_count;
    uint32_t coming =
        pool->parked_count + pool->outstanding + pool->outstanding_older + pool->wanted;
    if (needed > coming)
        pool->wanted += needed - coming;
    if (pool->wanted == 0 || pool->request_posted)
        return false;
    pool->request_posted = true;
    return true;
}

/* Forgets requests that are older than the period before this one. Returns their number. */
static uint32_t age_requests(struct channel_pool *pool, uint64_t now_ns)
{
    uint64_t period = now_ns / (ms_to_ns(LIMIT_CHANNEL_REQUEST_MS));
    if (period <= pool->outstanding_period)
        return 0;
    uint32_t lost = pool->outstanding_older;
    pool->outstanding_older = pool->outstanding;
    pool->outstanding = 0;
    if (period != pool->outstanding_period + 1) {
        lost += pool->outstanding_older;
        pool->outstanding_older = 0;
    }
    pool->outstanding_period = period;
    return lost;
}

static void note_arrival(struct channel_pool *pool)
{
    if (pool->outstanding_older > 0)
        pool->outstanding_older--;
    else if (pool->outstanding > 0)
        pool->outstanding--;
}

/* ---- visitors and channels ---- */

static void join_queue(struct channel_pool *pool, struct pool_waiter *waiter)
{
    list_push_back(&pool->waiting, &waiter->node);
    waiter->waiting = true;
    pool->waiting_count++;
}

enum pool_take channel_pool_take(struct channel_pool *pool, struct pool_waiter *waiter, bool first,
                                 uint64_t now_ns, struct pool_channel *ret, bool *ret_notify)
{
    enum pool_take result;
    *ret_notify = false;
    (void)pthread_mutex_lock(&pool->lock);
    if (first)
        demand_note(&pool->demand, now_ns);
    if (waiter->waiting || waiter->matched) {
        result = POOL_WAITING; /* a lane that a new session has queued (channel_pool_queue) */
    } else if (!pool->open && !pool->for_lanes) {
        result = POOL_CLOSED;
    } else if (pool->parked_count > 0) {
        *ret = unpark(pool);
        result = POOL_TAKEN;
        *ret_notify = find_wanted(pool, now_ns);
    } else if (pool->waiting_count >= LIMIT_VISITORS_WAITING) {
        result = POOL_FULL;
    } else {
        join_queue(pool, waiter);
        result = POOL_WAITING;
        *ret_notify = find_wanted(pool, now_ns);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return result;
}

void channel_pool_queue(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    if (!waiter->waiting)
        join_queue(pool, waiter);
    (void)pthread_mutex_unlock(&pool->lock);
}

void channel_pool_arrived(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    waiter->matched = false;
    (void)pthread_mutex_unlock(&pool->lock);
}

enum pool_offered channel_pool_offer(struct channel_pool *pool, const struct pool_offer *offer,
                                     struct pool_match *ret_match)
{
    enum pool_offered result;
    (void)pthread_mutex_lock(&pool->lock);
    if (offer->requested)
        note_arrival(pool);
    struct list *node = list_pop_front(&pool->waiting);
    if (node != NULL) {
        struct pool_waiter *waiter = container_of(node, struct pool_waiter, node);
        waiter->waiting = false;
        waiter->matched = pool->for_lanes;
        pool->waiting_count--;
        *ret_match = (struct pool_match){waiter->worker, waiter, waiter->visitor_id};
        result = POOL_MATCHED;
    } else if (!offer->may_park) {
        /* Lower the demand, or the pool would go on requesting channels that it can't keep. */
        pool->demand.peak = pool->demand.last_peak = pool->parked_count;
        result = POOL_SURPLUS;
    } else if (!pool->open || pool->parked_count == LIMIT_POOL_PARKED) {
        result = POOL_SURPLUS;
    } else {
        park(pool, offer->transport, offer->now_ns);
        result = POOL_PARKED;
    }
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
    if (!is_gone && !match->waiter->waiting) { /* a new session may have queued the lane again */
        list_push_front(&pool->waiting, &match->waiter->node);
        match->waiter->waiting = true;
        pool->waiting_count++;
    }
    bool parked = pool->open && pool->parked_count < LIMIT_POOL_PARKED;
    if (parked)
        park(pool, transport, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    return parked;
}

static bool leave_queue(struct channel_pool *pool, struct pool_waiter *waiter)
{
    bool was_waiting = waiter->waiting;
    if (was_waiting) {
        list_remove(&waiter->node);
        waiter->waiting = false;
        pool->waiting_count--;
    }
    return was_waiting;
}

bool channel_pool_leave(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    bool was_waiting = leave_queue(pool, waiter);
    (void)pthread_mutex_unlock(&pool->lock);
    return was_waiting;
}

void channel_pool_forget(struct channel_pool *pool, struct pool_waiter *waiter)
{
    (void)pthread_mutex_lock(&pool->lock);
    (void)leave_queue(pool, waiter);
    pool->lanes_from = MAX(pool->lanes_from, waiter->visitor_id + 1);
    (void)pthread_mutex_unlock(&pool->lock);
}

/* ---- the control channel's side ---- */

void channel_pool_open(struct channel_pool *pool, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&pool->lock);
    pool->open = true;
    pool->wanted = pool->outstanding = pool->outstanding_older = 0;
    pool->outstanding_period = now_ns / (ms_to_ns(LIMIT_CHANNEL_REQUEST_MS));
    (void)find_wanted(pool, now_ns);
    pool->request_posted = true; /* the control channel looks by itself, for its first write */
    (void)pthread_mutex_unlock(&pool->lock);
}

size_t channel_pool_close(struct channel_pool *pool, struct transport *ret, bool reopening)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&pool->lock);
    pool->open = reopening;
    pool->wanted = pool->outstanding = pool->outstanding_older = 0;
    pool->request_posted = false;
    while (pool->parked_count > 0)
        ret[count++] = unpark(pool).transport;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

uint32_t channel_pool_claim_requests(struct channel_pool *pool, uint32_t max)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t count = MIN(pool->wanted, max);
    pool->wanted -= count;
    pool->outstanding += count;
    pool->request_posted = false;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

size_t channel_pool_tend(struct channel_pool *pool, uint64_t now_ns, struct transport *ret,
                         size_t max, uint32_t *ret_lost, bool *ret_notify)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&pool->lock);
    *ret_lost = age_requests(pool, now_ns);
    uint32_t target = demand_target(&pool->demand, now_ns);
    /* Shrink by an eighth of the surplus at a time: a pool that has to grow again soon still has
     * most of its channels. */
    uint32_t surplus = pool->parked_count > target ? pool->parked_count - target : 0;
    for (uint32_t i = 0; i < (surplus + 7) / 8 && count < max; i++)
        ret[count++] = unpark(pool).transport;
    *ret_notify = find_wanted(pool, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

size_t channel_pool_review(struct channel_pool *pool, pool_keeps_fn *keeps, void *arg,
                           struct transport *ret, size_t max)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&pool->lock);
    for (uint32_t left = pool->parked_count; left > 0 && count < max; left--) {
        struct pool_channel channel = unpark(pool);
        if (keeps(arg, &channel.transport))
            park(pool, channel.transport, channel.parked_at_ns);
        else
            ret[count++] = channel.transport;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

size_t channel_pool_shed(struct channel_pool *pool, struct transport *ret, size_t max)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t half = (pool->parked_count + 1) / 2;
    while (count < half && count < max)
        ret[count++] = unpark(pool).transport;
    pool->demand.peak = pool->demand.last_peak = pool->parked_count;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

uint32_t channel_pool_target(struct channel_pool *pool, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t target = demand_target(&pool->demand, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    return target;
}

uint32_t channel_pool_parked(struct channel_pool *pool)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t count = pool->parked_count;
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
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
