/* More at once than the queues hold, and operations that are cancelled while they complete. */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io/buffers.h"
#include "loop_checks.h"

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
