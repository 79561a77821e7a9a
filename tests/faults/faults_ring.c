/* Faults at the ring. A submission that has to fail is replaced by a no-op, whose completion then
 * gets the failure: the operation has not run at all, as when the kernel refuses it. The ring's
 * memory is shared with the kernel and writable, so completions are changed where they lie. A
 * completion that has to be late is taken out and comes back as a no-op. A ring belongs to one
 * thread, and so does everything here. */
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "faults.h"
#include "io/loop.h"

enum { SLOTS = 512, HELD_MAX = 512, MARKS_MAX = 512 };

/* No operation has such an address: only the generation is this large. */
#define OURS      (0xfa17ull << 48)
#define OURS_MASK (0xffffull << 48)

struct mark {
    uint64_t user_data; /* 0: unused */
    enum fault_what what;
};

struct held {
    uint64_t due_ns;
    struct io_uring_cqe cqe; /* the last: it ends in a flexible array */
};

static __thread struct {
    struct io_uring_cqe slots[SLOTS]; /* what a no-op of ours shall complete with */
    bool used[SLOTS];
    struct mark marks[MARKS_MAX];
    struct held held[HELD_MAX]; /* in the order of their coming */
    unsigned int mark_count, held_count, sqes_seen, cqes_seen;
} mine;

static uint64_t user_data_of_op(const struct loop_op *op)
{
    return (uint64_t)(uintptr_t)op | (uint64_t)op->generation << 48;
}

static void mark(uint64_t user_data, enum fault_what what)
{
    for (unsigned int i = 0; i < MARKS_MAX; i++) {
        if (mine.marks[i].user_data == 0) {
            mine.marks[i] = (struct mark){user_data, what};
            mine.mark_count++;
            return;
        }
    }
}

static struct mark *mark_of(uint64_t user_data)
{
    for (unsigned int i = 0; user_data != 0 && mine.mark_count > 0 && i < MARKS_MAX; i++) {
        if (mine.marks[i].user_data == user_data)
            return &mine.marks[i];
    }
    return NULL;
}

static void unmark(struct mark *mark)
{
    mark->user_data = 0;
    mine.mark_count--;
}

/* Makes the entry a no-op that completes with cqe. False: there are too many already. */
static bool complete_with(struct io_uring_sqe *sqe, const struct io_uring_cqe *cqe)
{
    for (unsigned int i = 0; i < SLOTS; i++) {
        if (mine.used[i])
            continue;
        mine.used[i] = true;
        mine.slots[i].user_data = cqe->user_data;
        mine.slots[i].res = cqe->res;
        mine.slots[i].flags = cqe->flags;
        /* In liburing 2.9 io_uring_get_sqe sets the flags to zero, and prep_nop leaves those of
         * the entry as it was: without a completion for a success there would be none. */
        memset(sqe, 0, sizeof(*sqe));
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data64(sqe, OURS | i);
        return true;
    }
    return false;
}

/* ---- submissions ---- */

static bool is_multishot(const struct io_uring_sqe *sqe)
{
    return sqe->opcode == IORING_OP_ACCEPT ? (sqe->ioprio & IORING_ACCEPT_MULTISHOT) != 0
                                           : (sqe->len & IORING_POLL_ADD_MULTI) != 0;
}

static enum fault_call call_of(const struct io_uring_sqe *sqe)
{
    switch (sqe->opcode) {
    case IORING_OP_ACCEPT:
        return is_multishot(sqe) ? FAULT_ACCEPT_MULTISHOT : FAULT_ACCEPT;
    case IORING_OP_RECV:
        return (sqe->flags & IOSQE_BUFFER_SELECT) != 0 ? FAULT_RECV_SELECT : FAULT_RECV;
    case IORING_OP_SEND:
        return FAULT_SEND;
    case IORING_OP_POLL_ADD:
        return is_multishot(sqe) ? FAULT_POLL_MULTISHOT : FAULT_POLL;
    case IORING_OP_NOP:
        return FAULT_NOP;
    case IORING_OP_ASYNC_CANCEL:
        return FAULT_CANCEL;
    case IORING_OP_CLOSE:
        return FAULT_CLOSE;
    case IORING_OP_MSG_RING:
        return FAULT_MSG_RING;
    default:
        return FAULT_CALL_COUNT;
    }
}

static void fail(struct io_uring_sqe *sqe, enum fault_call call, int res)
{
    const struct io_uring_cqe cqe = {.user_data = sqe->user_data, .res = res};
    if (call == FAULT_CANCEL)
        return; /* it is carried out; nobody reads its result */
    int fd = call == FAULT_CLOSE ? sqe->fd : -1;
    if (complete_with(sqe, &cqe) && fd >= 0)
        (void)close(fd); /* Linux closes a descriptor whatever close(2) returns */
}

static void delay(const struct io_uring_sqe *sqe, enum fault_call call)
{
    if (call <= FAULT_POLL_MULTISHOT)
        mark(sqe->user_data, FAULT_DELAY);
    else
        faults_wait(); /* it has no completion of its own that could be late */
}

