/* The cycle of a flow: read, write, read again; also a full sink, and the end of the input. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "io/pipe_pool.h"
#include "relay_priv.h"

void flow_release(struct relay_flow *flow)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    switch ((enum relay_pending)flow->pending) {
    case PENDING_NONE:
    case PENDING_HOT:
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

/* Notes what a send of the pending bytes has returned. As flow_flush. */
static int flow_note_sent(struct relay_flow *flow, ssize_t sent)
{
    struct relay *relay = flow_relay(flow);
    if (sent < 0)
        return sent == -EINTR ? -EAGAIN : (int)sent;
    relay->active_at_ns = loop_now_ns(relay->engine->loop);
    flow->begin += (uint32_t)sent;
    return flow->begin == flow->end ? 0 : -EAGAIN;
}

/* Writes the pending bytes. 0: all are written. -EAGAIN: the sink is full. A short write means that
 * too; a second call would only return -EAGAIN. */
static int flow_flush(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (flow->pending == PENDING_PIPE) {
        int head = flow_coded_send_head(flow);
        if (head < 0)
            return head == -EINTR ? -EAGAIN : head;
        ssize_t sent = socket_splice_out(flow->pipe, flow_sink(flow));
        if (sent > 0)
            relay->active_at_ns = loop_now_ns(relay->engine->loop);
        if (sent >= 0)
            return flow->pipe->pending_bytes == 0 ? 0 : -EAGAIN;
        return sent == -EINTR ? -EAGAIN : (int)sent;
    }
    if (flow->pending == PENDING_NONE || flow->begin == flow->end)
        return 0;
    const unsigned char *data = flow->data + flow->begin;
    size_t size = flow->end - flow->begin;
    /* The last bytes go with the FIN, if there is one behind them. */
    bool is_last = flow->eof && !flow_ends_in_band(flow);
    return flow_note_sent(flow, is_last ? socket_send_more(flow_sink(flow), data, size)
                                        : socket_send_now(flow_sink(flow), data, size));
}

/* Copies the pending bytes to memory of their own before the flow waits for its sink. Otherwise
 * relays whose sinks are stuck would hold all shared buffers. Without memory the flow keeps its
 * shared buffer; a hot buffer can't be kept, so that is -ENOMEM. */
static int flow_stash(struct relay_flow *flow)
{
    uint32_t left = flow->end - flow->begin;
    unsigned char *stash = malloc(left);
    if (stash == NULL)
        return flow->pending == PENDING_HOT ? -ENOMEM : 0;
    memcpy(stash, flow->data + flow->begin, left);
    flow_release(flow);
    flow->pending = PENDING_STASH;
    flow->data = stash;
    flow->begin = 0;
    flow->end = left;
    return 0;
}

void flow_block(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    int result = 0;
    if (flow->pending == PENDING_BUFFER || flow->pending == PENDING_HOT)
        result = flow_stash(flow);
    if (result < 0) {
        relay_fail(relay, flow->index, result);
        return;
    }
    if (relay->half_closed[1 - flow->index])
        loop_poll_exact(relay->engine->loop, &flow->write_op, flow_sink(flow), POLLOUT);
    else
        loop_poll(relay->engine->loop, &flow->write_op, flow_sink(flow), POLLOUT);
    if (!flow->eof)
        relay_watch(relay, flow->index);
}

void flow_writable(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, write_op);
    struct relay *relay = flow_relay(flow);
    /* The ring adds POLLRDHUP to every poll, so the next poll would fire at once: flow_block has to
     * poll exactly from here on. */
    if (res > 0 && (res & POLLRDHUP) != 0)
        relay->half_closed[1 - flow->index] = true;
    if (flow->bulk)
        loop_note_bulk(relay->engine->loop, false);
    if (relay->state != RELAY_OPEN)
        relay_join(relay);
    else if (res < 0)
        relay_fail(relay, 1 - flow->index, res);
    else
        flow_push(flow);
}

static void flow_say_end(struct relay_flow *flow)
{
    int result = flow_coded_end(flow);
    if (result < 0)
        relay_fail(flow_relay(flow), 1 - flow->index, result);
    else
        flow_push(flow); /* and then flow_end again */
}

