/* The scheduling policy of a loop's thread: when it changes, and that it is left alone where an
 * administrator has chosen it. */
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/limits.h"
#include "loop_priv.h"
#include "ring.h"

enum { US = 1000, WAIT = LIMIT_CORE_WAIT_US * US };

static int policy(void)
{
    return (int)syscall(SYS_sched_getscheduler, 0);
}

Test(loop_preempt, a_worker_preempts_nobody_until_it_waits)
{
    static const struct {
        uint64_t at_ms, slices, wait_ns;
        bool expected;
    } rows[] = {
        {20, 0, 0, false},
        {40, 1, 0, false},
        {60, 1, WAIT, false}, /* not longer than allowed */
        {80, 20, 20 * WAIT, false},
        {100, 1, WAIT + 1, true},
        {120, 1, 0, true}, /* for a while, however short the waits are then */
        {100 + LIMIT_PREEMPT_MS - 1, 1, 0, true},
        {100 + LIMIT_PREEMPT_MS, 1, 0, false},
        {7000, 10, 11 * WAIT, true},
        {9000, 10, 11 * WAIT, true}, /* the time begins again */
        {9000 + LIMIT_PREEMPT_MS - 1, 1, 0, true},
        {9000 + LIMIT_PREEMPT_MS, 1, 0, false},
        {20000, 0, 1, true}, /* in a wait that has not ended */
    };
    struct loop_preempt preempt = {.is_ours = true};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct loop_waits waits = {.wait_ns = rows[i].wait_ns, .slices = rows[i].slices};
        bool is_wanted = loop_preempt_wanted(&preempt, &waits, ms_to_ns(rows[i].at_ms));
        cr_expect_eq(is_wanted, rows[i].expected, "row %zu", i);
    }
}

Test(loop_preempt, the_threads_policy_follows)
{
    static const struct loop_waits is_late = {.wait_ns = 3 * WAIT, .slices = 1};
    static const struct loop_waits is_soon = {.wait_ns = 1, .slices = 1};
    struct loop_preempt preempt;
    cr_assert_eq(policy(), SCHED_OTHER);
    loop_preempt_init(&preempt);
    cr_assert_eq(policy(), SCHED_BATCH);
    loop_preempt_update(&preempt, &is_soon, ms_to_ns(20));
    cr_assert_eq(policy(), SCHED_BATCH);
    loop_preempt_update(&preempt, &is_late, ms_to_ns(40));
    cr_assert_eq(policy(), SCHED_OTHER);
    loop_preempt_update(&preempt, &is_soon, ms_to_ns(60));
    cr_assert_eq(policy(), SCHED_OTHER);
    loop_preempt_update(&preempt, &is_soon, ms_to_ns(40 + LIMIT_PREEMPT_MS));
    cr_assert_eq(policy(), SCHED_BATCH);
    loop_preempt_update(&preempt, NULL, ms_to_ns(60 + LIMIT_PREEMPT_MS));
    cr_assert_eq(policy(), SCHED_OTHER, "they are not counted any more");
}

Test(loop_preempt, a_loop_has_it)
{
    struct ring ring;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    cr_assert_eq(policy(), SCHED_BATCH);
    ring_close(&ring);
}

Test(loop_preempt, another_policy_stays)
{
    static const struct sched_param none = {.sched_priority = 0};
    static const struct loop_waits is_late = {.wait_ns = 3 * WAIT, .slices = 1};
    struct loop_preempt preempt;
    cr_assert_eq(syscall(SYS_sched_setscheduler, 0, SCHED_IDLE, &none), 0);
    loop_preempt_init(&preempt);
    cr_assert_eq(policy(), SCHED_IDLE);
    loop_preempt_update(&preempt, &is_late, ms_to_ns(20));
    cr_assert_eq(policy(), SCHED_IDLE);
}
