/* The service manager's watchdog (sd_watchdog_enabled(3)): the manager hears from us only while
 * every worker runs its loop. Twice per interval of the manager all workers get a tick, which each
 * answers from its loop. When the next tick is due and all have answered, the manager is notified.
 * If a worker is stuck, the manager hears nothing and restarts the service. If the whole process
 * was stopped, the workers answer a moment after they go on; then the manager, whose clock did not
 * stop, is notified at once. Belongs to the main thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct notify;
struct workers;

struct watchdog {
    const struct notify *notify;
    struct workers *workers;
    uint64_t interval_ms; /* between two ticks; 0 = there is no watchdog */
    uint64_t due_ms;
    uint64_t unanswered_ms; /* since when a due answer is missing; 0 = none is */
    bool has_warned;        /* about the missing answer */
};

/* Takes the interval from notify->watchdog_us. Borrows notify and workers. All times are of
 * CLOCK_MONOTONIC. */
void watchdog_init(struct watchdog *watchdog, const struct notify *notify, struct workers *workers,
                   uint64_t now_ms);
/* Milliseconds to the next watchdog_turn; -1 = none is needed. */
int watchdog_timeout_ms(const struct watchdog *watchdog, uint64_t now_ms);
/* To be called when that time is over; earlier calls do nothing. */
void watchdog_turn(struct watchdog *watchdog, uint64_t now_ms);
