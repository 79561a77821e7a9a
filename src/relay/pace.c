/* The state of a relay with limits, which other relays do not have. */
#include "relay/pace.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "relay_priv.h"

enum pace_stage {
    PACE_NONE,       /* nothing taken */
    PACE_CONNECTION, /* `taken` bytes of the connection's bucket */
    PACE_BOTH,       /* and of the service's */
};

struct pace_flow {
    struct timer timer; /* armed: the flow waits */
    struct rate connection;
    uint64_t left_ns;  /* the service's bucket as this flow has left it */
    uint32_t taken;    /* bytes that it may read */
    uint8_t stage;     /* enum pace_stage */
    bool expects_more; /* the last read was large, so there is probably more */
};

struct pace {
    struct pace_rates *rates;
    struct relay *relay;
    struct pace_flow flow[2];
};

static struct pace_flow *pace_of(struct relay_flow *flow)
{
    return &flow_relay(flow)->pace->flow[flow->index];
}

static struct rate_shared *service_rate(struct relay_flow *flow)
{
    return &flow_relay(flow)->pace->rates->service[flow->index];
}

static uint64_t now_of(struct relay_flow *flow)
{
    return loop_now_ns(flow_relay(flow)->engine->loop);
}

void pace_rates_set(struct pace_rates *rates, uint64_t service_bps, uint64_t connection_bps)
{
    bool is_other = pace_service_bps(rates) != service_bps;
    atomic_store_explicit(&rates->service_bps, service_bps, memory_order_relaxed);
    atomic_store_explicit(&rates->connection_bps, connection_bps, memory_order_relaxed);
    for (unsigned int i = 0; i < 2 && is_other; i++)
        rate_shared_reset(&rates->service[i]);
}

/* ---- taking and giving back ---- */

static bool is_in_debt(struct relay_flow *flow)
{
    const struct pace_rates *rates = flow_relay(flow)->pace->rates;
    uint64_t now_ns = now_of(flow);
    return (pace_connection_bps(rates) != 0 && pace_of(flow)->connection.due_ns > now_ns) ||
           (pace_service_bps(rates) != 0 && rate_shared_due_ns(service_rate(flow)) > now_ns);
}

/* Whether others have used the service's bucket since this flow did. */
static bool is_contended(struct relay_flow *flow)
{
    return rate_shared_due_ns(service_rate(flow)) != pace_of(flow)->left_ns;
}

/* How much to take at a time: what the limits have in a few ms. Others then wait no longer than
 * that for each who waits before them. */
static uint32_t quantum(struct relay_flow *flow)
{
    const struct pace_rates *rates = flow_relay(flow)->pace->rates;
    uint64_t connection_bps = pace_connection_bps(rates), service_bps = pace_service_bps(rates);
    uint64_t size = LIMIT_PIPE_SIZE;
    if (connection_bps != 0)
        size = MIN(size, rate_bytes(connection_bps, LIMIT_PACE_QUANTUM_MS));
    if (service_bps != 0)
        size = MIN(size, rate_bytes(service_bps, is_contended(flow) ? LIMIT_PACE_SHARED_MS
                                                                    : LIMIT_PACE_QUANTUM_MS));
    return (uint32_t)MAX(size, (uint64_t)LIMIT_PACE_READ_MIN);
}

static uint64_t take_connection(struct relay_flow *flow, uint32_t size)
{
    struct pace_flow *pace = pace_of(flow);
    uint64_t bps = pace_connection_bps(flow_relay(flow)->pace->rates);
    pace->taken = size;
    pace->stage = PACE_CONNECTION;
    return bps == 0 ? 0
                    : rate_take(&pace->connection, rate_cost_ns(bps, size), now_of(flow),
                                ms_to_ns(LIMIT_PACE_DEPTH_MS));
}

static uint64_t take_service(struct relay_flow *flow)
{
    struct pace_flow *pace = pace_of(flow);
    uint64_t bps = pace_service_bps(flow_relay(flow)->pace->rates);
    pace->stage = PACE_BOTH;
    return bps == 0 ? 0
                    : rate_shared_take(service_rate(flow), rate_cost_ns(bps, pace->taken),
                                       now_of(flow), ms_to_ns(LIMIT_PACE_DEPTH_MS));
}

/* The flow has used `used` of the bytes that it took: gives the others back. If a reload changes
 * the rate in between, that is not quite what was taken; the depth bounds the difference. */
static void settle(struct relay_flow *flow, size_t used)
{
    struct pace_flow *pace = pace_of(flow);
    const struct pace_rates *rates = flow_relay(flow)->pace->rates;
    uint64_t connection_bps = pace_connection_bps(rates), service_bps = pace_service_bps(rates);
    if (connection_bps != 0 && pace->stage >= PACE_CONNECTION)
        rate_give_back(&pace->connection, rate_cost_ns(connection_bps, pace->taken) -
                                              rate_cost_ns(connection_bps, used));
    if (service_bps != 0 && pace->stage == PACE_BOTH) {
        rate_shared_give_back(service_rate(flow), rate_cost_ns(service_bps, pace->taken) -
                                                      rate_cost_ns(service_bps, used));
        pace->left_ns = rate_shared_due_ns(service_rate(flow));
    }
    /* A pipe takes less than its size if segments are small. */
    pace->expects_more = used > 0 && used >= pace->taken / 4;
    pace->taken = 0;
    pace->stage = PACE_NONE;
}

