#include "base/rate.h"

#include <assert.h>

#include "base/clock.h"

enum { BITS_PER_BYTE = 8 };

uint64_t rate_cost_ns(uint64_t bits_per_s, size_t bytes)
{
    assert(bits_per_s > 0 && bytes <= (size_t)1 << 31);
    /* 2^31 bytes are 1.7e19, which 64 bits still hold. */
    uint64_t bit_ns = (uint64_t)bytes * BITS_PER_BYTE * NS_PER_S;
    return bit_ns / bits_per_s + (bit_ns % bits_per_s != 0);
}

uint64_t rate_bytes(uint64_t bits_per_s, unsigned int ms)
{
    assert(ms <= 1000 && bits_per_s <= UINT64_MAX / 1000);
    return bits_per_s * ms / (BITS_PER_BYTE * 1000);
}

/* The time at which the next bytes may go. An unused bucket has credit for depth_ns, not more. */
static uint64_t start_ns(uint64_t due_ns, uint64_t now_ns, uint64_t depth_ns)
{
    uint64_t earliest_ns = now_ns - MIN(now_ns, depth_ns);
    return MAX(due_ns, earliest_ns);
}

static uint64_t plus(uint64_t at_ns, uint64_t cost_ns)
{
    return at_ns + MIN(cost_ns, UINT64_MAX - at_ns);
}

static uint64_t minus(uint64_t at_ns, uint64_t cost_ns)
{
    return at_ns - MIN(cost_ns, at_ns);
}

/* ---- of one thread ---- */

uint64_t rate_take(struct rate *rate, uint64_t cost_ns, uint64_t now_ns, uint64_t depth_ns)
{
    uint64_t at_ns = start_ns(rate->due_ns, now_ns, depth_ns);
    rate->due_ns = plus(at_ns, cost_ns);
    return at_ns;
}

void rate_give_back(struct rate *rate, uint64_t cost_ns)
{
    rate->due_ns = minus(rate->due_ns, cost_ns);
}

bool rate_pass(struct rate *rate, uint64_t cost_ns, uint64_t now_ns, uint64_t depth_ns)
{
    return rate->due_ns <= now_ns && rate_take(rate, cost_ns, now_ns, depth_ns) <= now_ns;
}

/* ---- shared ---- */

/* Nothing else is published by these stores, so their order does not matter. */
static bool replace(struct rate_shared *rate, uint64_t *old_ns, uint64_t new_ns)
{
    return atomic_compare_exchange_weak_explicit(&rate->due_ns, old_ns, new_ns,
                                                 memory_order_relaxed, memory_order_relaxed);
}

uint64_t rate_shared_take(struct rate_shared *rate, uint64_t cost_ns, uint64_t now_ns,
                          uint64_t depth_ns)
{
    uint64_t due_ns = rate_shared_due_ns(rate), at_ns;
    do {
        at_ns = start_ns(due_ns, now_ns, depth_ns);
    } while (!replace(rate, &due_ns, plus(at_ns, cost_ns)));
    return at_ns;
}

void rate_shared_give_back(struct rate_shared *rate, uint64_t cost_ns)
{
    uint64_t due_ns = rate_shared_due_ns(rate);
    while (!replace(rate, &due_ns, minus(due_ns, cost_ns)))
        ;
}

bool rate_shared_pass(struct rate_shared *rate, uint64_t cost_ns, uint64_t now_ns,
                      uint64_t depth_ns)
{
    uint64_t due_ns = rate_shared_due_ns(rate);
    do {
        if (due_ns > now_ns)
            return false;
    } while (!replace(rate, &due_ns, plus(start_ns(due_ns, now_ns, depth_ns), cost_ns)));
    return true;
}
