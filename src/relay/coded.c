/* Flows with a coded end. Bytes are decoded or encoded in the engine's hot buffers, which are valid
 * within one callback: the sink takes them at once, or flow_stash copies the rest. */
#include <errno.h>

#include "base/metrics.h"
#include "io/pipe_pool.h"
#include "relay_priv.h"

static struct link *source_link(struct relay_flow *flow)
{
    return flow_relay(flow)->links[flow->index];
}

static struct link *sink_link(struct relay_flow *flow)
{
    return flow_relay(flow)->links[1 - flow->index];
}

/* Less is copied: that is as fast as splicing, and the sink gets larger pieces. */
enum { SPLICE_MIN = 32 << 10 };

static void set_hot(struct relay_flow *flow, unsigned char *data, size_t size)
{
    flow->pending = size > 0 ? PENDING_HOT : PENDING_NONE;
    flow->data = size > 0 ? data : NULL;
    flow->begin = 0;
    flow->end = (uint32_t)size;
}

/* Sends what the link answers to its peer, unless the flow back to that end has bytes before it. */
static void send_reply(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    if (relay->flow[1 - flow->index].pending == PENDING_NONE)
        link_send_reply(source_link(flow), flow_source(flow));
}

static int flow_open(struct relay_flow *flow, const unsigned char *coded, size_t size)
{
    struct relay *relay = flow_relay(flow);
    struct link_engine *engine = relay->engine->links;
    struct link *link = source_link(flow);
    ssize_t opened = link_open(link, engine, coded, size);
    send_reply(flow); /* after an error this is an alert */
    if (opened < 0) {
        if (opened == -EBADMSG)
            metrics_add(loop_metrics(relay->engine->loop), METRIC_FRAMES_REFUSED, 1);
        /* -ENOBUFS would tell a bulk flow that nothing was read. */
        return opened == -ENOBUFS ? -ENOMEM : (int)opened;
    }
    set_hot(flow, engine->plain, (size_t)opened);
    flow->eof = link->has_ended;
    flow_count(flow, (size_t)opened); /* even 0 bytes (a part of a frame) count as activity */
    return 0;
}

static int flow_seal(struct relay_flow *flow, const unsigned char *plain, size_t size)
{
    struct link_engine *engine = flow_relay(flow)->engine->links;
    flow_count(flow, size);
    ssize_t sealed = link_seal(sink_link(flow), engine, plain, size, engine->coded);
    if (sealed < 0)
        return (int)sealed;
    set_hot(flow, engine->coded, (size_t)sealed);
    return 0;
}

int flow_coded_transform(struct relay_flow *flow, const unsigned char *data, size_t size)
{
    return source_link(flow) != NULL ? flow_open(flow, data, size) : flow_seal(flow, data, size);
}

/* Where a batch is received. A link that works in place spares the caches the second buffer. */
static unsigned char *batch_buffer(struct relay_flow *flow)
{
    struct link_engine *engine = flow_relay(flow)->engine->links;
    const struct link *source = source_link(flow), *sink = sink_link(flow);
    if (source != NULL)
        return source->is_in_place ? engine->plain : engine->coded;
    return sink->is_in_place && sink->reply == NULL ? engine->coded + LINK_HEAD_MAX : engine->plain;
}

ssize_t flow_coded_in(struct relay_flow *flow, size_t max)
{
    struct link *link = source_link(flow);
    size_t room = link != NULL ? link_read_size(link) : (size_t)LINK_BATCH_PLAIN;
    unsigned char *buffer = batch_buffer(flow);
    ssize_t got = socket_recv_now(flow_source(flow), buffer, MIN(room, max));
    if (got <= 0)
        return got;
    metrics_add(loop_metrics(flow_relay(flow)->engine->loop), METRIC_BYTES_BULK_COPIED,
                (uint64_t)got);
    int result = flow_coded_transform(flow, buffer, (size_t)got);
    return result < 0 ? result : got;
}

/* ---- plaintext that lies in its frame as it is, and is spliced ---- */

ssize_t flow_coded_take_head(struct relay_flow *flow)
{
    struct link_engine *engine = flow_relay(flow)->engine->links;
    struct link *link = source_link(flow);
    /* Two parts: the first says how long the second is. */
    for (int part = 0; part < 2 && link != NULL && link->was_skipped && !flow->eof; part++) {
        size_t left = link_next(link).head;
        if (left == 0)
            break;
        ssize_t got = socket_recv_now(flow_source(flow), engine->plain, left);
        if (got <= 0)
            return got;
        int result = flow_open(flow, engine->plain, (size_t)got);
        if (result < 0)
            return result;
    }
    return 1;
}

size_t flow_coded_spliceable(struct relay_flow *flow)
{
    const struct link *source = source_link(flow);
    if (source == NULL)
        return link_splice_max(sink_link(flow));
    size_t plain = link_next(source).plain;
    return plain >= SPLICE_MIN ? plain : 0;
}

void flow_coded_spliced(struct relay_flow *flow, size_t size)
{
    unsigned char head[LINK_HEAD_MAX];
    flow_count(flow, size);
    if (source_link(flow) != NULL)
        link_skip(source_link(flow), size);
    else
        flow->end = (uint32_t)link_head(sink_link(flow), size, head);
}

int flow_coded_send_head(struct relay_flow *flow)
{
    unsigned char head[LINK_HEAD_MAX];
    size_t size = flow->end - flow->begin;
    if (size == 0)
        return 0;
    /* Nothing of the payload has left yet, so this is the head that flow_coded_spliced asked for.
     */
    (void)link_head(sink_link(flow), flow->pipe->pending_bytes, head);
    ssize_t sent = socket_send_more(flow_sink(flow), head + flow->begin, size);
    if (sent < 0)
        return (int)sent;
    flow->begin += (uint32_t)sent;
    return flow->begin == flow->end ? 0 : -EAGAIN;
}

bool flow_coded_take_early(struct relay_flow *flow)
{
    struct link *link = source_link(flow);
    if (link == NULL)
        return false;
    flow->eof = link->has_ended;
    if (link->early == NULL)
        return flow->eof;
    flow->pending = PENDING_STASH;
    flow->data = link->early;
    flow->begin = link->early_begin;
    flow->end = link->early_end;
    link->early = NULL;
    flow_count(flow, flow->end - flow->begin);
    return true;
}

ssize_t relay_seal(struct relay *relay, const unsigned char *data, size_t size, unsigned char **ret)
{
    struct link_engine *engine = relay->engine->links;
    *ret = engine->coded;
    return link_seal(relay->links[RELAY_SERVICE_END], engine, data, size, engine->coded);
}

/* ---- the end of a stream that is a message ---- */

static bool is_in_band(const struct link *link)
{
    return link != NULL && link->ends_in_band;
}

bool flow_holds_end(struct relay_flow *flow)
{
    const struct link *link = sink_link(flow);
    return is_in_band(link) && link->holds_end && !link->end_is_said &&
           !flow_relay(flow)->flow[1 - flow->index].finished;
}

bool flow_has_to_say_end(struct relay_flow *flow)
{
    const struct link *link = sink_link(flow);
    return is_in_band(link) && !link->end_is_said && !flow_holds_end(flow);
}

int flow_coded_end(struct relay_flow *flow)
{
    struct link_engine *engine = flow_relay(flow)->engine->links;
    ssize_t size = link_end(sink_link(flow), engine->coded);
    if (size < 0)
        return (int)size;
    set_hot(flow, engine->coded, (size_t)size);
    return 0;
}

bool flow_ends_in_band(struct relay_flow *flow)
{
    return is_in_band(sink_link(flow));
}
