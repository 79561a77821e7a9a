/* Allocations that fail when a test says so, and that are counted. Link a test program with
 * alloc_link_args (tests/support/meson.build), which wrap the C library's functions. One thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* The n-th allocation from now on fails, and only that one. 0: none fails. */
void alloc_fail_nth(unsigned int n);
/* While paused, no allocation fails or counts towards n. For the test's own allocations. */
void alloc_pause(bool paused);
/* True if the n-th allocation has failed. */
bool alloc_has_failed(void);
/* Counts the blocks and bytes that are allocated from now on and not yet freed. */
void alloc_count_begin(void);
size_t alloc_blocks(void);
size_t alloc_bytes(void);
