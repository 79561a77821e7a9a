#include "net/relay.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "io/pipe_pool.h"
#include "relay_priv.h"

static_assert(offsetof(struct relay, flow) == 0, "flow_relay counts on it");
static_assert(sizeof(struct relay) <= 640, "an idle relay costs at most 1 KiB with its owner");

/* ---- engine ---- */

int relay_engine_init(struct relay_engine *engine, struct loop *loop, size_t pipe_budget_bytes)
{
    memset(engine, 0, sizeof(*engine));
    engine->loop = loop;
    engine->scratch = malloc(RELAY_PREFIX_SIZE + LIMIT_REPLAY_BYTES);
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
    zerocopy_destroy(engine->zerocopy);
    free(engine->scratch);
    memset(engine, 0, sizeof(*engine));
}

unsigned int relay_engine_bulk_flows(const struct relay_engine *engine)
{
    return atomic_load_explicit(&engine->bulk_flows, memory_order_relaxed);
}

/* ---- replay ---- */

static void replay_drop(struct relay *relay)
{
    if (relay->replay == NULL)
        return;
    relay->engine->replay_bytes -= relay->replay->size;
    free(relay->replay);
    relay->replay = NULL;
}

void relay_replay_end(struct relay *relay)
{
    if (!relay->may_replay)
        return;
    relay->may_replay = false;
    replay_drop(relay);
    if (relay->idle_timeout_ms == 0 && !relay->watch_due)
        loop_timer_stop(relay->engine->loop, &relay->timer);
}

/* Keeps the first bytes from end 0. Without room for them the relay is simply not replayed. */
void relay_replay_keep(struct relay *relay, const unsigned char *data, size_t size)
{
    if (relay->replay != NULL || size > LIMIT_REPLAY_BYTES ||
        relay->engine->replay_bytes + size > LIMIT_REPLAY_TOTAL) {
        relay_replay_end(relay);
        return;
    }
    relay->replay = malloc(sizeof(*relay->replay) + size);
    if (relay->replay == NULL) {
        relay_replay_end(relay);
        return;
    }
    relay->replay->size = (uint32_t)size;
    memcpy(relay->replay->bytes, data, size);
    relay->engine->replay_bytes += size;
}

bool relay_may_rebind(const struct relay *relay, int error)
{
    bool is_reset = error == -ECONNRESET || error == -EPIPE || error == -ETIMEDOUT;
    bool all_kept = relay->replay != NULL ? relay->replay->size == relay->flow[0].bytes
                                          : relay->flow[0].bytes == 0;
    return relay->may_replay && is_reset && all_kept && relay->flow[1].bytes == 0 &&
           !relay->flow[1].eof && relay->ops->end1_lost != NULL;
}

/* ---- the start ---- */

static void flow_begin(struct relay_flow *flow)
{
    if (flow_noise_take_early(flow))
        flow_push(flow);
    else
        flow_next(flow);
}

/* Sends the first `size` bytes of the scratch buffer to end 1 in one segment; what it does not take
 * becomes the flow's pending bytes. */
