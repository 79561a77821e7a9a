#include "io/schedule.h"

#include <criterion/criterion.h>

#include "base/limits.h"
#include "base/macros.h"

#define MS 1000000ull

#define GRACE_MS LIMIT_ABSENT_GRACE_MS

struct entry {
    struct timer timer;
    unsigned int fired;
};

static struct schedule schedule;
static struct entry task, deadline;

static void fired(struct timer *timer)
{
    container_of(timer, struct entry, timer)->fired++;
}

static void set_up(void)
{
    schedule = (struct schedule){.held_until_ns = 0};
    timer_init(&task.timer, fired);
    timer_init(&deadline.timer, fired);
    task.fired = deadline.fired = 0;
}

TestSuite(schedule, .init = set_up);

/* What a loop runs in a turn. */
static void run(uint64_t now_ns)
{
    schedule_run(&schedule, now_ns);
    schedule_run_deadlines(&schedule, now_ns);
}

Test(schedule, each_kind_by_itself)
{
    cr_expect_eq(schedule_next_ns(&schedule), UINT64_MAX);
    schedule_start(&schedule, &task.timer, 20);
    schedule_start_deadline(&schedule, &deadline.timer, 10);
    cr_expect_eq(schedule_next_ns(&schedule), 10);
    cr_expect_not(schedule_deadlines_due(&schedule, 9));
    cr_expect(schedule_deadlines_due(&schedule, 10));
    schedule_run(&schedule, 15);
    cr_expect_eq(deadline.fired, 0, "not with the others");
    schedule_run_deadlines(&schedule, 15);
    cr_expect(deadline.fired == 1 && task.fired == 0);
    cr_expect_eq(schedule_next_ns(&schedule), 20);
    schedule_stop(&schedule, &task.timer);
    schedule_stop(&schedule, &task.timer);
    cr_expect_eq(schedule_next_ns(&schedule), UINT64_MAX);
}

/* A control channel uses one timer for both: to wait, then to limit a step. */
Test(schedule, one_timer_in_both_kinds)
{
    schedule_start(&schedule, &task.timer, 10);
    schedule_start_deadline(&schedule, &task.timer, 30);
    run(20);
    cr_expect_eq(task.fired, 0, "moved");
    schedule_start(&schedule, &task.timer, 40);
    schedule_run_deadlines(&schedule, 50);
    cr_expect_eq(task.fired, 0, "no deadline any more");
    run(50);
    cr_expect_eq(task.fired, 1);
    schedule_start_deadline(&schedule, &task.timer, 60);
    schedule_stop(&schedule, &task.timer);
    run(70);
    cr_expect_eq(task.fired, 1);
}

Test(schedule, deadlines_are_held_back_after_an_absence)
{
    schedule_start(&schedule, &task.timer, 5 * MS);
    schedule_start_deadline(&schedule, &deadline.timer, 5 * MS);
    cr_expect(schedule_absent(&schedule, 45000 * MS));
    run(45000 * MS);
    cr_expect_eq(task.fired, 1, "what is to be done is done at once");
    cr_expect_eq(deadline.fired, 0);
    cr_expect_eq(schedule_next_ns(&schedule), (45000 + GRACE_MS) * MS,
                 "and nobody spins meanwhile");
    run((45000 + GRACE_MS) * MS - 1);
    cr_expect_eq(deadline.fired, 0);
    run((45000 + GRACE_MS) * MS);
    cr_expect_eq(deadline.fired, 1, "the grace has an end");
    schedule_start_deadline(&schedule, &deadline.timer, (45001 + GRACE_MS) * MS);
    run((45001 + GRACE_MS) * MS);
    cr_expect_eq(deadline.fired, 2, "and is over");
}

/* A stranger that keeps the loop busy must not be able to postpone its own login deadline for ever.
 */
Test(schedule, a_loop_that_is_always_late_has_its_deadlines)
{
    enum { TURNS = 400 };
    const uint64_t late_ms = LIMIT_ABSENT_MS + 1;
    unsigned int graces = 0;
    uint64_t worst_ms = 0, started_ms = 0, now_ms = 0;
    schedule_start_deadline(&schedule, &deadline.timer, late_ms * MS);
    for (unsigned int turn = 0; turn < TURNS; turn++) {
        now_ms += late_ms;
        graces += schedule_absent(&schedule, now_ms * MS);
        unsigned int before = deadline.fired;
        run(now_ms * MS);
        if (deadline.fired == before)
            continue;
        worst_ms = MAX(worst_ms, now_ms - started_ms);
        started_ms = now_ms;
        schedule_start_deadline(&schedule, &deadline.timer, (now_ms + late_ms) * MS);
    }
    cr_expect_gt(graces, 1);
    cr_expect_leq(graces * 2 * GRACE_MS, TURNS * late_ms + 2 * GRACE_MS,
                  "half of the time at most");
    cr_expect_leq(worst_ms, GRACE_MS + 2 * late_ms);
    cr_expect_gt(deadline.fired, TURNS / 4);
}

/* A second absence soon after the first begins no new grace; a later one does. */
Test(schedule, an_absence_after_another)
{
    cr_expect(schedule_absent(&schedule, 10000 * MS));
    cr_expect_not(schedule_absent(&schedule, 10500 * MS));
    cr_expect(schedule_absent(&schedule, 20000 * MS));
}
