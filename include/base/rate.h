/* A token bucket, kept as the time at which all that was taken is paid for (a virtual clock; the
 * cell rate algorithm of ATM, ITU-T I.371). One 64-bit word is all of its state:
 *
 *     due <= now    bytes may go at once; what was not used before counts for up to depth_ns
 *     due >  now    in debt: the next bytes may go at due
 *
 * Whoever takes bytes gets the time at which they may go, and moves it on for the next one. So
 * those who wait are served in the order in which they asked, without a queue. What turns out not
 * to be needed is given back.
 *
 * Pure: nothing here reads a clock. Clocks of several threads may differ by some ms: an earlier one
 * waits longer. A struct rate belongs to one thread; a struct rate_shared may be used by any. Both
 * begin zeroed: with a credit of depth_ns. Costs are rounded up, so that a limit is never exceeded.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct rate {
    uint64_t due_ns;
};

struct rate_shared {
    _Atomic uint64_t due_ns;
};

/* At most 2 GiB, and a rate that is not 0. */
uint64_t rate_cost_ns(uint64_t bits_per_s, size_t bytes);
/* The bytes that a rate has in so many milliseconds (at most 1,000), rounded down. */
uint64_t rate_bytes(uint64_t bits_per_s, unsigned int ms);

/* Takes bytes of this cost. Returns when they may go: not later than now_ns, at once. */
MUST_CHECK uint64_t rate_take(struct rate *rate, uint64_t cost_ns, uint64_t now_ns,
                              uint64_t depth_ns);
void rate_give_back(struct rate *rate, uint64_t cost_ns);
/* Takes them only if they may go at once. For what is dropped otherwise, and can't wait. */
MUST_CHECK bool rate_pass(struct rate *rate, uint64_t cost_ns, uint64_t now_ns, uint64_t depth_ns);

/* The same for a shared one. */
MUST_CHECK uint64_t rate_shared_take(struct rate_shared *rate, uint64_t cost_ns, uint64_t now_ns,
                                     uint64_t depth_ns);
void rate_shared_give_back(struct rate_shared *rate, uint64_t cost_ns);
MUST_CHECK bool rate_shared_pass(struct rate_shared *rate, uint64_t cost_ns, uint64_t now_ns,
                                 uint64_t depth_ns);
static inline uint64_t rate_shared_due_ns(const struct rate_shared *rate)
{
    return atomic_load_explicit(&rate->due_ns, memory_order_relaxed);
}
/* Forgets debt and credit. */
static inline void rate_shared_reset(struct rate_shared *rate)
{
    atomic_store_explicit(&rate->due_ns, 0, memory_order_relaxed);
}
