/* UTF-8, and the escaping of text that a message quotes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The length of the UTF-8 sequence at text, 1 to 4; 0: not valid. Reads no more than size bytes. */
size_t utf8_length(const char *text, size_t size);
/* Writes one code point and returns its length; 0 for NUL, surrogates and codes beyond U+10FFFF. */
size_t utf8_encode(uint32_t code_point, char out[static 4]);

/* Copies text for a message. Control bytes (C0, DEL, C1) and invalid bytes become \xNN, quotes and
 * backslashes get a backslash, and a text that is too long ends in "...". Returns out. */
const char *text_escape(const char *text, char *out, size_t out_size);
