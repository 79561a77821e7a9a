/* Shared by the files that work on the ring itself: loop_setup.c creates and destroys a loop,
 * loop.c runs it, loop_exact.c has the exact polls, loop_busy.c the busy average, loop_preempt.c
 * the scheduling policy, buffers.c the shared buffers. Only the loop's own thread uses these,
 * except that other threads read the busy average. */
#pragma once

#include <liburing.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "io/loop.h"
#include "io/schedule.h"

/* Completions that were taken out of the ring but are not dispatched yet. Used only when the kernel
 * takes no submissions because the completion queue is full. Grows as needed. */
struct loop_spill {
    struct io_uring_cqe *cqes;
    size_t count, capacity;
};

/* What the scheduler counts for a thread: its time slices, the time that it ran in them, and the
 * time that it waited for them. */
struct loop_waits {
    uint64_t run_ns, wait_ns, slices;
};

/* Whether the thread preempts others when it wakes up (loop_preempt.c). */
struct loop_preempt {
    bool is_ours; /* the thread's policy is ours to change */
    bool is_on;
    uint64_t until_ns;
};

/* How busy the thread is, sampled from the scheduler's statistics (loop_busy.c). */
struct loop_busy {
    int schedstat_fd; /* -1: not available; the thread's CPU clock is used */
    uint64_t wall_ns;
    struct loop_waits waits;
    _Atomic uint64_t sampled_at_ns;
    _Atomic uint32_t permille;
};

/* Exact polls: an epoll set that the ring polls. It is created with the first such poll. */
struct loop_exact {
    int epoll_fd; /* -1: none yet */
    struct loop_op ready_op;
};

/* The completions of this turn, counted by kind (loop_note_bulk). */
struct loop_patience {
    unsigned int completions, bulk, drained;
    uint64_t hurried_at_ns; /* the last turn with a completion that was not bulk */
};

struct loop {
    struct io_uring ring;
    struct schedule schedule;
    uint64_t now_ns;
    struct metrics *metrics;
    struct buffers *buffers;
    struct loop_spill spill;
    struct loop_busy busy;
    struct loop_preempt preempt;
    struct loop_exact exact;
    struct loop_patience patience;
    unsigned int turn_completions;
    bool overflow_seen;
};

MUST_CHECK int buffers_create(struct io_uring *ring, unsigned int count, struct metrics *metrics,
                              struct buffers **ret);
void buffers_destroy(struct buffers *buffers);
/* Calls waiters if at least half of the buffers are free. Called once per turn. */
void buffers_serve_waiters(struct buffers *buffers);

/* loop.c, for loop_exact.c */
uint64_t loop_op_to_user_data(const struct loop_op *op);
struct loop_op *loop_op_from_user_data(uint64_t user_data, uint16_t *ret_generation);
void loop_complete_later(struct loop *loop, struct loop_op *op);

/* loop_trace.c: a line at trace level. */
void loop_trace_started(const struct loop_op *op);
void loop_trace_done(const struct loop_op *op, int res);

void loop_exact_init(struct loop_exact *exact);
void loop_exact_finish(struct loop_exact *exact);
void loop_exact_cancel(struct loop *loop, struct loop_op *op);

void loop_busy_init(struct loop_busy *busy);
void loop_busy_finish(struct loop_busy *busy);
/* At most every 20 ms. True: *ret is what was counted since the last sample. */
bool loop_busy_sample(struct loop_busy *busy, uint64_t now_ns, struct loop_waits *ret);

/* Called by the loop's thread, whose policy it changes. */
void loop_preempt_init(struct loop_preempt *preempt);
/* The decision alone, for the tests. waits: since the last call. */
bool loop_preempt_wanted(struct loop_preempt *preempt, const struct loop_waits *waits,
                         uint64_t now_ns);
/* waits NULL: they can't be counted here, so the thread preempts others. */
void loop_preempt_update(struct loop_preempt *preempt, const struct loop_waits *waits,
                         uint64_t now_ns);

enum { BUFFERS_GROUP = 0 };
