/* The main thread's clock. It does not count time in which the process was stopped (SIGSTOP, a
 * frozen control group), so that the deadlines of an upgrade or a drain do not expire while nobody
 * could act on them. io/schedule.h does the same for the workers.
 *
 * An absence shows only as a wait that lasted too long. So while a deadline runs, the thread waits
 * for at most AWAKE_STEP_MS at a time. Pure functions. */
#pragma once

#include <stdint.h>

enum { AWAKE_STEP_MS = 500 };

struct awake {
    uint64_t absent_ms; /* the sum of all absences */
};

/* To be called after each wait: its longest time as planned (-1: no limit), and its real time. */
void awake_waited(struct awake *awake, int timeout_ms, uint64_t waited_ms);
/* The time of this clock, given that of CLOCK_MONOTONIC. */
uint64_t awake_ms(const struct awake *awake, uint64_t monotonic_ms);
