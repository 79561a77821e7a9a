#include "base/metrics.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"

#define NAME_ROW(name, text) [METRIC_##name] = text,
static const char *const names[] = {METRICS(NAME_ROW)};
#undef NAME_ROW
static_assert(ARRAY_SIZE(names) == METRIC_COUNT, "a name for each metric");

const char *metrics_name(enum metric metric)
{
    return metric < METRIC_COUNT ? names[metric] : "unknown";
}

size_t metrics_format(const struct metrics *metrics, char *out, size_t out_size)
{
    if (out_size == 0)
        return 0;
    size_t len = 0;
    for (size_t i = 0; i < METRIC_COUNT; i++) {
        uint64_t value = metrics_get(metrics, (enum metric)i);
        if (value == 0)
            continue;
        int n = snprintf(out + len, out_size - len, "%s%s=%llu", len > 0 ? " " : "", names[i],
                         (unsigned long long)value);
        if (n < 0 || (size_t)n >= out_size - len)
            break; /* the NUL below takes the cut word away */
        len += (size_t)n;
    }
    out[len] = '\0';
    return len;
}
