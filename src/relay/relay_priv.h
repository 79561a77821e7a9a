/* What relay.c and the two data paths share. */
#pragma once

#include <assert.h>

#include "base/error.h"
#include "io/socket.h"
#include "relay/relay.h"

enum relay_state {
    RELAY_OPEN,
    RELAY_DETACHING, /* join, then hand the descriptors back */
    RELAY_CLOSING,   /* join, then close both */
    RELAY_DETACHED,
    RELAY_CLOSED,
};

enum relay_pending {
    PENDING_NONE,
    PENDING_BUFFER, /* a shared buffer of the loop */
    PENDING_STASH,  /* malloc'ed */
    PENDING_BULK,   /* a large buffer of the engine */
    PENDING_PIPE,
    PENDING_HOT, /* in a buffer of the Noise engine, until the callback returns */
};

static inline struct relay *flow_relay(struct relay_flow *flow)
{
    return container_of(flow - flow->index, struct relay, flow[0]);
}

static inline int flow_source(struct relay_flow *flow)
{
    return flow_relay(flow)->fds[flow->index];
}

static inline int flow_sink(struct relay_flow *flow)
{
    return flow_relay(flow)->fds[1 - flow->index];
}

/* Whether the flow opens or seals what it moves. */
static inline bool flow_is_noise(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    return relay->noise[0] != NULL || relay->noise[1] != NULL;
}

/* relay.c, for the data paths. All of these may end the relay, so a callback calls them last. */

/* Bytes were read: counts them and the relay's life. */
void flow_count(struct relay_flow *flow, size_t size);
/* What was read stands in data[begin..end) or in the pipe: write it, then read on. */
void flow_push(struct relay_flow *flow);
/* The source has ended. */
void flow_input_ended(struct relay_flow *flow);
/* Arms the next read in the flow's mode. */
void flow_next(struct relay_flow *flow);
/* End 0 or 1 broke with this error. */
void relay_fail(struct relay *relay, unsigned int end, int error);
/* An op came back while the relay was not open. */
void relay_join(struct relay *relay);

/* flow.c */
void flow_release(struct relay_flow *flow); /* gives up what is pending */
void flow_block(struct relay_flow *flow);   /* pending, and the sink is full */
void flow_writable(struct loop_op *op, int res, uint32_t flags);
void flow_end(struct relay_flow *flow); /* the input has ended and all of it is written */

/* end.c */
void relay_close(struct relay *relay, bool aborting);
/* A function that starts both flows holds the relay meanwhile: the first may already end it. */
void relay_hold(struct relay *relay);
void relay_unhold(struct relay *relay);

/* watch.c */
void relay_watch(struct relay *relay, unsigned int end); /* for a reset */
void relay_end0_hung_up(struct loop_op *op, int res, uint32_t flags);
void relay_end1_hung_up(struct loop_op *op, int res, uint32_t flags);
void relay_timer_start(struct relay *relay);
void relay_timer_expired(struct timer *timer);

/* sweep.c */
void relay_sweep(struct timer *timer); /* of the engine */
/* Brings a relay into the engine's rounds, and counts it. */
void relay_silence_start(struct relay *relay, const struct relay_options *options);
void relay_silence_finish(struct relay *relay);

/* noise.c */

/* Bytes from the source of a noise flow, in `data` (which is not flow->data): opens or seals them,
 * and makes the result what is pending. `data` may be overwritten by the flow's next read. 0 or an
 * error; the flow may have nothing pending then, when only a part of a frame has come. */
MUST_CHECK int flow_noise_transform(struct relay_flow *flow, const unsigned char *data,
                                    size_t size);
/* Reads a batch from a readable source and transforms it. Bytes read, 0 at the end, -errno. */
ssize_t flow_noise_in(struct relay_flow *flow);
/* What was received with the handshake's last messages comes first. False: there is none. */
bool flow_noise_take_early(struct relay_flow *flow);
/* Seals `size` bytes for end 1 into the hot buffer at *ret. The size there or an error. */
ssize_t relay_noise_seal(struct relay *relay, const unsigned char *data, size_t size,
                         unsigned char **ret);

/* copy.c */
void flow_copy_read(struct relay_flow *flow);
void flow_copy_buffers_available(struct buffers_waiter *waiter);

/* splice.c */
void flow_bulk_wait(struct relay_flow *flow);
void flow_set_bulk(struct relay_flow *flow, bool bulk);
void engine_bulk_put(struct relay_engine *engine, unsigned char *bulk);
