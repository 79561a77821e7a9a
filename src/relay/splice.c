/* The reads of a bulk flow: poll for readiness in the ring, then move what is there inline with
 * splice(2), which does not block here. The ring's own splice operation runs in worker threads and
 * costs twice the CPU. Without a free pipe, large copies through one warm buffer take its place.
 * docs/decisions.md, "Bulk is always spliced". */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "base/probe.h"
#include "io/pipe_pool.h"
#include "relay_priv.h"

enum {
    SMALL_READ = 8 << 10,
    SMALL_READS_TO_COPY = 8,
    BULK_BUFFERS_MAX = 16, /* 4 MiB per worker, held by flows with a full sink */
};

void flow_set_bulk(struct relay_flow *flow, bool bulk)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    flow->streak = 0;
    if (flow->bulk == bulk)
        return;
    flow->bulk = bulk;
    flow->placed = false;
    PROBE3(relay_bulk, flow_relay(flow), flow->index, bulk);
    if (bulk)
        socket_widen_window(flow_source(flow), LIMIT_BULK_WINDOW);
    unsigned int flows = atomic_load_explicit(&engine->bulk_flows, memory_order_relaxed);
    atomic_store_explicit(&engine->bulk_flows, bulk ? flows + 1 : flows - 1, memory_order_relaxed);
    metrics_add(loop_metrics(engine->loop), bulk ? METRIC_PROMOTIONS : METRIC_DEMOTIONS, 1);
}

/* ---- large copies ---- */

static unsigned char *engine_bulk_get(struct relay_engine *engine)
{
    if (engine->bulk_free_count > 0)
        return engine->bulk_free[--engine->bulk_free_count];
    if (engine->bulk_count >= BULK_BUFFERS_MAX)
        return NULL;
    unsigned char *bulk = malloc(LIMIT_BULK_BUFFER);
    if (bulk != NULL)
        engine->bulk_count++;
    return bulk;
}

void engine_bulk_put(struct relay_engine *engine, unsigned char *bulk)
{
    /* Keep a few: the last used one is in the cache. Free the others. */
    if (engine->bulk_free_count < ARRAY_SIZE(engine->bulk_free)) {
        engine->bulk_free[engine->bulk_free_count++] = bulk;
        return;
    }
    engine->bulk_count--;
    free(bulk);
}

/* -ENOBUFS: there is no buffer. */
static ssize_t copy_in(struct relay_flow *flow, size_t max)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    unsigned char *bulk = engine_bulk_get(engine);
    if (bulk == NULL)
        return -ENOBUFS;
    ssize_t got = socket_recv_now(flow_source(flow), bulk, MIN(max, (size_t)LIMIT_BULK_BUFFER));
    if (got <= 0) {
        engine_bulk_put(engine, bulk);
        return got;
    }
    flow->pending = PENDING_BULK;
    flow->data = bulk;
    flow->begin = 0;
    flow->end = (uint32_t)got;
    metrics_add(loop_metrics(engine->loop), METRIC_BYTES_BULK_COPIED, (uint64_t)got);
    return got;
}

/* ---- splice ---- */

/* -ENOBUFS: there is no pipe. */
static ssize_t splice_in(struct relay_flow *flow, size_t max)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    struct pipe *pipe = pipe_pool_get(engine->pipes);
    if (pipe == NULL) {
        metrics_add(loop_metrics(engine->loop), METRIC_PIPES_EXHAUSTED, 1);
        return -ENOBUFS;
    }
    ssize_t got = socket_splice_in(flow_source(flow), pipe, MIN(max, pipe->size_bytes));
    if (got <= 0) {
        pipe_pool_put(engine->pipes, pipe);
        return got;
    }
    flow->pending = PENDING_PIPE;
    flow->pipe = pipe;
    flow->begin = flow->end = 0;
    metrics_add(loop_metrics(engine->loop), METRIC_BYTES_SPLICED, (uint64_t)got);
    return got;
}

