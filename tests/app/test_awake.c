#include "app/awake.h"

#include <criterion/criterion.h>

#include "base/limits.h"

Test(awake, stands_still_while_the_process_does)
{
    struct awake awake = {0};
    awake_waited(&awake, 500, 500);
    awake_waited(&awake, 500, 3);
    awake_waited(&awake, -1, 45000); /* a wait without a limit can't be late */
    awake_waited(&awake, 0, LIMIT_ABSENT_MS);
    cr_expect_eq(awake_ms(&awake, 70000), 70000);
    awake_waited(&awake, 500, 45500);
    cr_expect_eq(awake_ms(&awake, 115000), 70000, "a deadline is as far away as it was");
    awake_waited(&awake, 0, 10000);
    cr_expect_eq(awake_ms(&awake, 125000), 70000);
}

/* A busy machine is late by less than LIMIT_ABSENT_MS. The clock goes on then, or a deadline would
 * never come on such a machine. */
Test(awake, a_busy_machine_is_no_absence)
{
    struct awake awake = {0};
    for (int i = 0; i < 100; i++)
        awake_waited(&awake, 100, 100 + LIMIT_ABSENT_MS);
    cr_expect_eq(awake_ms(&awake, 60000), 60000);
}
