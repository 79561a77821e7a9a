#include "server/pool_demand.h"

#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/macros.h"

static void pool_demand_advance(struct pool_demand *demand, uint64_t now_ns)
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

void pool_demand_note(struct pool_demand *demand, uint64_t now_ns)
{
    pool_demand_advance(demand, now_ns);
    demand->buckets[demand->bucket_index % POOL_BUCKETS]++;
    uint32_t sum = 0;
    for (size_t i = 0; i < POOL_BUCKETS; i++)
        sum += demand->buckets[i];
    if (sum > demand->peak)
        demand->peak = sum;
}

uint32_t pool_demand_target(struct pool_demand *demand, uint64_t now_ns)
{
    pool_demand_advance(demand, now_ns);
    uint32_t peak = MAX(demand->peak, demand->last_peak);
    return MIN(MAX(peak, (uint32_t)LIMIT_POOL_MIN), (uint32_t)LIMIT_POOL_MAX);
}
