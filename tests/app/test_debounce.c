#include "app/debounce.h"

#include <criterion/criterion.h>

Test(debounce, nothing_is_due_before_a_change)
{
    struct debounce debounce = {0};
    cr_expect_eq(debounce_due_ms(&debounce), UINT64_MAX);
    debounce_note(&debounce, false, 1000);
    debounce_reset(&debounce);
    cr_expect_eq(debounce_due_ms(&debounce), UINT64_MAX);
}

Test(debounce, waits_for_quiet)
{
    struct debounce debounce = {0};
    debounce_note(&debounce, false, 1000);
    cr_expect_eq(debounce_due_ms(&debounce), 1000 + DEBOUNCE_QUIET_MS);
    debounce_note(&debounce, false, 1050);
    cr_expect_eq(debounce_due_ms(&debounce), 1050 + DEBOUNCE_QUIET_MS);
}

Test(debounce, but_not_for_ever)
{
    struct debounce debounce = {0};
    for (uint64_t now_ms = 1000; now_ms < 3000; now_ms += 50)
        debounce_note(&debounce, false, now_ms);
    cr_expect_eq(debounce_due_ms(&debounce), 1000 + DEBOUNCE_MAX_MS);
}

Test(debounce, a_file_that_is_being_written_is_left_alone)
{
    struct debounce debounce = {0};
    debounce_note(&debounce, true, 1000);
    debounce_note(&debounce, true, 4000);
    cr_expect_eq(debounce_due_ms(&debounce), 4000 + DEBOUNCE_WRITING_MS);
    debounce_note(&debounce, false, 4100); /* closed */
    cr_expect_leq(debounce_due_ms(&debounce), 4100 + DEBOUNCE_QUIET_MS);
}
