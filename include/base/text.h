/* A text that grows up to a limit. After a failure (no memory, or the limit is reached) it stays as
 * it is, and `failed` says so: a writer checks once, at the end. One thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

struct text {
    char *bytes; /* not terminated; the owner frees it */
    size_t len, room, max;
    bool failed;
};

static inline void text_init(struct text *text, size_t max)
{
    *text = (struct text){.max = max};
}
void text_finish(struct text *text);
void text_put(struct text *text, const void *bytes, size_t len);
void text_puts(struct text *text, const char *string);
void text_printf(struct text *text, const char *format, ...) PRINTF_FORMAT(2, 3);
