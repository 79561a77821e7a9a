#include "tunnel/service_stats.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

enum { CACHE_LINE = 64 };

struct service_stats *service_stats_of(service_stats_slot *slot)
{
    static _Thread_local struct service_stats lost;
    struct service_stats *stats = atomic_load_explicit(slot, memory_order_relaxed);
    if (stats != NULL)
        return stats;
    /* Not calloc: no other thread may write to its cache lines. */
    size_t size = (sizeof(*stats) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    stats = aligned_alloc(CACHE_LINE, size);
    if (stats == NULL)
        return &lost;
    memset(stats, 0, size);
    atomic_store_explicit(slot, stats, memory_order_release);
    return stats;
}

void service_stats_free(service_stats_slot *slot)
{
    free(atomic_load(slot));
}

void service_stats_sum(const service_stats_slot *slot, struct service_totals *to)
{
    const struct service_stats *from = atomic_load_explicit(slot, memory_order_acquire);
    if (from == NULL)
        return;
    to->visitors += counter_get(&from->visitors);
    to->open += counter_get(&from->open);
    for (unsigned int i = 0; i < 2; i++) {
        to->bytes[i] += counter_get(&from->relay.bytes[i]);
        to->datagrams[i] += counter_get(&from->datagrams[i]);
    }
    for (unsigned int i = 0; i < SERVICE_REASONS; i++)
        to->reasons[i] += counter_get(&from->reasons[i]);
    histogram_sum(&from->connect, &to->connect);
    histogram_sum(&from->relay.first_byte, &to->first_byte);
}

static_assert(METRIC_UDP_DROPPED_OTHER - METRIC_UDP_DROPPED_NO_CHANNEL < SERVICE_REASONS,
              "room for each reason");

const char *service_drop_name(unsigned int reason)
{
    enum metric metric = (enum metric)(METRIC_UDP_DROPPED_NO_CHANNEL + reason);
    return metric <= METRIC_UDP_DROPPED_OTHER ? metrics_name(metric) + strlen("udp_dropped_")
                                              : NULL;
}
