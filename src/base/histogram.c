#include "base/histogram.h"

#include "base/macros.h"

const uint32_t histogram_bounds_us[HISTOGRAM_BOUNDS] = {
    100,   500,    1000,   2500,   5000,    10000,   25000,
    50000, 100000, 250000, 500000, 1000000, 2500000, 10000000,
};

void histogram_add(struct histogram *histogram, uint64_t ns)
{
    unsigned int i = 0;
    while (i < HISTOGRAM_BOUNDS && ns > histogram_bounds_us[i] * UINT64_C(1000))
        i++;
    counter_add(&histogram->counts[i], 1);
    counter_add(&histogram->sum_ns, ns);
}

void histogram_sum(const struct histogram *from, struct histogram_totals *to)
{
    for (unsigned int i = 0; i < ARRAY_SIZE(to->counts); i++)
        to->counts[i] += counter_get(&from->counts[i]);
    to->sum_ns += counter_get(&from->sum_ns);
}

uint64_t histogram_count(const struct histogram_totals *totals)
{
    uint64_t count = 0;
    for (unsigned int i = 0; i < ARRAY_SIZE(totals->counts); i++)
        count += totals->counts[i];
    return count;
}

double histogram_quantile_ms(const struct histogram_totals *totals, double share)
{
    double rank = share * (double)histogram_count(totals), below = 0;
    if (rank <= 0)
        return 0;
    for (unsigned int i = 0; i < HISTOGRAM_BOUNDS; i++) {
        double here = (double)totals->counts[i];
        double from = i > 0 ? histogram_bounds_us[i - 1] : 0, to = histogram_bounds_us[i];
        if (here > 0 && below + here >= rank)
            return (from + (to - from) * (rank - below) / here) / 1e3;
        below += here;
    }
    return histogram_bounds_us[HISTOGRAM_BOUNDS - 1] / 1e3;
}
