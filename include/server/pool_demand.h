/* The demand of a channel pool: the most channels that visitors have taken within half a second. */
#pragma once

#include <stdint.h>

/* A ring with the channels that visitors took in the last half second, and the highest sum of the
 * ring in this period of LIMIT_POOL_HOLD_MS and in the one before. */
enum { POOL_BUCKETS = 5, POOL_BUCKET_MS = 100 };
struct pool_demand {
    uint32_t buckets[POOL_BUCKETS];
    uint64_t bucket_index;
    uint32_t peak, last_peak;
    uint64_t period_index;
};

/* A visitor takes a channel, or waits for one. */
void pool_demand_note(struct pool_demand *demand, uint64_t now_ns);
/* The number of parked channels that the demand justifies. */
uint32_t pool_demand_target(struct pool_demand *demand, uint64_t now_ns);
/* Forgets more than this. */
static inline void pool_demand_lower(struct pool_demand *demand, uint32_t peak)
{
    demand->peak = demand->last_peak = peak;
}
