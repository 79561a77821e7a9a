/* The main thread's clock. It stands still while the process is stopped (a signal, a frozen control
 * group): the deadlines of an upgrade, the time of a drain and whatever else this thread waits for
 * are of the time that it was there, as those of the workers are (io/schedule.h). It is seen by a
 * wait that ends later than it should, so whoever has a deadline does not wait much longer at a
 * time than AWAKE_STEP_MS. Pure. */
#pragma once

#include <stdint.h>

enum { AWAKE_STEP_MS = 500 };

struct awake {
    uint64_t absent_ms; /* so far */
};

/* After a wait: what it took, and how long it should have taken at most (-1: any time). */
void awake_waited(struct awake *awake, int timeout_ms, uint64_t waited_ms);
/* The clock, by a monotonic one. */
uint64_t awake_ms(const struct awake *awake, uint64_t monotonic_ms);
