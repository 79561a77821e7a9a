/* Flows with an encrypted end. Bytes are decrypted or encrypted in the engine's hot buffers, which
 * are valid within one callback: the sink takes them at once, or flow_stash copies the rest. */
#include <errno.h>

#include "base/metrics.h"
#include "relay_priv.h"

static struct noise_link *source_link(struct relay_flow *flow)
{
    return flow_relay(flow)->noise[flow->index];
}

static void set_hot(struct relay_flow *flow, unsigned char *data, size_t size)
{
    flow->pending = size > 0 ? PENDING_HOT : PENDING_NONE;
    flow->data = size > 0 ? data : NULL;
    flow->begin = 0;
    flow->end = (uint32_t)size;
}

static int flow_open(struct relay_flow *flow, const unsigned char *sealed, size_t size)
{
    struct relay *relay = flow_relay(flow);
    struct noise_engine *noise = relay->engine->noise;
    ssize_t opened = noise_link_open(source_link(flow), noise, sealed, size);
    if (opened < 0) {
        if (opened == -EBADMSG)
            metrics_add(loop_metrics(relay->engine->loop), METRIC_NOISE_FRAMES_REFUSED, 1);
        return (int)opened;
    }
    set_hot(flow, noise->plain, (size_t)opened);
    flow_count(flow, (size_t)opened); /* even 0 bytes (a part of a frame) count as activity */
    return 0;
}

static int flow_seal(struct relay_flow *flow, const unsigned char *plain, size_t size)
{
    struct relay *relay = flow_relay(flow);
    struct noise_engine *noise = relay->engine->noise;
    flow_count(flow, size);
    ssize_t sealed =
        noise_link_seal(relay->noise[1 - flow->index], noise, plain, size, noise->sealed);
    if (sealed < 0)
        return (int)sealed;
    set_hot(flow, noise->sealed, (size_t)sealed);
    return 0;
}

int flow_noise_transform(struct relay_flow *flow, const unsigned char *data, size_t size)
{
    return source_link(flow) != NULL ? flow_open(flow, data, size) : flow_seal(flow, data, size);
}

ssize_t flow_noise_in(struct relay_flow *flow)
{
    struct noise_engine *noise = flow_relay(flow)->engine->noise;
    bool opens = source_link(flow) != NULL;
    unsigned char *buffer = opens ? noise->sealed : noise->plain;
    size_t room = opens ? (size_t)NOISE_BATCH_SEALED : (size_t)NOISE_BATCH_PLAIN;
    ssize_t got = socket_recv_now(flow_source(flow), buffer, room);
    if (got <= 0)
        return got;
    metrics_add(loop_metrics(flow_relay(flow)->engine->loop), METRIC_BYTES_BULK_COPIED,
                (uint64_t)got);
    int result = flow_noise_transform(flow, buffer, (size_t)got);
    return result < 0 ? result : got;
}

bool flow_noise_take_early(struct relay_flow *flow)
{
    struct noise_link *link = source_link(flow);
    if (link == NULL || link->early == NULL)
        return false;
    flow->pending = PENDING_STASH;
    flow->data = link->early;
    flow->begin = link->early_begin;
    flow->end = link->early_end;
    link->early = NULL;
    flow_count(flow, flow->end - flow->begin);
    return true;
}

ssize_t relay_noise_seal(struct relay *relay, const unsigned char *data, size_t size,
                         unsigned char **ret)
{
    struct noise_engine *noise = relay->engine->noise;
    *ret = noise->sealed;
    return noise_link_seal(relay->noise[RELAY_SERVICE_END], noise, data, size, noise->sealed);
}
