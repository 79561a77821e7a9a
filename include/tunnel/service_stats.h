/* The numbers of one service. Each worker that has to do with the service counts on its own, in
 * memory that only its thread writes, and that exists from the first count on: a service without
 * visitors has none. Any thread may add the workers' numbers up (service_stats_sum).
 *
 * "In" is from the visitor, "out" to the visitor. A server's visitors are those that it has
 * accepted, a client's are its connections to the local service. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/counter.h"
#include "base/histogram.h"
#include "base/metrics.h"
#include "config/config.h"
#include "relay/relay.h"

/* Reasons why a visitor was refused, or with UDP why a datagram was dropped. */
enum { SERVICE_REASONS = 16 };

struct service_stats {
    struct relay_stats relay;     /* the bytes, also of UDP; the time to the service's first byte */
    relaxed_counter visitors;     /* since the start */
    relaxed_counter open;         /* relays, or visitors of UDP, at this moment */
    relaxed_counter datagrams[2]; /* of UDP: in, out */
    relaxed_counter reasons[SERVICE_REASONS];
    struct histogram connect; /* from the visitor's arrival to the start of its relay */
};

/* Where a worker keeps the address of its numbers: in its part of the service. */
typedef _Atomic(struct service_stats *) service_stats_slot;

/* For the slot's worker: its numbers, made if there are none yet. Without memory, numbers that
 * nobody reads. */
struct service_stats *service_stats_of(service_stats_slot *slot);
void service_stats_free(service_stats_slot *slot);

struct service_totals {
    uint64_t visitors, open;
    uint64_t bytes[2], datagrams[2];
    uint64_t reasons[SERVICE_REASONS];
    struct histogram_totals connect, first_byte;
};

/* Adds a worker's numbers. */
void service_stats_sum(const service_stats_slot *slot, struct service_totals *to);

/* The reason of a UDP service's drops that this metric stands for, METRIC_UDP_DROPPED_... */
static inline unsigned int service_drop_reason(enum metric metric)
{
    return (unsigned int)metric - METRIC_UDP_DROPPED_NO_CHANNEL;
}
/* Its name; NULL: there are no more. */
const char *service_drop_name(unsigned int reason);

/* What a role tells about a service at this moment (role.h). */
struct service_report {
    const struct config_service *config; /* valid until the call returns */
    bool is_up;                          /* a client serves it; the client has logged in */
    bool is_awaited;                     /* in an upgrade: visitors wait for its client */
    bool has_address;                    /* its address is bound */
    struct addr peer;                    /* while it is up: the client; on a client, the server */
    int64_t up_since_s;                  /* since 1970 */
    uint32_t clients;         /* control channels that are up; `peer` is that of the newest */
    uint32_t waiting, parked; /* visitors without a channel, channels without a visitor */
    uint32_t servers_up;      /* a client's: sessions, with a server each */
    struct service_totals totals;
};
typedef void service_report_fn(void *arg, const struct service_report *report);
