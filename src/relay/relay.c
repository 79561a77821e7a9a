#include "relay/relay.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "base/probe.h"
#include "io/pipe_pool.h"
#include "relay_priv.h"

static_assert(offsetof(struct relay, flow) == 0, "flow_relay needs it");
static_assert(RELAY_PREFIX_SIZE + LIMIT_FIRST_READ <= LINK_BATCH_PLAIN, "sealed at once");
static_assert(sizeof(struct relay) <= 640, "an idle relay costs at most 1 KiB with its owner");

/* ---- engine ---- */

int relay_engine_init(struct relay_engine *engine, struct loop *loop, size_t pipe_budget_bytes)
{
    memset(engine, 0, sizeof(*engine));
    engine->loop = loop;
    list_init(&engine->relays);
    timer_init(&engine->sweep_timer, relay_sweep);
    engine->scratch = malloc(RELAY_PREFIX_SIZE + LIMIT_FIRST_READ);
    if (engine->scratch == NULL)
        return -ENOMEM;
    int result = pipe_pool_create(pipe_budget_bytes, &engine->pipes);
    if (result < 0) {
        free(engine->scratch);
        engine->scratch = NULL;
    }
    return result;
}

void relay_engine_finish(struct relay_engine *engine)
{
    while (engine->bulk_free_count > 0)
        free(engine->bulk_free[--engine->bulk_free_count]);
    pipe_pool_destroy(engine->pipes);
    free(engine->scratch);
    engine->pipes = NULL; /* not all of it: other workers may still read bulk_flows */
    engine->scratch = NULL;
}

void relay_engine_stay(struct relay_engine *engine)
{
    engine->stay_until_ns = loop_now_ns(engine->loop) + ms_to_ns(LIMIT_STAY_MS);
}

unsigned int relay_bulk_flows(const struct relay *relay)
{
    return (unsigned int)relay->flow[0].bulk + (unsigned int)relay->flow[1].bulk;
}

unsigned int relay_engine_bulk_flows(const struct relay_engine *engine)
{
    return atomic_load_explicit(&engine->bulk_flows, memory_order_relaxed);
}

/* ---- the start ---- */

static void flow_begin(struct relay_flow *flow)
{
    if (flow_coded_take_early(flow))
        flow_push(flow);
    else
        flow_next(flow);
}

/* Sends the first `size` bytes of the scratch buffer to the service end, in one segment. Bytes that
 * the socket does not take become the flow's pending bytes. */
static void relay_send_scratch(struct relay *relay, size_t size)
{
    struct relay_flow *flow = &relay->flow[RELAY_VISITOR_END];
    unsigned char *scratch = relay->engine->scratch;
    if (relay->links[RELAY_SERVICE_END] != NULL && size > 0) {
        ssize_t sealed = relay_seal(relay, scratch, size, &scratch);
        if (sealed < 0) {
            relay_fail(relay, RELAY_SERVICE_END, (int)sealed);
            return;
        }
        size = (size_t)sealed;
    }
    ssize_t sent = size > 0 ? socket_send_now(relay->fds[RELAY_SERVICE_END], scratch, size) : 0;
    if (sent == -EAGAIN || sent == -EINTR)
        sent = 0;
    if (sent < 0) {
        relay_fail(relay, RELAY_SERVICE_END, (int)sent);
        return;
    }
    size_t left = size - (size_t)sent;
    if (left > 0) {
        flow->data = malloc(left);
        if (flow->data == NULL) {
            relay_fail(relay, RELAY_VISITOR_END, -ENOMEM);
            return;
        }
        memcpy(flow->data, scratch + sent, left);
        flow->pending = PENDING_STASH;
        flow->begin = 0;
        flow->end = (uint32_t)left;
        flow_block(flow);
        return;
    }
    if (flow->eof)
        flow_end(flow);
    else
        flow_next(flow);
}

/* Sends the prefix together with bytes that the visitor end has sent already: one segment, not two.
 */
