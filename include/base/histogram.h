/* How long something took: counts by fixed bounds. One thread adds, any thread reads; a reader may
 * see one addition in part. */
#pragma once

#include <stdint.h>

#include "base/counter.h"

enum { HISTOGRAM_BOUNDS = 14 };
extern const uint32_t histogram_bounds_us[HISTOGRAM_BOUNDS];

struct histogram {
    relaxed_counter
        counts[HISTOGRAM_BOUNDS + 1]; /* up to each bound and above the one before; the rest */
    relaxed_counter sum_ns;
};

/* Plain numbers: one histogram, or the sum of several. */
struct histogram_totals {
    uint64_t counts[HISTOGRAM_BOUNDS + 1];
    uint64_t sum_ns;
};

void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_sum(const struct histogram *from, struct histogram_totals *to);
uint64_t histogram_count(const struct histogram_totals *totals);
/* The time, in ms, that a share (0 to 1) of all did not exceed, interpolated between two bounds. 0
 * if there are none; beyond the last bound it is that bound. */
double histogram_quantile_ms(const struct histogram_totals *totals, double share);
