#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "channel_pool_priv.h"

/* The first free slot, if need be behind the others. -ENOMEM. */
static int find_slot(struct channel_pool *pool, uint32_t *ret)
{
    uint32_t at = 0;
    while (at < pool->slot_count && pool->slots[at].source != NULL)
        at++;
    if (at == pool->slot_room) {
        uint32_t room = MAX(2 * pool->slot_room, 1u);
        struct pool_slot *slots = realloc(pool->slots, room * sizeof(*slots));
        if (slots == NULL)
            return -ENOMEM;
        memset(slots + pool->slot_room, 0, (room - pool->slot_room) * sizeof(*slots));
        pool->slots = slots;
        pool->slot_room = room;
    }
    pool->slot_count = MAX(pool->slot_count, at + 1);
    *ret = at;
    return 0;
}

static struct pool_handle begin_generation(struct pool_slot *slot, uint32_t index)
{
    struct pool_handle handle = {.index = index & (LIMIT_SESSIONS - 1)};
    do {
        handle.generation = ++slot->generation & POOL_GENERATIONS;
    } while (handle.generation == 0);
    slot->generation = handle.generation;
    return handle;
}

int channel_pool_open(struct channel_pool *pool, struct pool_source *source,
                      unsigned int worker_index, uint64_t now_ns, pool_notice *ret_notice)
{
    uint32_t index;
    (void)pthread_mutex_lock(&pool->lock);
    int result = pool->source_count < LIMIT_SESSIONS ? find_slot(pool, &index) : ERR_LIMIT;
    if (result == 0) {
        pool_source_init(source);
        source->handle = begin_generation(&pool->slots[index], index);
        source->worker_index = worker_index;
        source->outstanding_period = now_ns / (ms_to_ns(LIMIT_CHANNEL_REQUEST_MS));
        /* The control channel looks by itself, for its first write. */
        atomic_store(&source->request_posted, true);
        pool->slots[index].source = source;
        pool->source_count++;
        *ret_notice = channel_pool_find_wanted(pool, now_ns);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return result;
}

void channel_pool_close(struct channel_pool *pool, struct pool_source *source, uint64_t now_ns,
                        pool_notice *ret_notice)
{
    struct list *node;
    *ret_notice = 0;
    (void)pthread_mutex_lock(&pool->lock);
    if (pool_has(pool, source)) {
        while ((node = list_pop_front(&source->waiting)) != NULL)
            container_of(node, struct pool_waiter, node)->waiting = false;
        pool->slots[source->handle.index].source = NULL;
        while (pool->slot_count > 0 && pool->slots[pool->slot_count - 1].source == NULL)
            pool->slot_count--;
        pool_set_doubted(pool, source, false);
        pool->source_count--;
        pool->parked_count -= source->parked_count;
        source->handle = (struct pool_handle){0};
        *ret_notice = channel_pool_find_wanted(pool, now_ns);
    }
    (void)pthread_mutex_unlock(&pool->lock);
}

bool channel_pool_doubt(struct channel_pool *pool, struct pool_source *source, bool is_doubted,
                        uint64_t now_ns, pool_notice *ret_notice)
{
    *ret_notice = 0;
    (void)pthread_mutex_lock(&pool->lock);
    bool changes = pool_has(pool, source) && source->is_doubted != is_doubted;
    if (changes) {
        pool_set_doubted(pool, source, is_doubted);
        *ret_notice = channel_pool_find_wanted(pool, now_ns);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return changes;
}

bool channel_pool_lost(struct channel_pool *pool, struct pool_handle handle, uint64_t now_ns,
                       pool_notice *ret_notice)
{
    *ret_notice = 0;
    (void)pthread_mutex_lock(&pool->lock);
    struct pool_source *source = pool_find(pool, handle);
    bool changes = source != NULL && pool->source_count > 1 && !source->is_doubted;
    if (changes) {
        pool_set_doubted(pool, source, true);
        *ret_notice = channel_pool_find_wanted(pool, now_ns);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return changes;
}

uint32_t channel_pool_claim_requests(struct channel_pool *pool, struct pool_source *source,
                                     uint32_t max)
{
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t count = pool_has(pool, source) ? MIN(source->wanted, max) : 0;
    source->wanted -= count;
    source->outstanding += count;
    atomic_store_explicit(&source->request_posted, false, memory_order_relaxed);
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

/* How many channels of the source are more than the demand justifies: its part of what all have too
 * many. */
static uint32_t surplus_of(struct channel_pool *pool, const struct pool_source *source,
                           uint64_t now_ns)
{
    uint32_t target = pool_target(pool, now_ns), own = pool_own_target(pool, source);
    if (pool->parked_count <= target || source->parked_count <= own)
        return 0;
    uint64_t part = (uint64_t)(pool->parked_count - target) * source->parked_count;
    return MIN((uint32_t)((part + pool->parked_count - 1) / pool->parked_count),
               source->parked_count - own);
}

size_t channel_pool_tend(struct channel_pool *pool, struct pool_source *source, uint64_t now_ns,
                         struct transport *ret, size_t max, uint32_t *ret_lost,
                         pool_notice *ret_notice)
{
    size_t count = 0;
    struct pool_channel channel;
    (void)pthread_mutex_lock(&pool->lock);
    bool open = pool_has(pool, source);
    *ret_lost = open ? pool_source_age_requests(source, now_ns) : 0;
    /* Shrink by an eighth of the surplus at a time: a pool that has to grow again soon still has
     * most of its channels. */
    uint32_t surplus = open ? surplus_of(pool, source, now_ns) : 0;
    for (uint32_t i = 0; i < (surplus + 7) / 8 && count < max; i++) {
        pool_unpark(pool, source, &channel);
        ret[count++] = channel.transport;
    }
    *ret_notice = channel_pool_find_wanted(pool, now_ns);
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

size_t channel_pool_review(struct channel_pool *pool, struct pool_source *source,
                           pool_keeps_fn *keeps, void *arg, struct transport *ret, size_t max)
{
    size_t count = 0;
    struct pool_channel channel;
    (void)pthread_mutex_lock(&pool->lock);
    uint32_t left = pool_has(pool, source) ? source->parked_count : 0;
    for (; left > 0 && count < max; left--) {
        pool_unpark(pool, source, &channel);
        if (keeps(arg, &channel.transport) && /* there is room, where it was */
            pool_source_park(source, channel.transport, channel.parked_at_ns) == 0)
            pool->parked_count++;
        else
            ret[count++] = channel.transport;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

size_t channel_pool_shed(struct channel_pool *pool, struct transport *ret, size_t max)
{
    size_t count = 0;
    struct pool_channel channel;
    (void)pthread_mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->slot_count; i++) {
        struct pool_source *source = pool->slots[i].source;
        uint32_t half = source != NULL ? (source->parked_count + 1) / 2 : 0;
        for (; half > 0 && count < max; half--) {
            pool_unpark(pool, source, &channel);
            ret[count++] = channel.transport;
        }
    }
    pool_demand_lower(&pool->demand, pool->parked_count);
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

/* ---- for lanes that have several channels ---- */

size_t channel_pool_list(struct channel_pool *pool, uint32_t turn, struct pool_handle *ret,
                         size_t max)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&pool->lock);
    for (uint32_t i = 0; i < pool->slot_count && count < max; i++) {
        const struct pool_source *source =
            pool->slots[(uint32_t)((turn + (uint64_t)i) % pool->slot_count)].source;
        if (source != NULL)
            ret[count++] = source->handle;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return count;
}

bool channel_pool_is_open(struct channel_pool *pool, struct pool_handle source)
{
    (void)pthread_mutex_lock(&pool->lock);
    bool is_open = pool_find(pool, source) != NULL;
    (void)pthread_mutex_unlock(&pool->lock);
    return is_open;
}

size_t channel_pool_enter(struct channel_pool *pool, const struct pool_handle *sources,
                          size_t count)
{
    size_t best = 0;
    uint32_t least = UINT32_MAX;
    struct pool_source *entered = NULL;
    (void)pthread_mutex_lock(&pool->lock);
    for (size_t i = 0; i < count; i++) {
        struct pool_source *source = pool_find(pool, sources[i]);
        uint32_t load = source == NULL       ? UINT32_MAX
                        : source->is_doubted ? UINT32_MAX - 1
                                             : source->open;
        if (load >= least)
            continue;
        least = load;
        entered = source;
        best = i;
    }
    if (entered != NULL)
        entered->open++;
    (void)pthread_mutex_unlock(&pool->lock);
    return best;
}

void channel_pool_assign(struct channel_pool *pool, struct pool_waiter *waiter,
                         struct pool_handle only)
{
    (void)pthread_mutex_lock(&pool->lock);
    (void)pool_leave_queue(pool, waiter);
    waiter->matched = false;
    waiter->only = only;
    (void)pthread_mutex_unlock(&pool->lock);
}
