/* What the process sets up for itself, in the main thread, before there is another. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

/* First of all in main. Opens /dev/null on those of the descriptors 0, 1 and 2 that are closed:
 * they have a meaning by their number, and the next socket would get it (a log line would go into a
 * connection). Ignores SIGXFSZ, so that a log file at its limit (ulimit -f) costs lines and not the
 * process. */
void process_secure_start(void);
/* The signal does nothing from now on, in what is executed later as well. */
void process_ignore_signal(int number);
/* Open files and locked memory, as far as the system allows; the rest works with less. */
void process_raise_limits(unsigned int workers);
/* The descriptor that signals are read from. Blocked before the first thread, they stay blocked in
 * all. -errno. */
MUST_CHECK int process_open_signals(void);
/* Waits that long for SIGTERM or SIGINT, which it takes; the other signals stay. For the start,
 * after process_open_signals. */
MUST_CHECK bool process_is_asked_to_stop(unsigned int wait_ms);
