#include "io/kernel.h"

#include <criterion/criterion.h>
#include <string.h>

Test(kernel, tiers)
{
    static const struct {
        const char *release;
        enum kernel_tier tier;
    } rows[] = {
        {"6.1.0-18-amd64", KERNEL_TIER_C},
        {"6.5.13", KERNEL_TIER_C},
        {"6.6.16", KERNEL_TIER_C},
        {"6.6.17", KERNEL_TIER_B},
        {"6.7.12", KERNEL_TIER_C},
        {"6.8.0", KERNEL_TIER_B},
        {"6.12.43", KERNEL_TIER_B},
        {"6.12.44", KERNEL_TIER_A},
        {"6.15.10", KERNEL_TIER_B},
        {"6.15.11", KERNEL_TIER_A},
        {"6.16.1", KERNEL_TIER_B},
        {"6.16.2-rc1", KERNEL_TIER_A},
        {"6.17.9", KERNEL_TIER_B},
        {"6.18.0", KERNEL_TIER_A},
        {"7.0", KERNEL_TIER_A},
        {"5.15.0", KERNEL_TIER_C},
        {"nonsense", KERNEL_TIER_C},
        {"", KERNEL_TIER_C},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_expect_eq(kernel_tier_of(rows[i].release), rows[i].tier, "%s", rows[i].release);
    char text[KERNEL_TEXT_SIZE];
    cr_assert_not_null(strstr(kernel_describe(text, sizeof(text)), "io_uring tier"));
}
