#include "net/relay.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "io/pipe_pool.h"
#include "relay_priv.h"

enum { WATCH_ENDED_MS = 1000 };

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

static void replay_end(struct relay *relay)
{
    if (!relay->may_replay)
        return;
    relay->may_replay = false;
    replay_drop(relay);
    if (relay->idle_timeout_ms == 0 && !relay->watch_due)
        loop_timer_stop(relay->engine->loop, &relay->timer);
}

/* Keeps the first bytes from end 0. Without room for them the relay is simply not replayed. */
static void replay_keep(struct relay *relay, const unsigned char *data, size_t size)
{
    if (relay->replay != NULL || size > LIMIT_REPLAY_BYTES ||
        relay->engine->replay_bytes + size > LIMIT_REPLAY_TOTAL) {
        replay_end(relay);
        return;
    }
    relay->replay = malloc(sizeof(*relay->replay) + size);
    if (relay->replay == NULL) {
        replay_end(relay);
        return;
    }
    relay->replay->size = (uint32_t)size;
    memcpy(relay->replay->bytes, data, size);
    relay->engine->replay_bytes += size;
}

static bool may_rebind(const struct relay *relay, int error)
{
    bool is_reset = error == -ECONNRESET || error == -EPIPE || error == -ETIMEDOUT;
    bool all_kept = relay->replay != NULL ? relay->replay->size == relay->flow[0].bytes
                                          : relay->flow[0].bytes == 0;
    return relay->may_replay && is_reset && all_kept && relay->flow[1].bytes == 0 &&
           !relay->flow[1].eof && relay->ops->end1_lost != NULL;
}

/* ---- timer: the end of the replay window, and the idle timeout ---- */

static void relay_close(struct relay *relay, bool aborting);
static void relay_watch_ended(struct relay *relay);

static void relay_timer_start(struct relay *relay)
{
    uint32_t delay_ms = UINT32_MAX;
    if (relay->idle_timeout_ms != 0) {
        uint64_t idle_ms = (loop_now_ns(relay->engine->loop) - relay->active_at_ns) / 1000000;
        delay_ms = relay->idle_timeout_ms - (uint32_t)MIN(idle_ms, relay->idle_timeout_ms);
    }
    if (relay->may_replay)
        delay_ms = MIN(delay_ms, (uint32_t)LIMIT_REPLAY_MS);
    if (relay->watch_due)
        delay_ms = MIN(delay_ms, (uint32_t)WATCH_ENDED_MS);
    if (delay_ms != UINT32_MAX)
        loop_timer_start(relay->engine->loop, &relay->timer, delay_ms);
}

static bool relay_idle_expired(struct relay *relay)
{
    uint64_t idle_ns = loop_now_ns(relay->engine->loop) - relay->active_at_ns;
    return relay->idle_timeout_ms != 0 && idle_ns >= relay->idle_timeout_ms * 1000000ull;
}

static void relay_timer_expired(struct timer *timer)
{
    struct relay *relay = container_of(timer, struct relay, timer);
    struct loop *loop = relay->engine->loop;
    if (relay->state == RELAY_CLOSING)
        return;
    uint64_t age_ns = loop_now_ns(loop) - relay->started_at_ns;
    if (relay->state == RELAY_OPEN && age_ns >= LIMIT_REPLAY_MS * 1000000ull)
        replay_end(relay);
    if (relay_idle_expired(relay)) {
        relay->idle_timed_out = true;
        metrics_add(loop_metrics(loop), METRIC_RELAYS_IDLE_TIMEOUT, 1);
        relay_close(relay, true);
        return;
    }
    if (relay->state == RELAY_OPEN && relay->watch_due) {
        relay->watch_due = false;
        relay_watch_ended(relay);
    }
    relay_timer_start(relay);
}

/* ---- a flow's cycle: read, push, read ---- */

static void flow_release(struct relay_flow *flow)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    switch ((enum relay_pending)flow->pending) {
    case PENDING_NONE:
        break;
    case PENDING_BUFFER:
        buffers_recycle(loop_buffers(engine->loop), &flow->buffer);
        break;
    case PENDING_STASH:
        free(flow->data);
        break;
    case PENDING_BULK:
        engine_bulk_put(engine, flow->data);
        break;
    case PENDING_PIPE:
        pipe_pool_put(engine->pipes, flow->pipe);
        flow->pipe = NULL;
        break;
    }
    flow->pending = PENDING_NONE;
    flow->data = NULL;
}

/* 0: all is written. -EAGAIN: the sink is full. A short write means the same, and saves the call
 * that would only say so. */
