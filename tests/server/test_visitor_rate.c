#include "server/visitor_rate.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "crypto/keys.h"

enum { MS = NS_PER_MS };

static struct visitor_rate rate;
static const struct service *const service = (const struct service *)(uintptr_t)8,
                                   *const other_service = (const struct service *)(uintptr_t)16;
static const struct addr_key key = {{1}}, other_key = {{2}};
static const uint64_t start_ns = 77 * (uint64_t)NS_PER_S;

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    memset(&rate, 0, sizeof(rate));
    visitor_rate_init(&rate);
}

static void tear_down(void)
{
    visitor_rate_finish(&rate);
}

TestSuite(visitor_rate, .init = set_up, .fini = tear_down);

static bool enters(uint32_t limit, uint64_t at_ms)
{
    int result = visitor_rate_enter(&rate, service, &key, limit, start_ns + at_ms * MS);
    cr_assert(result == 0 || result == ERR_LIMIT);
    return result == 0;
}

static unsigned int enter_many(uint32_t limit, uint64_t at_ms, unsigned int tries)
{
    unsigned int count = 0;
    while (tries-- > 0)
        count += enters(limit, at_ms);
    return count;
}

Test(visitor_rate, holds_and_recovers)
{
    cr_expect_eq(enter_many(3, 0, 10), 3);
    cr_expect_eq(enter_many(3, 999, 10), 0, "also who was refused in between");
    cr_expect_eq(enter_many(3, 1001, 10), 3);
    cr_expect_eq(enter_many(3, 3000, 1), 1);
    cr_expect_eq(enter_many(3, 3500, 10), 2);
    cr_expect_eq(enter_many(3, 4001, 10), 1, "the one of 3.0 s is over, those of 3.5 s are not");
    cr_expect_eq(enter_many(3, 4501, 10), 2);
}

Test(visitor_rate, off)
{
    cr_expect_eq(enter_many(0, 0, 1000), 1000);
    cr_expect_null(atomic_load(&rate.sets), "without memory");
}

Test(visitor_rate, addresses_and_services_count_apart)
{
    cr_expect_eq(enter_many(2, 0, 9), 2);
    for (int i = 0; i < 3; i++) {
        int expected = i < 2 ? 0 : ERR_LIMIT;
        cr_expect_eq(visitor_rate_enter(&rate, service, &other_key, 2, start_ns), expected);
        cr_expect_eq(visitor_rate_enter(&rate, other_service, &key, 2, start_ns), expected);
    }
}

Test(visitor_rate, a_changed_limit_counts_from_then_on)
{
    cr_expect_eq(enter_many(20, 0, 30), 20);
    cr_expect_eq(enter_many(5, 10, 30), 5);
    cr_expect_eq(enter_many(5, 1011, 30), 5);
}

/* Another worker's turn may have begun earlier. */
Test(visitor_rate, a_clock_that_is_behind)
{
    cr_expect_eq(enter_many(2, 100, 9), 2);
    cr_expect_eq(enter_many(2, 50, 9), 0);
    cr_expect_eq(enter_many(2, 1101, 9), 2);
}

/* Of any pattern of arrivals, no second has more than the limit, and a steady stream of just the
 * limit loses no more than a sixteenth. */
Test(visitor_rate, never_more_within_a_second)
{
    enum { EVENTS = 20000 };
    static uint64_t admitted_ms[EVENTS];
    static const uint32_t rates[] = {1, 2, 5, 15, 16, 17, 31, 32, 33, 100, 1000};
    uint64_t state = 1, at_ms = 0;
    for (size_t l = 0; l < ARRAY_SIZE(rates); l++) {
        uint32_t limit = rates[l];
        size_t count = 0;
        at_ms += 10000;
        for (size_t i = 0; i < EVENTS; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            uint64_t dice = state >> 33;
            at_ms += dice % 50 == 0 ? dice % 1500 : dice % 8 == 0 ? 1 + dice % 3 : 0;
            if (enters(limit, at_ms))
                admitted_ms[count++] = at_ms;
        }
        cr_assert_gt(count, limit);
        for (size_t i = limit; i < count; i++)
            cr_assert_gt(admitted_ms[i] - admitted_ms[i - limit], 1000, "limit %u", limit);
    }
    for (size_t l = 0; l < ARRAY_SIZE(rates); l++) {
        unsigned int count = 0, tries = 10 * rates[l];
        at_ms += 10000;
        for (unsigned int i = 0; i < tries; i++)
            count += enters(rates[l], at_ms + (uint64_t)i * 1001 / rates[l]);
        cr_expect_geq(count, rates[l] <= 16 ? tries - 1 : tries - tries / 16 - 1, "limit %u: %u",
                      rates[l], count);
    }
}

/* Whoever comes, the table is as large as it was; and the addresses that come most lately are
 * remembered. */
Test(visitor_rate, many_addresses)
{
    struct addr_key many = {{0}};
    unsigned int forgotten = 0;
    for (uint32_t i = 1; i <= 4 * LIMIT_RATE_ADDRESSES; i++) {
        memcpy(many.bytes, &i, sizeof(i));
        cr_assert_eq(visitor_rate_enter(&rate, service, &many, 1, start_ns + i), 0, "a new one");
        cr_assert_eq(visitor_rate_enter(&rate, service, &many, 1, start_ns + i), ERR_LIMIT);
    }
    for (uint32_t i = 4 * LIMIT_RATE_ADDRESSES - LIMIT_RATE_ADDRESSES / 4;
         i <= 4 * LIMIT_RATE_ADDRESSES; i++) {
        memcpy(many.bytes, &i, sizeof(i));
        forgotten += visitor_rate_enter(&rate, service, &many, 1, start_ns + i) == 0;
    }
    cr_expect_leq(forgotten, LIMIT_RATE_ADDRESSES / 4 / 100, "%u", forgotten);
}
