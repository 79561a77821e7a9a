/* Memory that runs out when a test says so, and that is counted. For test programs whose link
 * arguments put these functions between the code and the C library (alloc_link_args in
 * tests/support/meson.build); one thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* The n-th allocation from now on fails, once; 0: none. */
void alloc_fail_nth(unsigned int n);
/* While paused, nothing fails and nothing counts towards n: for the test's own allocations. */
void alloc_pause(bool paused);
/* Whether that has happened. */
bool alloc_has_failed(void);
/* Blocks and bytes allocated since the count began and not freed; beginning forgets all. */
void alloc_count_begin(void);
size_t alloc_blocks(void);
size_t alloc_bytes(void);
