/* Timers of one loop, in an intrusive pairing heap: starting a timer allocates nothing and can't
 * fail. A loop has two heaps (io/schedule.h). It sleeps until the first timer is due.
 *
 * A timer is embedded in its owner, belongs to one loop's thread, and must be stopped before its
 * owner is freed. Times are CLOCK_MONOTONIC in nanoseconds; nothing here reads a clock. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct timer;
typedef void timer_fn(struct timer *timer);

struct timer {
    timer_fn *expired;
    uint64_t deadline_ns;
    struct timer *child, *next, *prev; /* prev: the left sibling, or the parent of a first child */
    bool armed;
    bool is_deadline; /* the kind of its last start (io/schedule.h) */
};

struct timers {
    struct timer *root;
    uint64_t running_ns; /* timers_run's now_ns while it runs; else 0 */
};

static inline void timer_init(struct timer *timer, timer_fn *expired)
{
    *timer = (struct timer){.expired = expired};
}

/* Starts the timer, or moves it when it is armed already. O(1); a move is O(log n) amortised. */
void timers_start(struct timers *timers, struct timer *timer, uint64_t deadline_ns);
/* Idempotent. */
void timers_stop(struct timers *timers, struct timer *timer);
/* When the first timer is due, or UINT64_MAX. */
uint64_t timers_next_ns(const struct timers *timers);
/* Runs the timers that are due at now_ns, each once, earliest first. A callback may start and stop
 * any timer. A timer that is started for a time already past runs in the next call, so this call
 * always ends. */
void timers_run(struct timers *timers, uint64_t now_ns);