static void look_at_cancel(const struct io_uring_sqe *sqe)
{
    const struct loop_op *op = (const struct loop_op *)(uintptr_t)(sqe->addr & ~OURS_MASK);
    static const enum fault_call calls[LOOP_OP_KIND_COUNT] = {
        [LOOP_OP_NONE] = FAULT_CALL_COUNT,
        [LOOP_OP_ACCEPT] = FAULT_ACCEPT,
        [LOOP_OP_ACCEPT_MULTISHOT] = FAULT_ACCEPT_MULTISHOT,
        [LOOP_OP_RECV] = FAULT_RECV,
        [LOOP_OP_RECV_SELECT] = FAULT_RECV_SELECT,
        [LOOP_OP_SEND] = FAULT_SEND,
        [LOOP_OP_POLL] = FAULT_POLL,
        [LOOP_OP_POLL_EXACT] = FAULT_CALL_COUNT,
        [LOOP_OP_POLL_MULTISHOT] = FAULT_POLL_MULTISHOT,
        [LOOP_OP_NOP] = FAULT_CALL_COUNT,
    };
    enum fault_call call = user_data_of_op(op) == sqe->addr ? calls[op->kind] : FAULT_CALL_COUNT;
    if (call != FAULT_CALL_COUNT && faults_at(call, FAULT_BIT(FAULT_SURPLUS)).what == FAULT_SURPLUS)
        mark(sqe->addr, FAULT_SURPLUS);
}

static void look_at_sqe(struct io_uring_sqe *sqe)
{
    enum fault_call call = call_of(sqe);
    if (call == FAULT_CALL_COUNT || (sqe->user_data & OURS_MASK) == OURS)
        return;
    if (call == FAULT_CANCEL)
        look_at_cancel(sqe);
    unsigned int kinds = FAULT_ALL & ~FAULT_BIT(FAULT_SURPLUS);
    if (call == FAULT_POLL && sqe->poll32_events == 0)
        kinds &= ~FAULT_BIT(FAULT_SPURIOUS); /* it waits for an error, and that would be a lie */
    struct fault fault = faults_at(call, kinds);
    switch (fault.what) {
    case FAULT_ERROR:
        fail(sqe, call, -fault.error);
        break;
    case FAULT_ZERO:
        fail(sqe, call, 0);
        break;
    case FAULT_SPURIOUS:
        fail(sqe, call, (int)(sqe->poll32_events & 0xffff));
        break;
    case FAULT_SHORT:
        sqe->len = call == FAULT_SEND ? (sqe->len + 1) / 2 : 1;
        break;
    case FAULT_DELAY:
        delay(sqe, call);
        break;
    case FAULT_NO_MORE:
        if (sqe->opcode == IORING_OP_ACCEPT)
            sqe->ioprio &= (uint16_t)~IORING_ACCEPT_MULTISHOT;
        else
            sqe->len &= ~(uint32_t)IORING_POLL_ADD_MULTI;
        break;
    case FAULT_NOTHING:
    case FAULT_SURPLUS:
    case FAULT_SMALL:
        break;
    }
}

/* Those that are due come back. */
static void give_back(struct io_uring *ring)
{
    uint64_t now_ns = clock_monotonic_ns();
    while (mine.held_count > 0 && mine.held[0].due_ns <= now_ns) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
        if (sqe == NULL || !complete_with(sqe, &mine.held[0].cqe)) {
            if (sqe != NULL)
                io_uring_prep_nop(sqe);
            return;
        }
        mine.held_count--;
        memmove(&mine.held[0], &mine.held[1], mine.held_count * sizeof(mine.held[0]));
    }
}

static void look_at_submissions(struct io_uring *ring)
{
    for (; mine.sqes_seen != ring->sq.sqe_tail; mine.sqes_seen++)
        look_at_sqe(&ring->sq.sqes[mine.sqes_seen & ring->sq.ring_mask]);
    give_back(ring);
    mine.sqes_seen = ring->sq.sqe_tail;
}

/* ---- completions ---- */

static void hold(struct io_uring_cqe *cqe, int res, uint32_t flags, uint64_t due_ns)
{
    if (mine.held_count == HELD_MAX)
        return;
    struct held *held = &mine.held[mine.held_count++];
    held->cqe.user_data = cqe->user_data;
    held->cqe.res = res;
    held->cqe.flags = flags;
    held->due_ns = due_ns;
}

