#include "tunnel/plan.h"

#include <criterion/criterion.h>
#include <poll.h>

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

/* Looked at between the last worker's two steps: nothing may stay readable when the plan is taken.
 */
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
