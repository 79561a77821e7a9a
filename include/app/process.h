/* What the process sets up for itself, in the main thread, before there is another. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

/* Open files and locked memory, as far as the system allows; the rest works with less. */
void process_raise_limits(unsigned int workers);
/* The descriptor that signals are read from. Blocked before the first thread, they stay blocked in
 * all. -errno. */
MUST_CHECK int process_open_signals(void);
/* Waits that long for SIGTERM or SIGINT, which it takes; the other signals stay. For the start,
 * after process_open_signals. */
MUST_CHECK bool process_is_asked_to_stop(unsigned int wait_ms);
