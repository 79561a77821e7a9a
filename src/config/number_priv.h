/* Numbers in TOML's forms (30, +30, 1_000, 0x1e, 0o36, 0b11110), and 007 as in INI files. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Larger numbers are read as this one, which is out of every option's range. */
#define NUMBER_LARGEST (INT64_C(1) << 53)

/* A whole number or, with fraction_digits > 0, one with up to that many digits behind a point. The
 * result is in units of the last such digit: "1.5" with 3 digits is 1500. False: no number. */
bool number_parse(const char *text, unsigned int fraction_digits, int64_t *ret);
