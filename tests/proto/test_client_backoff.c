#include "proto/client_backoff.h"

#include <criterion/criterion.h>

#include "base/macros.h"

/* The random number that gives no jitter. */
#define MIDDLE (UINT32_C(1) << 31)

static uint64_t next_wait(struct client_backoff *backoff, uint64_t lived_ms, uint32_t random)
{
    struct client_attempt attempt = {.lived_ms = lived_ms};
    return client_backoff_next(backoff, &attempt, random);
}

static void expect_waits(uint32_t retry_interval_ms, const uint64_t *waits, size_t count)
{
    struct client_backoff backoff;
    client_backoff_init(&backoff, retry_interval_ms);
    for (size_t i = 0; i < count; i++)
        cr_expect_eq(next_wait(&backoff, 0, MIDDLE), waits[i], "wait %zu with retry_interval %u", i,
                     retry_interval_ms);
}

Test(client_backoff, sequences)
{
    expect_waits(1000, (const uint64_t[]){500, 1000, 1000, 1000}, 4);
    expect_waits(5000, (const uint64_t[]){500, 1500, 4500, 5000, 5000}, 5);
    expect_waits(60000, (const uint64_t[]){500, 1500, 4500, 13500, 40500, 60000, 60000}, 7);
}

Test(client_backoff, never_shorter_than_the_first_wait)
{
    expect_waits(0, (const uint64_t[]){500, 500, 500}, 3);
    expect_waits(100, (const uint64_t[]){500, 500, 500}, 3);
}

Test(client_backoff, starts_over_after_three_seconds)
{
    struct client_backoff backoff;
    uint32_t random = MIDDLE;
    client_backoff_init(&backoff, 5000);
    cr_expect_eq(next_wait(&backoff, 0, random), 500);
    cr_expect_eq(next_wait(&backoff, 3000, random), 1500, "3 s are not more than 3 s");
    cr_expect_eq(next_wait(&backoff, 3001, random), 500);
    cr_expect_eq(next_wait(&backoff, 10, random), 1500);
    cr_expect_eq(next_wait(&backoff, UINT64_MAX, random), 500);
}

Test(client_backoff, jitter)
{
    static const struct {
        uint32_t random;
        uint64_t wait;
    } rows[] = {{0, 400}, {UINT32_MAX, 600}, {UINT32_C(1) << 30, 450}, {UINT32_C(3) << 30, 550}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct client_backoff backoff;
        client_backoff_init(&backoff, 1000);
        cr_expect_eq(next_wait(&backoff, 0, rows[i].random), rows[i].wait);
        /* The next wait is computed without the jitter of the last. */
        cr_expect_eq(next_wait(&backoff, 0, MIDDLE), 1000);
    }
}

Test(client_backoff, longest_interval_does_not_overflow)
{
    struct client_backoff backoff;
    client_backoff_init(&backoff, UINT32_MAX);
    uint64_t wait = 0;
    for (int i = 0; i < 100; i++)
        wait = next_wait(&backoff, 0, UINT32_MAX);
    cr_expect_geq(wait, (uint64_t)UINT32_MAX / 100 * 119);
    cr_expect_leq(wait, (uint64_t)UINT32_MAX / 100 * 121);
}

Test(client_backoff, back_soon_after_a_clean_end)
{
    static const uint32_t randoms[] = {0, MIDDLE, UINT32_MAX};
    static const uint64_t waits[] = {20, 110, 200};
    struct client_backoff backoff;
    struct client_attempt clean = {.lived_ms = 3001, .was_clean = true};
    client_backoff_init(&backoff, 60000);
    cr_expect_eq(next_wait(&backoff, 0, MIDDLE), 500);
    cr_expect_eq(next_wait(&backoff, 0, MIDDLE), 1500);
    for (size_t i = 0; i < ARRAY_SIZE(waits); i++)
        cr_expect_eq(client_backoff_next(&backoff, &clean, randoms[i]), waits[i]);
    cr_expect_eq(next_wait(&backoff, 0, MIDDLE), 500, "nobody was there: from the beginning");
    /* Two clients of one service replace each other: a short life does not count as clean, so they
     * do not do it quickly for ever. */
    clean.lived_ms = 3000;
    cr_expect_eq(client_backoff_next(&backoff, &clean, MIDDLE), 1500);
}
