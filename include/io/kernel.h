/* Which kernel this is, and how well it runs io_uring: one line for the log and for --version.
 * Nothing depends on the tier: code that needs a kernel feature probes for it. Any thread. */
#pragma once

#include <stddef.h>

#include "base/macros.h"

enum kernel_tier {
    KERNEL_TIER_C, /* 6.1 to 6.5 */
    KERNEL_TIER_B, /* 6.6.17 and newer of that series, 6.8 and newer */
    KERNEL_TIER_A, /* 6.12.44, 6.15.11, 6.16.2 and newer of those series, 6.18 and newer */
    KERNEL_TIER_COUNT,
};

enum { KERNEL_TEXT_SIZE = 160 };

/* The tier of a release string as uname(2) gives it, for example "6.12.48-amd64". A string that is
 * not a version is tier C. */
enum kernel_tier kernel_tier_of(const char *release);
/* Writes the running kernel to out, for example "Linux 6.12.48-amd64 (io_uring tier A)", cut at
 * out_size bytes (KERNEL_TEXT_SIZE is enough). Returns out. */
const char *kernel_describe(char *out, size_t out_size);
