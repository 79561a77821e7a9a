/* The service manager's watchdog: it hears from us only while every worker turns its loop. Twice in
 * its interval all workers get a tick, which each answers from its loop; when the next one is due
 * and all have answered, the manager is told. A worker that is stuck leaves it without word, and it
 * restarts the service. Workers that were stopped with the whole process answer a moment later, and
 * then the manager, whose clock went on, is told at once. Belongs to the main thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct notify;
struct workers;

struct watchdog {
    const struct notify *notify;
    struct workers *workers;
    uint64_t interval_ms; /* between two ticks; 0 = nobody watches */
    uint64_t due_ms;
    uint64_t unanswered_ms; /* since when a tick that is due has not been answered; 0 = it has */
    bool has_warned;        /* of that */
};

/* As the manager wants it (notify->watchdog_us). Borrows both. Times are monotonic. */
void watchdog_init(struct watchdog *watchdog, const struct notify *notify, struct workers *workers,
                   uint64_t now_ms);
/* Milliseconds to the next tick, or -1. */
int watchdog_timeout_ms(const struct watchdog *watchdog, uint64_t now_ms);
/* To be called when that time is over, or more often. */
void watchdog_turn(struct watchdog *watchdog, uint64_t now_ms);
