/* The shared buffers of a loop, filled by the kernel. */
#include "io/buffers.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "ring.h"

enum { BUFFERS = 8 };
static const struct ring_size eight = {64, 128, BUFFERS};

struct waiter {
    struct buffers_waiter waiter;
    struct ring *ring;
    unsigned int count;
    bool again;
};

static unsigned int served;

static void available(struct buffers_waiter *buffers_waiter)
{
    struct waiter *waiter = container_of(buffers_waiter, struct waiter, waiter);
    waiter->count++;
    served++;
    if (waiter->again)
        buffers_wait(loop_buffers(waiter->ring->loop), buffers_waiter);
}

static void waiters_init(struct waiter *waiters, size_t count, struct ring *ring)
{
    served = 0;
    for (size_t i = 0; i < count; i++) {
        waiters[i] = (struct waiter){.ring = ring};
        buffers_waiter_init(&waiters[i].waiter, available);
    }
}

/* Makes the kernel fill one buffer with `letter`. */
static struct buffer borrow(struct ring *ring, char letter)
{
    struct probe probe;
    int fds[2];
    tcp_pair(fds, 0);
    probe_init(&probe);
    cr_assert_eq(send(fds[0], &letter, 1, 0), 1);
    loop_recv_select(ring->loop, &probe.op, fds[1], false);
    ring_run(ring, &probe.count, 1);
    (void)close(fds[0]);
    (void)close(fds[1]);
    struct buffer buffer = buffers_from_flags(loop_buffers(ring->loop), probe.flags);
    cr_assert_eq(probe.res, buffer.data != NULL ? 1 : -ENOBUFS);
    return buffer;
}

static void borrow_all(struct ring *ring, struct buffer *ret)
{
    for (size_t i = 0; i < BUFFERS; i++) {
        ret[i] = borrow(ring, (char)('a' + i));
        cr_assert_not_null(ret[i].data);
    }
    cr_assert_null(borrow(ring, 'x').data, "more than there are");
}

static void give_back(struct ring *ring, struct buffer *buffers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        buffers_recycle(loop_buffers(ring->loop), &buffers[i]);
}

Test(buffers, each_has_one_owner)
{
    struct ring ring;
    struct buffer lent[BUFFERS];
    if (!ring_open(&ring, &eight))
        return;
    for (int round = 0; round < 50; round++) {
        borrow_all(&ring, lent);
        for (size_t i = 0; i < BUFFERS; i++)
            cr_assert_eq(lent[i].data[0], 'a' + (unsigned char)i, "overwritten while lent");
        /* Give them back in another order. */
        for (size_t i = 0; i < BUFFERS; i++)
            give_back(&ring, &lent[(i * 3 + (size_t)round) % BUFFERS], 1);
    }
    struct buffer none = buffers_from_flags(loop_buffers(ring.loop), 0);
    cr_assert_null(none.data);
    buffers_recycle(loop_buffers(ring.loop), &none);
    ring_close(&ring);
}

Test(buffers, waiters_are_called_when_half_are_back)
{
    struct ring ring;
    struct buffer lent[BUFFERS];
    struct waiter waiters[10];
    if (!ring_open(&ring, &eight))
        return;
    borrow_all(&ring, lent);
    waiters_init(waiters, 10, &ring);
    struct buffers *buffers = loop_buffers(ring.loop);
    for (size_t i = 0; i < 10; i++) {
        buffers_wait(buffers, &waiters[i].waiter);
        buffers_wait(buffers, &waiters[i].waiter);
    }
    cr_assert_eq(metrics_get(&ring.metrics, METRIC_BUFFERS_EXHAUSTED), 20);
    buffers_wait_cancel(&waiters[0].waiter);
    buffers_wait_cancel(&waiters[0].waiter);
    give_back(&ring, lent, 3);
    ring_settle(&ring);
    cr_assert_eq(served, 0, "too early");
    give_back(&ring, lent + 3, 1);
    cr_assert_eq(served, 0, "later, not at once");
    ring_turn(&ring, 0);
    cr_assert_eq(served, 4, "as many as there are buffers");
    for (size_t i = 0; i < 10; i++)
        cr_assert_eq(waiters[i].count, i >= 1 && i <= 4 ? 1 : 0, "first come, first served");
    give_back(&ring, lent + 4, 4);
    ring_settle(&ring);
    cr_assert_eq(served, 9, "once each");
    ring_close(&ring);
}

Test(buffers, who_waits_again_does_not_hold_the_loop)
{
    struct ring ring;
    struct waiter waiters[2];
    if (!ring_open(&ring, &eight))
        return;
    waiters_init(waiters, 2, &ring);
    waiters[0].again = true;
    buffers_wait(loop_buffers(ring.loop), &waiters[0].waiter);
    buffers_wait(loop_buffers(ring.loop), &waiters[1].waiter);
    ring_turn(&ring, 0);
    cr_assert_eq(waiters[1].count, 1);
    cr_assert_leq(waiters[0].count, BUFFERS);
    buffers_wait_cancel(&waiters[0].waiter);
    ring_close(&ring);
}

