/* The loop on the kernel's ring, in several sizes down to the smallest. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "io/socket.h"
#include "loop_checks.h"

/* ---- each op ---- */

static void check_polls(struct ring *ring)
{
    int fds[2], event = event_fd();
    struct probe probe, many;
    tcp_pair(fds, 0);
    probe_init(&probe);
    probe_init(&many);
    loop_poll(ring->loop, &probe.op, fds[0], POLLOUT);
    ring_run(ring, &probe.count, 1);
    cr_assert_eq(probe.res & (POLLOUT | POLLERR | POLLHUP), POLLOUT);
    cr_assert(loop_op_is_idle(&probe.op));

    loop_poll_multishot(ring->loop, &many.op, event, POLLIN);
    for (unsigned int i = 1; i <= 20; i++) {
        ring_event(event);
        ring_run(ring, &many.count, i);
        cr_assert_not(loop_op_is_idle(&many.op));
        cr_assert((many.res & POLLIN) != 0);
    }
    loop_cancel(ring->loop, &many.op);
    loop_cancel(ring->loop, &many.op);
    ring_run(ring, &many.count, 21);
    cr_assert_eq(many.res, -ECANCELED);
    cr_assert(loop_op_is_idle(&many.op));
    ring_event(event);
    ring_settle(ring);
    cr_assert_eq(many.count, 21);

    loop_poll(ring->loop, &probe.op, fds[0], 0);
    say(fds[1], "x", 1);
    ring_settle(ring);
    cr_assert_eq(probe.count, 1, "bytes are no hang-up");
    tcp_abort_on_close(fds[1]);
    (void)close(fds[1]);
    ring_run(ring, &probe.count, 2);
    cr_assert((probe.res & (POLLERR | POLLHUP)) != 0);
    (void)close(fds[0]);
    (void)close(event);
}

