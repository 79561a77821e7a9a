#include "io/loop.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/metrics.h"
#include "io/buffers.h"
#include "loop_priv.h"

enum {
    DRAIN_BATCH = 128,         /* completions copied out of the ring at a time */
    GENERATION_SHIFT = 48,     /* user space addresses have 47 bits */
    CROWD_MIN = 2,             /* completions of a turn */
    SUBMIT_RETRIES_MAX = 2000, /* of 1 ms each: after that the kernel will not recover */
};

static_assert(sizeof(void *) == 8, "an op's address and generation share 64 bits");

/* ---- submission ---- */

uint64_t loop_op_to_user_data(const struct loop_op *op)
{
    return (uint64_t)(uintptr_t)op | (uint64_t)op->generation << GENERATION_SHIFT;
}

struct loop_op *loop_op_from_user_data(uint64_t user_data, uint16_t *ret_generation)
{
    uint64_t address_mask = (1ull << GENERATION_SHIFT) - 1;
    *ret_generation = (uint16_t)(user_data >> GENERATION_SHIFT);
    return (struct loop_op *)(uintptr_t)(user_data & address_mask);
}

/* Moves completions out of the ring, so that the kernel has room for more. False: no memory. */
static bool spill_completions(struct loop *loop)
{
    struct loop_spill *spill = &loop->spill;
    unsigned int ready = io_uring_cq_ready(&loop->ring);
    if (spill->count + ready > spill->capacity) {
        size_t capacity = (spill->count + ready) * 2;
        struct io_uring_cqe *cqes = realloc(spill->cqes, capacity * sizeof(*cqes));
        if (cqes == NULL)
            return false;
        spill->cqes = cqes;
        spill->capacity = capacity;
    }
    struct io_uring_cqe *cqe;
    unsigned int head;
    unsigned int taken = 0;
    io_uring_for_each_cqe(&loop->ring, head, cqe)
    {
        spill->cqes[spill->count++] = *cqe;
        taken++;
    }
    io_uring_cq_advance(&loop->ring, taken);
    return true;
}

/* The only place that handles a full submission queue: it submits the queue. If the kernel refuses
 * (-EBUSY: the completion queue has overflowed; -EAGAIN: no memory), it moves completions out of
 * the ring and tries again. */
static struct io_uring_sqe *get_sqe(struct loop *loop)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
    for (unsigned int tries = 0; sqe == NULL; tries++) {
        int result = io_uring_submit(&loop->ring);
        if (result < 0) {
            metrics_add(loop->metrics, METRIC_SUBMIT_RETRIES, 1);
            if (!spill_completions(loop) || tries > 1)
                (void)usleep(1000);
            if (tries > SUBMIT_RETRIES_MAX)
                abort(); /* an op would be lost and its owner would hang: better a restart */
        }
        sqe = io_uring_get_sqe(&loop->ring);
    }
    return sqe;
}

static struct io_uring_sqe *loop_op_start(struct loop *loop, struct loop_op *op,
                                          enum loop_op_kind kind, int fd)
{
    assert(op->state == LOOP_OP_IDLE);
    assert(op->done != NULL);
    struct io_uring_sqe *sqe = get_sqe(loop);
    op->state = LOOP_OP_IN_FLIGHT;
    op->kind = (uint8_t)kind;
    op->fd = fd;
    op->generation++;
    if (log_enabled(LOG_TRACE))
        loop_trace_started(op);
    return sqe;
}

static void loop_op_submit(struct io_uring_sqe *sqe, const struct loop_op *op)
{
    io_uring_sqe_set_data64(sqe, loop_op_to_user_data(op));
}

void loop_accept_multishot(struct loop *loop, struct loop_op *op, int fd)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_ACCEPT_MULTISHOT, fd);
    io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    loop_op_submit(sqe, op);
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_ACCEPT, fd);
    io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    loop_op_submit(sqe, op);
}

void loop_recv(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t size)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_RECV, fd);
    io_uring_prep_recv(sqe, fd, buffer, size, 0);
    loop_op_submit(sqe, op);
}

