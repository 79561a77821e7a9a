/* The loop on the kernel's ring, in several sizes down to the smallest: src/io/loop.c, and with it
 * src/io/loop_setup.c, src/io/loop_busy.c and src/io/loop_exact.c. */
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../../src/io/loop_priv.h"
#include "base/limits.h"
#include "io/buffers.h"
#include "io/socket.h"
#include "ring.h"

static void say(int fd, const void *bytes, size_t size)
{
    cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static int event_fd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert_geq(fd, 0);
    return fd;
}

static void ring_event(int fd)
{
    uint64_t one = 1;
    cr_assert_eq(write(fd, &one, sizeof(one)), sizeof(one));
}

/* ---- each op ---- */

static void check_recv_and_send(struct ring *ring)
{
    int fds[2];
    unsigned char in[16];
    struct probe recv_probe, send_probe;
    tcp_pair(fds, 0);
    probe_init(&recv_probe);
    probe_init(&send_probe);
    loop_recv(ring->loop, &recv_probe.op, fds[1], in, sizeof(in));
    cr_assert_not(loop_op_is_idle(&recv_probe.op));
    loop_send(ring->loop, &send_probe.op, fds[0], "hello", 5);
    ring_run(ring, &recv_probe.count, 1);
    ring_run(ring, &send_probe.count, 1);
    cr_assert(loop_op_is_idle(&recv_probe.op) && loop_op_is_idle(&send_probe.op));
    cr_assert_eq(send_probe.res, 5);
    cr_assert_eq(recv_probe.res, 5);
    cr_assert_arr_eq(in, "hello", 5);
    loop_recv(ring->loop, &recv_probe.op, fds[1], in, sizeof(in));
    (void)shutdown(fds[0], SHUT_WR);
    ring_run(ring, &recv_probe.count, 2);
    cr_assert_eq(recv_probe.res, 0, "an end of stream");
    (void)close(fds[0]);
    tcp_abort_on_close(fds[1]);
    (void)close(fds[1]);
    tcp_pair(fds, 0);
    loop_recv(ring->loop, &recv_probe.op, fds[1], in, sizeof(in));
    tcp_abort_on_close(fds[0]);
    (void)close(fds[0]);
    ring_run(ring, &recv_probe.count, 3);
    cr_assert_eq(recv_probe.res, -ECONNRESET);
    loop_send(ring->loop, &send_probe.op, fds[1], "x", 1);
    ring_run(ring, &send_probe.count, 2);
    cr_assert_eq(send_probe.res, -EPIPE, "and no signal");
    (void)close(fds[1]);
}

static void check_recv_select(struct ring *ring, bool poll_first)
{
    static unsigned char bytes[LIMIT_BUFFER_SIZE + 100];
    int fds[2];
    struct probe probe;
    tcp_pair(fds, 0);
    probe_init(&probe);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(i * 7);
    say(fds[0], bytes, sizeof(bytes));
    loop_recv_select(ring->loop, &probe.op, fds[1], poll_first);
    ring_run(ring, &probe.count, 1);
    cr_assert_eq(probe.res, LIMIT_BUFFER_SIZE);
    cr_assert(loop_flags_more_data(probe.flags));
    struct buffers *buffers = loop_buffers(ring->loop);
    struct buffer buffer = buffers_from_flags(buffers, probe.flags);
    cr_assert_not_null(buffer.data);
    cr_assert_eq(memcmp(buffer.data, bytes, LIMIT_BUFFER_SIZE), 0);
    buffers_recycle(buffers, &buffer);
    cr_assert_null(buffer.data);
    loop_recv_select(ring->loop, &probe.op, fds[1], poll_first);
    ring_run(ring, &probe.count, 2);
    cr_assert_eq(probe.res, 100);
    cr_assert_not(loop_flags_more_data(probe.flags));
    buffer = buffers_from_flags(buffers, probe.flags);
    cr_assert_eq(memcmp(buffer.data, bytes + LIMIT_BUFFER_SIZE, 100), 0);
    buffers_recycle(buffers, &buffer);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

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
        check_recv_select(&ring, false);
        check_recv_select(&ring, true);
        check_polls(&ring);
        check_exact_polls(&ring);
        ring_close(&ring);
        cr_assert_eq(open_fd_count(), fds_before);
    }
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

static void close_some(const int *fds, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++)
        (void)close(fds[i]);
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

/* ---- more than the queues hold ---- */

enum { MANY = 5000 };
static struct probe many[MANY];

struct chain {
    struct loop_op op;
    struct ring *ring;
    int fd;
    unsigned int left;
    unsigned int *done_count;
};
static struct chain chains[MANY];

