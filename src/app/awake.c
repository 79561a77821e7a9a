#include "app/awake.h"

#include "base/limits.h"

void awake_waited(struct awake *awake, int timeout_ms, uint64_t waited_ms)
{
    if (timeout_ms >= 0 && waited_ms > (uint64_t)timeout_ms + LIMIT_ABSENT_MS)
        awake->absent_ms += waited_ms - (uint64_t)timeout_ms;
}

uint64_t awake_ms(const struct awake *awake, uint64_t monotonic_ms)
{
    return monotonic_ms - awake->absent_ms;
}
