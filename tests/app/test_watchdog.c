#include "app/watchdog.h"

#include <criterion/criterion.h>

#include "app/notify.h"
#include "app/worker.h"

/* Replace worker.c and notify.c. */

static unsigned int ticks, told;
static bool answered;

void workers_tick(struct workers *workers)
{
    ticks++;
    answered = false;
}

bool workers_have_answered(const struct workers *workers)
{
    return answered;
}

void notify_watchdog(const struct notify *notify)
{
    told++;
}

Test(watchdog, told_twice_in_its_interval_while_all_answer)
{
    const struct notify notify = {.watchdog_us = 10000000};
    struct watchdog watchdog;
    watchdog_init(&watchdog, &notify, NULL, 1000);
    cr_assert_eq(ticks, 1);
    cr_assert_eq(watchdog_timeout_ms(&watchdog, 1000), 5000);
    cr_assert_eq(watchdog_timeout_ms(&watchdog, 9000), 0);
    answered = true;
    watchdog_turn(&watchdog, 5999);
    cr_assert(ticks == 1 && told == 0, "not due");
    for (unsigned int i = 1; i <= 3; i++) {
        watchdog_turn(&watchdog, 1000 + i * 5000);
        cr_assert(ticks == 1 + i && told == i);
        answered = true;
    }
}

Test(watchdog, silent_while_a_worker_is_stuck)
{
    const struct notify notify = {.watchdog_us = 10000000};
    struct watchdog watchdog;
    watchdog_init(&watchdog, &notify, NULL, 0);
    for (unsigned int i = 1; i <= 3; i++) {
        watchdog_turn(&watchdog, i * 5000);
        cr_assert(ticks == 1 && told == 0, "the first tick is still to be answered");
    }
    answered = true;
    watchdog_turn(&watchdog, 20000);
    cr_assert(ticks == 2 && told == 1, "it turns again");
}

/* The whole process was stopped with a tick on its way. The manager has to be notified as soon as
 * the workers turn again, not half an interval later. */
Test(watchdog, told_at_once_after_a_stop)
{
    const struct notify notify = {.watchdog_us = 60000000};
    struct watchdog watchdog;
    watchdog_init(&watchdog, &notify, NULL, 0);
    watchdog_turn(&watchdog, 45000);
    cr_assert(ticks == 1 && told == 0);
    cr_assert_leq(watchdog_timeout_ms(&watchdog, 45000), 50);
    answered = true;
    watchdog_turn(&watchdog, 45050);
    cr_assert(ticks == 2 && told == 1);
    cr_assert_eq(watchdog_timeout_ms(&watchdog, 45050), 30000);
}

Test(watchdog, nobody_watches)
{
    const struct notify notify = {.watchdog_us = 0};
    struct watchdog watchdog;
    watchdog_init(&watchdog, &notify, NULL, 0);
    cr_assert_eq(watchdog_timeout_ms(&watchdog, 5), -1);
    watchdog_turn(&watchdog, 1000000);
    cr_assert(ticks == 0 && told == 0);
}

Test(watchdog, a_very_short_interval_is_no_busy_loop)
{
    const struct notify notify = {.watchdog_us = 1};
    struct watchdog watchdog;
    watchdog_init(&watchdog, &notify, NULL, 0);
    cr_assert_eq(watchdog_timeout_ms(&watchdog, 0), 1);
}
