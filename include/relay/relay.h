/* A relay joins two sockets until both directions have ended.
 *
 *     visitor end ---flow[0]--> service end     Each flow reads, writes all of it, then reads
 *     visitor end <--flow[1]--- service end     again: no read is armed while the sink has not
 *                                               taken the last bytes.
 *
 * Both roles use relays, so the two ends are named by the side that they face:
 *
 *                    visitor end         service end
 *     on a server    the visitor         the data channel
 *     on a client    the data channel    the local service
 *
 * A flow copies through one of the loop's shared buffers until several reads in a row fill it. Then
 * it is bulk: it polls for readiness and moves what is there inline, with splice(2), or by large
 * copies if there is no pipe. It becomes a copying flow again when its reads get small. An idle
 * flow holds no buffer and no pipe. docs/decisions.md, "Bulk is always spliced".
 *
 * The end that is a data channel may be coded: encrypted or framed (net/link.h). The relay then
 * decodes what it reads from that end and encodes what it writes to it, in the worker's hot
 * buffers; bulk means larger batches for such flows. Where the plaintext lies in a frame as it is
 * (a WebSocket server's), bulk is spliced too: the head of a frame is sent or received first, then
 * its payload goes through the pipe.
 *
 * An end of stream is passed on as shutdown(SHUT_WR) after the last byte, or as the message that a
 * link has for it; the other direction goes on. If the peer of a link would then drop the other
 * direction (link->holds_end), the end is held back until that direction has ended, or for
 * half_close_timeout_ms. A reset or any other error resets both ends, so that a cut transfer can't
 * look complete. A flow with a full sink reads nothing, so it watches its source for a reset by a
 * poll without events.
 *
 * Bytes that were read from one end are written to the other at most once. When an end is lost, the
 * relay ends. It sends nothing again, because the other end may have acted upon what it has got
 * (docs/decisions.md, "Removed: replay and rebind"). If the service end is lost before any byte has
 * been read from either end, the owner may get the visitor end back instead (ops->service_lost).
 *
 * A peer that vanishes without a FIN or RST is found by what it does not acknowledge
 * (net/silence.h), and both ends are reset. While nothing is outstanding, TCP can't tell. If the
 * owner has a reason to doubt the other side (`doubts`), the kernel sends keepalive probes.
 *
 * A relay is embedded in its owner and belongs to one worker, whose thread alone uses it. It may be
 * freed in `closed`, not before; nothing is in flight then. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/histogram.h"
#include "io/buffers.h"
#include "io/loop.h"
#include "io/timer.h"
#include "net/silence.h"
#include "net/transport.h"

struct pace;
struct pace_rates;
struct pipe;
struct pipe_pool;
struct relay;

enum { RELAY_PREFIX_SIZE = 112 }; /* a data command and a PROXY header */

/* Indexes of every array with two elements below. */
enum relay_end {
    RELAY_VISITOR_END,
    RELAY_SERVICE_END,
};

/* The numbers of many relays of one worker, which owns them. They grow while a relay runs. */
struct relay_stats {
    relaxed_counter bytes[2];    /* read from each end, as plaintext */
    struct histogram first_byte; /* from begun_at_ns to the service end's first byte */
};

struct relay_ops {
    /* Where a relay with a bulk flow should run. Asked when a flow has become bulk (is_new), and
     * for one of the engine's bulk flows every LIMIT_PLACE_MS, since loads change. The owner may
     * move the relay to another worker: it calls relay_detach and returns true. May be NULL. */
    bool (*place)(struct relay *relay, bool is_new);
    /* The service end has ended or broken, and nothing has been read from either end: at most the
     * prefix has been sent. True: the relay closes that end alone, and relay_spared gives the other
     * one back. False: it goes on as usual. May be NULL. */
    bool (*service_lost)(struct relay *relay);
    /* Both descriptors are closed, or detached, or spared. No callback follows. */
    void (*closed)(struct relay *relay);
};

/* Shared by the relays of one worker. Initialised by relay_engine_init in the worker's thread. */
struct relay_engine {
    struct loop *loop;
    struct pipe_pool *pipes;
    struct link_engine *links;   /* borrowed; NULL without coded ends */
    unsigned char *bulk_free[2]; /* large buffers, the last used one on top */
    unsigned int bulk_free_count, bulk_count;
    unsigned char *scratch; /* for the prefix and a visitor's first bytes */
    unsigned int relay_count;
    _Atomic unsigned int bulk_flows; /* read by other workers */
    uint64_t place_at_ns;            /* when ops->place is called for one of them */
    uint64_t stay_until_ns;          /* until then for none (relay_engine_stay) */
    struct list relays;              /* all relays; the one looked at longest ago is first */
    struct timer sweep_timer;        /* runs while there are relays */
    unsigned int sweep_left;         /* relays still to be looked at in this round */
};

struct relay_flow {
    struct loop_op read_op;  /* a receive, or a poll for readable */
    struct loop_op write_op; /* a poll for writable, or a send */
    struct buffers_waiter buffers_waiter;
    /* Bytes read and not yet written are in data[begin..end) or in the pipe, never in both. */
    struct buffer buffer; /* data NULL: not in a shared buffer */
    unsigned char *data;
    uint32_t begin, end;
    struct pipe *pipe;
    uint64_t bytes;    /* read so far */
    uint32_t unsent;   /* the sink's send queue at the last check of the idle timeout */
    uint32_t lingered; /* bytes that were discarded after both ends of stream */
    uint8_t index;     /* enum relay_end: reads from this end, writes to the other */
    uint8_t pending;   /* enum relay_pending */
    uint8_t streak;    /* consecutive reads whose size suits the other mode */
    bool bulk;         /* reads by a poll and an inline call, not by a receive of the ring */
    bool placed;       /* ops->place was called since it became bulk */
    bool poll_first;   /* the socket was empty after the last read */
    bool eof;          /* the end of the input was read */
    bool finished;     /* the end of the input was passed on */
};

