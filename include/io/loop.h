/* The loop: one io_uring ring (io_uring(7)), its submissions and completions, and its timers. Only
 * loop*.c touch SQEs and CQEs.
 *
 *     the owner's struct loop_op --loop_recv(), ...--> SQE --> kernel --> CQE --.
 *               ^                                                               |
 *               `------------------ op->done(op, res, flags) <------------------'
 *
 * An op is idle, in flight or cancelling. The kernel holds its address, so the owner must not move
 * or free it before the op is idle again. Closing is therefore a state: an owner frees itself only
 * in the callback that made its last op idle. A completion with another generation than the op's is
 * counted and dropped (docs/decisions.md, "user_data is an address with a generation").
 *
 * Threading: a loop belongs to the thread that created it. Other threads may only call
 * loop_busy_permille and loop_fd, and reach a loop with loop_wake. Callbacks never block, and are
 * never called inside a function that starts an op: starting an op only queues it. Starting an op
 * can't fail: the loop handles a full submission queue. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "io/timer.h"

struct buffers;
struct loop;
struct loop_op;
struct metrics;

/* res: the operation's result, or -errno. flags: for buffers_from_flags (io/buffers.h) and
 * loop_flags_more_data, otherwise opaque. */
typedef void loop_op_fn(struct loop_op *op, int res, uint32_t flags);

enum loop_op_state { LOOP_OP_IDLE, LOOP_OP_IN_FLIGHT, LOOP_OP_CANCELLING };

/* What an op was started as last. */
enum loop_op_kind {
    LOOP_OP_NONE, /* never started */
    LOOP_OP_ACCEPT,
    LOOP_OP_ACCEPT_MULTISHOT,
    LOOP_OP_RECV,
    LOOP_OP_RECV_SELECT,
    LOOP_OP_SEND,
    LOOP_OP_POLL,
    LOOP_OP_POLL_EXACT,
    LOOP_OP_POLL_MULTISHOT,
    LOOP_OP_NOP,
    LOOP_OP_KIND_COUNT,
};

struct loop_op {
    loop_op_fn *done;
    uint16_t generation;
    uint8_t state; /* enum loop_op_state */
    uint8_t kind;  /* enum loop_op_kind */
    int fd;        /* -1: a nop */
};

static inline void loop_op_init(struct loop_op *op, loop_op_fn *done)
{
    /* The generation is not reset: it goes on counting in reused memory, so that a late completion
     * of the former op does not match. */
    op->done = done;
    op->state = LOOP_OP_IDLE;
    op->kind = LOOP_OP_NONE;
    op->fd = -1;
}

static inline bool loop_op_is_idle(const struct loop_op *op)
{
    return op->state == LOOP_OP_IDLE;
}

struct loop_options {
    unsigned int sq_entries, cq_entries; /* 0 = the defaults of limits.h */
    unsigned int buffer_count;           /* 0 = the default */
    struct metrics *metrics;             /* borrowed, outlives the loop */
};

/* Creates the ring in the calling thread, restricts it to the operations that are used, and enables
 * it. -ENOMEM is retried with smaller rings, and for up to 2 s: the memory of a process that just
 * died may still be charged to the user. Returns 0 or -errno; loop_error_hint explains it. */
MUST_CHECK int loop_create(const struct loop_options *options, struct loop **ret);
/* Accepts NULL. Ops still in flight are dropped without their callbacks. */
void loop_destroy(struct loop *loop);
/* For the user, when loop_create failed with this error: the cause and the remedy. Static text. */
const char *loop_error_hint(int error);

/* One turn: waits for a completion or a timer, then runs completion callbacks, then timers, then
 * (after all completions that the kernel has by then) deadlines. Returns 0, or -errno when the ring
 * itself is broken. */
MUST_CHECK int loop_run_once(struct loop *loop);

/* The time at the start of this turn: CLOCK_MONOTONIC in nanoseconds. */
uint64_t loop_now_ns(const struct loop *loop);
struct metrics *loop_metrics(const struct loop *loop);
struct buffers *loop_buffers(const struct loop *loop);
void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t delay_ms);
/* The same in nanoseconds, for waits below a millisecond. */
void loop_timer_start_ns(struct loop *loop, struct timer *timer, uint64_t delay_ns);
/* Starts the timer as a deadline (io/schedule.h): it runs only after a look at the kernel that
 * found nothing, and not right after the process was stopped. Use this for everything that ends
 * something because an answer has not come: giving up, cutting off, expiring, forgetting. Use
 * loop_timer_start for everything else. */
