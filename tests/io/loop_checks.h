/* What several test programs of the loop check on theirs. */
#pragma once

#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/buffers.h"
#include "ring.h"

static inline void say(int fd, const void *bytes, size_t size)
{
    cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static inline int event_fd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert_geq(fd, 0);
    return fd;
}

static inline void ring_event(int fd)
{
    uint64_t one = 1;
    cr_assert_eq(write(fd, &one, sizeof(one)), sizeof(one));
}

static inline void close_some(const int *fds, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++)
        (void)close(fds[i]);
}

static inline void check_recv_and_send(struct ring *ring)
{
    int fds[2];
    unsigned char in[16] = {0}; /* valgrind does not see what a ring receives */
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

/* A send that never waits: it takes what there is room for, and says so. */
static inline void check_send_once(struct ring *ring)
{
    static unsigned char bytes[1 << 20];
    int fds[2];
    struct probe probe;
    tcp_pair(fds, 16384);
    probe_init(&probe);
    loop_send_once(ring->loop, &probe.op, fds[0], bytes, sizeof(bytes));
    ring_run(ring, &probe.count, 1);
    cr_assert(probe.res > 0 && probe.res < (int)sizeof(bytes), "%d", probe.res);
    cr_assert(loop_op_is_idle(&probe.op));
    int done = 1;
    while (probe.res > 0) { /* the other end's queue takes more */
        loop_send_once(ring->loop, &probe.op, fds[0], bytes, sizeof(bytes));
        ring_run(ring, &probe.count, (unsigned int)++done);
    }
    cr_assert_eq(probe.res, -EAGAIN);
    tcp_abort_on_close(fds[1]);
    (void)close(fds[1]);
    loop_send_once(ring->loop, &probe.op, fds[0], bytes, 1);
    ring_run(ring, &probe.count, (unsigned int)++done);
    cr_assert(probe.res == -ECONNRESET || probe.res == -EPIPE, "and no signal: %d", probe.res);
    (void)close(fds[0]);
}

static inline void check_recv_select(struct ring *ring, bool poll_first)
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

/* A timer that notes that it has expired: its deadline becomes 0. */
static inline void note_time(struct timer *timer)
{
    timer->deadline_ns = 0;
}