static void relay_send_scratch(struct relay *relay, size_t size)
{
    struct relay_flow *flow = &relay->flow[0];
    unsigned char *scratch = relay->engine->scratch;
    if (relay->noise[1] != NULL && size > 0) {
        ssize_t sealed = relay_noise_seal(relay, scratch, size, &scratch);
        if (sealed < 0) {
            relay_fail(relay, 1, (int)sealed);
            return;
        }
        size = (size_t)sealed;
    }
    ssize_t sent = size > 0 ? socket_send_now(relay->fds[1], scratch, size) : 0;
    if (sent == -EAGAIN || sent == -EINTR)
        sent = 0;
    if (sent < 0) {
        relay_fail(relay, 1, (int)sent);
        return;
    }
    size_t left = size - (size_t)sent;
    if (left > 0) {
        flow->data = malloc(left);
        if (flow->data == NULL) {
            relay_fail(relay, 0, -ENOMEM);
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

/* The prefix, and with it what end 0 has sent already: one segment instead of two. */
static void relay_greet(struct relay *relay)
{
    struct relay_flow *flow = &relay->flow[0];
    unsigned char *scratch = relay->engine->scratch;
    memcpy(scratch, relay->prefix, relay->prefix_len);
    unsigned char *first = scratch + relay->prefix_len;
    ssize_t got = socket_recv_now(relay->fds[0], first, LIMIT_REPLAY_BYTES);
    size_t size = relay->prefix_len;
    if (got > 0) {
        size += (size_t)got;
        metrics_add(loop_metrics(relay->engine->loop), METRIC_BYTES_COPIED, (uint64_t)got);
        flow_count(flow, first, (size_t)got);
    } else if (got == 0) {
        flow->eof = relay->half_closed[0] = true;
    } else if (got != -EAGAIN && got != -EINTR) {
        relay_fail(relay, 0, (int)got);
        return;
    }
    flow->poll_first = true;
    relay_send_scratch(relay, size);
}

void relay_rebind(struct relay *relay, struct transport end1)
{
    if (relay->state != RELAY_WAITING_END) { /* it ended while the new end was on its way */
        transport_abort(&end1, relay->engine->loop);
        return;
    }
    relay->fds[1] = end1.fd;
    relay->noise[1] = end1.noise;
    relay->state = RELAY_OPEN;
    relay->flow[0].finished = false; /* what was passed on went to the old end */
    relay->started_at_ns = loop_now_ns(relay->engine->loop);
    relay_timer_start(relay);
    size_t size = relay->prefix_len;
    memcpy(relay->engine->scratch, relay->prefix, size);
    if (relay->replay != NULL) {
        memcpy(relay->engine->scratch + size, relay->replay->bytes, relay->replay->size);
        size += relay->replay->size;
    }
    relay_hold(relay);
    flow_begin(&relay->flow[1]); /* drops the replay if bytes have come early */
    if (relay->state == RELAY_OPEN)
        relay_send_scratch(relay, size);
    relay_unhold(relay);
}

static void flow_init(struct relay_flow *flow, unsigned int index, bool ended)
{
    loop_op_init(&flow->read_op, NULL);
    loop_op_init(&flow->write_op, flow_writable);
    buffers_waiter_init(&flow->buffers_waiter, flow_copy_buffers_available);
    flow->buffer = (struct buffer){NULL, 0};
    flow->data = NULL;
    flow->pipe = NULL;
    flow->zerocopy = NULL;
    flow->zerocopy_use = FLOW_ZEROCOPY_UNDECIDED;
    flow->zerocopy_sending = false;
    flow->begin = flow->end = 0;
    flow->bytes = 0;
    flow->unsent = UINT32_MAX;
    flow->index = (uint8_t)index;
    flow->pending = PENDING_NONE;
    flow->streak = 0;
    flow->bulk = flow->offered = flow->poll_first = false;
    flow->eof = flow->finished = ended;
}

void relay_start(struct relay *relay, const struct relay_options *options)
{
    assert(options->prefix_len <= RELAY_PREFIX_SIZE);
    assert(!options->ended[0] || !options->ended[1]);
    assert(options->prefix_len == 0 || options->noise[0] == NULL); /* relay_greet reads plaintext */
    relay->engine = options->engine;
    relay->ops = options->ops;
    for (unsigned int i = 0; i < 2; i++) {
        flow_init(&relay->flow[i], i, options->ended[i]);
        relay->flow[i].poll_first = options->quiet[i];
        relay->fds[i] = options->fds[i];
        relay->noise[i] = options->noise[i];
        relay->watched[i] = false;
        relay->half_closed[i] = options->ended[i];
    }
    loop_op_init(&relay->hangup_op[0], relay_end0_hung_up);
    loop_op_init(&relay->hangup_op[1], relay_end1_hung_up);
    timer_init(&relay->timer, relay_timer_expired);
    relay->started_at_ns = relay->active_at_ns = loop_now_ns(relay->engine->loop);
    relay->replay = NULL;
    relay->idle_timeout_ms = options->idle_timeout_ms;
    relay->error = 0;
    relay->state = RELAY_OPEN;
    relay->may_replay = options->replay;
    relay->watch_due = options->ended[0] || options->ended[1];
    relay->aborting = relay->idle_timed_out = false;
    relay->held = 0;
    relay->prefix_len = (uint8_t)options->prefix_len;
    if (options->prefix_len > 0)
        memcpy(relay->prefix, options->prefix, options->prefix_len);
    relay->engine->relay_count++;
    metrics_add(loop_metrics(relay->engine->loop), METRIC_RELAYS_STARTED, 1);
    relay_timer_start(relay);

    relay_hold(relay);
    for (unsigned int i = 0; i < 2; i++) {
        if (!options->ended[i] && (i == 1 || options->prefix_len == 0))
            flow_begin(&relay->flow[i]);
    }
    /* Early bytes may have met a sink that is gone, and ended the relay. */
    if (!options->ended[0] && options->prefix_len > 0 && relay->state == RELAY_OPEN)
        relay_greet(relay);
    relay_unhold(relay);
}
