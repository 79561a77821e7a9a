/* What the process sets up for itself, in the main thread, before it starts another thread. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct inherited;

/* To be called first in main. Opens /dev/null on those of the descriptors 0, 1 and 2 that are
 * closed; otherwise the next socket would get such a number, and log lines would go into a
 * connection. Ignores SIGXFSZ, so that a log file at its size limit (ulimit -f) loses lines but
 * does not end the process. */
void process_secure_start(void);
/* Ignores the signal from now on, also in programs that are executed later (execve(2)). */
void process_ignore_signal(int number);
/* Waits until the system has random numbers. A machine that has just started may have none yet, and
 * makes some only while somebody waits for them (getrandom(2)). Says on standard error that it
 * waits, if that takes long. Before signals are blocked: they may end the process meanwhile.
 * -ETIMEDOUT, or -errno. */
MUST_CHECK int process_wait_random(void);
/* Raises the limits of open files and of locked memory as far as the system allows. Failing is not
 * an error: the process works with less. */
void process_raise_limits(unsigned int workers);
/* Blocks the signals that the process handles, and returns a descriptor to read them from
 * (signalfd(2)); the caller owns it. Threads inherit the signal mask, so this comes before the
 * first one. -errno. */
MUST_CHECK int process_open_signals(void);
/* Waits for up to wait_ms for SIGTERM or SIGINT. True: one has come, and is consumed. Other signals
 * stay pending. For the start, after process_open_signals. */
MUST_CHECK bool process_is_asked_to_stop(unsigned int wait_ms);
/* Closes inherited sockets that the configuration does not use, and frees the list. */
void process_close_leftovers(struct inherited *inherited);
