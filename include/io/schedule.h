/* The times at which a loop has to act, in two kinds:
 *
 *     timer      does something: a retry, a heartbeat, a flush
 *     deadline   ends something, because what it waits for has not come
 *
 * A deadline may run only after a look that found nothing. A process that was stopped (SIGSTOP, a
 * suspended machine, a frozen control group, no core for long) wakes up with all deadlines expired,
 * while the data that it waited for is in its sockets. So deadlines run last in a turn, after all
 * completions, and the loop polls the kernel again before any of them runs (SCHEDULE_LOOKS_MAX).
 * After such an absence all deadlines are also held back for LIMIT_ABSENT_GRACE_MS, because a peer
 * may need an answer from us before it sends what we wait for.
 *
 * Data from a peer never moves a deadline. Only an absence of this process does, by at most one
 * grace, and the next grace can't begin before the same time has passed after the last one. So
 * deadlines still run in a loop that is always late.
 *
 * Pure, like io/timer.h: nothing here reads a clock. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/timer.h"

/* Reading a peer's data may take several turns: a poll, a header, then the body. */
enum { SCHEDULE_LOOKS_MAX = 8 };

/* Zeroed: empty. */
struct schedule {
    struct timers timers, deadlines;
    uint64_t held_until_ns; /* no deadline runs before this; 0 = there was no absence yet */
};

/* Start the timer as one of the two kinds. An armed timer moves, and may change its kind. */
void schedule_start(struct schedule *schedule, struct timer *timer, uint64_t at_ns);
void schedule_start_deadline(struct schedule *schedule, struct timer *timer, uint64_t at_ns);
/* Idempotent. */
void schedule_stop(struct schedule *schedule, struct timer *timer);
/* When the first timer or deadline is due, or UINT64_MAX. */
uint64_t schedule_next_ns(const struct schedule *schedule);

/* The loop was absent until now: begins a grace. False: the last grace was too recent, and nothing
 * changes. */
bool schedule_absent(struct schedule *schedule, uint64_t now_ns);

/* Like timers_run, for one kind each. */
void schedule_run(struct schedule *schedule, uint64_t now_ns);
bool schedule_deadlines_due(const struct schedule *schedule, uint64_t now_ns);
void schedule_run_deadlines(struct schedule *schedule, uint64_t now_ns);
