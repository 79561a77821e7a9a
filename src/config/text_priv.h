/* Bytes that become text: UTF-8, and the escaping of whatever a message repeats. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Length of the UTF-8 sequence at text, 1 to 4, or 0 when the bytes are none. text[size] need not
 * exist. */
size_t utf8_length(const char *text, size_t size);
/* Writes the bytes of one code point and returns their number; 0 for surrogates, NUL and beyond. */
size_t utf8_encode(uint32_t code_point, char out[static 4]);

/* Copies text for a message: control bytes (C0, DEL, C1) and invalid bytes become \xNN, quotes and
 * backslashes get a backslash; too long a text is cut and ends in "...". Returns out. */
const char *text_escape(const char *text, char *out, size_t out_size);
