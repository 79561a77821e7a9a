/* Limits of the bandwidth of relays: of one connection, and of all connections of a service
 * together; each direction on its own. They are token buckets (base/rate.h).
 *
 *     readable --> take a quantum of bytes --> wait until they may go --> read as many --> give the
 *                                                                         rest back
 *
 * A flow with limits polls its source first, and asks only when there is something to read, so what
 * is idle takes nothing. It reads as other flows do, by copies or with splice(2), but not more at a
 * time than it has taken. While it waits it has no read in flight, holds no buffer, and watches its
 * source for a reset. A socket whose bytes are not read closes its window, so the peer slows down.
 *
 * All who wait for a service's bucket are served in turn, a small quantum each, on whatever worker.
 * A connection that has the service for itself takes larger ones. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/rate.h"

struct relay;

/* A service's limits, in bits per second; 0: none. Shared by its relays, on all workers, and
 * outlives them. Any thread may change the numbers. */
struct pace_rates {
    _Atomic uint64_t service_bps, connection_bps;
    struct rate_shared service[2]; /* bytes that are read from this enum relay_end */
};

void pace_rates_set(struct pace_rates *rates, uint64_t service_bps, uint64_t connection_bps);
static inline uint64_t pace_service_bps(const struct pace_rates *rates)
{
    return atomic_load_explicit(&rates->service_bps, memory_order_relaxed);
}
static inline uint64_t pace_connection_bps(const struct pace_rates *rates)
{
    return atomic_load_explicit(&rates->connection_bps, memory_order_relaxed);
}
/* The limits of the relay have changed: applies them to it. */
void pace_review(struct relay *relay, struct pace_rates *rates);
