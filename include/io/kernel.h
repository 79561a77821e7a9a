/* What kernel this is and what that means for the ring: one line for the log and for --version. The
 * features themselves are probed where they are used; versions decide only where a feature is
 * present but known to be broken. */
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

/* Of a release as uname(2) gives it, "6.12.48-amd64". */
enum kernel_tier kernel_tier_of(const char *release);
/* "Linux 6.12.48-amd64 (io_uring tier A)". Returns out. */
const char *kernel_describe(char *out, size_t out_size);