static void relay_greet(struct relay *relay, const void *prefix, size_t prefix_len)
{
    struct relay_flow *flow = &relay->flow[RELAY_VISITOR_END];
    unsigned char *scratch = relay->engine->scratch;
    memcpy(scratch, prefix, prefix_len);
    size_t room = relay->pace == NULL ? LIMIT_FIRST_READ : pace_first(flow, LIMIT_FIRST_READ);
    ssize_t got = -EAGAIN;
    if (room > 0)
        got = socket_recv_now(relay->fds[RELAY_VISITOR_END], scratch + prefix_len, room);
    if (room > 0 && relay->pace != NULL)
        pace_first_done(flow, got > 0 ? (size_t)got : 0);
    size_t size = prefix_len;
    if (got > 0) {
        size += (size_t)got;
        metrics_add(loop_metrics(relay->engine->loop), METRIC_BYTES_COPIED, (uint64_t)got);
        flow_count(flow, (size_t)got);
    } else if (got == 0) {
        flow->eof = relay->half_closed[RELAY_VISITOR_END] = true;
    } else if (got != -EAGAIN && got != -EINTR) {
        relay_fail(relay, RELAY_VISITOR_END, (int)got);
        return;
    }
    flow->poll_first = true;
    relay_send_scratch(relay, size);
}

static void flow_init(struct relay_flow *flow, unsigned int index, bool ended)
{
    loop_op_init(&flow->read_op, NULL);
    loop_op_init(&flow->write_op, flow_writable);
    buffers_waiter_init(&flow->buffers_waiter, flow_copy_buffers_available);
    flow->buffer = (struct buffer){NULL, 0};
    flow->data = NULL;
    flow->pipe = NULL;
    flow->begin = flow->end = 0;
    flow->bytes = 0;
    flow->unsent = UINT32_MAX;
    flow->lingered = 0;
    flow->index = (uint8_t)index;
    flow->pending = PENDING_NONE;
    flow->streak = 0;
    flow->bulk = flow->placed = flow->poll_first = false;
    flow->eof = flow->finished = ended;
}

/* How long a flow whose input had ended when the relay moved holds its end back from now on. */
static uint32_t hold_left_ms(const struct relay_options *options, unsigned int flow)
{
    uint32_t left_ms = options->links[1 - flow]->hold_left_ms;
    return left_ms != 0 ? left_ms : options->half_close_timeout_ms;
}

void relay_start(struct relay *relay, const struct relay_options *options)
{
    assert(options->prefix_len <= RELAY_PREFIX_SIZE);
    assert(!options->ended[0] || !options->ended[1]);
    /* relay_greet reads plaintext from the visitor end. */
    assert(options->prefix_len == 0 || options->links[RELAY_VISITOR_END] == NULL);
    relay->engine = options->engine;
    relay->ops = options->ops;
    relay->stats = options->stats;
    relay->begun_at_ns = options->begun_at_ns;
    for (unsigned int i = 0; i < 2; i++) {
        flow_init(&relay->flow[i], i, options->ended[i]);
        relay->flow[i].poll_first = options->expect_empty[i];
        relay->fds[i] = options->fds[i];
        relay->links[i] = options->links[i];
        relay->watched[i] = false;
        relay->half_closed[i] = options->ended[i];
    }
    loop_op_init(&relay->hangup_op[RELAY_VISITOR_END], relay_visitor_end_hung_up);
    loop_op_init(&relay->hangup_op[RELAY_SERVICE_END], relay_service_end_hung_up);
    timer_init(&relay->timer, relay_timer_expired);
    relay->active_at_ns = loop_now_ns(relay->engine->loop);
    relay->idle_timeout_ms = options->idle_timeout_ms;
    relay->half_close_timeout_ms = options->half_close_timeout_ms;
    relay->held_until_ns = 0;
    relay->error = 0;
    relay->state = RELAY_OPEN;
    relay->watch_due = options->ended[0] || options->ended[1];
    relay->aborting = relay->idle_timed_out = relay->is_gone = false;
    relay->held = 0;
    relay->pace = NULL;
    pace_start(relay, options->rates);
    relay_silence_start(relay, options);
    metrics_add(loop_metrics(relay->engine->loop), METRIC_RELAYS_STARTED, 1);
    PROBE3(relay_begin, relay, relay->fds[0], relay->fds[1]);
    for (unsigned int i = 0; i < 2; i++) {
        if (options->ended[i] && flow_holds_end(&relay->flow[i]))
            relay_hold_end(relay, hold_left_ms(options, i));
    }
    relay_timer_start(relay);

    relay_hold(relay);
    for (unsigned int i = 0; i < 2; i++) {
        if (!options->ended[i] && (i == RELAY_SERVICE_END || options->prefix_len == 0))
            flow_begin(&relay->flow[i]);
    }
    /* flow_begin may have ended the relay: it writes early bytes, and the sink may be gone. */
    if (!options->ended[RELAY_VISITOR_END] && options->prefix_len > 0 && relay->state == RELAY_OPEN)
        relay_greet(relay, options->prefix, options->prefix_len);
    relay_unhold(relay);
}
