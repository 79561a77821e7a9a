/* A number that one thread writes and any thread reads, without a locked instruction. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t relaxed_counter;

static inline uint64_t counter_get(const relaxed_counter *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

/* By the counter's one writer. */
static inline void counter_add(relaxed_counter *to, uint64_t amount)
{
    /* With one writer, a load and a store do; a locked read-modify-write would cost more. */
    atomic_store_explicit(to, counter_get(to) + amount, memory_order_relaxed);
}

/* The same, for a number that can fall, but not below 0: what was added may be lost
 * (service_stats.h). */
static inline void counter_sub(relaxed_counter *from, uint64_t amount)
{
    uint64_t old = counter_get(from);
    atomic_store_explicit(from, old - (old < amount ? old : amount), memory_order_relaxed);
}