/* Unlike the others not woken by the peer's half-close. */
static void check_exact_polls(struct ring *ring)
{
    static char bytes[65536];
    int fds[2];
    struct probe probe;
    tcp_pair(fds, 4096);
    probe_init(&probe);
    for (unsigned int i = 1; i <= 3; i++) {
        loop_poll_exact(ring->loop, &probe.op, fds[0], POLLOUT);
        ring_run(ring, &probe.count, i);
        cr_assert((probe.res & POLLOUT) != 0);
        cr_assert(loop_op_is_idle(&probe.op));
    }
    while (send(fds[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    (void)shutdown(fds[1], SHUT_WR);
    loop_poll_exact(ring->loop, &probe.op, fds[0], POLLOUT);
    ring_settle(ring);
    cr_assert_eq(probe.count, 3, "woken by the half-close");
    loop_cancel(ring->loop, &probe.op);
    loop_cancel(ring->loop, &probe.op);
    cr_assert_eq(probe.count, 3, "never from inside");
    ring_run(ring, &probe.count, 4);
    cr_assert_leq(probe.res, 0, "no events");
    loop_poll_exact(ring->loop, &probe.op, fds[0], POLLOUT);
    while (recv(fds[1], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    ring_run(ring, &probe.count, 5);
    cr_assert((probe.res & POLLOUT) != 0);
    loop_poll_exact(ring->loop, &probe.op, fds[0], 0);
    ring_settle(ring);
    cr_assert_eq(probe.count, 5);
    tcp_abort_on_close(fds[1]);
    (void)close(fds[1]);
    ring_run(ring, &probe.count, 6);
    cr_assert((probe.res & (POLLERR | POLLHUP)) != 0);
    (void)close(fds[0]);
}

Test(loop, each_op_in_each_size)
{
    for (size_t i = 0; i < ARRAY_SIZE(ring_sizes); i++) {
        size_t fds_before = open_fd_count();
        struct ring ring;
        if (!ring_open(&ring, &ring_sizes[i]))
            return;
        check_recv_and_send(&ring);
        check_send_once(&ring);
        check_recv_select(&ring, false);
        check_recv_select(&ring, true);
        check_polls(&ring);
        check_exact_polls(&ring);
        ring_close(&ring);
        cr_assert_eq(open_fd_count(), fds_before);
    }
}

Test(loop, a_turn_with_two_completions_is_crowded)
{
    struct ring ring;
    struct probe alone, both[2];
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    probe_init(&alone);
    loop_nop(ring.loop, &alone.op);
    ring_run(&ring, &alone.count, 1);
    cr_assert_not(loop_is_crowded(ring.loop));
    for (size_t i = 0; i < 2; i++) {
        probe_init(&both[i]);
        loop_nop(ring.loop, &both[i].op);
    }
    ring_run(&ring, &both[1].count, 1);
    cr_assert(loop_is_crowded(ring.loop));
    ring_close(&ring);
}

/* ---- accepting ---- */

struct acceptor {
    struct loop_op op;
    unsigned int count, ended;
    int error;
    int fds[64];
};

static void acceptor_done(struct loop_op *op, int res, uint32_t flags)
{
    struct acceptor *acceptor = container_of(op, struct acceptor, op);
    if (loop_op_is_idle(op))
        acceptor->ended++;
    if (res < 0)
        acceptor->error = res;
    else
        acceptor->fds[acceptor->count++] = res;
}

static void acceptor_init(struct acceptor *acceptor)
{
    *acceptor = (struct acceptor){.count = 0};
    loop_op_init(&acceptor->op, acceptor_done);
}

static void dial_some(const struct addr *addr, int *ret_fds, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++) {
        ret_fds[i] = tcp_dial(addr);
        cr_assert_geq(ret_fds[i], 0);
    }
}

static void check_accept(struct ring *ring)
{
    struct acceptor acceptor;
    struct addr addr;
    int fds[32];
    int listener = tcp_listener(&addr);
    acceptor_init(&acceptor);
    dial_some(&addr, fds, 30);
    loop_accept(ring->loop, &acceptor.op, listener);
    ring_run(ring, &acceptor.count, 1);
    cr_assert(loop_op_is_idle(&acceptor.op));
    ring_settle(ring);
    cr_assert_eq(acceptor.count, 1, "one and no more");
    /* A multishot may end of itself when completions overflow: it is started again then. */
    while (acceptor.count < 30) {
        if (loop_op_is_idle(&acceptor.op))
            loop_accept_multishot(ring->loop, &acceptor.op, listener);
        ring_turn(ring, 20);
    }
    for (unsigned int i = 0; i < 30; i++) {
        cr_assert((fcntl(acceptor.fds[i], F_GETFL) & O_NONBLOCK) != 0);
        cr_assert((fcntl(acceptor.fds[i], F_GETFD) & FD_CLOEXEC) != 0);
    }
    if (loop_op_is_idle(&acceptor.op))
        loop_accept_multishot(ring->loop, &acceptor.op, listener);
    ring_settle(ring);
    cr_assert_not(loop_op_is_idle(&acceptor.op));
    unsigned int ended = acceptor.ended;
    loop_cancel(ring->loop, &acceptor.op);
    ring_run(ring, &acceptor.ended, ended + 1);
    cr_assert_eq(acceptor.error, -ECANCELED);
    loop_accept_multishot(ring->loop, &acceptor.op, listener);
    ring_settle(ring);
    socket_unlisten(listener);
    ring_run(ring, &acceptor.ended, ended + 2);
    cr_assert_neq(acceptor.error, -ECANCELED, "an end of its own");
    cr_assert_lt(acceptor.error, 0);
    close_some(acceptor.fds, acceptor.count);
    close_some(fds, 30);
    (void)close(listener);
}

Test(loop, accept_one_and_many)
{
    for (size_t i = 0; i < ARRAY_SIZE(ring_sizes); i++) {
        struct ring ring;
        if (!ring_open(&ring, &ring_sizes[i]))
            return;
        check_accept(&ring);
        ring_close(&ring);
    }
}

Test(loop, accept_without_descriptors_is_an_error_each_time)
{
    struct ring ring;
    struct acceptor acceptor;
    struct addr addr;
    struct rlimit old;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    int listener = tcp_listener(&addr);
    int fd = tcp_dial(&addr);
    acceptor_init(&acceptor);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit tight = {.rlim_cur = 0, .rlim_max = old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    loop_accept_multishot(ring.loop, &acceptor.op, listener);
    ring_run(&ring, &acceptor.ended, 1);
    cr_assert_eq(acceptor.error, -EMFILE);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    loop_accept_multishot(ring.loop, &acceptor.op, listener);
    ring_run(&ring, &acceptor.count, 1);
    close_some(acceptor.fds, 1);
    (void)close(fd);
    ring_close(&ring);
    (void)close(listener);
}

/* ---- closing, waking, what else there is ---- */

Test(loop, close_fd_closes)
{
    for (size_t i = 0; i < ARRAY_SIZE(ring_sizes); i++) {
        struct ring ring;
        if (!ring_open(&ring, &ring_sizes[i]))
            return;
        size_t before = open_fd_count();
        for (int j = 0; j < 100; j++)
            loop_close_fd(ring.loop, event_fd());
        ring_settle(&ring);
        cr_assert_eq(open_fd_count(), before);
        int fds[2];
        char byte;
        tcp_pair(fds, 0);
        tcp_abort_on_close(fds[0]);
        loop_close_fd(ring.loop, fds[0]);
        ring_settle(&ring);
        cr_assert_eq(recv(fds[1], &byte, 1, MSG_DONTWAIT), -1);
        cr_assert_eq(errno, ECONNRESET);
        (void)close(fds[1]);
        ring_close(&ring);
    }
}

Test(loop, wake)
{
    struct ring from, to;
    struct probe target, failed;
    if (!ring_open(&from, &ring_sizes[0]))
        return;
    cr_assert(ring_open(&to, &ring_sizes[1]));
    probe_init(&target);
    probe_init(&failed);
    target.res = failed.res = 77;
    for (unsigned int i = 1; i <= 5; i++) {
        loop_wake(from.loop, loop_fd(to.loop), &target.op, &failed.op);
        ring_turn(&from, 0);
        ring_run(&to, &target.count, i);
        cr_assert_eq(target.res, 0);
        cr_assert(loop_op_is_idle(&target.op));
    }
    cr_assert_eq(failed.count, 0);
    cr_assert_eq(metrics_get(&from.metrics, METRIC_WAKEUPS_SENT), 5);
    /* Not a ring. */
    int event = event_fd();
    loop_wake(from.loop, event, &target.op, &failed.op);
    ring_run(&from, &failed.count, 1);
    cr_assert_lt(failed.res, 0);
    ring_settle(&to);
    cr_assert_eq(target.count, 5);
    (void)close(event);
    ring_close(&from);
    ring_close(&to);
}

static uint64_t thread_now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

Test(loop, busy_average)
{
    struct ring ring;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    cr_assert_leq(loop_busy_permille(ring.loop), 1000);
    uint64_t until_ns = thread_now_ns() + 250000000u;
    while (thread_now_ns() < until_ns) {
        uint64_t work_until_ns = thread_now_ns() + 1000000;
        while (thread_now_ns() < work_until_ns)
            ;
        ring_turn(&ring, 0);
    }
    unsigned int busy = loop_busy_permille(ring.loop);
    cr_assert_gt(busy, 600, "%u while it never slept", busy);
    cr_assert_leq(busy, 1000);
    (void)usleep(200000);
    unsigned int asleep = loop_busy_permille(ring.loop);
    cr_assert_lt(asleep, busy / 2, "%u after a sleep", asleep);
    for (int i = 0; i < 8; i++)
        ring_turn(&ring, 25);
    cr_assert_lt(loop_busy_permille(ring.loop), 400, "%u", loop_busy_permille(ring.loop));
    ring_close(&ring);
}

Test(loop, timers_and_time)
{
    struct ring ring;
    struct timer timer;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    uint64_t begun_ns = loop_now_ns(ring.loop);
    timer_init(&timer, note_time);
    loop_timer_start(ring.loop, &timer, 40);
    while (timer.deadline_ns != 0)
        cr_assert_eq(loop_run_once(ring.loop), 0);
    cr_assert_geq(loop_now_ns(ring.loop) - begun_ns, 40000000u);
    cr_assert_eq(loop_metrics(ring.loop), &ring.metrics);
    ring_close(&ring);
}
