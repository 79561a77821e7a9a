/* For the tests of io/ on the kernel's ring: loops of several sizes, ops that count their
 * completions, and functions that run a loop without hanging. */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "io/loop.h"
#include "testing.h"

enum { RING_PATIENCE_MS = 10000 };

struct ring_size {
    unsigned int sq_entries, cq_entries, buffer_count; /* 0: the default */
};
static const struct ring_size ring_sizes[] = {
    {0, 0, 0},
    {64, 128, 16},
    {4, 8, 4},
    {1, 2, 1},
};

struct ring {
    struct loop *loop;
    struct metrics metrics;
    struct timer tick;
};

/* An op that remembers its completions. */
struct probe {
    struct loop_op op;
    int res;
    uint32_t flags;
    unsigned int count;
};

static inline void probe_done(struct loop_op *op, int res, uint32_t flags)
{
    struct probe *probe = container_of(op, struct probe, op);
    probe->res = res;
    probe->flags = flags;
    probe->count++;
}

static inline void probe_init(struct probe *probe)
{
    *probe = (struct probe){.res = 0};
    loop_op_init(&probe->op, probe_done);
}

/* Skips the test, and does not return, if io_uring is not available. */
static inline bool ring_open(struct ring *ring, const struct ring_size *size)
{
    *ring = (struct ring){.loop = NULL};
    struct loop_options options = {
        .sq_entries = size->sq_entries,
        .cq_entries = size->cq_entries,
        .buffer_count = size->buffer_count,
        .metrics = &ring->metrics,
    };
    int result = loop_create(&options, &ring->loop);
    if (result == -ENOSYS || result == -EPERM)
        cr_skip_test("no io_uring");
    cr_assert_eq(result, 0, "loop_create: %d", result);
    return true;
}

static inline void ring_close(struct ring *ring)
{
    cr_expect_eq(metrics_get(&ring->metrics, METRIC_LATE_COMPLETIONS), 0);
    loop_destroy(ring->loop);
}

static inline void ring_ticked(struct timer *timer)
{
}

/* One turn, which waits for at most ms. */
static inline void ring_turn(struct ring *ring, unsigned int ms)
{
    if (ring->tick.expired == NULL)
        timer_init(&ring->tick, ring_ticked);
    loop_timer_start(ring->loop, &ring->tick, ms);
    cr_assert_eq(loop_run_once(ring->loop), 0);
    loop_timer_stop(ring->loop, &ring->tick);
}

/* Runs until *counter has reached target; fails after RING_PATIENCE_MS. */
static inline void ring_run(struct ring *ring, const unsigned int *counter, unsigned int target)
{
    uint64_t begun_ns = loop_now_ns(ring->loop);
    while (*counter < target) {
        ring_turn(ring, 20);
        cr_assert(loop_now_ns(ring->loop) - begun_ns < RING_PATIENCE_MS * 1000000ull,
                  "stuck at %u of %u", *counter, target);
    }
}

/* A few turns, before a check that something has not happened. */
static inline void ring_settle(struct ring *ring)
{
    for (int i = 0; i < 3; i++)
        ring_turn(ring, 2);
}
