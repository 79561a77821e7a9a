/* Deadlines of one loop: an intrusive pairing heap, so starting a timer can't fail and costs no
 * allocation. A loop has two of them (io/schedule.h); it sleeps until the first is due and runs it.
 *
 * A timer is embedded in its owner, belongs to one loop's thread, and must be stopped before its
 * owner goes away. Time is CLOCK_MONOTONIC in nanoseconds; nothing here reads a clock. */
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
    bool is_deadline; /* as it was started last (io/schedule.h) */
};

struct timers {
    struct timer *root;
    uint64_t running_ns; /* now, while timers_run is at work; else 0 */
};

static inline void timer_init(struct timer *timer, timer_fn *expired)
{
    *timer = (struct timer){.expired = expired};
}

/* Starts the timer, or moves it when it is armed already. O(1), a move O(log n) amortised. */
void timers_start(struct timers *timers, struct timer *timer, uint64_t deadline_ns);
/* Idempotent. */
void timers_stop(struct timers *timers, struct timer *timer);
/* The first deadline, or UINT64_MAX. */
uint64_t timers_next_ns(const struct timers *timers);
/* Runs what is due at now_ns, each once, earliest first. A callback may start and stop any timer;
 * one that starts itself for a time already past runs in the next call, so this always ends. */
void timers_run(struct timers *timers, uint64_t now_ns);