/* ---- many more readers than buffers (A09) ---- */

enum { FLOWS = 2000, HOLD_TURNS = 2, BYTES_MAX = 40000, STALL_TURNS = 1000 };

static unsigned int turn_now; /* of 1 ms, as the test waits: A09's second has 1000 of them */

struct flow {
    struct loop_op op;
    struct buffers_waiter waiter;
    struct ring *ring;
    int fds[2];
    size_t total, got;
    struct buffer held; /* kept for some turns, as a flow with a full sink does */
    unsigned int held_turns;
    unsigned char pattern;
    unsigned int moved_at; /* the turn of the last bytes */
};

static unsigned int flows_done, enobufs_count;

static void flow_recv(struct flow *flow)
{
    loop_recv_select(flow->ring->loop, &flow->op, flow->fds[1], false);
}

static void flow_available(struct buffers_waiter *waiter)
{
    flow_recv(container_of(waiter, struct flow, waiter));
}

static void flow_recv_done(struct loop_op *op, int res, uint32_t flags)
{
    struct flow *flow = container_of(op, struct flow, op);
    struct buffers *buffers = loop_buffers(flow->ring->loop);
    if (res == -ENOBUFS) {
        enobufs_count++;
        buffers_wait(buffers, &flow->waiter);
        return;
    }
    struct buffer buffer = buffers_from_flags(buffers, flags);
    cr_assert_leq(turn_now - flow->moved_at, STALL_TURNS, "%u", turn_now - flow->moved_at);
    flow->moved_at = turn_now;
    if (res == 0) {
        buffers_recycle(buffers, &buffer);
        cr_assert_eq(flow->got, flow->total);
        flows_done++;
        return;
    }
    cr_assert_gt(res, 0);
    cr_assert_not_null(buffer.data);
    for (int i = 0; i < res; i++)
        cr_assert_eq(buffer.data[i], (unsigned char)((flow->got + (size_t)i) * 31 + flow->pattern));
    flow->got += (size_t)res;
    flow->held = buffer;
    flow->held_turns = HOLD_TURNS;
}

static void flow_fill(struct flow *flow)
{
    static unsigned char bytes[BYTES_MAX];
    for (size_t i = 0; i < flow->total; i++)
        bytes[i] = (unsigned char)(i * 31 + flow->pattern);
    size_t sent = 0;
    while (sent < flow->total) {
        ssize_t part = send(flow->fds[0], bytes + sent, flow->total - sent, MSG_NOSIGNAL);
        cr_assert_gt(part, 0, "%s", strerror(errno));
        sent += (size_t)part;
    }
    (void)shutdown(flow->fds[0], SHUT_WR);
}

static void flow_turn(struct flow *flow)
{
    if (flow->held.data == NULL || flow->held_turns-- > 0)
        return;
    buffers_recycle(loop_buffers(flow->ring->loop), &flow->held);
    flow_recv(flow);
}

Test(buffers, exhaustion_stalls_nobody, .timeout = 60)
{
    static const struct ring_size small = {64, 128, 16};
    static struct flow flows[FLOWS];
    struct ring ring;
    struct rlimit limit;
    if (!ring_open(&ring, &small))
        return;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_max < 2 * FLOWS + 100) {
        SKIP_LOUDLY("too few descriptors");
        ring_close(&ring);
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    for (size_t i = 0; i < FLOWS; i++) {
        struct flow *flow = &flows[i];
        *flow = (struct flow){.ring = &ring, .pattern = (unsigned char)i};
        flow->total = 1 + (i * 4001) % BYTES_MAX;
        tcp_pair(flow->fds, 0);
        flow_fill(flow);
        loop_op_init(&flow->op, flow_recv_done);
        buffers_waiter_init(&flow->waiter, flow_available);
        flow_recv(flow);
    }
    uint64_t begun_ns = loop_now_ns(ring.loop);
    while (flows_done < FLOWS) {
        ring_turn(&ring, 1);
        turn_now++;
        for (size_t i = 0; i < FLOWS; i++)
            flow_turn(&flows[i]);
        cr_assert(loop_now_ns(ring.loop) - begun_ns < 30000000000u, "%u of %d", flows_done, FLOWS);
    }
    cr_assert_gt(enobufs_count, 0, "the buffers were never exhausted");
    cr_assert_eq(metrics_get(&ring.metrics, METRIC_BUFFERS_EXHAUSTED), enobufs_count);
    for (size_t i = 0; i < FLOWS; i++) {
        (void)close(flows[i].fds[0]);
        (void)close(flows[i].fds[1]);
    }
    ring_close(&ring);
}
