/* Numbers as TOML writes them: 30, +30, 1_000, 0x1e, 0o36, 0b11110; and 007, which INI files have.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* More than any option may be: what a longer number is read as. */
#define NUMBER_LARGEST (INT64_C(1) << 53)

/* A whole number or, when fraction_digits is not 0, one with a point and at most that many digits
 * behind it; the result counts units of the last of them. False for anything else. */
bool number_parse(const char *text, unsigned int fraction_digits, int64_t *ret);
