#include "proto/client_backoff.h"

#include "base/limits.h"
#include "base/macros.h"

enum {
    GROWTH = 3,
    JITTER_PERCENT = 20,
    RETURN_MIN_MS = 20,
    RETURN_SPREAD_MS = 180,
};

void client_backoff_init(struct client_backoff *backoff, uint32_t retry_interval_ms)
{
    *backoff = (struct client_backoff){.retry_interval_ms = retry_interval_ms};
}

/* Maps random evenly to least_ms .. least_ms + spread_ms. spread_ms and random are at most 2^32, so
 * their product does not overflow. */
static uint64_t between(uint64_t least_ms, uint64_t spread_ms, uint32_t random)
{
    return least_ms + ((spread_ms * random + UINT32_MAX / 2) >> 32);
}

uint64_t client_backoff_next(struct client_backoff *backoff, const struct client_attempt *attempt,
                             uint32_t random)
{
    uint64_t cap_ms = MAX(backoff->retry_interval_ms, (uint32_t)LIMIT_RETRY_MIN_MS);
    bool lived = attempt->lived_ms > CLIENT_BACKOFF_RESET_MS;
    if (lived && attempt->was_clean) {
        backoff->base_ms = 0; /* if the server is not back, the sequence starts */
        return between(RETURN_MIN_MS, RETURN_SPREAD_MS, random);
    }
    if (backoff->base_ms == 0 || lived)
        backoff->base_ms = LIMIT_RETRY_MIN_MS;
    else
        backoff->base_ms = MIN(backoff->base_ms * GROWTH, cap_ms);

    uint64_t spread_ms = backoff->base_ms * (2 * JITTER_PERCENT) / 100;
    return between(backoff->base_ms - spread_ms / 2, spread_ms, random);
}