static int flow_flush(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    ssize_t sent;
    if (flow->pending == PENDING_PIPE) {
        sent = socket_splice_out(flow->pipe, flow_sink(flow));
        if (sent > 0)
            relay->active_at_ns = loop_now_ns(relay->engine->loop);
        if (sent >= 0)
            return flow->pipe->pending_bytes == 0 ? 0 : -EAGAIN;
    } else {
        if (flow->begin == flow->end)
            return 0;
        const unsigned char *data = flow->data + flow->begin;
        size_t size = flow->end - flow->begin;
        sent = flow->eof ? socket_send_last(flow_sink(flow), data, size)
                         : socket_send_now(flow_sink(flow), data, size);
        if (sent >= 0) {
            relay->active_at_ns = loop_now_ns(relay->engine->loop);
            flow->begin += (uint32_t)sent;
            return flow->begin == flow->end ? 0 : -EAGAIN;
        }
    }
    return sent == -EINTR ? -EAGAIN : (int)sent;
}

/* Watches an end that nothing is read from, for a reset. */
static void relay_watch(struct relay *relay, unsigned int end)
{
    if (!relay->watched[end] && loop_op_is_idle(&relay->hangup_op[end]))
        loop_poll(relay->engine->loop, &relay->hangup_op[end], relay->fds[end], 0);
}

/* The same for an end whose end of stream has been read. Only after a while, because most relays
 * are over soon after the first of the two, and not while the other flow waits for this end: that
 * one would see it, and an exact poll belongs to one op. */
static void relay_watch_ended(struct relay *relay)
{
    for (unsigned int end = 0; end < 2; end++) {
        const struct relay_flow *back = &relay->flow[1 - end];
        if (!relay->flow[end].finished || relay->watched[end] ||
            !loop_op_is_idle(&relay->hangup_op[end]) || !loop_op_is_idle(&back->write_op))
            continue;
        loop_poll_exact(relay->engine->loop, &relay->hangup_op[end], relay->fds[end], 0);
    }
}

static void hung_up(struct relay *relay, unsigned int end)
{
    if (relay->state != RELAY_OPEN && relay->state != RELAY_WAITING_END) {
        relay_join(relay);
        return;
    }
    int error = socket_take_error(relay->fds[end]);
    if (error < 0)
        relay_fail(relay, end, error);
    else
        relay->watched[end] = true; /* both directions are shut down: no news */
}

static void end0_hung_up(struct loop_op *op, int res, uint32_t flags)
{
    hung_up(container_of(op, struct relay, hangup_op[0]), 0);
}

static void end1_hung_up(struct loop_op *op, int res, uint32_t flags)
{
    hung_up(container_of(op, struct relay, hangup_op[1]), 1);
}

/* A flow that waits for its sink keeps no shared buffer: sinks that are stuck would keep them from
 * all others. Without memory it does keep it. */
static void flow_stash(struct relay_flow *flow)
{
    uint32_t left = flow->end - flow->begin;
    unsigned char *stash = malloc(left);
    if (stash == NULL)
        return;
    memcpy(stash, flow->data + flow->begin, left);
    flow_release(flow);
    flow->pending = PENDING_STASH;
    flow->data = stash;
    flow->begin = 0;
    flow->end = left;
}

static void flow_block(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (flow->pending == PENDING_BUFFER)
        flow_stash(flow);
    if (relay->half_closed[1 - flow->index])
        loop_poll_exact(relay->engine->loop, &flow->write_op, flow_sink(flow), POLLOUT);
    else
        loop_poll(relay->engine->loop, &flow->write_op, flow_sink(flow), POLLOUT);
    if (!flow->eof)
        relay_watch(relay, flow->index);
}

static void flow_writable(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, write_op);
    struct relay *relay = flow_relay(flow);
    /* The ring's polls always include this, and would fire again at once. */
    if (res > 0 && (res & POLLRDHUP) != 0)
        relay->half_closed[1 - flow->index] = true;
    if (relay->state != RELAY_OPEN)
        relay_join(relay);
    else if (res < 0)
        relay_fail(relay, 1 - flow->index, res);
    else
        flow_push(flow);
}

/* The input has ended and all of it is written. */
static void flow_end(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    flow->finished = true;
    if (relay->flow[1 - flow->index].finished) {
        relay_close(relay, false); /* whose close(2) sends the last end of stream */
        return;
    }
    socket_shutdown_send(flow_sink(flow));
    relay->watch_due = true;
    relay_timer_start(relay);
}

void flow_input_ended(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    /* A lost end 1 reads as ended once its error has been taken by a write: no answer of the
     * service. */
    if (relay->state != RELAY_REBINDING || flow->index == 0)
        flow->eof = relay->half_closed[flow->index] = true;
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    flow_release(flow);
    if (flow->index == 1)
        replay_end(relay); /* an end of stream is the service's answer */
    flow_end(flow);
}

