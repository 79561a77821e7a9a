/* Polls for exactly the requested events. The ring adds POLLRDHUP to every poll, and POLLRDHUP
 * stays set once a peer has half-closed. A poll for "writable" on such a socket would fire at once,
 * again and again. epoll(7) does not add POLLRDHUP, so these few sockets go through an epoll set
 * that the ring polls. docs/decisions.md, "Exact polls go through epoll". */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/log.h"
#include "loop_priv.h"

enum { EVENT_BATCH = 64 };

void loop_exact_init(struct loop_exact *exact)
{
    exact->epoll_fd = -1;
}

void loop_exact_finish(struct loop_exact *exact)
{
    if (exact->epoll_fd >= 0)
        (void)close(exact->epoll_fd);
    exact->epoll_fd = -1;
}

static void exact_dispatch(const struct epoll_event *event)
{
    uint16_t generation;
    struct loop_op *op = loop_op_from_user_data(event->data.u64, &generation);
    /* A cancelled op completes through loop_complete_later instead. */
    if (op->generation != generation || op->state != LOOP_OP_IN_FLIGHT ||
        op->kind != LOOP_OP_POLL_EXACT)
        return;
    op->state = LOOP_OP_IDLE;
    if (log_enabled(LOG_TRACE))
        loop_trace_done(op, (int)event->events);
    op->done(op, (int)event->events, 0);
}

static void exact_ready(struct loop_op *ready_op, int res, uint32_t flags)
{
    struct loop *loop = container_of(ready_op, struct loop, exact.ready_op);
    struct epoll_event events[EVENT_BATCH];
    int count;
    if (loop_op_is_idle(ready_op))
        loop_poll_multishot(loop, ready_op, loop->exact.epoll_fd, POLLIN);
    do { /* until the set is empty: the ring's poll is edge-triggered */
        count = epoll_wait(loop->exact.epoll_fd, events, EVENT_BATCH, 0);
        for (int i = 0; i < count; i++)
            exact_dispatch(&events[i]);
    } while (count == EVENT_BATCH);
}

static int exact_set(struct loop *loop, const struct loop_op *op, uint32_t events)
{
    struct loop_exact *exact = &loop->exact;
    if (exact->epoll_fd < 0) {
        exact->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (exact->epoll_fd < 0)
            return -errno;
        loop_op_init(&exact->ready_op, exact_ready);
        loop_poll_multishot(loop, &exact->ready_op, exact->epoll_fd, POLLIN);
    }
    struct epoll_event event = {
        .events = events | EPOLLONESHOT,
        .data.u64 = loop_op_to_user_data(op),
    };
    if (epoll_ctl(exact->epoll_fd, EPOLL_CTL_MOD, op->fd, &event) == 0)
        return 0;
    if (errno == ENOENT && epoll_ctl(exact->epoll_fd, EPOLL_CTL_ADD, op->fd, &event) == 0)
        return 0;
    return -errno;
}

void loop_poll_exact(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    op->kind = LOOP_OP_POLL_EXACT;
    op->fd = fd;
    op->generation++;
    if (exact_set(loop, op, events) < 0) {
        /* There is no memory or descriptor: a poll that fires too often is better than none. */
        loop_poll(loop, op, fd, events);
        return;
    }
    op->state = LOOP_OP_IN_FLIGHT;
    if (log_enabled(LOG_TRACE))
        loop_trace_started(op);
}

void loop_exact_cancel(struct loop *loop, struct loop_op *op)
{
    (void)epoll_ctl(loop->exact.epoll_fd, EPOLL_CTL_DEL, op->fd, NULL);
    loop_complete_later(loop, op);
}
