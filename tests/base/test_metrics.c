#include "base/metrics.h"

#include <criterion/criterion.h>
#include <string.h>

Test(metrics, names_are_unique)
{
    for (size_t i = 0; i < METRIC_COUNT; i++) {
        for (size_t j = 0; j < i; j++)
            cr_expect_str_neq(metrics_name((enum metric)i), metrics_name((enum metric)j));
    }
    cr_expect_str_eq(metrics_name(METRIC_LOGINS), "logins");
    cr_expect_str_eq(metrics_name(METRIC_COUNT), "unknown");
}

Test(metrics, add_and_get)
{
    struct metrics metrics = {0};
    cr_expect_eq(metrics_get(&metrics, METRIC_BYTES_COPIED), 0);
    metrics_add(&metrics, METRIC_BYTES_COPIED, 5);
    metrics_add(&metrics, METRIC_BYTES_COPIED, UINT64_C(1) << 40);
    cr_expect_eq(metrics_get(&metrics, METRIC_BYTES_COPIED), (UINT64_C(1) << 40) + 5);
    cr_expect_eq(metrics_get(&metrics, METRIC_LOGINS), 0);
}

Test(metrics, format_shows_what_is_not_zero)
{
    struct metrics metrics = {0};
    char out[256];
    cr_expect_eq(metrics_format(&metrics, out, sizeof(out)), 0);
    cr_expect_str_eq(out, "");
    metrics_add(&metrics, METRIC_LOGINS, 2);
    metrics_add(&metrics, METRIC_VISITORS_ACCEPTED, UINT64_MAX);
    size_t len = metrics_format(&metrics, out, sizeof(out));
    cr_expect_str_eq(out, "visitors_accepted=18446744073709551615 logins=2");
    cr_expect_eq(len, strlen(out));
}

Test(metrics, format_cuts_at_whole_words)
{
    struct metrics metrics = {0};
    char full[8192];
    for (size_t i = 0; i < METRIC_COUNT; i++)
        metrics_add(&metrics, (enum metric)i, i + 1);
    size_t full_len = metrics_format(&metrics, full, sizeof(full));
    cr_expect_eq(full_len, strlen(full));

    for (size_t size = 1; size <= full_len + 1; size++) {
        char *out = malloc(size); /* exact, so that a sanitizer sees a write behind it */
        size_t len = metrics_format(&metrics, out, size);
        cr_assert_lt(len, size);
        cr_assert_eq(out[len], '\0');
        cr_assert(strncmp(out, full, len) == 0);
        cr_assert(len == 0 || full[len] == ' ' || full[len] == '\0', "a word is cut at %zu", size);
        free(out);
    }
    cr_expect_eq(metrics_format(&metrics, NULL, 0), 0);
}