void flow_count(struct relay_flow *flow, const unsigned char *data, size_t size)
{
    struct relay *relay = flow_relay(flow);
    relay->active_at_ns = loop_now_ns(relay->engine->loop);
    flow->bytes += size;
    if (!relay->may_replay)
        return;
    if (flow->index == 1)
        replay_end(relay);
    else
        replay_keep(relay, data, size);
}

void flow_push(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    int result = flow_flush(flow);
    if (result == -EAGAIN) {
        flow_block(flow);
        return;
    }
    if (result < 0) {
        relay_fail(relay, 1 - flow->index, result);
        return;
    }
    flow_release(flow);
    if (flow->eof)
        flow_end(flow);
    else
        flow_next(flow);
}

void flow_next(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    if (!flow->bulk) {
        flow_copy_read(flow);
        return;
    }
    bool offered = flow->offered;
    flow->offered = true;
    if (!offered && relay->ops->became_bulk != NULL && relay->ops->became_bulk(relay))
        return; /* relay_detach will go on from here, or the relay is gone */
    flow_bulk_wait(flow);
}

/* ---- the end ---- */

static bool relay_is_joined(const struct relay *relay)
{
    if (relay->held > 0)
        return false;
    for (unsigned int i = 0; i < 2; i++) {
        if (!loop_op_is_idle(&relay->flow[i].read_op) ||
            !loop_op_is_idle(&relay->flow[i].write_op) || !loop_op_is_idle(&relay->hangup_op[i]))
            return false;
    }
    return true;
}

/* A function that starts both flows holds the relay meanwhile: the first may already end it. */
static void relay_hold(struct relay *relay)
{
    relay->held++;
}

static void relay_unhold(struct relay *relay)
{
    relay->held--;
    if (relay->state != RELAY_OPEN)
        relay_join(relay);
}

static void relay_cancel(struct relay *relay)
{
    struct loop *loop = relay->engine->loop;
    for (unsigned int i = 0; i < 2; i++) {
        loop_cancel(loop, &relay->flow[i].read_op);
        loop_cancel(loop, &relay->flow[i].write_op);
        loop_cancel(loop, &relay->hangup_op[i]);
        buffers_wait_cancel(&relay->flow[i].buffers_waiter);
    }
}

static void relay_finish(struct relay *relay, enum relay_state state)
{
    struct relay_engine *engine = relay->engine;
    replay_end(relay);
    loop_timer_stop(engine->loop, &relay->timer);
    for (unsigned int i = 0; i < 2; i++) {
        flow_release(&relay->flow[i]);
        if (relay->flow[i].bulk) {
            unsigned int flows = atomic_load_explicit(&engine->bulk_flows, memory_order_relaxed);
            atomic_store_explicit(&engine->bulk_flows, flows - 1, memory_order_relaxed);
        }
    }
    engine->relay_count--;
    relay->state = (uint8_t)state;
    relay->ops->closed(relay);
}

static void relay_close_fds(struct relay *relay)
{
    for (unsigned int i = 0; i < 2; i++) {
        if (relay->fds[i] < 0)
            continue;
        if (relay->aborting)
            socket_set_abort(relay->fds[i]);
        loop_close_fd(relay->engine->loop, relay->fds[i]);
        relay->fds[i] = -1;
    }
    metrics_add(loop_metrics(relay->engine->loop),
                relay->aborting ? METRIC_RELAYS_ABORTED : METRIC_RELAYS_CLEAN, 1);
}

static void relay_ask_for_end1(struct relay *relay)
{
    if (!may_rebind(relay, -ECONNRESET)) {
        relay_close(relay, true); /* more came, from either end, before all was still */
        return;
    }
    for (unsigned int i = 0; i < 2; i++)
        flow_release(&relay->flow[i]); /* what was not written is in the replay */
    socket_set_abort(relay->fds[1]);
    loop_close_fd(relay->engine->loop, relay->fds[1]);
    relay->fds[1] = -1;
    relay->watched[1] = relay->half_closed[1] = false;
    relay->state = RELAY_WAITING_END;
    relay_hold(relay);
    if (!relay->ops->end1_lost(relay))
        relay_close(relay, true);
    else if (relay->state == RELAY_WAITING_END && !relay->flow[0].eof)
        relay_watch(relay, 0);
    relay_unhold(relay);
}

/* Everything is still: hand the descriptors back, unless something came in the meantime. */
static void relay_finish_detaching(struct relay *relay)
{
    bool still = true;
    for (unsigned int i = 0; i < 2; i++) {
        const struct relay_flow *flow = &relay->flow[i];
        still = still && flow->pending == PENDING_NONE && flow->eof == flow->finished;
    }
    if (still) {
        relay_finish(relay, RELAY_DETACHED);
        return;
    }
    relay->state = RELAY_OPEN;
    relay_hold(relay);
    for (unsigned int i = 0; i < 2; i++) {
        if (!relay->flow[i].finished && relay->state == RELAY_OPEN)
            flow_push(&relay->flow[i]);
    }
    relay_unhold(relay);
}

