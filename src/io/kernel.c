#include "io/kernel.h"

#include <stdbool.h>
#include <stdio.h>
#include <sys/utsname.h>

#include "base/numbers.h"

struct release {
    int major, minor, patch;
};

/* A series (6.12, for example) belongs to the tier from this patch level on. With and_newer_series,
 * all newer series do too. */
static const struct {
    enum kernel_tier tier;
    struct release from;
    bool and_newer_series;
} tiers[] = {
    {KERNEL_TIER_A, {6, 12, 44}, false}, {KERNEL_TIER_A, {6, 15, 11}, false},
    {KERNEL_TIER_A, {6, 16, 2}, false},  {KERNEL_TIER_A, {6, 18, 0}, true},
    {KERNEL_TIER_B, {6, 6, 17}, false},  {KERNEL_TIER_B, {6, 8, 0}, true},
};

enum kernel_tier kernel_tier_of(const char *text)
{
    uint64_t numbers[3] = {0, 0, 0};
    if (numbers_parse(text, numbers, 3, NULL) < 2)
        return KERNEL_TIER_C;
    const struct release release = {(int)numbers[0], (int)numbers[1], (int)numbers[2]};
    for (size_t i = 0; i < ARRAY_SIZE(tiers); i++) {
        const struct release *from = &tiers[i].from;
        bool same_series = release.major == from->major && release.minor == from->minor;
        bool newer_series = release.major > from->major ||
                            (release.major == from->major && release.minor > from->minor);
        if ((same_series && release.patch >= from->patch) ||
            (newer_series && tiers[i].and_newer_series))
            return tiers[i].tier;
    }
    return KERNEL_TIER_C;
}

const char *kernel_describe(char *out, size_t out_size)
{
    struct utsname name;
    if (uname(&name) < 0) {
        (void)snprintf(out, out_size, "an unknown kernel");
        return out;
    }
    (void)snprintf(out, out_size, "Linux %s (io_uring tier %c)", name.release,
                   "CBA"[kernel_tier_of(name.release)]);
    return out;
}
