/* The clocks that the program reads, and its units of time.
 *
 * Deadlines and ages are nanoseconds or milliseconds of CLOCK_MONOTONIC, which nobody can set.
 * Callbacks of a loop use loop_now_ns() (io/loop.h) instead: it costs no call and is the same for
 * the whole turn. No state and no errors; any thread. */
#pragma once

#include <stdint.h>
#include <time.h>

enum { MS_PER_S = 1000, NS_PER_MS = 1000000, NS_PER_S = 1000000000 };

static inline uint64_t ms_to_ns(uint64_t ms)
{
    return ms * NS_PER_MS;
}

/* `clock` is CLOCK_MONOTONIC or the clock of a thread's CPU time. */
static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline uint64_t clock_monotonic_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static inline uint64_t clock_monotonic_ms(void)
{
    return clock_monotonic_ns() / NS_PER_MS;
}

static inline struct timespec clock_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}