void loop_recv_select(struct loop *loop, struct loop_op *op, int fd, bool poll_first)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_RECV_SELECT, fd);
    io_uring_prep_recv(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = BUFFERS_GROUP;
    if (poll_first)
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    loop_op_submit(sqe, op);
}

bool loop_flags_more_data(uint32_t flags)
{
    return (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
}

void loop_send(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_SEND, fd);
    io_uring_prep_send(sqe, fd, data, size, MSG_NOSIGNAL);
    loop_op_submit(sqe, op);
}

void loop_send_once(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_SEND, fd);
    io_uring_prep_send(sqe, fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    loop_op_submit(sqe, op);
}

bool loop_is_crowded(const struct loop *loop)
{
    return loop->turn_completions >= CROWD_MIN;
}

void loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_POLL, fd);
    io_uring_prep_poll_add(sqe, fd, events);
    loop_op_submit(sqe, op);
}

void loop_poll_multishot(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_POLL_MULTISHOT, fd);
    io_uring_prep_poll_multishot(sqe, fd, events);
    loop_op_submit(sqe, op);
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
    if (op->state != LOOP_OP_IN_FLIGHT)
        return;
    if (op->kind == LOOP_OP_POLL_EXACT) {
        op->state = LOOP_OP_CANCELLING;
        loop_exact_cancel(loop, op);
        return;
    }
    struct io_uring_sqe *sqe = get_sqe(loop);
    io_uring_prep_cancel64(sqe, loop_op_to_user_data(op), 0);
    /* The result does not matter: "not found" means that the op's completion is on its way. */
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, 0);
    op->state = LOOP_OP_CANCELLING;
}

void loop_nop(struct loop *loop, struct loop_op *op)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op, LOOP_OP_NOP, -1);
    io_uring_prep_nop(sqe);
    loop_op_submit(sqe, op);
}

void loop_complete_later(struct loop *loop, struct loop_op *op)
{
    struct io_uring_sqe *sqe = get_sqe(loop);
    io_uring_prep_nop(sqe);
    loop_op_submit(sqe, op);
}

void loop_close_fd(struct loop *loop, int fd)
{
#ifdef __SANITIZE_THREAD__
    /* The sanitizer does not see that the ring closes a descriptor. It would take the next
     * descriptor of that number for the same one. */
    (void)close(fd);
    return;
#endif
    struct io_uring_sqe *sqe = get_sqe(loop);
    io_uring_prep_close(sqe, fd);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, 0);
}

void loop_flush(struct loop *loop)
{
    while (io_uring_sq_ready(&loop->ring) > 0) {
        if (io_uring_submit(&loop->ring) < 0 && !spill_completions(loop))
            return;
    }
}

void loop_wake(struct loop *from, int target_fd, struct loop_op *target_op,
               struct loop_op *failed_op)
{
    /* Both ops stay idle with generation 0; by that dispatch recognises a wake-up. */
    struct io_uring_sqe *sqe = get_sqe(from);
    io_uring_prep_msg_ring(sqe, target_fd, 0, (uint64_t)(uintptr_t)target_op, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)failed_op);
    metrics_add(from->metrics, METRIC_WAKEUPS_SENT, 1);
}

/* ---- completion ---- */

static void dispatch(struct loop *loop, const struct io_uring_cqe *cqe)
{
    if (cqe->user_data == 0)
        return; /* a cancel or a close that failed: nothing can be done about it */
    loop->patience.completions++;
    uint16_t generation;
    struct loop_op *op = loop_op_from_user_data(cqe->user_data, &generation);
    if (generation == 0 && op->state == LOOP_OP_IDLE && op->generation == 0) {
        op->done(op, cqe->res, cqe->flags); /* a wake-up, see loop_wake */
        return;
    }
    if (generation != op->generation || op->state == LOOP_OP_IDLE) {
        metrics_add(loop->metrics, METRIC_LATE_COMPLETIONS, 1);
        return;
    }
    /* A cancelled multishot op may still complete several times: it is idle after the last one. */
    if ((cqe->flags & IORING_CQE_F_MORE) == 0)
        op->state = LOOP_OP_IDLE;
    if (log_enabled(LOG_TRACE))
        loop_trace_done(op, cqe->res);
    op->done(op, cqe->res, cqe->flags);
}

