#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "lane_priv.h"
#include "server/access.h"

enum {
    EXPIRY_STEP_MS = 1000, /* between two runs of lane_visitor_expire, at least */
};

static void visitor_remove(struct lane_visitor *visitor)
{
    struct lane *lane = visitor->lane;
    udp_table_remove(&lane->table, &visitor->entry);
    counter_sub(&lane->stats->open, 1);
    channel_pool_left(&lane->service->pool, visitor->source);
    datagram_forget(&visitor->target);
    if (lane->last == visitor)
        lane->last = NULL;
    slab_put(&lane->worker->udp_visitor_slab, visitor);
}

static struct lane_visitor *lane_visitor_of(struct udp_table_entry *entry)
{
    return container_of(entry, struct lane_visitor, entry);
}

void lane_visitor_expire(struct timer *timer)
{
    struct lane *lane = container_of(timer, struct lane, expiry_timer);
    uint64_t now_ns = loop_now_ns(lane_loop(lane));
    uint64_t idle_ns = ms_to_ns(service_config(lane->service)->udp_timeout_ms);
    struct udp_table_entry *entry;
    while ((entry = udp_table_expired(&lane->table, now_ns, idle_ns)) != NULL) {
        visitor_remove(lane_visitor_of(entry));
        lane_count(lane, METRIC_UDP_VISITORS_EXPIRED, 1);
    }
    udp_batch_count_overflows(lane_engine(lane)->batch, &lane->udp);
    counter_add(&lane->stats->reasons[service_drop_reason(METRIC_UDP_DROPPED_KERNEL)],
                lane->udp.overflows - lane->overflows_noted);
    lane->overflows_noted = lane->udp.overflows;
    entry = udp_table_oldest(&lane->table);
    if (entry == NULL)
        return;
    uint64_t left_ms = (entry->active_at_ns + idle_ns - now_ns) / NS_PER_MS + 1;
    loop_deadline_start(lane_loop(lane), timer, MAX(left_ms, (uint64_t)EXPIRY_STEP_MS));
}

void lane_visitor_review_timeout(struct lane *lane)
{
    if (lane->expiry_timer.armed)
        loop_deadline_start(lane_loop(lane), &lane->expiry_timer, EXPIRY_STEP_MS);
}

void lane_visitor_review_access(struct lane *lane)
{
    list_for_each_safe (node, &lane->table.used) {
        struct lane_visitor *visitor =
            lane_visitor_of(container_of(node, struct udp_table_entry, node));
        if (!access_allows_visitor(lane->service, &visitor->route.to))
            visitor_remove(visitor);
    }
}

static uint32_t visitors_max(const struct lane *lane)
{
    return MAX(service_config(lane->service)->max_udp_visitors / lane->binding->count, 1u);
}

static struct lane_visitor *lane_visitor_add(struct lane *lane, const struct udp_frame_addr *key)
{
    /* Forget up to two: a reload may have lowered the limit, and the table then shrinks to it. */
    for (int i = 0; i < 2 && lane->table.count >= visitors_max(lane); i++) {
        visitor_remove(lane_visitor_of(udp_table_oldest(&lane->table)));
        lane_count(lane, METRIC_UDP_VISITORS_EVICTED, 1);
    }
    struct lane_visitor *visitor = slab_get(&lane->worker->udp_visitor_slab);
    if (visitor == NULL) {
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
        return NULL;
    }
    memset(visitor, 0, sizeof(*visitor));
    visitor->lane = lane;
    visitor->entry.key = *key;
    datagram_target_init(&visitor->target);
    if (udp_table_add(&lane->table, &visitor->entry, loop_now_ns(lane_loop(lane))) < 0) {
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
        slab_put(&lane->worker->udp_visitor_slab, visitor);
        return NULL;
    }
    lane_count(lane, METRIC_UDP_VISITORS, 1);
    counter_add(&lane->stats->visitors, 1);
    counter_add(&lane->stats->open, 1);
    if (!lane->expiry_timer.armed)
        loop_deadline_start(lane_loop(lane), &lane->expiry_timer,
                            MAX(service_config(lane->service)->udp_timeout_ms,
                                (uint32_t)EXPIRY_STEP_MS));
    return visitor;
}