static void chain_done(struct loop_op *op, int res, uint32_t flags)
{
    struct chain *chain = container_of(op, struct chain, op);
    cr_assert((res & POLLIN) != 0);
    if (chain->left-- > 0)
        loop_poll(chain->ring->loop, &chain->op, chain->fd, POLLIN);
    else
        ++*chain->done_count;
}

/* All wait for one event, and each then starts the next from its callback. ready_before: they
 * complete as they are submitted, which the completion queue does not hold. */
static void check_flood(struct ring *ring, unsigned int count, bool ready_before)
{
    int event = event_fd();
    unsigned int done_count = 0;
    if (ready_before)
        ring_event(event);
    for (unsigned int i = 0; i < count; i++) {
        chains[i] = (struct chain){.ring = ring, .fd = event, .left = 3, .done_count = &done_count};
        loop_op_init(&chains[i].op, chain_done);
        loop_poll(ring->loop, &chains[i].op, event, POLLIN);
    }
    if (!ready_before) {
        ring_turn(ring, 0);
        ring_event(event);
    }
    ring_run(ring, &done_count, count);
    ring_settle(ring);
    cr_assert_eq(done_count, count, "each once");
    for (unsigned int i = 0; i < count; i++)
        cr_assert(loop_op_is_idle(&chains[i].op));
    (void)close(event);
}

Test(loop, thousands_of_completions_at_once)
{
    for (size_t i = 0; i < ARRAY_SIZE(ring_sizes); i++) {
        struct ring ring;
        if (!ring_open(&ring, &ring_sizes[i]))
            return;
        check_flood(&ring, MANY, false);
        check_flood(&ring, MANY, true);
        cr_assert_gt(metrics_get(&ring.metrics, METRIC_CQ_OVERFLOWS), 0, "not what it tests");
        ring_close(&ring);
    }
}

/* A flood of one kind must not keep the timers waiting for its end. */
static void note_time(struct timer *timer)
{
    timer->deadline_ns = 0;
}

static unsigned int endless_count;
static void endless_done(struct loop_op *op, int res, uint32_t flags)
{
    struct chain *chain = container_of(op, struct chain, op);
    endless_count++;
    if (chain->left > 0)
        loop_poll(chain->ring->loop, &chain->op, chain->fd, POLLIN);
}

Test(loop, timers_run_beside_endless_completions)
{
    struct ring ring;
    struct timer timer;
    struct chain chain = {.ring = &ring, .left = 1};
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    chain.fd = event_fd();
    ring_event(chain.fd);
    loop_op_init(&chain.op, endless_done);
    loop_poll(ring.loop, &chain.op, chain.fd, POLLIN);
    timer_init(&timer, note_time);
    uint64_t begun_ns = loop_now_ns(ring.loop);
    loop_timer_start(ring.loop, &timer, 30);
    while (timer.deadline_ns != 0)
        cr_assert_eq(loop_run_once(ring.loop), 0);
    uint64_t took_ns = loop_now_ns(ring.loop) - begun_ns;
    cr_assert_geq(took_ns, 30000000u);
    cr_assert_lt(took_ns, 2000000000u);
    cr_assert_gt(endless_count, 10);
    chain.left = 0;
    ring_settle(&ring);
    cr_assert(loop_op_is_idle(&chain.op));
    (void)close(chain.fd);
    ring_close(&ring);
}

/* ---- cancelling ---- */

Test(loop, cancel_of_an_idle_op_does_nothing)
{
    struct ring ring;
    struct probe probe;
    char byte;
    int fds[2];
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    tcp_pair(fds, 0);
    probe_init(&probe);
    loop_cancel(ring.loop, &probe.op);
    ring_settle(&ring);
    cr_assert_eq(probe.count, 0);
    cr_assert(loop_op_is_idle(&probe.op));
    loop_recv(ring.loop, &probe.op, fds[1], &byte, 1);
    ring_settle(&ring);
    cr_assert_eq(probe.count, 0, "not hit by the earlier cancel");
    say(fds[0], "x", 1);
    ring_run(&ring, &probe.count, 1);
    cr_assert_eq(probe.res, 1);
    close_some(fds, 2);
    ring_close(&ring);
}

/* Two receives complete in one batch. The first one's callback cancels the second, whose completion
 * is already there; and that one starts anew. The cancel comes too late, and must not hit the new
 * receive. */
struct couple {
    struct probe first, second;
    struct ring *ring;
    int second_fd;
    char bytes[2];
};