static void drain_spill(struct loop *loop)
{
    struct loop_spill spill = loop->spill;
    if (spill.count == 0)
        return;
    loop->spill = (struct loop_spill){NULL, 0, 0}; /* callbacks may spill again */
    for (size_t i = 0; i < spill.count; i++)
        dispatch(loop, &spill.cqes[i]);
    free(spill.cqes);
}

/* Dispatches only the completions that were there at the start, so that timers get their turn. */
static void drain(struct loop *loop)
{
    struct io_uring_cqe batch[DRAIN_BATCH];
    drain_spill(loop);
    unsigned int left = io_uring_cq_ready(&loop->ring);
    loop->turn_completions = left;
    while (left > 0 && loop->spill.count == 0) {
        struct io_uring_cqe *cqe;
        unsigned int head;
        unsigned int count = 0;
        io_uring_for_each_cqe(&loop->ring, head, cqe)
        {
            batch[count++] = *cqe;
            if (count == DRAIN_BATCH || count == left)
                break;
        }
        io_uring_cq_advance(&loop->ring, count);
        left -= count;
        for (unsigned int i = 0; i < count; i++)
            dispatch(loop, &batch[i]);
        if (count == 0)
            break;
    }
}

static void count_overflow(struct loop *loop)
{
    bool overflow = (*loop->ring.sq.kflags & IORING_SQ_CQ_OVERFLOW) != 0;
    if (overflow && !loop->overflow_seen)
        metrics_add(loop->metrics, METRIC_CQ_OVERFLOWS, 1);
    loop->overflow_seen = overflow;
}

void loop_note_bulk(struct loop *loop, bool drained)
{
    loop->patience.bulk++;
    if (drained)
        loop->patience.drained++;
}

/* Whether to wait until several completions have gathered: the last turn had only bulk transfers
 * that moved everything there was, and for LIMIT_PATIENCE_QUIET_MS there was nothing but bulk.
 * Resets the counters of the turn. docs/decisions.md, "A worker that sees bulk alone is
 * patient". */
static bool take_patience(struct loop *loop)
{
    struct loop_patience *patience = &loop->patience;
    bool hurry = patience->completions > patience->bulk;
    bool drained = patience->drained > 0 && patience->drained == patience->bulk;
    patience->completions = patience->bulk = patience->drained = 0;
    if (hurry)
        patience->hurried_at_ns = loop->now_ns;
    return drained && !hurry &&
           loop->now_ns - patience->hurried_at_ns > ms_to_ns(LIMIT_PATIENCE_QUIET_MS);
}

struct wait {
    uint64_t began_ns, delay_ns; /* delay_ns UINT64_MAX: no time limit */
};

static int submit_and_wait(struct loop *loop, struct wait *ret)
{
    uint64_t delay_ns = UINT64_MAX;
    unsigned int count = 1;
    uint64_t next_ns = schedule_next_ns(&loop->schedule);
    ret->began_ns = clock_monotonic_ns();
    if (next_ns != UINT64_MAX)
        delay_ns = next_ns > ret->began_ns ? next_ns - ret->began_ns : 0;
    if (take_patience(loop)) {
        count = LIMIT_PATIENCE_COUNT;
        delay_ns = MIN(delay_ns, LIMIT_PATIENCE_US * 1000ull);
    }
    if (loop->spill.count > 0)
        delay_ns = 0;
    ret->delay_ns = delay_ns;
    struct __kernel_timespec ts = {.tv_sec = (int64_t)(delay_ns / NS_PER_S),
                                   .tv_nsec = (long long)(delay_ns % NS_PER_S)};
    struct io_uring_cqe *cqe;
    return io_uring_submit_and_wait_timeout(&loop->ring, &cqe, count,
                                            delay_ns == UINT64_MAX ? NULL : &ts, NULL);
}

/* Whether the thread was stopped, or got no core, for so long that expired deadlines mean nothing.
 * That may have happened during the last turn's callbacks, at the end of the wait, or in the middle
 * of the wait: SIGCONT ends a wait early and without a completion. */
