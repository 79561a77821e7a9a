/* What the process sets up for itself, in the main thread, before there is another. */
#pragma once

#include "base/macros.h"

/* Open files and locked memory, as far as the system allows; the rest works with less. */
void process_raise_limits(unsigned int workers);
/* The descriptor that signals are read from. Blocked before the first thread, they stay blocked in
 * all. -errno. */
MUST_CHECK int process_open_signals(void);
