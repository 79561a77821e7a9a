/* The reads of a copying flow: receive into a shared buffer with the ring, then send at once, or
 * together with other flows (docs/decisions.md, "Sends are inline, or together"). */
#include <errno.h>
#include <poll.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "relay_priv.h"

enum { FULL_READS_TO_BULK = 3 };

static void copy_poll_done(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, read_op);
    flow_next(flow);
}

void flow_consider_promotion(struct relay_flow *flow, size_t size)
{
    if (size < LIMIT_BUFFER_SIZE)
        flow->streak = 0;
    else if (++flow->streak >= FULL_READS_TO_BULK)
        flow_set_bulk(flow, true);
}

static void copy_read_failed(struct relay_flow *flow, int error)
{
    struct relay *relay = flow_relay(flow);
    struct loop *loop = relay->engine->loop;
    bool transient =
        error == -ECANCELED || error == -ENOBUFS || error == -EAGAIN || error == -EINTR;
    if (relay->state != RELAY_OPEN && transient) {
        relay_join(relay);
        return;
    }
    switch (-error) {
    case ENOBUFS:
        buffers_wait(loop_buffers(loop), &flow->buffers_waiter);
        break;
    case EAGAIN: /* FALLBACK: a kernel whose receive fails on non-blocking sockets, not waits */
    case EINTR:
        flow->read_op.done = copy_poll_done;
        loop_poll(loop, &flow->read_op, flow_source(flow), POLLIN);
        break;
    default:
        relay_fail(relay, flow->index, error);
    }
}

/* Many services send one answer and close. If the end of stream is right behind the first bytes
 * from the service end, both leave in one segment, and a receive that would return 0 is saved. This
 * looks only if the kernel says that there is more although the buffer had room: then it is the end
 * of stream, or bytes that have just come.
 *
 * Returns 0 or an error. socket_peek clears the error, and the next receive would return 0 as at a
 * clean end, so the caller has to fail the relay. */
static int look_for_end(struct relay_flow *flow, size_t size)
{
    struct relay *relay = flow_relay(flow);
    bool is_first = flow->index == RELAY_SERVICE_END && flow->bytes == 0 &&
                    relay->links[RELAY_SERVICE_END] == NULL;
    if (!is_first || flow->poll_first || size == LIMIT_BUFFER_SIZE || relay->state != RELAY_OPEN)
        return 0;
    int peeked = socket_peek(flow_source(flow));
    if (peeked == ERR_EOF)
        flow->eof = relay->half_closed[RELAY_SERVICE_END] = true;
    return peeked == ERR_EOF || peeked > 0 ? 0 : peeked;
}

/* Decrypts or encrypts, and gives the shared buffer back before the result is sent. */
static void copy_transform(struct relay_flow *flow, size_t size)
{
    struct relay *relay = flow_relay(flow);
    struct buffer buffer = flow->buffer;
    flow->buffer.data = NULL;
    int result = flow_coded_transform(flow, buffer.data, size);
    buffers_recycle(loop_buffers(relay->engine->loop), &buffer);
    if (result < 0) {
        flow->pending = PENDING_NONE;
        relay_fail(relay, flow->index, result);
        return;
    }
    flow_consider_promotion(flow, size);
    flow_push(flow);
}

static void copy_pass_on(struct relay_flow *flow, size_t size)
{
    if (flow_is_coded(flow)) {
        copy_transform(flow, size);
        return;
    }
    flow_count(flow, size);
    flow_consider_promotion(flow, size);
    flow_push(flow);
}

static void copy_read_done(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, read_op);
    struct relay *relay = flow_relay(flow);
    flow->buffer = buffers_from_flags(loop_buffers(relay->engine->loop), flags);
    flow->pending = flow->buffer.data != NULL ? PENDING_BUFFER : PENDING_NONE;
    flow->data = flow->buffer.data;
    flow->begin = flow->end = 0;
    if (res < 0) {
        copy_read_failed(flow, res);
        return;
    }
    if (res == 0) {
        flow_input_ended(flow);
        return;
    }
    flow->end = (uint32_t)res;
    flow->poll_first = !loop_flags_more_data(flags);
    metrics_add(loop_metrics(relay->engine->loop), METRIC_BYTES_COPIED, (uint64_t)res);
    int error = look_for_end(flow, (size_t)res);
    if (error == 0) {
        copy_pass_on(flow, (size_t)res);
        return;
    }
    /* Pass on the bytes that came before the reset, then the reset. */
    relay_hold(relay);
    copy_pass_on(flow, (size_t)res);
    relay_fail(relay, flow->index, error);
    relay_unhold(relay);
}

void flow_copy_read(struct relay_flow *flow)
{
    flow->read_op.done = copy_read_done;
    loop_recv_select(flow_relay(flow)->engine->loop, &flow->read_op, flow_source(flow),
                     flow->poll_first);
}

void flow_copy_buffers_available(struct buffers_waiter *waiter)
{
    struct relay_flow *flow = container_of(waiter, struct relay_flow, buffers_waiter);
    flow_next(flow);
}

ssize_t flow_copy_now(struct relay_flow *flow, size_t max)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    ssize_t got = socket_recv_now(flow_source(flow), engine->scratch, MIN(max, LIMIT_FIRST_READ));
    if (got <= 0)
        return got;
    flow->pending = PENDING_HOT;
    flow->data = engine->scratch;
    flow->begin = 0;
    flow->end = (uint32_t)got;
    metrics_add(loop_metrics(engine->loop), METRIC_BYTES_COPIED, (uint64_t)got);
    return got;
}