/* Writes an address as rathole does, by the family of the socket: an IPv4 visitor of a dual-stack
 * socket is v4-mapped (RFC 4291, section 2.5.5.2). */
static void frame_addr_of(const struct addr *addr, struct udp_frame_addr *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (addr->any.sa_family == AF_INET) {
        memcpy(ret->octets, &addr->v4.sin_addr, sizeof(addr->v4.sin_addr));
    } else {
        memcpy(ret->octets, &addr->v6.sin6_addr, sizeof(ret->octets));
        ret->is_v6 = 1;
    }
    ret->port = addr_port(addr);
}

/* Says it at most once a second: anybody can send with anybody's address. */
static void lane_note_refusal(const struct lane *lane, const struct udp_arrival *arrival,
                              enum metric metric, const char *why)
{
    static struct log_limit limit;
    uint32_t suppressed;
    char text[ADDR_TEXT_SIZE];
    lane_count_drop(lane, metric, udp_arrival_count(arrival));
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_WARN, service_name(lane->service),
                    "datagrams from %s dropped: %s (%u similar lines suppressed)",
                    addr_format(arrival->from, text, sizeof(text)), why, suppressed);
}

/* Whether a new visitor may come. */
static bool is_newcomer_let_in(const struct lane *lane, const struct udp_arrival *arrival)
{
    const struct service *service = lane->service;
    struct server *server = lane->worker->server;
    uint32_t per_second = service_config(service)->max_new_per_second_per_ip;
    if (!access_allows_visitor(service, arrival->from)) {
        lane_note_refusal(lane, arrival, METRIC_UDP_DROPPED_ACCESS, "the address is not allowed");
        return false;
    }
    if (per_second == 0)
        return true;
    struct addr_key key = addr_key(arrival->from, config_prefixes(server_config(server)));
    int result =
        visitor_rate_enter(&server->rate, service, &key, per_second, loop_now_ns(lane_loop(lane)));
    if (result == -ENOMEM)
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
    else if (result < 0)
        lane_note_refusal(lane, arrival, METRIC_UDP_DROPPED_RATE,
                          "too many new visitors from the address within a second");
    return result == 0;
}

struct lane_visitor *lane_visitor_heard(struct lane *lane, const struct udp_arrival *arrival)
{
    struct udp_frame_addr key;
    frame_addr_of(arrival->from, &key);
    struct lane_visitor *visitor = lane->last;
    if (visitor == NULL || !udp_frame_addr_equal(&visitor->entry.key, &key)) {
        struct udp_table_entry *entry = udp_table_find(&lane->table, &key);
        if (entry != NULL)
            visitor = lane_visitor_of(entry);
        else
            visitor = is_newcomer_let_in(lane, arrival) ? lane_visitor_add(lane, &key) : NULL;
        if (visitor == NULL)
            return NULL;
        lane->last = visitor;
    }
    udp_table_touch(&lane->table, &visitor->entry, loop_now_ns(lane_loop(lane)));
    /* A visitor's scope id, and the local address that it sends to, may change. Answers use the
     * latest. */
    visitor->route = (struct udp_route){*arrival->from, arrival->to};
    return visitor;
}

