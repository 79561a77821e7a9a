/* How long a client waits before it connects its control channel again: 0.5 s, then three times the
 * last wait up to retry_interval, each 20 % more or less by chance so that the services of one
 * client, and the clients of one server, do not return in step. A channel that lived longer than 3
 * s starts the sequence over.
 *
 * Pure: the caller brings the time that passed and the random number. Unlike upstream, no wait is
 * shorter than the first, so a retry_interval of 0 is not a busy loop. */
#pragma once

#include <stdint.h>

enum { CLIENT_BACKOFF_RESET_MS = 3000 };

struct client_backoff {
    uint32_t retry_interval_ms;
    uint64_t base_ms; /* the last wait before its jitter; 0 = none yet */
};

void client_backoff_init(struct client_backoff *backoff, uint32_t retry_interval_ms);
/* After a failure. lived_ms: from the end of the last wait (or from the start) to the failure.
 * Returns the milliseconds to wait now. */
uint64_t client_backoff_next(struct client_backoff *backoff, uint64_t lived_ms, uint32_t random);
