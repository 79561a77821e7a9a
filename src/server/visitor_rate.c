#include "server/visitor_rate.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "crypto/keys.h"

enum { RATE_WAYS = 8, RATE_SETS = LIMIT_RATE_ADDRESSES / RATE_WAYS };
static_assert((RATE_SETS & (RATE_SETS - 1)) == 0, "a hash is cut to it");

/* Whom an entry counts. */
struct rate_name {
    const void *service; /* to tell it from others only: it may have been freed */
    struct addr_key key;
};

/* Visitors are numbered from 0 on. times[n / group % ...] is the time of visitor n, for each n that
 * begins a group; a group has one visitor if the limit allows that many times here. */
struct rate_entry {
    struct rate_name name;
    uint32_t limit; /* with which it counted */
    uint32_t times_ms[LIMIT_RATE_EXACT + 1];
    uint64_t count;
    uint64_t last_ns; /* when its last visitor came; 0: nobody has */
};

struct rate_set {
    struct rate_entry entries[RATE_WAYS];
};

void visitor_rate_init(struct visitor_rate *rate)
{
    for (size_t i = 0; i < ARRAY_SIZE(rate->locks); i++)
        (void)pthread_mutex_init(&rate->locks[i], NULL);
}

void visitor_rate_finish(struct visitor_rate *rate)
{
    for (size_t i = 0; i < ARRAY_SIZE(rate->locks); i++)
        (void)pthread_mutex_destroy(&rate->locks[i]);
    free(atomic_load(&rate->sets));
}

/* The sets, which the first worker that needs them makes. Untouched ones take no memory. */
static struct rate_set *rate_sets(struct visitor_rate *rate)
{
    struct rate_set *sets = atomic_load_explicit(&rate->sets, memory_order_acquire), *other = NULL;
    if (sets != NULL)
        return sets;
    sets = calloc(RATE_SETS, sizeof(*sets));
    if (sets == NULL || atomic_compare_exchange_strong(&rate->sets, &other, sets))
        return sets;
    free(sets);
    return other;
}

/* The entry of that name, or the one that is forgotten for it: who was silent for longest. */
static struct rate_entry *rate_find(struct rate_set *set, const struct rate_name *name)
{
    struct rate_entry *oldest = set->entries;
    for (size_t i = 0; i < RATE_WAYS; i++) {
        struct rate_entry *entry = &set->entries[i];
        if (entry->name.service == name->service && addr_key_equal(&entry->name.key, &name->key))
            return entry;
        if (entry->last_ns < oldest->last_ns)
            oldest = entry;
    }
    *oldest = (struct rate_entry){.name = *name};
    return oldest;
}

/* Another visitor is one too many if the one that came `limit` before it came within a second. Of a
 * group only the first one's time is known, so the next group's counts. */
static bool rate_take(struct rate_entry *entry, uint32_t limit, uint64_t now_ns)
{
    const uint32_t group = (limit + LIMIT_RATE_EXACT - 1) / LIMIT_RATE_EXACT;
    const uint32_t now_ms = (uint32_t)(now_ns / NS_PER_MS);
    if (entry->limit != limit || now_ns > entry->last_ns + NS_PER_S) {
        entry->count = 0;
        entry->limit = limit;
    }
    if (entry->count >= limit) {
        uint64_t first = (entry->count - limit + group - 1) / group;
        /* Another worker's clock may be a little ahead. */
        int32_t age_ms = (int32_t)(now_ms - entry->times_ms[first % ARRAY_SIZE(entry->times_ms)]);
        if (age_ms <= MS_PER_S)
            return false;
    }
    if (entry->count % group == 0)
        entry->times_ms[entry->count / group % ARRAY_SIZE(entry->times_ms)] = now_ms;
    entry->count++;
    entry->last_ns = MAX(entry->last_ns, now_ns);
    return true;
}

int visitor_rate_enter(struct visitor_rate *rate, const struct service *service,
                       const struct addr_key *key, uint32_t limit, uint64_t now_ns)
{
    if (limit == 0)
        return 0;
    struct rate_set *sets = rate_sets(rate);
    if (sets == NULL)
        return -ENOMEM;
    const struct rate_name name = {.service = service, .key = *key};
    const size_t at = keys_hash(&name, sizeof(name)) % RATE_SETS;
    pthread_mutex_t *lock = &rate->locks[at % VISITOR_RATE_LOCKS];
    (void)pthread_mutex_lock(lock);
    bool is_taken = rate_take(rate_find(&sets[at], &name), limit, now_ns);
    (void)pthread_mutex_unlock(lock);
    return is_taken ? 0 : ERR_LIMIT;
}
