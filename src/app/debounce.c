#include "app/debounce.h"

#include "base/macros.h"

void debounce_note(struct debounce *debounce, bool is_being_written, uint64_t now_ms)
{
    if (!debounce->is_pending)
        debounce->first_ms = now_ms;
    debounce->is_pending = true;
    debounce->is_being_written = is_being_written;
    debounce->last_ms = now_ms;
}

uint64_t debounce_due_ms(const struct debounce *debounce)
{
    if (!debounce->is_pending)
        return UINT64_MAX;
    if (debounce->is_being_written)
        return debounce->last_ms + DEBOUNCE_WRITING_MS;
    return MIN(debounce->last_ms + DEBOUNCE_QUIET_MS, debounce->first_ms + DEBOUNCE_MAX_MS);
}

void debounce_reset(struct debounce *debounce)
{
    *debounce = (struct debounce){0};
}
