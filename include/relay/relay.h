/* A relay joins two sockets until both directions have ended.
 *
 *     end 0 ---flow[0]--> end 1       Each flow reads, writes all of it, then reads again: no read
 *     end 0 <--flow[1]--- end 1       is armed while the sink has not taken the last bytes.
 *
 * A flow copies through one of the loop's shared buffers until several reads in a row were full;
 * then it is bulk: it waits for readiness and moves what is there inline, with splice(2), or, when
 * no pipe is to be had, by large copies. It falls back to small copies when its reads become small.
 * An idle flow holds no buffer and no pipe.
 *
 * An end may be encrypted: what is read from it is opened, what is written to it sealed, in the
 * worker's hot buffers (noise_link.h). Such flows are never spliced; bulk means larger batches.
 *
 * An end of stream goes on as shutdown(SHUT_WR) after the last byte; the other direction lives. A
 * reset, or any error, resets both ends, so that a cut transfer can't look complete. A blocked flow
 * watches its source for that with a poll for no events.
 *
 * What was read from one end is written to the other at most once. The loss of an end is the end of
 * the relay: what the other end has been sent may have been acted upon, so nothing is sent again.
 *
 * An end that is gone without a word is found by what it does not acknowledge (silence.h), and both
 * ends are reset. While nothing is outstanding nobody can know; the owner may have a reason to
 * doubt that the other side is there (`doubts`), and then the kernel asks it.
 *
 * Embedded in its owner and owned by one worker. It may be freed in `closed`, not before; nothing
 * is in flight then. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/buffers.h"
#include "io/loop.h"
#include "io/timer.h"
#include "net/silence.h"
#include "net/transport.h"

struct pipe;
struct pipe_pool;
struct relay;

enum { RELAY_PREFIX_SIZE = 16 };

struct relay_ops {
    /* A flow of this worker has become bulk and shares it with others. True: relay_detach has been
     * asked for (see there). May be NULL. */
    bool (*became_bulk)(struct relay *relay);
    /* Both descriptors are closed (or detached), no callback follows. */
    void (*closed)(struct relay *relay);
};

/* What one worker's relays share. Initialised by relay_engine_init in the worker's thread. */
struct relay_engine {
    struct loop *loop;
    struct pipe_pool *pipes;
    struct noise_engine *noise;  /* borrowed; NULL without encrypted ends */
    unsigned char *bulk_free[2]; /* warm large buffers */
    unsigned int bulk_free_count, bulk_count;
    unsigned char *scratch; /* for a relay's greeting */
    unsigned int relay_count;
    _Atomic unsigned int bulk_flows; /* read by other workers */
    struct list relays;              /* all of them; the one not looked at for longest is first */
    struct timer sweep_timer;        /* while there are any */
    unsigned int sweep_left;         /* to be looked at in this round */
};

struct relay_flow {
    struct loop_op read_op;  /* a receive, or a poll for readable */
    struct loop_op write_op; /* a poll for writable */
    struct buffers_waiter buffers_waiter;
    /* Bytes read and not yet written: data[begin..end) or the pipe. Of one kind at a time. */
    struct buffer buffer; /* data NULL: not in a shared buffer */
    unsigned char *data;
    uint32_t begin, end;
    struct pipe *pipe;
    uint64_t bytes;  /* moved or on their way */
    uint32_t unsent; /* in the sink's send queue when an idle timeout last looked */
    uint8_t index;   /* reads from this end, writes to the other */
    uint8_t pending; /* enum relay_pending */
    uint8_t streak;  /* reads in a row that speak for the other mode */
    bool bulk;       /* armed with a poll, not with a receive */
    bool offered;    /* ops->became_bulk has been asked once */
    bool poll_first; /* the socket was empty after the last read */
    bool eof;        /* end of input seen */
    bool finished;   /* and passed on */
};

struct relay {
    struct relay_flow flow[2];
    struct loop_op hangup_op[2];
    int fds[2];
    struct noise_link *noise[2]; /* of encrypted ends; at most one is */
    struct relay_engine *engine;
    const struct relay_ops *ops;
    struct timer timer;
    /* What a look at an idle relay reads stands together. */
    struct list node; /* in engine->relays */
    uint64_t active_at_ns, looked_at_ns;
    const _Atomic uint32_t *doubts;
    uint32_t doubts_seen;
    struct silence silence[2];
    struct socket_keepalive keepalive; /* while the doubted end is asked: what it was before */
    uint8_t doubted_end;
    uint8_t silent_end; /* with ERR_UNACKED and ERR_SILENT: which end is gone */
    uint8_t state;      /* enum relay_state */
    bool look_due;      /* whatever has happened: at the start, and after an end of stream */
    uint32_t idle_timeout_ms;
    int error;           /* why it was aborted; 0 = it was not, or on request */
    bool half_closed[2]; /* this end has sent its end of stream, read by us or not */
    bool watch_due;      /* the timer is to watch the ends that have */
    bool watched[2];     /* hangup_op has fired without an error: it would fire again at once */
    bool aborting;
    bool idle_timed_out;
    uint8_t held; /* functions at work on both flows: it does not end before they are done */
};

struct relay_options {
    struct relay_engine *engine;
    const struct relay_ops *ops;
    int fds[2]; /* taken over, and so is the Noise state of encrypted ends */
    struct noise_link *noise[2];
    const void *prefix; /* sent to end 1 before anything else; at most RELAY_PREFIX_SIZE */
    size_t prefix_len;
    uint32_t idle_timeout_ms; /* both directions silent for that long: aborted; 0 = off */
    /* A counter of the owner's, which outlives the relay: when it grows, the doubted end is asked
     * whether it is there, and goes on if it is. NULL: nobody will have doubts. */
    const _Atomic uint32_t *doubts;
    uint8_t doubted_end;
    bool ended[2]; /* flows that had ended when the relay was detached elsewhere */
    bool quiet[2]; /* ends that have probably sent nothing yet: a hint */
};

/* pipe_budget_bytes: this worker's part of pipe_pool_budget_bytes. */
MUST_CHECK int relay_engine_init(struct relay_engine *engine, struct loop *loop,
                                 size_t pipe_budget_bytes);
void relay_engine_finish(struct relay_engine *engine); /* accepts a zeroed engine */
/* Flows in bulk mode. Any thread. */
unsigned int relay_engine_bulk_flows(const struct relay_engine *engine);

/* Starts both directions. ops->closed may come from inside. */
void relay_start(struct relay *relay, const struct relay_options *options);
/* Resets both ends. ops->closed may come from inside. Idempotent. */
void relay_terminate(struct relay *relay);
/* Stops without closing: when nothing is in flight, ops->closed comes and the descriptors are the
 * owner's again (relay_detached), to go on with on another worker. A relay with bytes on their way,
 * or one that ends meanwhile, is not detached but goes on, or is closed as usual. */
void relay_detach(struct relay *relay);
/* In ops->closed: whether the descriptors are still open and the owner's. */
bool relay_detached(const struct relay *relay, int ret_fds[2], bool ret_ended[2]);
/* Then also: the Noise state of an end, the owner's again. NULL: a plain one. */
struct noise_link *relay_take_noise(struct relay *relay, unsigned int end);
/* Bytes moved from end `from`. */
uint64_t relay_bytes(const struct relay *relay, unsigned int from);
