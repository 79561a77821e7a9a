#include "tunnel/plan.h"

#include <criterion/criterion.h>
#include <poll.h>

#include "base/metrics.h"

static bool is_readable(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    return poll(&polled, 1, 0) == 1;
}

Test(plan, comes_back_when_all_workers_are_done)
{
    struct plan_slot slot;
    int what;
    cr_assert_eq(plan_slot_init(&slot), 0);
    cr_expect_null(plan_current(&slot));
    cr_expect_null(plan_take_finished(&slot));
    for (int round = 0; round < 2; round++) {
        plan_post(&slot, &what, 3);
        cr_expect_eq(plan_current(&slot), &what);
        plan_done(&slot);
        plan_done(&slot);
        cr_expect_not(is_readable(slot.done_fd));
        cr_expect_null(plan_take_finished(&slot));
        plan_done(&slot);
        cr_expect(is_readable(slot.done_fd));
        cr_expect_eq(plan_take_finished(&slot), &what);
        cr_expect_null(plan_take_finished(&slot), "once");
        cr_expect_not(is_readable(slot.done_fd));
    }
    plan_slot_finish(&slot);
    plan_slot_finish(&slot);
}

/* The main thread looks between the last worker's two steps. When it takes the plan, nothing may
 * stay readable. */
Test(plan, is_taken_with_its_signal)
{
    struct plan_slot slot;
    int what;
    cr_assert_eq(plan_slot_init(&slot), 0);
    plan_post(&slot, &what, 1);
    atomic_store(&slot.left, 0);
    cr_expect_null(plan_take_finished(&slot), "its signal is still to come");
    atomic_store(&slot.left, 1);
    plan_done(&slot);
    cr_expect_eq(plan_take_finished(&slot), &what);
    cr_expect_not(is_readable(slot.done_fd), "the main thread would be woken for ever");
    plan_slot_finish(&slot);
}

enum { STEPS = 5 };

static bool take_steps(struct plan_walk *walk)
{
    for (int i = 0; i < PLAN_STEPS_PER_TURN && walk->at < STEPS; i++)
        walk->at++;
    return walk->at == STEPS;
}

Test(plan, a_worker_goes_through_it_in_several_turns)
{
    struct metrics metrics = {0};
    const struct loop_options options = {.metrics = &metrics};
    struct plan_slot slot;
    struct plan_walk walk;
    struct loop *loop;
    int what;
    cr_assert_eq(loop_create(&options, &loop), 0);
    cr_assert_eq(plan_slot_init(&slot), 0);
    plan_walk_init(&walk, &slot, loop, take_steps);
    for (int round = 0; round < 2; round++) {
        plan_post(&slot, &what, 1);
        plan_walk_begin(&walk);
        cr_expect_eq(walk.at, PLAN_STEPS_PER_TURN);
        cr_assert_eq(loop_run_once(loop), 0);
        cr_expect_eq(walk.at, 2 * PLAN_STEPS_PER_TURN);
        cr_expect_not(is_readable(slot.done_fd));
        cr_assert_eq(loop_run_once(loop), 0);
        cr_expect_eq(walk.at, STEPS);
        cr_expect_eq(plan_take_finished(&slot), &what);
        cr_expect_not(walk.timer.armed);
    }
    plan_slot_finish(&slot);
    loop_destroy(loop);
}
