/* Shared by the files of the relay:
 *
 *     relay.c   the engine, and how a relay starts
 *     flow.c    one direction: read, write, wait for the sink, pass the end of stream on
 *     copy.c    reads of a copying flow        splice.c  reads of a bulk flow
 *     coded.c   decodes and encodes            watch.c   idle timeout, resets while nothing is read
 *     sweep.c   finds peers that are gone      end.c     closes and detaches a relay
 *     pace.c    limits of the bandwidth */
#pragma once

#include <assert.h>

#include "base/error.h"
#include "io/socket.h"
#include "relay/pace.h"
#include "relay/relay.h"

enum relay_state {
    RELAY_OPEN,
    RELAY_DETACHING, /* waits until all ops are idle, then gives the descriptors back */
    RELAY_SPARING,   /* waits until all ops are idle, then closes the service end */
    RELAY_LINGERING, /* both ends have ended; waits for the FIN of the coded one, then closes */
    RELAY_CLOSING,   /* waits until all ops are idle, then closes both ends */
    RELAY_DETACHED,
    RELAY_SPARED,
    RELAY_CLOSED,
};

/* Where the bytes are that a flow has read and not written yet. */
enum relay_pending {
    PENDING_NONE,
    PENDING_BUFFER, /* a shared buffer of the loop */
    PENDING_STASH,  /* malloc'ed */
    PENDING_BULK,   /* a large buffer of the engine */
    PENDING_PIPE,
    PENDING_HOT, /* a buffer of the link engine, or scratch; valid until the callback returns */
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

/* Whether one of the ends is coded, so that the flow decodes or encodes. */
static inline bool flow_is_coded(struct relay_flow *flow)
{
    struct relay *relay = flow_relay(flow);
    return relay->links[0] != NULL || relay->links[1] != NULL;
}

/* ---- flow.c ---- */

/* Counts bytes that were read, and notes the time for the idle timeout. */
void flow_count(struct relay_flow *flow, size_t size);

/* The other functions here may end the relay and free it, so a callback calls them last. */

/* Writes the pending bytes, then arms the next read. */
void flow_push(struct relay_flow *flow);
/* A read has returned the end of the stream. */
void flow_input_ended(struct relay_flow *flow);
/* Arms the next read in the flow's mode. */
void flow_next(struct relay_flow *flow);
/* Frees or gives back the pending bytes' buffer or pipe. */
void flow_release(struct relay_flow *flow);
/* The sink is full: keeps the pending bytes and waits until it is writable. */
void flow_block(struct relay_flow *flow);
void flow_writable(struct loop_op *op, int res, uint32_t flags);
/* The input has ended and all of it is written: passes the end of stream on. */
void flow_end(struct relay_flow *flow);

/* ---- end.c; may end the relay and free it ---- */

void relay_close(struct relay *relay, bool aborting);
/* Both directions have ended: closes both ends, once nothing more can come from them. */
void relay_end(struct relay *relay);
/* An end broke with this error: resets both, unless the owner spares the visitor end. */
void relay_fail(struct relay *relay, unsigned int end, int error);
/* An end has ended (error 0) or broken. True: it was the service end, and the owner spares the
 * visitor end. */
bool relay_spares(struct relay *relay, unsigned int end, int error);
/* An op came back while the relay is not open: finishes what the state waits for. */
void relay_join(struct relay *relay);
/* The first of two flows may end the relay. A function that works on both holds the relay
 * meanwhile: it can't be freed before relay_unhold. */
void relay_hold(struct relay *relay);
void relay_unhold(struct relay *relay);

/* ---- watch.c ---- */

/* Watches an end for a reset while nothing is read from it. */
void relay_watch(struct relay *relay, unsigned int end);
void relay_visitor_end_hung_up(struct loop_op *op, int res, uint32_t flags);
void relay_service_end_hung_up(struct loop_op *op, int res, uint32_t flags);
void relay_timer_start(struct relay *relay);
/* Notes that a flow holds its end back, for so long. */
void relay_hold_end(struct relay *relay, uint32_t timeout_ms);
/* What is left of that, or of lingering; at least 1. */
uint32_t relay_hold_left_ms(const struct relay *relay);
void relay_timer_expired(struct timer *timer);

/* ---- sweep.c ---- */

void relay_sweep(struct timer *timer); /* the engine's sweep_timer */
/* Adds a relay to the sweep, and to engine->relay_count. */
void relay_silence_start(struct relay *relay, const struct relay_options *options);
void relay_silence_finish(struct relay *relay);

/* ---- coded.c ---- */

/* Decodes or encodes bytes that were read into `data`, and makes the result the pending bytes.
 * `data` is not flow->data, and may be overwritten by the flow's next read. Returns 0 or an error.
 * With 0 there may be no pending bytes, if a frame is still incomplete. Sets flow->eof if the end
 * of the stream was in them. */
MUST_CHECK int flow_coded_transform(struct relay_flow *flow, const unsigned char *data,
                                    size_t size);
/* Receives a batch, at most `max` bytes, from a readable source and transforms it. The bytes
 * received, 0 at the end of the stream, or an error. */
ssize_t flow_coded_in(struct relay_flow *flow, size_t max);
/* Of a bulk flow whose last frame was spliced: receives the next frame's head. Then the payload
 * comes next and can be spliced too. Returns 1, 0 at the end of the stream, or an error. */
ssize_t flow_coded_take_head(struct relay_flow *flow);
/* How many bytes of a readable source may be spliced to the sink, at most. 0: they have to be
 * decoded or encoded. */
size_t flow_coded_spliceable(struct relay_flow *flow);
/* So many of them are in flow->pipe now. If the sink's link frames them, their head is sent before
 * them: data is NULL, and begin and end say what of it has not left yet. */
void flow_coded_spliced(struct relay_flow *flow, size_t size);
/* Sends that head, if there is one. 0: it is sent. */
MUST_CHECK int flow_coded_send_head(struct relay_flow *flow);
/* Makes plaintext that came before the relay began the pending bytes, and sets flow->eof if the end
 * of the stream came too. False: neither has come. */
bool flow_coded_take_early(struct relay_flow *flow);
/* Encodes `size` bytes for the service end into a hot buffer, *ret. Returns the size there, or an
 * error. */
ssize_t relay_seal(struct relay *relay, const unsigned char *data, size_t size,
                   unsigned char **ret);
/* Whether the sink's link has a message for the end of the stream (net/link.h). */
bool flow_ends_in_band(struct relay_flow *flow);
/* Whether the end is held back until the peer's end has come. */
bool flow_holds_end(struct relay_flow *flow);
/* Whether the message has to be sent now. */
bool flow_has_to_say_end(struct relay_flow *flow);
/* Makes the message the pending bytes. 0 or an error. */
MUST_CHECK int flow_coded_end(struct relay_flow *flow);

/* ---- copy.c ---- */

void flow_copy_read(struct relay_flow *flow);
/* Receives at most `max` bytes, without the ring, and makes them the pending bytes. As
 * flow_read_now. */
ssize_t flow_copy_now(struct relay_flow *flow, size_t max);
/* Several full buffers in a row mean a bulk transfer. A smaller read starts the count again. */
void flow_consider_promotion(struct relay_flow *flow, size_t size);
void flow_copy_buffers_available(struct buffers_waiter *waiter);

/* ---- splice.c ---- */

void flow_bulk_wait(struct relay_flow *flow);
void flow_set_bulk(struct relay_flow *flow, bool bulk);
/* Reads at most `max` bytes inline, and makes them the pending bytes. Returns their number, 0 at
 * the end of the stream, or an error, which flow_moved has to get. */
ssize_t flow_read_now(struct relay_flow *flow, size_t max);
/* Goes on after flow_read_now. May end the relay and free it. */
void flow_moved(struct relay_flow *flow, ssize_t got);
void engine_bulk_put(struct relay_engine *engine, unsigned char *bulk);

/* ---- pace.c; relay->pace is NULL without limits ---- */

/* Sets relay->pace if there are limits (NULL: none). */
void pace_start(struct relay *relay, struct pace_rates *rates);
/* No flow waits any more, and nothing is taken. */
void pace_stop(struct relay *relay);
void pace_finish(struct relay *relay);
/* Arms the flow's next read, or waits until it may read. Needs relay->pace, as the next two do. */
void pace_next(struct relay_flow *flow);
/* For one read outside of the flow's cycle: how many of `max` bytes may be read now. If that is not
 * 0, pace_first_done follows in the same callback. */
size_t pace_first(struct relay_flow *flow, size_t max);
void pace_first_done(struct relay_flow *flow, size_t used);
/* Whether a flow waits. */
bool pace_is_waiting(const struct relay *relay);