/* ---- a flow's turn ---- */

/* False: the flow has to wait until at_ns, and a timer was started. */
static bool may_go(struct relay_flow *flow, uint64_t at_ns)
{
    struct relay *relay = flow_relay(flow);
    uint64_t now_ns = now_of(flow);
    if (at_ns <= now_ns)
        return true;
    /* Shorter waits would only be more of them: what is late has credit. */
    loop_timer_start_ns(relay->engine->loop, &pace_of(flow)->timer,
                        MAX(at_ns - now_ns, ms_to_ns(LIMIT_PACE_WAIT_MIN_MS)));
    relay_watch(relay, flow->index);
    return false;
}

/* True: the flow may read pace->taken bytes. The service comes last: whoever waits for a bucket of
 * its own must not hold a place among those who wait for the service's. */
static bool pace_ask(struct relay_flow *flow)
{
    const struct pace_flow *pace = pace_of(flow);
    if (pace->stage == PACE_NONE && !may_go(flow, take_connection(flow, quantum(flow))))
        return false;
    return pace->stage == PACE_BOTH || may_go(flow, take_service(flow));
}

static void pace_read(struct relay_flow *flow)
{
    ssize_t got = flow_read_now(flow, pace_of(flow)->taken);
    settle(flow, got > 0 ? (size_t)got : 0);
    flow_moved(flow, got);
}

static void pace_expired(struct relay_flow *flow)
{
    if (pace_ask(flow))
        pace_read(flow);
}

static void visitor_flow_expired(struct timer *timer)
{
    struct pace *pace = container_of(timer, struct pace, flow[RELAY_VISITOR_END].timer);
    pace_expired(&pace->relay->flow[RELAY_VISITOR_END]);
}

static void service_flow_expired(struct timer *timer)
{
    struct pace *pace = container_of(timer, struct pace, flow[RELAY_SERVICE_END].timer);
    pace_expired(&pace->relay->flow[RELAY_SERVICE_END]);
}

static void pace_readable(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, read_op);
    struct relay *relay = flow_relay(flow);
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    if (res < 0) {
        flow_moved(flow, res);
        return;
    }
    if (relay->pace == NULL) { /* a reload has lifted the limits */
        flow_next(flow);
        return;
    }
    if (flow->bulk)
        loop_note_bulk(relay->engine->loop, false);
    if (pace_ask(flow))
        pace_read(flow);
}

void pace_next(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    assert(!pace_of(flow)->timer.armed);
    /* A poll would end at once, and the flow would wait then. */
    if (pace_of(flow)->expects_more && is_in_debt(flow) && !pace_ask(flow))
        return;
    flow->read_op.done = pace_readable;
    loop_poll(relay->engine->loop, &flow->read_op, flow_source(flow), POLLIN);
}

size_t pace_first(struct relay_flow *flow, size_t max)
{
    if (is_in_debt(flow))
        return 0;
    max = MIN(max, (size_t)quantum(flow));
    /* Another worker may have taken some in between: then these go a little early. */
    (void)take_connection(flow, (uint32_t)max);
    (void)take_service(flow);
    return max;
}

void pace_first_done(struct relay_flow *flow, size_t used)
{
    settle(flow, used);
}

bool pace_is_waiting(const struct relay *relay)
{
    const struct pace *pace = relay->pace;
    return pace != NULL && (pace->flow[0].timer.armed || pace->flow[1].timer.armed);
}

/* ---- its life ---- */

void pace_start(struct relay *relay, struct pace_rates *rates)
{
    if (rates == NULL || (pace_service_bps(rates) == 0 && pace_connection_bps(rates) == 0))
        return;
    struct loop *loop = relay->engine->loop;
    struct pace *pace = calloc(1, sizeof(*pace));
    if (pace == NULL) {
        metrics_add(loop_metrics(loop), METRIC_OUT_OF_MEMORY, 1);
        return; /* better than no service */
    }
    pace->rates = rates;
    pace->relay = relay;
    for (unsigned int i = 0; i < 2; i++) {
        /* Without credit: a relay that moves to another worker begins anew there. */
        pace->flow[i].connection.due_ns = loop_now_ns(loop);
        timer_init(&pace->flow[i].timer,
                   i == RELAY_VISITOR_END ? visitor_flow_expired : service_flow_expired);
    }
    relay->pace = pace;
}

void pace_stop(struct relay *relay)
{
    for (unsigned int i = 0; i < 2 && relay->pace != NULL; i++) {
        loop_timer_stop(relay->engine->loop, &relay->pace->flow[i].timer);
        settle(&relay->flow[i], 0);
    }
}

void pace_finish(struct relay *relay)
{
    pace_stop(relay);
    free(relay->pace);
    relay->pace = NULL;
}

void pace_review(struct relay *relay, struct pace_rates *rates)
{
    bool waited[2] = {false, false};
    if (relay->state != RELAY_OPEN && relay->state != RELAY_DETACHING)
        return;
    for (unsigned int i = 0; i < 2 && relay->pace != NULL; i++)
        waited[i] = relay->pace->flow[i].timer.armed;
    pace_finish(relay); /* and its debt, which may be that of a much lower rate */
    pace_start(relay, rates);
    relay_hold(relay);
    for (unsigned int i = 0; i < 2; i++) {
        if (waited[i] && relay->state == RELAY_OPEN)
            flow_next(&relay->flow[i]);
    }
    relay_unhold(relay);
}