static void look_at_cqe(struct io_uring_cqe *cqe, uint64_t now_ns)
{
    bool is_last = (cqe->flags & IORING_CQE_F_MORE) == 0;
    if ((cqe->user_data & OURS_MASK) == OURS) {
        uint64_t slot = cqe->user_data & ~OURS_MASK;
        mine.used[slot] = false;
        cqe->user_data = mine.slots[slot].user_data;
        cqe->res = mine.slots[slot].res;
        cqe->flags = mine.slots[slot].flags;
        return;
    }
    struct mark *found = mark_of(cqe->user_data);
    if (found == NULL)
        return;
    if (found->what == FAULT_SURPLUS && is_last) {
        hold(cqe, -ECANCELED, 0, now_ns);
        unmark(found);
    } else if (found->what == FAULT_DELAY && mine.held_count < HELD_MAX) {
        hold(cqe, cqe->res, cqe->flags, now_ns + ms_to_ns(FAULT_DELAY_MS));
        if (is_last)
            unmark(found);
        cqe->user_data = 0; /* the loop passes over it */
        cqe->flags = 0;
    }
}

static void look_at_completions(struct io_uring *ring)
{
    uint64_t now_ns = clock_monotonic_ns();
    unsigned int tail = __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE);
    for (; mine.cqes_seen != tail; mine.cqes_seen++)
        look_at_cqe(&ring->cq.cqes[mine.cqes_seen & ring->cq.ring_mask], now_ns);
}

/* ---- liburing ---- */

/* A short submission: the kernel takes the first entry, and the others stay queued. */
static unsigned int hide_all_but_one(struct io_uring *ring)
{
    unsigned int tail = ring->sq.sqe_tail;
    if (tail - ring->sq.sqe_head > 1)
        ring->sq.sqe_tail = ring->sq.sqe_head + 1;
    return tail;
}

static int fails(enum fault_call call, bool *ret_short)
{
    struct fault fault = faults_at(call, FAULT_ALL);
    *ret_short = fault.what == FAULT_SHORT;
    if (fault.what == FAULT_DELAY)
        faults_wait();
    return fault.what == FAULT_ERROR ? -fault.error : 0;
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
    bool is_short;
    int error = fails(FAULT_SUBMIT, &is_short);
    if (error < 0)
        return error;
    look_at_submissions(ring);
    unsigned int tail = is_short ? hide_all_but_one(ring) : ring->sq.sqe_tail;
    int result = __real_io_uring_submit(ring);
    ring->sq.sqe_tail = tail;
    look_at_completions(ring);
    return result;
}

int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned int wait_count, struct __kernel_timespec *ts,
                                            sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned int wait_count, struct __kernel_timespec *ts,
                                            sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned int wait_count, struct __kernel_timespec *ts,
                                            sigset_t *mask)
{
    bool is_short;
    int error = fails(FAULT_WAIT, &is_short);
    if (error < 0)
        return error;
    look_at_submissions(ring);
    struct __kernel_timespec soon = {.tv_nsec = FAULT_DELAY_MS * 1000000ll / 2};
    bool is_patient = ts == NULL || ts->tv_sec > 0 || ts->tv_nsec > soon.tv_nsec;
    if ((mine.held_count > 0 || is_short) && is_patient)
        ts = &soon;
    unsigned int tail = is_short ? hide_all_but_one(ring) : ring->sq.sqe_tail;
    int result = __real_io_uring_submit_and_wait_timeout(ring, cqe, wait_count, ts, mask);
    ring->sq.sqe_tail = tail;
    look_at_completions(ring);
    return result;
}

int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring)
{
    bool is_short;
    int error = fails(FAULT_LOOK, &is_short);
    if (error < 0)
        return error;
    look_at_submissions(ring);
    int result = __real_io_uring_submit_and_get_events(ring);
    look_at_completions(ring);
    return result;
}

int __real_io_uring_get_events(struct io_uring *ring);
int __wrap_io_uring_get_events(struct io_uring *ring);
int __wrap_io_uring_get_events(struct io_uring *ring)
{
    bool is_short;
    int error = fails(FAULT_RING_ENTER, &is_short);
    return error < 0 ? error : __real_io_uring_get_events(ring);
}

int __real_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned int entries, struct io_uring *ring,
                                      struct io_uring_params *params)
{
    bool is_short;
    int error = fails(FAULT_RING_SETUP, &is_short);
    memset(&mine, 0, sizeof(mine));
    return error < 0 ? error : __real_io_uring_queue_init_params(entries, ring, params);
}

int __real_io_uring_register(unsigned int fd, unsigned int opcode, const void *arg,
                             unsigned int count);
int __wrap_io_uring_register(unsigned int fd, unsigned int opcode, const void *arg,
                             unsigned int count);
int __wrap_io_uring_register(unsigned int fd, unsigned int opcode, const void *arg,
                             unsigned int count)
{
    bool is_short;
    int error = fails(FAULT_RING_REGISTER, &is_short);
    return error < 0 ? error : __real_io_uring_register(fd, opcode, arg, count);
}

int __real_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg,
                                      unsigned int flags);
int __wrap_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg,
                                      unsigned int flags);
int __wrap_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg,
                                      unsigned int flags)
{
    bool is_short;
    int error = fails(FAULT_RING_BUFFERS, &is_short);
    return error < 0 ? error : __real_io_uring_register_buf_ring(ring, reg, flags);
}
