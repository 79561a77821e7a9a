#include "proto/client_backoff.h"

#include "base/limits.h"
#include "base/macros.h"

enum {
    GROWTH = 3,
    JITTER_PERCENT = 20,
};

void client_backoff_init(struct client_backoff *backoff, uint32_t retry_interval_ms)
{
    *backoff = (struct client_backoff){.retry_interval_ms = retry_interval_ms};
}

uint64_t client_backoff_next(struct client_backoff *backoff, uint64_t lived_ms, uint32_t random)
{
    uint64_t cap_ms = MAX(backoff->retry_interval_ms, (uint32_t)LIMIT_RETRY_MIN_MS);
    if (backoff->base_ms == 0 || lived_ms > CLIENT_BACKOFF_RESET_MS)
        backoff->base_ms = LIMIT_RETRY_MIN_MS;
    else
        backoff->base_ms = MIN(backoff->base_ms * GROWTH, cap_ms);

    /* Evenly between base - 20 % and base + 20 %. No overflow: base is at most 2^32, and so is the
     * random number. */
    uint64_t spread_ms = backoff->base_ms * (2 * JITTER_PERCENT) / 100;
    uint64_t least_ms = backoff->base_ms - spread_ms / 2;
    return least_ms + ((spread_ms * random + UINT32_MAX / 2) >> 32);
}
