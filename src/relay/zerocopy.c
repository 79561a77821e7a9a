/* Encrypted bulk that leaves without a copy: sealed into a buffer of the worker's pool instead of
 * the hot one, and sent by the ring. The flow goes on when it has the result, while the buffer
 * waits for its notification. What a full socket did not take is copied and waits like anything
 * else. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "relay_priv.h"

/* The send itself was not possible in this way: the kernel is too old (-EINVAL), the socket is of
 * another kind, or there is no memory, which RLIMIT_MEMLOCK also limits. */
static bool is_refusal(int result)
{
    return result == -EINVAL || result == -EOPNOTSUPP || result == -ENOMEM || result == -ENOBUFS;
}

static void give_up(struct relay_flow *flow, int result)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    metrics_add(loop_metrics(engine->loop), METRIC_ZEROCOPY_REFUSED, 1);
    flow->zerocopy_use = FLOW_ZEROCOPY_OFF;
    if (result == -EINVAL)
        engine->zerocopy_mode = ZEROCOPY_OFF;
}

static int keep_rest(struct relay_flow *flow, const unsigned char *rest, size_t size)
{
    flow->data = malloc(size);
    if (flow->data == NULL)
        return -ENOMEM;
    memcpy(flow->data, rest, size);
    flow->pending = PENDING_STASH;
    flow->begin = 0;
    flow->end = (uint32_t)size;
    return 0;
}

static void flow_sent(void *owner, const unsigned char *data, int result)
{
    struct relay_flow *flow = owner;
    struct relay *relay = flow_relay(flow);
    size_t size = flow->end;
    flow->zerocopy_sending = false;
    flow->zerocopy = NULL;
    flow->pending = PENDING_NONE;
    flow->data = NULL;
    if (is_refusal(result)) {
        give_up(flow, result);
        result = 0;
    }
    if (result == -EAGAIN || result == -EINTR)
        result = 0;
    if (result < 0) {
        relay_fail(relay, 1 - flow->index, result);
        return;
    }
    if (result > 0)
        relay->active_at_ns = loop_now_ns(relay->engine->loop);
    size_t rest = size - (size_t)result;
    int kept = rest > 0 ? keep_rest(flow, data + result, rest) : 0;
    if (kept < 0)
        relay_fail(relay, flow->index, kept);
    else
        flow_push(flow);
}

static void flow_copied(void *owner)
{
    struct relay_flow *flow = owner;
    if (flow_relay(flow)->engine->zerocopy_mode == ZEROCOPY_AUTO)
        flow->zerocopy_use = FLOW_ZEROCOPY_OFF;
}

static const struct zerocopy_ops flow_ops = {.sent = flow_sent, .copied = flow_copied};

/* Once per flow, with its first large batch. */
static void decide(struct relay_flow *flow)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    bool wanted = engine->zerocopy_mode == ZEROCOPY_ON || !socket_peer_is_local(flow_sink(flow));
    flow->zerocopy_use = wanted ? FLOW_ZEROCOPY_USED : FLOW_ZEROCOPY_OFF;
    if (wanted && engine->zerocopy == NULL &&
        zerocopy_create(engine->loop, &flow_ops, &engine->zerocopy) < 0)
        give_up(flow, -ENOMEM);
}

unsigned char *flow_zerocopy_begin(struct relay_flow *flow, size_t size)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    if (size < LIMIT_ZEROCOPY_MIN || engine->zerocopy_mode == ZEROCOPY_OFF)
        return NULL;
    if (flow->zerocopy_use == FLOW_ZEROCOPY_UNDECIDED)
        decide(flow);
    if (flow->zerocopy_use != FLOW_ZEROCOPY_USED)
        return NULL;
    flow->zerocopy = zerocopy_take(engine->zerocopy, flow);
    return flow->zerocopy != NULL ? zerocopy_data(flow->zerocopy) : NULL;
}

void flow_zerocopy_send(struct relay_flow *flow)
{
    assert(flow->pending == PENDING_ZEROCOPY && flow->begin == 0 && !flow->zerocopy_sending);
    flow->zerocopy_sending = true;
    zerocopy_send(flow->zerocopy, flow_sink(flow), flow->end);
}

void flow_zerocopy_drop(struct relay_flow *flow)
{
    assert(!flow->zerocopy_sending);
    zerocopy_put(flow->zerocopy);
    flow->zerocopy = NULL;
}

void flow_zerocopy_end(struct relay_flow *flow)
{
    struct relay_engine *engine = flow_relay(flow)->engine;
    if (engine->zerocopy != NULL && flow->zerocopy_use != FLOW_ZEROCOPY_UNDECIDED)
        zerocopy_forget(engine->zerocopy, flow);
}
