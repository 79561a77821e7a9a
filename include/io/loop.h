/* The loop: one io_uring ring, its submissions and completions, and its timers. The only place that
 * touches SQEs and CQEs.
 *
 *     the owner's struct loop_op --loop_recv(), ...--> SQE --> kernel --> CQE --.
 *               ^                                                               |
 *               `------------------ op->done(op, res, flags) <------------------'
 *
 * An op is idle, in flight or cancelling. It is handed to the kernel by address, so its owner stays
 * where it is until the op is idle again: close is a state, and an owner frees itself only in the
 * callback that made its last op idle. A completion whose generation is not the op's own is counted
 * and dropped.
 *
 * Threading: a loop belongs to the thread that created it. Only loop_busy_permille, loop_wake and
 * loop_fd are for others. Callbacks never block and never recurse into dispatch: starting an op in
 * a callback only queues it. Starting an op can't fail: a full queue is the loop's own affair. */
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

/* res: a result, or -errno. flags: for buffers_from_flags (io/buffers.h), otherwise opaque. */
typedef void loop_op_fn(struct loop_op *op, int res, uint32_t flags);

enum loop_op_state { LOOP_OP_IDLE, LOOP_OP_IN_FLIGHT, LOOP_OP_CANCELLING };

struct loop_op {
    loop_op_fn *done;
    uint16_t generation;
    uint8_t state; /* enum loop_op_state */
    bool exact;    /* in flight by loop_poll_exact */
    int exact_fd;
};

static inline void loop_op_init(struct loop_op *op, loop_op_fn *done)
{
    /* The generation goes on counting in reused memory; that is its whole purpose. */
    op->done = done;
    op->state = LOOP_OP_IDLE;
    op->exact = false;
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

/* Creates the ring in the calling thread, registers the operations it may use, and enables it.
 * Retries -ENOMEM with smaller rings for up to 2 s (the rings of a process that just died may still
 * be charged to the user). -errno: see loop_error_hint. */
MUST_CHECK int loop_create(const struct loop_options *options, struct loop **ret);
/* Accepts NULL. Ops still in flight are dropped without their callbacks. */
void loop_destroy(struct loop *loop);
/* What to tell the user when loop_create failed with this error: the cause and the remedy. */
const char *loop_error_hint(int error);

/* One wait (until a completion or a timer) and one drain: callbacks, then timers, then, behind all
 * that the kernel has by then, deadlines. Returns 0, or -errno when the ring itself is broken. */
MUST_CHECK int loop_run_once(struct loop *loop);

/* The time at the start of this turn. */
uint64_t loop_now_ns(const struct loop *loop);
struct metrics *loop_metrics(const struct loop *loop);
struct buffers *loop_buffers(const struct loop *loop);
void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t delay_ms);
/* The same in nanoseconds, for waits below a millisecond. */
void loop_timer_start_ns(struct loop *loop, struct timer *timer, uint64_t delay_ns);
/* A timer that ends something for want of what has not come (io/schedule.h): it runs only after a
 * look that found nothing, and not right after the process was stopped. Whatever gives up, cuts
 * off, expires or forgets is started with this; what has to be done is started with the others. */
void loop_deadline_start(struct loop *loop, struct timer *timer, uint64_t delay_ms);
/* Of either kind. */
void loop_timer_stop(struct loop *loop, struct timer *timer);

/* Ops. Buffers stay valid until the callback. */

/* Accepts connections, a callback for each, until an error or a cancel ends it (the op is idle
 * then: loop_op_is_idle inside the callback). Sockets come non-blocking and close-on-exec. */
void loop_accept_multishot(struct loop *loop, struct loop_op *op, int fd);
/* One connection, with one callback. */
void loop_accept(struct loop *loop, struct loop_op *op, int fd);
void loop_recv(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t size);
/* Receives into one of the loop's shared buffers, which the callback owns (buffers.h). -ENOBUFS:
 * none was free. poll_first: the socket is probably empty, so don't try before it is readable. */
void loop_recv_select(struct loop *loop, struct loop_op *op, int fd, bool poll_first);
/* In a receive's callback: whether the socket held more than was received. */
bool loop_flags_more_data(uint32_t flags);
/* Sends, waiting for room. May still be short. */
void loop_send(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size);

/* Completes once with the events that are ready (POLLIN, ...), among which the ring always counts
 * errors, hang-ups and POLLRDHUP. */
void loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
/* The same without POLLRDHUP, so that a socket whose peer has half-closed can be waited for; goes
 * through an epoll set that the ring polls. At most one such op per descriptor. */
void loop_poll_exact(struct loop *loop, struct loop_op *op, int fd, uint32_t events);
/* A callback for every wake-up of fd until cancelled. */
void loop_poll_multishot(struct loop *loop, struct loop_op *op, int fd, uint32_t events);

/* Asks for the end of an op; its callback follows, with -ECANCELED or, if it was faster, its
 * result; an exact poll that is cancelled has the result 0. Nothing happens when it is idle or
 * already cancelling.
 */
void loop_cancel(struct loop *loop, struct loop_op *op);
/* Nothing: the callback comes with the next turn, with result 0. */
void loop_nop(struct loop *loop, struct loop_op *op);
/* Closes fd with the next submission. No callback: there is nothing to do about a failed close. */
void loop_close_fd(struct loop *loop, int fd);

/* In the callback of a completion that belongs to a bulk transfer; drained: the next one is worth
 * waiting for, because nothing is left to be moved now. While a loop sees no other completions it
 * is patient: it sleeps until several have come or 1.5 ms are over, which saves wake-ups and costs
 * a bulk transfer nothing. Eight streams, server + client: saturated 0.41 s/GB without and 0.13
 * with it, at 3.2 Gbit/s 0.30 and 0.26. The first other completion after 20 ms of bulk alone may
 * come late by that much. */
void loop_note_bulk(struct loop *loop, bool drained);

/* Submits what the last turn has queued, when there will be no other. */
void loop_flush(struct loop *loop);

/* The share of time, of 1000, that the loop's thread lately worked or waited for a core. Any
 * thread. */
unsigned int loop_busy_permille(const struct loop *loop);

/* Wakes another loop: target_op of that loop gets a callback with res 0 there, without ever being
 * in flight. from is the calling thread's own loop. If the kernel refuses, failed_op gets a
 * callback in this thread. Both ops are used for nothing else. */
void loop_wake(struct loop *from, int target_fd, struct loop_op *target_op,
               struct loop_op *failed_op);
int loop_fd(const struct loop *loop);
