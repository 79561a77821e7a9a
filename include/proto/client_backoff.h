/* The exponential back-off of a client's control channel: 0.5 s, then three times the last wait, up
 * to retry_interval. A jitter of 20 % keeps the services of one client, and the clients of one
 * server, from reconnecting in step. A channel that lived for more than 3 s starts the sequence
 * over. If the server also closed it cleanly, the server or its successor is probably back, so the
 * client waits 20 to 200 ms.
 *
 * Apart from that, no wait is shorter than the first one, so unlike in rathole a retry_interval of
 * 0 is not a busy loop. Pure: the caller supplies the time that passed and a random number. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { CLIENT_BACKOFF_RESET_MS = 3000 };

struct client_backoff {
    uint32_t retry_interval_ms;
    uint64_t base_ms; /* the last wait, without its jitter; 0 = none yet */
};

void client_backoff_init(struct client_backoff *backoff, uint32_t retry_interval_ms);
/* How the last attempt ended. */
struct client_attempt {
    uint64_t lived_ms; /* from the end of the last wait, or from the start, to the attempt's end */
    bool was_clean;    /* it was logged in, and the server ended the stream */
};
/* The milliseconds to wait now. random: any 32 bits. */
uint64_t client_backoff_next(struct client_backoff *backoff, const struct client_attempt *attempt,
                             uint32_t random);