void flow_end(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    struct relay_flow *back = &relay->flow[1 - flow->index];
    if (flow->bytes == 0 && relay_spares(relay, flow->index, 0))
        return;
    if (flow_has_to_say_end(flow)) {
        flow_say_end(flow);
        return;
    }
    flow->finished = true;
    if (back->finished && flow_has_to_say_end(back)) {
        flow_say_end(back); /* its end was held back until now */
        return;
    }
    if (back->finished) {
        relay_end(relay);
        return;
    }
    if (flow_holds_end(flow))
        relay_hold_end(relay, relay->half_close_timeout_ms);
    else if (!flow_ends_in_band(flow))
        socket_shutdown_send(flow_sink(flow));
    relay->look_due = true; /* the peer has to acknowledge the end of stream too */
    relay->watch_due = true;
    relay_timer_start(relay);
}

void flow_input_ended(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    struct link *link = relay->links[flow->index];
    /* Checked in every state: a relay that is detaching would go on with a truncated input as if it
     * had ended. */
    if (link != NULL && link_fin(link) == ERR_TRUNCATED) {
        relay_fail(relay, flow->index, ERR_TRUNCATED);
        return;
    }
    flow->eof = relay->half_closed[flow->index] = true;
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    flow_release(flow);
    flow_end(flow);
}

void flow_count(struct relay_flow *flow, size_t size)
{
    struct relay *relay = flow_relay(flow);
    relay->active_at_ns = loop_now_ns(relay->engine->loop);
    flow->bytes += size;
    if (relay->stats == NULL)
        return;
    counter_add(&relay->stats->bytes[flow->index], size);
    if (relay->begun_at_ns != 0 && flow->index == RELAY_SERVICE_END && size > 0) {
        uint64_t now_ns = MAX(relay->active_at_ns, relay->begun_at_ns); /* of another worker */
        histogram_add(&relay->stats->first_byte, now_ns - relay->begun_at_ns);
        relay->begun_at_ns = 0;
    }
}

/* The pending bytes are written (0), or the sink is full (-EAGAIN) or broken. */
static void flow_written(struct relay_flow *flow, int result)
{
    struct relay *relay = flow_relay(flow);
    if (result == -EAGAIN) {
        flow_block(flow);
        return;
    }
    if (result < 0) {
        relay_fail(relay, 1 - flow->index, result);
        return;
    }
    flow_release(flow);
    struct link *link = relay->links[1 - flow->index];
    if (link != NULL)
        link_send_reply(link, flow_sink(flow));
    if (flow->eof)
        flow_end(flow);
    else
        flow_next(flow);
}

/* A send of the ring has returned. */
static void flow_sent(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, write_op);
    struct relay *relay = flow_relay(flow);
    op->done = flow_writable;
    int result = flow_note_sent(flow, res);
    if (relay->state == RELAY_OPEN) {
        flow_written(flow, result);
        return;
    }
    if (result == 0)
        flow_release(flow); /* a detaching relay has nothing pending now, and may go */
    relay_join(relay);
}

/* Whether the pending bytes had better leave with those of other flows (docs/decisions.md, "Sends
 * are inline, or together"). They stay where they are until then, so a hot buffer can't. */
static bool flow_sends_together(struct relay_flow *flow)
{
    return flow->pending == PENDING_BUFFER && !flow->eof && loop_op_is_idle(&flow->write_op) &&
           loop_is_crowded(flow_relay(flow)->engine->loop);
}

void flow_push(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (relay->state != RELAY_OPEN) {
        /* A detaching relay may go on, but other relays use the hot buffer before that. */
        bool may_go_on = relay->state == RELAY_DETACHING;
        if (may_go_on && flow->pending == PENDING_HOT && flow_stash(flow) < 0)
            relay_close(relay, true);
        else
            relay_join(relay);
        return;
    }
    if (flow_sends_together(flow)) {
        flow->write_op.done = flow_sent;
        loop_send_once(relay->engine->loop, &flow->write_op, flow_sink(flow),
                       flow->data + flow->begin, flow->end - flow->begin);
        return;
    }
    flow_written(flow, flow_flush(flow));
}

/* True: the relay leaves this worker. */
static bool flow_place(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    struct relay_engine *engine = relay->engine;
    uint64_t now_ns = loop_now_ns(engine->loop);
    bool is_new = !flow->placed, is_due = now_ns >= engine->place_at_ns;
    if ((!is_new && !is_due) || now_ns < engine->stay_until_ns)
        return false;
    flow->placed = true;
    if (is_due)
        engine->place_at_ns = now_ns + ms_to_ns(LIMIT_PLACE_MS);
    return relay->ops->place != NULL && relay->ops->place(relay, is_new);
}

void flow_next(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    if (flow->bulk && flow_place(flow))
        return; /* the relay is detaching, or freed */
    if (relay->pace != NULL)
        pace_next(flow);
    else if (flow->bulk)
        flow_bulk_wait(flow);
    else
        flow_copy_read(flow);
}
