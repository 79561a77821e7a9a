/* How a relay ends: closed cleanly, aborted, detached for a move to another worker, or without its
 * visitor end, which is spared. In each of these states all ops are cancelled first, and the relay
 * ends when the last one is idle. */
#include <errno.h>
#include <poll.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "base/probe.h"
#include "relay_priv.h"

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

void relay_hold(struct relay *relay)
{
    relay->held++;
}

void relay_unhold(struct relay *relay)
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
    pace_stop(relay);
}

static void relay_finish(struct relay *relay, enum relay_state state)
{
    struct relay_engine *engine = relay->engine;
    loop_timer_stop(engine->loop, &relay->timer);
    pace_finish(relay);
    for (unsigned int i = 0; i < 2; i++) {
        flow_release(&relay->flow[i]);
        if (relay->flow[i].bulk) {
            unsigned int flows = atomic_load_explicit(&engine->bulk_flows, memory_order_relaxed);
            atomic_store_explicit(&engine->bulk_flows, flows - 1, memory_order_relaxed);
        }
    }
    relay_silence_finish(relay);
    relay->state = (uint8_t)state;
    PROBE5(relay_end, relay, state, relay->flow[0].bytes, relay->flow[1].bytes, relay->error);
    relay->ops->closed(relay);
}

static void relay_close_fds(struct relay *relay)
{
    for (unsigned int i = 0; i < 2; i++) {
        /* Needed also after a shutdown(SHUT_WR): the end of stream may still be unsent. */
        if (!relay->aborting)
            socket_close_cleanly(relay->fds[i]);
        loop_close_fd(relay->engine->loop, relay->fds[i]);
        relay->fds[i] = -1;
        link_free(relay_take_link(relay, i));
    }
    metrics_add(loop_metrics(relay->engine->loop),
                relay->aborting ? METRIC_RELAYS_ABORTED : METRIC_RELAYS_CLEAN, 1);
}

/* All ops are idle: gives the descriptors back, unless bytes have come meanwhile. */
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
        /* A finished flow may have an end to write that was held back. */
        const struct relay_flow *flow = &relay->flow[i];
        bool goes_on = !flow->finished || flow->pending != PENDING_NONE;
        if (goes_on && relay->state == RELAY_OPEN)
            flow_push(&relay->flow[i]);
    }
    relay_unhold(relay);
}

/* Nothing has been read, so nothing was sent but the prefix. */
static bool is_unused(const struct relay *relay)
{
    const struct relay_flow *flow = relay->flow;
    return flow[RELAY_VISITOR_END].bytes == 0 && flow[RELAY_SERVICE_END].bytes == 0 &&
           !flow[RELAY_VISITOR_END].eof;
}

/* All ops are idle: gives the visitor end back, unless something has come from it meanwhile. */
static void relay_finish_sparing(struct relay *relay)
{
    if (!is_unused(relay)) {
        relay->aborting = true;
        relay_close_fds(relay);
        relay_finish(relay, RELAY_CLOSED);
        return;
    }
    if (relay->error == 0)
        socket_close_cleanly(relay->fds[RELAY_SERVICE_END]);
    loop_close_fd(relay->engine->loop, relay->fds[RELAY_SERVICE_END]);
    relay->fds[RELAY_SERVICE_END] = -1;
    link_free(relay_take_link(relay, RELAY_SERVICE_END));
    metrics_add(loop_metrics(relay->engine->loop), METRIC_RELAYS_ABORTED, 1);
    relay_finish(relay, RELAY_SPARED);
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
    case RELAY_DETACHING:
        relay_finish_detaching(relay);
        break;
    case RELAY_SPARING:
        relay_finish_sparing(relay);
        break;
    case RELAY_OPEN:
    case RELAY_LINGERING:
    case RELAY_DETACHED:
    case RELAY_SPARED:
    case RELAY_CLOSED:
        break;
    }
}

void relay_close(struct relay *relay, bool aborting)
{
    relay->aborting = relay->aborting || aborting;
    if (relay->state == RELAY_CLOSING)
        return;
    relay->state = RELAY_CLOSING;
    relay_cancel(relay);
    relay_join(relay);
}

/* ---- lingering ---- */

/* An end that has said its end of stream with a message may send more: TLS has its own end behind
 * the one of WebSocket. Closing a socket with unread bytes discards what it has not sent yet, and
 * resets it (tcp_close in the kernel). So such an end is read until its FIN. */
static bool may_send_more(const struct relay *relay, unsigned int end)
{
    return relay->links[end] != NULL && relay->links[end]->ends_in_band;
}

static void linger_read(struct relay_flow *flow);

static void linger_ready(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, read_op);
    struct relay *relay = flow_relay(flow);
    if (relay->state == RELAY_LINGERING)
        linger_read(flow);
    else
        relay_join(relay);
}

static void linger_read(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    unsigned char *nowhere = relay->engine->links->coded;
    ssize_t got = socket_recv_now(flow_source(flow), nowhere, LINK_BATCH_CODED);
    if (got > 0)
        flow->lingered += (uint32_t)got;
    if ((got > 0 && flow->lingered < LINK_BATCH_CODED) || got == -EAGAIN || got == -EINTR) {
        flow->read_op.done = linger_ready;
        loop_poll(relay->engine->loop, &flow->read_op, flow_source(flow), POLLIN);
    } else {
        relay_close(relay, false);
    }
}

void relay_end(struct relay *relay)
{
    unsigned int end = may_send_more(relay, 0) ? 0 : 1;
    if (!may_send_more(relay, end)) {
        relay_close(relay, false); /* close(2) sends the last end of stream */
        return;
    }
    for (unsigned int i = 0; i < 2; i++)
        socket_shutdown_send(relay->fds[i]);
    relay->state = RELAY_LINGERING;
    relay->idle_timeout_ms = 0; /* it would reset what is still being sent */
    relay->held_until_ns = loop_now_ns(relay->engine->loop) + ms_to_ns(LIMIT_LINGER_MS);
    relay_timer_start(relay);
    linger_read(&relay->flow[end]);
}

/* ---- failures ---- */

bool relay_spares(struct relay *relay, unsigned int end, int error)
{
    if (end != RELAY_SERVICE_END || relay->state != RELAY_OPEN ||
        relay->ops->service_lost == NULL || !is_unused(relay) || !relay->ops->service_lost(relay))
        return false;
    relay->error = error;
    relay->failed_end = RELAY_SERVICE_END;
    relay->state = RELAY_SPARING;
    relay_cancel(relay);
    relay_join(relay);
    return true;
}

void relay_fail(struct relay *relay, unsigned int end, int error)
{
    bool is_sparing = relay->state == RELAY_SPARING && end == RELAY_SERVICE_END;
    if (relay->state == RELAY_CLOSING || is_sparing) {
        relay_join(relay);
        return;
    }
    if (relay_spares(relay, end, error))
        return;
    relay->error = error;
    relay->failed_end = (uint8_t)end;
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
        if (relay->links[i] != NULL && relay->held_until_ns != 0)
            relay->links[i]->hold_left_ms = relay_hold_left_ms(relay);
    }
    return true;
}

bool relay_spared(const struct relay *relay, int *ret_fd)
{
    if (relay->state != RELAY_SPARED)
        return false;
    *ret_fd = relay->fds[RELAY_VISITOR_END];
    return true;
}

struct link *relay_take_link(struct relay *relay, unsigned int end)
{
    struct link *link = relay->links[end];
    relay->links[end] = NULL;
    return link;
}

uint64_t relay_bytes(const struct relay *relay, unsigned int from)
{
    return relay->flow[from].bytes;
}