void relay_join(struct relay *relay)
{
    if (!relay_is_joined(relay))
        return;
    switch ((enum relay_state)relay->state) {
    case RELAY_CLOSING:
        relay_close_fds(relay);
        relay_finish(relay, RELAY_CLOSED);
        break;
    case RELAY_REBINDING:
        relay_ask_for_end1(relay);
        break;
    case RELAY_DETACHING:
        relay_finish_detaching(relay);
        break;
    case RELAY_OPEN:
    case RELAY_WAITING_END:
    case RELAY_DETACHED:
    case RELAY_CLOSED:
        break;
    }
}

static void relay_close(struct relay *relay, bool aborting)
{
    relay->aborting = relay->aborting || aborting;
    if (relay->state == RELAY_CLOSING)
        return;
    relay->state = RELAY_CLOSING;
    relay_cancel(relay);
    relay_join(relay);
}

void relay_fail(struct relay *relay, unsigned int end, int error)
{
    if (relay->state == RELAY_CLOSING || (relay->state == RELAY_REBINDING && end == 1)) {
        relay_join(relay);
        return;
    }
    if (end == 1 && relay->state == RELAY_OPEN && may_rebind(relay, error)) {
        relay->state = RELAY_REBINDING;
        relay_cancel(relay);
        relay_join(relay);
        return;
    }
    relay->error = error;
    relay_close(relay, true);
}

void relay_terminate(struct relay *relay)
{
    relay_close(relay, true);
}

void relay_detach(struct relay *relay)
{
    if (relay->state != RELAY_OPEN)
        return;
    relay->state = RELAY_DETACHING;
    relay_cancel(relay);
    relay_join(relay);
}

bool relay_detached(const struct relay *relay, int ret_fds[2], bool ret_ended[2])
{
    if (relay->state != RELAY_DETACHED)
        return false;
    for (unsigned int i = 0; i < 2; i++) {
        ret_fds[i] = relay->fds[i];
        ret_ended[i] = relay->flow[i].finished;
    }
    return true;
}

uint64_t relay_bytes(const struct relay *relay, unsigned int from)
{
    return relay->flow[from].bytes;
}

/* ---- the start ---- */

/* Sends the first `size` bytes of the scratch buffer to end 1 in one segment; what it does not take
 * becomes the flow's pending bytes. */
static void relay_send_scratch(struct relay *relay, size_t size)
{
    struct relay_flow *flow = &relay->flow[0];
    unsigned char *scratch = relay->engine->scratch;
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

void relay_rebind(struct relay *relay, int fd)
{
    if (relay->state != RELAY_WAITING_END) { /* it ended while the new end was on its way */
        socket_set_abort(fd);
        loop_close_fd(relay->engine->loop, fd);
        return;
    }
    relay->fds[1] = fd;
    relay->state = RELAY_OPEN;
    relay->flow[0].finished = false; /* what was passed on went to the old end */
    relay->started_at_ns = loop_now_ns(relay->engine->loop);
    relay_timer_start(relay);
    relay_hold(relay);
    flow_next(&relay->flow[1]);
    size_t size = relay->prefix_len;
    memcpy(relay->engine->scratch, relay->prefix, size);
    if (relay->replay != NULL) {
        memcpy(relay->engine->scratch + size, relay->replay->bytes, relay->replay->size);
        size += relay->replay->size;
    }
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
    flow->begin = flow->end = 0;
    flow->bytes = 0;
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
    relay->engine = options->engine;
    relay->ops = options->ops;
    for (unsigned int i = 0; i < 2; i++) {
        flow_init(&relay->flow[i], i, options->ended[i]);
        relay->flow[i].poll_first = options->quiet[i];
        relay->fds[i] = options->fds[i];
        relay->watched[i] = false;
        relay->half_closed[i] = options->ended[i];
    }
    loop_op_init(&relay->hangup_op[0], end0_hung_up);
    loop_op_init(&relay->hangup_op[1], end1_hung_up);
    timer_init(&relay->timer, relay_timer_expired);
    relay->started_at_ns = relay->active_at_ns = loop_now_ns(relay->engine->loop);
    relay->replay = NULL;
    relay->idle_timeout_ms = options->idle_timeout_ms;
    relay->error = 0;
    relay->state = RELAY_OPEN;
    relay->loopback = 0;
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
            flow_next(&relay->flow[i]);
    }
    if (!options->ended[0] && options->prefix_len > 0)
        relay_greet(relay);
    relay_unhold(relay);
}
