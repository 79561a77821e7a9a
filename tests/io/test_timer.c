#include "io/timer.h"

#include <criterion/criterion.h>

#include "base/macros.h"

enum { COUNT = 3000, STEPS = 60000 };

struct entry {
    struct timer timer;
    unsigned int fired;
};

static struct timers timers;
static struct entry entries[COUNT];
static uint64_t last_deadline_ns, now_ns, random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void fired(struct timer *timer)
{
    struct entry *entry = container_of(timer, struct entry, timer);
    cr_assert_not(timer->armed);
    cr_assert_leq(timer->deadline_ns, now_ns, "too early");
    cr_assert_geq(timer->deadline_ns, last_deadline_ns, "out of order");
    last_deadline_ns = timer->deadline_ns;
    entry->fired++;
}

/* The first due time, found by looking at every timer. */
static uint64_t earliest(void)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < COUNT; i++) {
        if (entries[i].timer.armed)
            first = MIN(first, entries[i].timer.deadline_ns);
    }
    return first;
}

Test(timer, random_against_a_plain_search)
{
    timers = (struct timers){NULL, 0};
    for (size_t i = 0; i < COUNT; i++)
        timer_init(&entries[i].timer, fired);
    for (int step = 0; step < STEPS; step++) {
        struct timer *timer = &entries[next_random() % COUNT].timer;
        if (next_random() % 3 > 0)
            timers_start(&timers, timer, now_ns + next_random() % 100000);
        else
            timers_stop(&timers, timer);
        if (step % 50 == 0) {
            cr_assert_eq(timers_next_ns(&timers), earliest());
            now_ns += next_random() % 5000;
            last_deadline_ns = 0;
            timers_run(&timers, now_ns);
            cr_assert_eq(timers_next_ns(&timers), earliest());
            cr_assert(earliest() > now_ns, "left behind");
        }
    }
}

static struct timer again, other;
static unsigned int again_count, other_count;

static void restart(struct timer *timer)
{
    again_count++;
    timers_stop(&timers, &other);
    timers_start(&timers, timer, 0);
}

static void count_other(struct timer *timer)
{
    other_count++;
}

Test(timer, one_that_restarts_itself_runs_once_per_call)
{
    timers = (struct timers){NULL, 0};
    timer_init(&again, restart);
    timer_init(&other, count_other);
    timers_start(&timers, &again, 10);
    timers_start(&timers, &other, 11);
    timers_run(&timers, 20);
    cr_assert_eq(again_count, 1);
    cr_assert_eq(other_count, 0, "it was stopped in the same run");
    timers_run(&timers, 20);
    cr_assert_eq(again_count, 1, "not before time moves");
    timers_run(&timers, 21);
    cr_assert_eq(again_count, 2);
    timers_stop(&timers, &again);
    timers_stop(&timers, &again);
    cr_assert_eq(timers_next_ns(&timers), UINT64_MAX);
}
