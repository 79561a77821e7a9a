/* When a file that is changing is to be read: once it has been left alone for a moment, yet not
 * later than DEBOUNCE_MAX_MS after the first change, unless somebody is still writing it. Pure;
 * times come from the caller. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    DEBOUNCE_QUIET_MS = 100,
    DEBOUNCE_MAX_MS = 500,
    DEBOUNCE_WRITING_MS =
        5000, /* a writer that says nothing for that long has forgotten to close */
};

struct debounce {
    bool is_pending, is_being_written;
    uint64_t first_ms, last_ms;
};

/* The file has changed just now. */
void debounce_note(struct debounce *debounce, bool is_being_written, uint64_t now_ms);
/* When it is to be read; UINT64_MAX: there is nothing to be read. */
uint64_t debounce_due_ms(const struct debounce *debounce);
/* It is being read. */
void debounce_reset(struct debounce *debounce);