void loop_deadline_start(struct loop *loop, struct timer *timer, uint64_t delay_ms);
/* Stops a timer or deadline. Idempotent. */
void loop_timer_stop(struct loop *loop, struct timer *timer);

/* ---- ops; fd, buffer and data stay valid until the callback ---- */

/* Accepts connections, with one callback each, until an error or a cancel ends it; in that last
 * callback the op is idle (loop_op_is_idle). res is the new descriptor, non-blocking and
 * close-on-exec; the callback owns it. Linux 5.19. */
void loop_accept_multishot(struct loop *loop, struct loop_op *op, int fd);
/* Accepts one connection, with one callback. */
void loop_accept(struct loop *loop, struct loop_op *op, int fd);
/* Receives are single-shot: docs/decisions.md, "Receives are single-shot". res is the number of
 * bytes, 0 at the end of the stream. */
void loop_recv(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t size);
/* Receives into one of the loop's shared buffers, which the callback then owns (io/buffers.h).
 * -ENOBUFS: no buffer was free. poll_first: the socket is probably empty, so the kernel first waits
 * until it is readable. */
void loop_recv_select(struct loop *loop, struct loop_op *op, int fd, bool poll_first);
/* In a receive's callback: whether the socket held more than was received, or an end of stream. */
bool loop_flags_more_data(uint32_t flags);
/* Waits for room in the send queue, then sends. res is the number of bytes, perhaps not all. */
void loop_send(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size);
/* Sends what fits now, with the next submission, and never waits: res is the number of bytes,
 * perhaps not all, or -EAGAIN. All such sends of a turn are one system call. */
void loop_send_once(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size);
/* Whether so many completions came in this turn that sends had better go together
 * (docs/decisions.md, "Sends are inline, or together"). */
bool loop_is_crowded(const struct loop *loop);

/* Completes once. res: the events that are ready (POLLIN, ...; poll(2)). The ring adds errors,
 * hang-ups and POLLRDHUP to every poll. */
void loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
/* The same without POLLRDHUP, through an epoll set that the ring polls, so that a socket whose peer
 * has half-closed can be waited for (docs/decisions.md, "Exact polls go through epoll"). At most
 * one such op per descriptor. */
void loop_poll_exact(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
/* A callback for every wake-up of fd, until cancelled. */
void loop_poll_multishot(struct loop *loop, struct loop_op *op, int fd, uint32_t events);

/* Asks the kernel to cancel an op. Its callback follows, with -ECANCELED or with a result that was
 * faster; for an exact poll the result is 0. Does nothing to an op that is idle or cancelling
 * already. */
void loop_cancel(struct loop *loop, struct loop_op *op);
/* Does nothing, except that the callback comes in the next turn, with result 0. */
void loop_nop(struct loop *loop, struct loop_op *op);
/* Closes fd with the next submission. There is no callback, because nothing can be done about a
 * failed close. */
void loop_close_fd(struct loop *loop, int fd);

/* To be called in the callback of a completion that belongs to a bulk transfer. drained: the
 * callback has moved all that was there, so waiting gathers more. While a loop has no other
 * completions, it sleeps until LIMIT_PATIENCE_COUNT have come or LIMIT_PATIENCE_US are over, which
 * saves wake-ups. The first other completion may then be late by LIMIT_PATIENCE_US.
 * docs/decisions.md, "A worker that sees bulk alone is patient", has the figures. */
void loop_note_bulk(struct loop *loop, bool drained);

/* Submits what is queued. To be called after the last turn. */
void loop_flush(struct loop *loop);

/* The share of the last 100 ms or so, in permille, in which the loop's thread ran or waited for a
 * core. Any thread. */
unsigned int loop_busy_permille(const struct loop *loop);

/* Wakes another loop with MSG_RING (Linux 5.18): target_op, an op of that loop, gets a callback
 * there with res 0. It never is in flight. from is the calling thread's own loop; target_fd is the
 * other loop's loop_fd. If the kernel refuses, failed_op gets a callback in this thread. Both ops
 * may be used for nothing else. */
void loop_wake(struct loop *from, int target_fd, struct loop_op *target_op,
               struct loop_op *failed_op);
/* The ring's descriptor, for loop_wake. Any thread. It belongs to the loop. */
int loop_fd(const struct loop *loop);