static void couple_first(struct loop_op *op, int res, uint32_t flags)
{
    struct couple *couple = container_of(op, struct couple, first.op);
    couple->first.count++;
    loop_cancel(couple->ring->loop, &couple->second.op);
}

static void couple_second(struct loop_op *op, int res, uint32_t flags)
{
    struct couple *couple = container_of(op, struct couple, second.op);
    couple->second.count++;
    couple->second.res = res;
    cr_assert(loop_op_is_idle(op));
    if (couple->second.count == 1)
        loop_recv(couple->ring->loop, op, couple->second_fd, &couple->bytes[1], 1);
}

Test(loop, a_late_cancel_does_not_hit_the_next_use)
{
    struct ring ring;
    int a[2], b[2];
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    tcp_pair(a, 0);
    tcp_pair(b, 0);
    struct couple couple = {.ring = &ring, .second_fd = b[1]};
    loop_op_init(&couple.first.op, couple_first);
    loop_op_init(&couple.second.op, couple_second);
    say(a[0], "x", 1);
    say(b[0], "x", 1);
    loop_recv(ring.loop, &couple.first.op, a[1], &couple.bytes[0], 1);
    loop_recv(ring.loop, &couple.second.op, b[1], &couple.bytes[1], 1);
    ring_run(&ring, &couple.second.count, 1);
    cr_assert_eq(couple.first.count, 1);
    cr_assert_eq(couple.second.res, 1);
    ring_settle(&ring);
    cr_assert_eq(couple.second.count, 1, "the late cancel has hit: %d", couple.second.res);
    say(b[0], "y", 1);
    ring_run(&ring, &couple.second.count, 2);
    cr_assert_eq(couple.second.res, 1);
    close_some(a, 2);
    close_some(b, 2);
    ring_close(&ring);
}

enum { STORM = 150, STORM_ROUNDS = 40 };

struct racer {
    struct loop_op op;
    struct ring *ring;
    int fds[2];
    size_t said, heard;
    unsigned int *done_count;
};

static void racer_done(struct loop_op *op, int res, uint32_t flags)
{
    struct racer *racer = container_of(op, struct racer, op);
    struct buffers *buffers = loop_buffers(racer->ring->loop);
    struct buffer buffer = buffers_from_flags(buffers, flags);
    cr_assert(loop_op_is_idle(op));
    cr_assert(res > 0 || res == -ECANCELED || res == -ENOBUFS, "%d", res);
    if (res > 0)
        racer->heard += (size_t)res;
    buffers_recycle(buffers, &buffer);
    ++*racer->done_count;
}

/* Receives, data and cancels at random: each receive ends once, no byte and no buffer is lost. */
static void check_races(struct ring *ring, uint64_t seed)
{
    static struct racer racers[STORM];
    struct random random = {seed};
    unsigned int done_count = 0, started = 0;
    for (unsigned int i = 0; i < STORM; i++) {
        racers[i] = (struct racer){.ring = ring, .done_count = &done_count};
        tcp_pair(racers[i].fds, 0);
        loop_op_init(&racers[i].op, racer_done);
    }
    for (unsigned int round = 0; round < STORM_ROUNDS; round++) {
        for (unsigned int i = 0; i < STORM; i++) {
            struct racer *racer = &racers[i];
            if (loop_op_is_idle(&racer->op)) {
                loop_recv_select(ring->loop, &racer->op, racer->fds[1], round % 2 == 0);
                started++;
            }
            if (random_permille(&random, 300)) {
                say(racer->fds[0], "data", 4);
                racer->said += 4;
            }
            if (random_permille(&random, 500))
                loop_cancel(ring->loop, &racer->op);
            if (random_permille(&random, 20))
                ring_turn(ring, 0);
        }
        ring_turn(ring, 0);
    }
    for (unsigned int i = 0; i < STORM; i++)
        loop_cancel(ring->loop, &racers[i].op);
    ring_run(ring, &done_count, started);
    ring_settle(ring);
    cr_assert_eq(done_count, started);
    for (unsigned int i = 0; i < STORM; i++) {
        char rest[4096];
        ssize_t got; /* what stayed in the socket, perhaps in several pieces */
        size_t heard = racers[i].heard;
        while ((got = recv(racers[i].fds[1], rest, sizeof(rest), MSG_DONTWAIT)) > 0)
            heard += (size_t)got;
        cr_assert_eq(heard, racers[i].said);
        close_some(racers[i].fds, 2);
    }
}

