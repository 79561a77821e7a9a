/* Relays on the real loop: the promise of test_relay.c with the kernel's timing, and with rings
 * that have too few entries and buffers. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "rig.h"
#include "testing.h"

enum { PAIRS = 40, TURNS_MAX = 200000 };

struct pair {
    struct relay relay;
    struct peer peers[2];
    bool closed;
    int error;
};

static void pair_closed(struct relay *relay)
{
    struct pair *pair = container_of(relay, struct pair, relay);
    pair->closed = true;
    pair->error = relay->error;
}

static const struct relay_ops pair_ops = {.closed = pair_closed};

static uint64_t random_state = 42;
static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void tick(struct timer *timer)
{
}

static void pair_start(struct pair *pair, struct relay_engine *engine, bool resets)
{
    int fds[2][2];
    /* With smaller windows than a segment the kernel sends only when its persist timer fires. */
    int buffer_size = next_random() % 2 ? 0 : 16384;
    tcp_pair(fds[0], buffer_size);
    tcp_pair(fds[1], buffer_size);
    for (unsigned int i = 0; i < 2; i++) {
        peer_init(&pair->peers[i], fds[i][0], i ? 100 : 3, i ? 3 : 100, next_random() % 600000);
        pair->peers[i].stalled_turns = (unsigned int)(next_random() % 300);
    }
    pair->closed = false;
    if (resets)
        pair->peers[next_random() % 2].reset_at = next_random() % 1000;
    struct relay_options options = {.engine = engine,
                                    .ops = &pair_ops,
                                    .fds = {fds[0][1], fds[1][1]}};
    relay_start(&pair->relay, &options);
}

static void pair_judge(struct pair *pair, bool resets)
{
    for (unsigned int i = 0; i < 2; i++)
        peer_drain(&pair->peers[i]);
    for (unsigned int i = 0; i < 2; i++) {
        const struct peer *to = &pair->peers[i], *from = &pair->peers[1 - i];
        cr_assert_not(to->corrupt);
        bool complete = from->fin_sent && to->got == from->total;
        cr_assert(!to->got_fin || complete, "a cut transfer looks complete");
        cr_assert(resets || (to->got_fin && complete), "end %u: %zu of %zu, error %d", i, to->got,
                  from->total, pair->error);
    }
    peer_close(&pair->peers[0]);
    peer_close(&pair->peers[1]);
}

/* False: io_uring is not available. */
static bool run_pairs(const struct loop_options *wanted, bool resets)
{
    static struct metrics metrics;
    static struct pair pairs[PAIRS];
    struct loop_options options = *wanted;
    options.metrics = &metrics;
    struct loop *loop;
    size_t fds_before = open_fd_count();
    if (loop_create(&options, &loop) < 0)
        return false;
    struct relay_engine engine;
    cr_assert_eq(relay_engine_init(&engine, loop, 4 << 20), 0);
    for (int i = 0; i < PAIRS; i++)
        pair_start(&pairs[i], &engine, resets);
    int open = PAIRS;
    struct timer timer;
    timer_init(&timer, tick);
    for (int turn = 0; turn < TURNS_MAX && open > 0; turn++) {
        loop_timer_start(loop, &timer, 1);
        cr_assert_eq(loop_run_once(loop), 0);
        open = 0;
        for (int i = 0; i < PAIRS; i++) {
            peer_step(&pairs[i].peers[0], next_random());
            peer_step(&pairs[i].peers[1], next_random());
            open += !pairs[i].closed;
        }
    }
    cr_assert_eq(open, 0, "a stall");
    cr_assert_eq(engine.relay_count, 0);
    cr_assert_eq(engine.bulk_count, engine.bulk_free_count);
    loop_timer_start(loop, &timer, 1);
    cr_assert_eq(loop_run_once(loop), 0); /* the closes */
    for (int i = 0; i < PAIRS; i++)
        pair_judge(&pairs[i], resets);
    relay_engine_finish(&engine);
    loop_destroy(loop);
    cr_assert_eq(open_fd_count(), fds_before);
    return true;
}

static const struct loop_options sizes[] = {
    {.sq_entries = 0},
    {.sq_entries = 8, .cq_entries = 16},
    {.sq_entries = 256, .cq_entries = 4096, .buffer_count = 16},
    {.sq_entries = 2, .cq_entries = 4, .buffer_count = 2},
};

Test(relay_ring, transfers)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (!run_pairs(&sizes[i], false)) {
            SKIP_LOUDLY("no io_uring");
            cr_skip_test("no io_uring");
        }
    }
}

Test(relay_ring, resets)
{
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (!run_pairs(&sizes[i], true)) {
            SKIP_LOUDLY("no io_uring");
            cr_skip_test("no io_uring");
        }
    }
}

/* A visitor that has half-closed and reads slowly must not keep the loop awake. */
Test(relay_ring, half_closed_slow_reader_costs_nothing)
{
    static struct metrics metrics;
    static struct pair pair;
    struct loop_options options = {.metrics = &metrics};
    struct loop *loop;
    if (loop_create(&options, &loop) < 0) {
        SKIP_LOUDLY("no io_uring");
        cr_skip_test("no io_uring");
    }
    struct relay_engine engine;
    cr_assert_eq(relay_engine_init(&engine, loop, 4 << 20), 0);
    pair_start(&pair, &engine, false);
    struct timer timer;
    timer_init(&timer, tick);
    static const char block[65536];
    (void)shutdown(pair.peers[0].fd, SHUT_WR);
    for (int i = 0; i < 200; i++) {
        while (send(pair.peers[1].fd, block, sizeof(block), MSG_DONTWAIT) > 0)
            ;
        loop_timer_start(loop, &timer, 1);
        cr_assert_eq(loop_run_once(loop), 0);
    }
    loop_timer_start(loop, &timer, 200);
    int turns = 0;
    while (timer.armed && turns < 100000) {
        cr_assert_eq(loop_run_once(loop), 0);
        turns++;
    }
    cr_expect_lt(turns, 50, "%d turns in 200 ms", turns);
    relay_terminate(&pair.relay);
    for (int i = 0; i < 5; i++) {
        loop_timer_start(loop, &timer, 1);
        cr_assert_eq(loop_run_once(loop), 0);
    }
    cr_assert(pair.closed);
    peer_close(&pair.peers[0]);
    peer_close(&pair.peers[1]);
    relay_engine_finish(&engine);
    loop_destroy(loop);
}
