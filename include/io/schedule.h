/* What a loop has to do at a time, in two kinds:
 *
 *     timer      something is done: a retry, a heartbeat, a flush
 *     deadline   something is ended, because what it waits for has not come
 *
 * "Has not come" is true only when somebody has looked. A process that was stopped (a signal, a
 * suspended machine, a frozen control group, no core for long) wakes up with all its deadlines over
 * and all that it waited for in its sockets. So deadlines come last in a turn, behind everything
 * that the kernel had to tell by then, and the loop looks again before any of them runs
 * (SCHEDULE_LOOKS_MAX). And after an absence they are held back for LIMIT_ABSENT_GRACE_MS, because
 * a peer may have to be answered before it can say the next thing.
 *
 * What a peer sends never moves a deadline; only an absence of our own does, by at most that grace,
 * and the next grace begins at the earliest when as much time has passed after the last: a loop
 * that is always late has its deadlines all the same.
 *
 * Pure, as io/timer.h: nothing here reads a clock. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/timer.h"

/* A peer's data may take several turns to be read: a poll, a header, what follows. */
enum { SCHEDULE_LOOKS_MAX = 8 };

/* Zeroed: empty. */
struct schedule {
    struct timers timers, deadlines;
    uint64_t held_until_ns; /* no deadline runs before; 0 = none has been held back so far */
};

/* Start the timer as one of the two kinds, or move it, or make it one of the other kind. */
void schedule_start(struct schedule *schedule, struct timer *timer, uint64_t at_ns);
void schedule_start_deadline(struct schedule *schedule, struct timer *timer, uint64_t at_ns);
/* Idempotent. */
void schedule_stop(struct schedule *schedule, struct timer *timer);
/* When something is due next, or UINT64_MAX. */
uint64_t schedule_next_ns(const struct schedule *schedule);

/* The loop was away until now. False: it has been so lately, and this changes nothing. */
bool schedule_absent(struct schedule *schedule, uint64_t now_ns);

/* As timers_run, each of its kind. */
void schedule_run(struct schedule *schedule, uint64_t now_ns);
bool schedule_deadlines_due(const struct schedule *schedule, uint64_t now_ns);
void schedule_run_deadlines(struct schedule *schedule, uint64_t now_ns);