/* ---- the cycle ---- */

/* Whether a receive need not confirm what splice(2) has returned. */
static bool is_certain(ssize_t got)
{
    return got > 0 || (got < 0 && got != -EAGAIN && got != -ENOBUFS);
}

/* The same as bulk_in. Plaintext that lies in a frame as it is can be spliced. */
static ssize_t coded_in(struct relay_flow *flow, size_t max)
{
    ssize_t got = flow_coded_take_head(flow);
    if (got <= 0 || flow->eof)
        return got;
    size_t most = flow_coded_spliceable(flow);
    got = most > 0 ? splice_in(flow, MIN(most, max)) : -EAGAIN;
    if (got > 0)
        flow_coded_spliced(flow, (size_t)got);
    return is_certain(got) ? got : flow_coded_in(flow, max);
}

/* Reads with splice(2), or by a large copy if there is no pipe. A copy also confirms -EAGAIN and
 * the end of stream, because splice(2) never passes TCP's urgent mark. With the mark next in line
 * it returns -EAGAIN for ever although the socket is readable, and after the peer's FIN it returns
 * 0 although bytes are left. A receive takes those bytes, and the mark with them. */
static ssize_t bulk_in(struct relay_flow *flow, size_t max)
{
    ssize_t got = splice_in(flow, max);
    return is_certain(got) ? got : copy_in(flow, max);
}

ssize_t flow_read_now(struct relay_flow *flow, size_t max)
{
    if (flow_is_coded(flow))
        return flow->bulk ? coded_in(flow, max) : flow_coded_in(flow, max);
    return flow->bulk ? bulk_in(flow, max) : flow_copy_now(flow, max);
}

static void consider_demotion(struct relay_flow *flow, size_t size)
{
    if (size >= SMALL_READ)
        flow->streak = 0;
    else if (++flow->streak >= SMALL_READS_TO_COPY)
        flow_set_bulk(flow, false);
}

/* Whether the read filled its room, so that the socket probably holds more. */
static bool bulk_is_full(struct relay_flow *flow, size_t got)
{
    if (flow_is_coded(flow))
        return got >= LINK_BATCH_PLAIN;
    if (flow->pending == PENDING_PIPE)
        return got >= flow->pipe->size_bytes / 2;
    return got >= LIMIT_BULK_BUFFER;
}

void flow_moved(struct relay_flow *flow, ssize_t got)
{
    if (got == -EAGAIN || got == -EINTR) {
        flow_next(flow);
    } else if (flow->bulk && (got == -ENOBUFS || got == -EINVAL)) {
        flow_set_bulk(flow, false); /* no memory, or a socket that can't be spliced */
        flow_next(flow);
    } else if (got == 0) {
        flow_input_ended(flow);
    } else if (got < 0) {
        relay_fail(flow_relay(flow), flow->index, (int)got);
    } else {
        if (!flow_is_coded(flow))
            flow_count(flow, (size_t)got);
        if (flow->bulk)
            consider_demotion(flow, (size_t)got);
        else
            flow_consider_promotion(flow, (size_t)got);
        flow_push(flow);
    }
}

static void bulk_ready(struct loop_op *op, int res, uint32_t flags)
{
    struct relay_flow *flow = container_of(op, struct relay_flow, read_op);
    struct relay *relay = flow_relay(flow);
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    if (relay->pace != NULL && res >= 0) { /* a reload has set a limit */
        flow_next(flow);
        return;
    }
    ssize_t got = res < 0 ? res : flow_read_now(flow, SIZE_MAX);
    if (got > 0)
        loop_note_bulk(relay->engine->loop, !bulk_is_full(flow, (size_t)got));
    flow_moved(flow, got);
}

void flow_bulk_wait(struct relay_flow *flow)
{
    flow->read_op.done = bulk_ready;
    loop_poll(flow_relay(flow)->engine->loop, &flow->read_op, flow_source(flow),
              POLLIN | POLLRDHUP);
}