/* connection_bandwidth. *ret_cost_ns: what was taken. */
static bool pass_own(struct lane_visitor *visitor, unsigned int from, size_t size,
                     uint64_t *ret_cost_ns)
{
    uint64_t bps = pace_connection_bps(&visitor->lane->service->rates);
    uint64_t now_ns = loop_now_ns(lane_loop(visitor->lane));
    struct rate *rate = &visitor->rates[from];
    *ret_cost_ns = 0;
    if (bps == 0)
        return true;
    /* A larger debt is of a lower rate, from before a reload. */
    rate->due_ns = MIN(rate->due_ns, now_ns + rate_cost_ns(bps, UINT16_MAX));
    *ret_cost_ns = rate_cost_ns(bps, size);
    return rate_pass(rate, *ret_cost_ns, now_ns, ms_to_ns(LIMIT_PACE_UDP_MS));
}

/* The visitor's own limit comes first: what it drops must take nothing from the others. */
static bool may_pass(struct lane_visitor *visitor, unsigned int from, size_t size)
{
    struct pace_rates *rates = &visitor->lane->service->rates;
    uint64_t bps = pace_service_bps(rates), own_ns;
    if (!pass_own(visitor, from, size, &own_ns))
        return false;
    if (bps == 0 ||
        rate_shared_pass(&rates->service[from], rate_cost_ns(bps, size),
                         loop_now_ns(lane_loop(visitor->lane)), ms_to_ns(LIMIT_PACE_UDP_MS)))
        return true;
    rate_give_back(&visitor->rates[from], own_ns);
    return false;
}

uint32_t lane_visitor_police(struct lane_visitor *visitor, unsigned int from, uint32_t size,
                             uint32_t segment_size)
{
    const struct pace_rates *rates = &visitor->lane->service->rates;
    if (pace_service_bps(rates) == 0 && pace_connection_bps(rates) == 0)
        return size;
    uint32_t passed = 0;
    while (passed < size && may_pass(visitor, from, MIN(segment_size, size - passed)))
        passed += MIN(segment_size, size - passed);
    uint32_t dropped = size - passed;
    if (dropped > 0)
        lane_count_drop(visitor->lane, METRIC_UDP_DROPPED_BANDWIDTH,
                        (dropped + segment_size - 1) / segment_size);
    return passed;
}

/* The table's key for an address in a client's frame. As on rathole's server, an IPv4 address means
 * the v4-mapped one on a dual-stack socket. */
static struct udp_frame_addr key_of(const struct lane *lane, const struct udp_frame_addr *from)
{
    struct udp_frame_addr key = *from;
    if (lane->udp.is_v6 && !from->is_v6) {
        memset(key.octets, 0, 10);
        memset(key.octets + 10, 0xff, 2);
        memcpy(key.octets + 12, from->octets, 4);
        key.is_v6 = 1;
    }
    return key;
}

struct lane_visitor *lane_visitor_answered(struct lane *lane, const struct udp_frame_addr *addr)
{
    struct lane_visitor *visitor = lane->last;
    struct udp_frame_addr key = key_of(lane, addr);
    if (visitor == NULL || !udp_frame_addr_equal(&visitor->entry.key, &key)) {
        struct udp_table_entry *entry = udp_table_find(&lane->table, &key);
        if (entry == NULL) {
            /* Only addresses that have sent something get datagrams. Not even our client may use
             * the server to send to others. */
            lane_count_drop(lane, METRIC_UDP_DROPPED_STRANGER, 1);
            return NULL;
        }
        visitor = lane->last = lane_visitor_of(entry);
    }
    udp_table_touch(&lane->table, &visitor->entry, loop_now_ns(lane_loop(lane)));
    return visitor;
}

struct udp_socket *lane_visitor_destination(struct datagram_target *target,
                                            const struct udp_route **ret_route)
{
    struct lane_visitor *visitor = container_of(target, struct lane_visitor, target);
    *ret_route = &visitor->route;
    return &visitor->lane->udp;
}

void lane_visitor_finish(struct lane *lane)
{
    struct udp_table_entry *entry;
    loop_timer_stop(lane_loop(lane), &lane->expiry_timer);
    while ((entry = udp_table_oldest(&lane->table)) != NULL)
        visitor_remove(lane_visitor_of(entry));
    udp_table_finish(&lane->table);
}