struct relay {
    struct relay_flow flow[2]; /* from this end */
    struct loop_op hangup_op[2];
    int fds[2];
    struct link *links[2]; /* at most one end is coded; NULL: plain */
    struct relay_engine *engine;
    const struct relay_ops *ops;
    struct pace *pace;         /* NULL: no limit of the bandwidth (relay/pace.h) */
    struct relay_stats *stats; /* of the owner; NULL: nobody counts */
    uint64_t begun_at_ns;      /* 0: the service end's first byte has come */
    struct timer timer;
    /* The sweep reads these fields of an idle relay: together they share cache lines. */
    struct list node; /* in engine->relays */
    uint64_t active_at_ns, looked_at_ns;
    const _Atomic uint32_t *doubts;
    uint32_t doubts_seen;
    struct silence silence[2];
    struct socket_keepalive keepalive; /* the doubted end's own settings while it is probed */
    uint8_t doubted_end;
    uint8_t silent_end; /* the end that is gone, if error is ERR_UNACKED or ERR_SILENT */
    uint8_t failed_end; /* where error comes from */
    uint8_t state;      /* enum relay_state */
    bool look_due;      /* look even without activity: at the start, after an end of stream */
    uint32_t idle_timeout_ms, half_close_timeout_ms;
    uint64_t held_until_ns; /* an end is held back, or the relay lingers, until then; 0: neither */
    int error;              /* why the relay was aborted; 0 = it was not, or on request */
    bool half_closed[2];    /* this end has sent its end of stream, read by us or not */
    bool watch_due;         /* the timer has to start watching half-closed ends */
    bool watched[2];        /* hangup_op has fired without an error: it would fire again at once */
    bool aborting;
    bool idle_timed_out;
    bool is_gone; /* the peer at gone_end has closed its unix socket, so no answer can reach it */
    uint8_t gone_end;
    uint8_t held; /* relay_hold minus relay_unhold; the relay does not end while it is not 0 */
};

struct relay_options {
    struct relay_engine *engine;
    const struct relay_ops *ops;
    int fds[2]; /* the relay takes the descriptors over, and the links */
    struct link *links[2];
    struct relay_stats *stats; /* outlives the relay; may be NULL */
    uint64_t begun_at_ns; /* for stats->first_byte; 0: that byte came before the relay moved here */
    const void *prefix;   /* sent to the service end first; at most RELAY_PREFIX_SIZE; copied */
    size_t prefix_len;
    uint32_t idle_timeout_ms;       /* aborts the relay when no byte moves for so long; 0 = off */
    uint32_t half_close_timeout_ms; /* how long an end is held back; see above */
    struct pace_rates *rates;       /* outlives the relay; NULL: there are none */
    /* A counter that outlives the relay. When it grows, the kernel probes the doubted end, and the
     * relay goes on if that end answers. NULL: the owner never has doubts. */
    const _Atomic uint32_t *doubts;
    uint8_t doubted_end;  /* enum relay_end */
    bool ended[2];        /* flows that had finished when the relay was detached elsewhere */
    bool expect_empty[2]; /* hint: poll before the first receive on this end */
};

/* pipe_budget_bytes: this worker's share of pipe_pool_budget_bytes(). -ENOMEM. */
MUST_CHECK int relay_engine_init(struct relay_engine *engine, struct loop *loop,
                                 size_t pipe_budget_bytes);
void relay_engine_finish(struct relay_engine *engine); /* accepts a zeroed engine */
/* The number of bulk flows. Any thread. */
unsigned int relay_engine_bulk_flows(const struct relay_engine *engine);
/* How many of the relay's two flows are bulk. */
unsigned int relay_bulk_flows(const struct relay *relay);
/* A move has failed: no relay of the engine is asked for its place for LIMIT_STAY_MS. A relay that
 * was started again is a new one, and would be asked after its first reads. */
void relay_engine_stay(struct relay_engine *engine);

/* Starts both directions. ops->closed may be called inside. options are copied. */
void relay_start(struct relay *relay, const struct relay_options *options);
/* Resets both ends. ops->closed may be called inside. Idempotent. */
void relay_terminate(struct relay *relay);
/* Stops the relay without closing it, so that the owner can continue it on another worker
 * (docs/decisions.md, "A relay may move to another worker"). When nothing is in flight, ops->closed
 * is called; relay_detached then gives the descriptors back. If bytes have come meanwhile, the
 * relay goes on here instead; if it has ended meanwhile, it closes as usual. */
void relay_detach(struct relay *relay);
/* In ops->closed: true if the relay was detached. The owner then owns the descriptors. */
bool relay_detached(const struct relay *relay, int ret_fds[2], bool ret_ended[2]);
/* In ops->closed: true if ops->service_lost returned true and no byte has come since. The owner
 * then owns the visitor end. */
bool relay_spared(const struct relay *relay, int *ret_fd);
/* After relay_detached: the link of an end, which the owner then owns. NULL: it is plain. */
struct link *relay_take_link(struct relay *relay, unsigned int end);
/* The bytes that were read from an end, as plaintext. */
uint64_t relay_bytes(const struct relay *relay, unsigned int from);