Test(loop, cancel_races)
{
    for (size_t i = 0; i < ARRAY_SIZE(ring_sizes); i++) {
        struct ring ring;
        if (!ring_open(&ring, &ring_sizes[i]))
            return;
        check_races(&ring, i + 1);
        cr_assert_eq(metrics_get(&ring.metrics, METRIC_LATE_COMPLETIONS), 0);
        check_recv_select(&ring, false);
        ring_close(&ring);
    }
}

/* All at once, while data arrives (A67). */
Test(loop, a_cancel_storm_of_multishots)
{
    struct ring ring;
    unsigned int ended = 0;
    if (!ring_open(&ring, &ring_sizes[1]))
        return;
    int event = event_fd();
    for (unsigned int i = 0; i < MANY; i++) {
        probe_init(&many[i]);
        loop_poll_multishot(ring.loop, &many[i].op, event, POLLIN);
    }
    ring_turn(&ring, 0);
    for (unsigned int i = 0; i < MANY; i++) {
        if (i % 1000 == 500)
            ring_event(event);
        loop_cancel(ring.loop, &many[i].op);
    }
    for (int turn = 0; turn < 2000 && ended < MANY; turn++) {
        ring_turn(&ring, 5);
        ended = 0;
        for (unsigned int i = 0; i < MANY; i++)
            ended += loop_op_is_idle(&many[i].op) ? 1 : 0;
    }
    cr_assert_eq(ended, MANY);
    (void)close(event);
    ring_close(&ring);
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

/* ---- what the ring may not do (A68) ---- */

static int submit_raw(struct ring *ring, void (*prepare)(struct io_uring_sqe *sqe))
{
    struct probe probe;
    probe_init(&probe);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->loop->ring);
    cr_assert_not_null(sqe);
    prepare(sqe);
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)&probe.op); /* passes for a wake-up */
    ring_run(ring, &probe.count, 1);
    return probe.res;
}

static void prepare_nop(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
}

static void prepare_openat(struct io_uring_sqe *sqe)
{
    io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
}

static void prepare_unlinkat(struct io_uring_sqe *sqe)
{
    io_uring_prep_unlinkat(sqe, AT_FDCWD, "/nonexistent", 0);
}

static void prepare_read(struct io_uring_sqe *sqe)
{
    static char byte;
    io_uring_prep_read(sqe, 0, &byte, 1, 0);
}

static void prepare_socket(struct io_uring_sqe *sqe)
{
    io_uring_prep_socket(sqe, AF_INET, SOCK_STREAM, 0, 0);
}

static void prepare_connect(struct io_uring_sqe *sqe)
{
    static const struct sockaddr_in nowhere = {.sin_family = AF_INET};
    io_uring_prep_connect(sqe, 0, (const struct sockaddr *)&nowhere, sizeof(nowhere));
}

static void prepare_async_nop(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
    sqe->flags |= IOSQE_ASYNC;
}

Test(loop, other_operations_are_refused)
{
    static void (*const refused[])(struct io_uring_sqe *) = {
        prepare_openat, prepare_unlinkat, prepare_read,
        prepare_socket, prepare_connect,  prepare_async_nop,
    };
    struct ring ring;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    cr_assert_eq(submit_raw(&ring, prepare_nop), 0);
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
        cr_expect_eq(submit_raw(&ring, refused[i]), -EACCES, "operation %zu", i);
    int fd = 0;
    cr_expect_eq(io_uring_register((unsigned int)loop_fd(ring.loop), IORING_REGISTER_FILES, &fd, 1),
                 -EACCES);
    check_recv_and_send(&ring);
    ring_close(&ring);
}

Test(loop, no_descriptor_for_a_ring)
{
    struct metrics metrics = {.values = {0}};
    struct loop_options options = {.metrics = &metrics};
    struct loop *loop = NULL;
    struct rlimit old;
    size_t before = open_fd_count();
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit tight = {.rlim_cur = 0, .rlim_max = old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int result = loop_create(&options, &loop);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    if (result == -ENOSYS || result == -EPERM)
        return;
    cr_assert_eq(result, -EMFILE);
    cr_assert_null(loop);
    cr_assert_eq(open_fd_count(), before);
    loop_destroy(NULL);
}

Test(loop, hints)
{
    static const int errors[] = {EPERM, ENOSYS, EINVAL, ENOMEM, EMFILE, EIO};
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        cr_assert_not_null(loop_error_hint(-errors[i]));
        for (size_t j = 0; j < i; j++)
            cr_assert_str_neq(loop_error_hint(-errors[i]), loop_error_hint(-errors[j]));
    }
    cr_assert_str_eq(loop_error_hint(-ENFILE), loop_error_hint(-EMFILE));
}
