/* How long a client waits before it connects its control channel again: 0.5 s, then three times the
 * last wait up to retry_interval, each 20 % more or less by chance so that the services of one
 * client, and the clients of one server, do not return in step. A channel that lived longer than 3
 * s starts the sequence over; and if the server has ended it as it should, it is probably there
 * again, or its successor is, so the first wait is a fifth of a second at most.
 *
 * Pure: the caller brings the time that passed and the random number. Unlike upstream, no wait is
 * shorter than the first but this one, so a retry_interval of 0 is not a busy loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { CLIENT_BACKOFF_RESET_MS = 3000 };

struct client_backoff {
    uint32_t retry_interval_ms;
    uint64_t base_ms; /* the last wait before its jitter; 0 = none yet */
};

void client_backoff_init(struct client_backoff *backoff, uint32_t retry_interval_ms);
/* How the last one ended. */
struct client_attempt {
    uint64_t lived_ms; /* from the end of the last wait (or from the start) to its end */
    bool was_clean;    /* it was logged in, and the server ended it with an end of stream */
};
/* Returns the milliseconds to wait now. */
uint64_t client_backoff_next(struct client_backoff *backoff, const struct client_attempt *attempt,
                             uint32_t random);
