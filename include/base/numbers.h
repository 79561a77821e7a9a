/* Decimal numbers in small texts of the kernel and of our own: "6.12.44-amd64", "32768 60999".
 * sscanf would do, but the C library's takes 10 KB of a static program. No state. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Reads numbers, of digits alone, that one byte each separates; at most max. Returns how many.
 * *ret_end, unless NULL, is what follows the last one. A number of more than 64 bits ends it. */
size_t numbers_parse(const char *text, uint64_t *ret, size_t max, const char **ret_end);
/* The same for the beginning of a file. 0 if it can't be read. */
size_t numbers_read(const char *path, uint64_t *ret, size_t max);
