/* Counters: one block per worker (and one of the main thread), which only its owner writes. Any
 * thread may read. A new counter is a row in METRICS. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/counter.h"

/* X(NAME, "name"): the name is what users see and grep for, so it never changes. */
#define METRICS(X)                                              \
    X(VISITORS_ACCEPTED, "visitors_accepted")                   \
    X(VISITORS_REFUSED_LIMIT, "visitors_refused_limit")         \
    X(VISITORS_REFUSED_QUEUE, "visitors_refused_queue")         \
    X(VISITORS_REFUSED_NO_CLIENT, "visitors_refused_no_client") \
    X(VISITORS_REFUSED_DENIED, "visitors_refused_denied")       \
    X(VISITORS_REFUSED_RATE, "visitors_refused_rate")           \
    X(VISITORS_REFUSED_HEADER, "visitors_refused_header")       \
    X(VISITORS_REFUSED_ARRIVING, "visitors_refused_arriving")   \
    X(VISITORS_REFUSED_NAME, "visitors_refused_name")           \
    X(VISITORS_TIMED_OUT, "visitors_timed_out")                 \
    X(VISITORS_TRIED_AGAIN, "visitors_tried_again")             \
    X(STRANGERS_ACCEPTED, "strangers_accepted")                 \
    X(STRANGERS_DENIED, "strangers_denied")                     \
    X(STRANGERS_EVICTED, "strangers_evicted")                   \
    X(STRANGERS_EVICTED_SLOW, "strangers_evicted_slow")         \
    X(STRANGERS_EVICTED_PER_IP, "strangers_evicted_per_ip")     \
    X(STRANGERS_EVICTED_SPOKE, "strangers_evicted_spoke")       \
    X(STRANGERS_EVICTED_KNOWN, "strangers_evicted_known")       \
    X(STRANGERS_EVICTED_FDS, "strangers_evicted_fds")           \
    X(STRANGERS_WAITED, "strangers_waited")                     \
    X(STRANGERS_TIMED_OUT, "strangers_timed_out")               \
    X(STRANGERS_REJECTED, "strangers_rejected")                 \
    X(LOGINS, "logins")                                         \
    X(LOGINS_FAILED, "logins_failed")                           \
    X(LOGINS_TOO_MANY, "logins_too_many")                       \
    X(CONTROL_CHANNELS_LOST, "control_channels_lost")           \
    X(DATA_CHANNELS, "data_channels")                           \
    X(DATA_CHANNELS_STALE, "data_channels_stale")               \
    X(DATA_CHANNELS_FAILED, "data_channels_failed")             \
    X(DATA_CHANNELS_REQUESTED, "data_channels_requested")       \
    X(DATA_CHANNELS_SURPLUS, "data_channels_surplus")           \
    X(RELAYS_STARTED, "relays_started")                         \
    X(RELAYS_CLEAN, "relays_clean")                             \
    X(RELAYS_ABORTED, "relays_aborted")                         \
    X(RELAYS_IDLE_TIMEOUT, "relays_idle_timeout")               \
    X(RELAYS_SILENT, "relays_silent")                           \
    X(RELAYS_ASKED, "relays_asked")                             \
    X(RELAYS_MOVED_IN, "relays_moved_in")                       \
    X(RELAYS_MOVED_OUT, "relays_moved_out")                     \
    X(BYTES_COPIED, "bytes_copied")                             \
    X(BYTES_BULK_COPIED, "bytes_bulk_copied")                   \
    X(BYTES_SPLICED, "bytes_spliced")                           \
    X(HANDSHAKES_LIMITED, "handshakes_limited")                 \
    X(FRAMES_REFUSED, "frames_refused")                         \
    X(PROMOTIONS, "promotions")                                 \
    X(DEMOTIONS, "demotions")                                   \
    X(UDP_TO_PEER, "udp_to_peer")                               \
    X(UDP_FROM_PEER, "udp_from_peer")                           \
    X(UDP_VISITORS, "udp_visitors")                             \
    X(UDP_VISITORS_EXPIRED, "udp_visitors_expired")             \
    X(UDP_VISITORS_EVICTED, "udp_visitors_evicted")             \
    X(UDP_DROPPED_NO_CHANNEL, "udp_dropped_no_channel")         \
    X(UDP_DROPPED_QUEUE_FULL, "udp_dropped_queue_full")         \
    X(UDP_DROPPED_KERNEL, "udp_dropped_kernel")                 \
    X(UDP_DROPPED_BANDWIDTH, "udp_dropped_bandwidth")           \
    X(UDP_DROPPED_PORT_ZERO, "udp_dropped_port_zero")           \
    X(UDP_DROPPED_STRANGER, "udp_dropped_stranger")             \
    X(UDP_DROPPED_ACCESS, "udp_dropped_access")                 \
    X(UDP_DROPPED_RATE, "udp_dropped_rate")                     \
    X(UDP_DROPPED_NO_LOCAL, "udp_dropped_no_local")             \
    X(UDP_DROPPED_TOO_LARGE, "udp_dropped_too_large")           \
    X(UDP_DROPPED_NO_BUFFERS, "udp_dropped_no_buffers")         \
    X(UDP_DROPPED_DENIED, "udp_dropped_denied")                 \
    X(UDP_DROPPED_REFUSED, "udp_dropped_refused")               \
    X(UDP_DROPPED_UNREACHABLE, "udp_dropped_unreachable")       \
    X(UDP_DROPPED_OTHER, "udp_dropped_other")                   \
    X(PIPES_EXHAUSTED, "pipes_exhausted")                       \
    X(BUFFERS_EXHAUSTED, "buffers_exhausted")                   \
    X(ACCEPT_PAUSED, "accept_paused")                           \
    X(NAMES_FAILED, "names_failed")                             \
    X(NAMES_STALE, "names_stale")                               \
    X(NAMES_REFUSED, "names_refused")                           \
    X(RELOADS_APPLIED, "reloads_applied")                       \
    X(RELOADS_REFUSED, "reloads_refused")                       \
    X(MAILBOX_FULL, "mailbox_full")                             \
    X(WAKEUPS_SENT, "wakeups_sent")                             \
    X(LATE_COMPLETIONS, "late_completions")                     \
    X(CQ_OVERFLOWS, "cq_overflows")                             \
    X(ABSENCES, "absences")                                     \
    X(SUBMIT_RETRIES, "submit_retries")                         \
    X(OUT_OF_MEMORY, "out_of_memory")

#define METRICS_ENUM_ROW(name, text) METRIC_##name,
enum metric { METRICS(METRICS_ENUM_ROW) METRIC_COUNT };
#undef METRICS_ENUM_ROW

struct metrics {
    relaxed_counter values[METRIC_COUNT];
};

/* By the block's owner only. */
static inline void metrics_add(struct metrics *metrics, enum metric metric, uint64_t amount)
{
    counter_add(&metrics->values[metric], amount);
}

static inline uint64_t metrics_get(const struct metrics *metrics, enum metric metric)
{
    return counter_get(&metrics->values[metric]);
}

const char *metrics_name(enum metric metric);
/* Writes "name=value name=value ..." of all counters that are not zero, cut before a word that does
 * not fit, and terminated. Returns the length. */
size_t metrics_format(const struct metrics *metrics, char *out, size_t out_size);
