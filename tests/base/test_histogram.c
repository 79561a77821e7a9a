#include "base/histogram.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static struct histogram histogram;
static struct histogram_totals totals;

static void add(uint64_t us, unsigned int times)
{
    for (unsigned int i = 0; i < times; i++)
        histogram_add(&histogram, us * 1000);
    memset(&totals, 0, sizeof(totals));
    histogram_sum(&histogram, &totals);
}

static void assert_ms(double share, double wanted)
{
    double ms = histogram_quantile_ms(&totals, share);
    cr_assert(fabs(ms - wanted) < 1e-9, "%f of all: %f ms, not %f", share, ms, wanted);
}

Test(histogram, a_bound_belongs_to_its_own_bucket)
{
    add(100, 1);
    cr_assert_eq(totals.counts[0], 1);
    add(101, 1);
    cr_assert_eq(totals.counts[1], 1);
    histogram_add(&histogram, 100001);
    add(0, 1);
    cr_assert_eq(totals.counts[0], 2);
    cr_assert_eq(totals.counts[1], 2);
}

Test(histogram, what_is_beyond_the_last_bound_counts_too)
{
    add(histogram_bounds_us[HISTOGRAM_BOUNDS - 1] + UINT64_C(1), 3);
    cr_assert_eq(totals.counts[HISTOGRAM_BOUNDS], 3);
    cr_assert_eq(histogram_count(&totals), 3);
    assert_ms(0.5, 10000);
}

Test(histogram, bounds_rise)
{
    for (unsigned int i = 1; i < HISTOGRAM_BOUNDS; i++)
        cr_assert_gt(histogram_bounds_us[i], histogram_bounds_us[i - 1]);
}

Test(histogram, an_empty_one_has_no_quantile)
{
    add(0, 0);
    assert_ms(0.5, 0);
    assert_ms(0.99, 0);
}

Test(histogram, quantiles_lie_between_the_bounds)
{
    add(700, 100); /* between 0.5 and 1 ms */
    assert_ms(0.5, 0.75);
    assert_ms(1, 1);
    add(7000, 100); /* between 5 and 10 ms */
    assert_ms(0.5, 1);
    assert_ms(0.75, 7.5);
}

Test(histogram, sums_of_several_add_up)
{
    static struct histogram other;
    add(700, 2);
    histogram_add(&other, 700000);
    histogram_sum(&other, &totals);
    cr_assert_eq(histogram_count(&totals), 3);
    cr_assert_eq(totals.sum_ns, 3 * 700000);
}