static bool was_absent(const struct loop *loop, uint64_t turn_ns, const struct wait *wait)
{
    const uint64_t long_ns = ms_to_ns(LIMIT_ABSENT_MS);
    uint64_t waited_ns = loop->now_ns - wait->began_ns;
    bool is_early = waited_ns < wait->delay_ns;
    if (is_early)
        return wait->began_ns - turn_ns > long_ns ||
               (waited_ns > long_ns && io_uring_cq_ready(&loop->ring) == 0);
    return wait->began_ns - turn_ns > long_ns || waited_ns - wait->delay_ns > long_ns;
}

static void note_absence(struct loop *loop, uint64_t turn_ns, const struct wait *wait)
{
    if (was_absent(loop, turn_ns, wait) && schedule_absent(&loop->schedule, loop->now_ns))
        metrics_add(loop->metrics, METRIC_ABSENCES, 1);
}

/* Dispatches what the kernel has by now, in up to SCHEDULE_LOOKS_MAX rounds, because it may stop or
 * move the deadline that is due. With DEFER_TASKRUN the ring posts completions only when it is
 * asked, and the last time it was asked may be long before the deadline. */
static void loop_look_again(struct loop *loop)
{
    for (unsigned int i = 0; i < SCHEDULE_LOOKS_MAX; i++) {
        int result = io_uring_submit_and_get_events(&loop->ring);
        if (result < 0 && result != -EINTR)
            metrics_add(loop->metrics, METRIC_SUBMIT_RETRIES, 1);
        if (io_uring_cq_ready(&loop->ring) == 0 && loop->spill.count == 0)
            return;
        drain(loop);
    }
}

int loop_run_once(struct loop *loop)
{
    struct wait wait;
    uint64_t turn_ns = loop->now_ns;
    int result = submit_and_wait(loop, &wait);
    switch (-result) {
    case ETIME:
    case EINTR:
        break;
    case EBUSY:  /* the completion queue has overflowed: the drain below makes room */
    case EAGAIN: /* no memory for requests: entries that were not taken stay queued */
    case ENOMEM:
        metrics_add(loop->metrics, METRIC_SUBMIT_RETRIES, 1);
        if (io_uring_cq_ready(&loop->ring) == 0)
            (void)usleep(1000);
        break;
    default:
        if (result < 0)
            return result;
    }
    loop->now_ns = clock_monotonic_ns();
    note_absence(loop, turn_ns, &wait);
    count_overflow(loop);
    drain(loop);
    schedule_run(&loop->schedule, loop->now_ns);
    if (schedule_deadlines_due(&loop->schedule, loop->now_ns)) {
        loop_look_again(loop);
        schedule_run_deadlines(&loop->schedule, loop->now_ns);
    }
    buffers_serve_waiters(loop->buffers);
    struct loop_waits waits;
    if (loop_busy_sample(&loop->busy, loop->now_ns, &waits))
        loop_preempt_update(&loop->preempt, loop->busy.schedstat_fd >= 0 ? &waits : NULL,
                            loop->now_ns);
    return 0;
}

/* ---- clock, timers and shared objects ---- */

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

struct metrics *loop_metrics(const struct loop *loop)
{
    return loop->metrics;
}

struct buffers *loop_buffers(const struct loop *loop)
{
    return loop->buffers;
}

void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t delay_ms)
{
    loop_timer_start_ns(loop, timer, ms_to_ns(delay_ms));
}

void loop_timer_start_ns(struct loop *loop, struct timer *timer, uint64_t delay_ns)
{
    schedule_start(&loop->schedule, timer, loop->now_ns + delay_ns);
}

void loop_deadline_start(struct loop *loop, struct timer *timer, uint64_t delay_ms)
{
    schedule_start_deadline(&loop->schedule, timer, loop->now_ns + ms_to_ns(delay_ms));
}

void loop_timer_stop(struct loop *loop, struct timer *timer)
{
    schedule_stop(&loop->schedule, timer);
}

int loop_fd(const struct loop *loop)
{
    return loop->ring.ring_fd;
}
