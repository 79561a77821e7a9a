#include "client/dial.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"

enum { LIMIT_MS = 10000 };

static uint64_t now_ns = 1;

static void pass(uint64_t ms)
{
    now_ns += ms * 1000000;
}

static void begin(struct dial *dial, size_t count)
{
    dial_begin(dial, LIMIT_MS, now_ns);
    dial_addresses(dial, count, now_ns);
}

/* Expects the next attempt at this address, with this time limit. */
static void expect(struct dial *dial, unsigned int index, uint32_t step_ms)
{
    cr_assert(dial_next(dial, now_ns));
    cr_assert_eq(dial->index, index, "%u, not %u", dial->index, index);
    cr_assert_eq(dial->step_ms, step_ms, "%u ms, not %u", dial->step_ms, step_ms);
}

static void time_out(struct dial *dial)
{
    pass(dial->step_ms);
    dial_timed_out(dial);
}

Test(dial, one_address_has_all_the_time)
{
    struct dial dial;
    begin(&dial, 1);
    expect(&dial, 0, LIMIT_MS);
    time_out(&dial);
    cr_assert_not(dial_next(&dial, now_ns));
    cr_assert_eq(dial.error, ERR_DEADLINE);
    begin(&dial, 0);
    cr_assert_not(dial_next(&dial, now_ns));
}

Test(dial, each_has_a_moment_and_then_more)
{
    struct dial dial;
    uint64_t begun_ns = now_ns;
    begin(&dial, 3);
    for (uint32_t step_ms = LIMIT_DIAL_FIRST_MS; step_ms <= 1000; step_ms *= 2) {
        for (unsigned int i = 0; i < 3; i++) {
            expect(&dial, i, step_ms);
            time_out(&dial);
        }
    }
    expect(&dial, 0, 2000);
    time_out(&dial);
    expect(&dial, 1, 2000);
    time_out(&dial);
    expect(&dial, 2, LIMIT_MS - 3 * 1750 - 4000);
    time_out(&dial);
    cr_assert_not(dial_next(&dial, now_ns));
    cr_assert_eq(now_ns - begun_ns, LIMIT_MS * 1000000ull, "in all");
}

Test(dial, what_failed_is_not_tried_again)
{
    struct dial dial;
    begin(&dial, 3);
    expect(&dial, 0, LIMIT_DIAL_FIRST_MS);
    time_out(&dial);
    expect(&dial, 1, LIMIT_DIAL_FIRST_MS);
    dial_failed(&dial, -ECONNREFUSED);
    expect(&dial, 2, LIMIT_DIAL_FIRST_MS);
    pass(100);
    dial_failed(&dial, -EHOSTUNREACH);
    expect(&dial, 0, LIMIT_MS - LIMIT_DIAL_FIRST_MS - 100);
    pass(10);
    dial_failed(&dial, -ECONNRESET);
    cr_assert_not(dial_next(&dial, now_ns));
    cr_assert_eq(dial.error, -ECONNRESET, "the last one");
}

Test(dial, finding_them_is_part_of_the_limit)
{
    struct dial dial;
    dial_begin(&dial, LIMIT_MS, now_ns);
    cr_assert_eq(dial.step_ms, LIMIT_MS);
    pass(LIMIT_MS - 300);
    dial_addresses(&dial, 2, now_ns);
    expect(&dial, 0, LIMIT_DIAL_FIRST_MS);
    time_out(&dial);
    dial_addresses(&dial, 8, now_ns); /* the addresses have changed */
    expect(&dial, 0, 50);
    time_out(&dial);
    cr_assert_not(dial_next(&dial, now_ns));
}

/* A process that is stopped during one attempt keeps the time of the others. */
Test(dial, time_beyond_the_step_does_not_count)
{
    struct dial dial;
    begin(&dial, 2);
    expect(&dial, 0, LIMIT_DIAL_FIRST_MS);
    pass(3600000);
    expect(&dial, 1, LIMIT_DIAL_FIRST_MS);
    pass(3600000);
    dial_failed(&dial, -ECONNREFUSED);
    expect(&dial, 0, LIMIT_MS - 2 * LIMIT_DIAL_FIRST_MS);
}

Test(dial, many_rounds)
{
    struct dial dial;
    dial_begin(&dial, UINT32_MAX, now_ns);
    dial_addresses(&dial, LIMIT_ADDRESSES, now_ns);
    uint32_t longest_ms = 0;
    unsigned int count = 0;
    while (dial_next(&dial, now_ns)) {
        longest_ms = MAX(longest_ms, dial.step_ms);
        time_out(&dial);
        count++;
    }
    cr_assert_eq(longest_ms, LIMIT_DIAL_FIRST_MS << 12);
    cr_assert_eq(dial.left_ms, 0);
    cr_assert_gt(count, 13 * LIMIT_ADDRESSES);
}

/* ---- the address that worked ---- */

static struct addr addr_of(uint8_t last)
{
    struct addr addr = {.len = sizeof(addr.v4)};
    addr.v4.sin_family = AF_INET;
    addr.v4.sin_addr.s_addr = htonl(0x0a000000u + last);
    addr.v4.sin_port = htons(80);
    return addr;
}

static void expect_order(const struct resolver_answer *answer, const char *order)
{
    cr_assert_eq(answer->count, strlen(order));
    for (size_t i = 0; i < answer->count; i++) {
        struct addr addr = addr_of((uint8_t)(order[i] - '0'));
        cr_assert(addr_equal(&answer->addrs[i], &addr), "%zu of %s", i, order);
    }
}

Test(dial, what_worked_comes_first_for_a_while)
{
    const struct resolver_answer fresh = {.count = 3,
                                          .addrs = {addr_of(1), addr_of(2), addr_of(3)}};
    struct resolver_answer answer = fresh;
    struct dial_memory memory;
    dial_memory_init(&memory);
    cr_assert_not(dial_put_first(&memory, &answer, now_ns));
    expect_order(&answer, "123");
    dial_remember(&memory, &answer.addrs[2], now_ns);
    cr_assert_eq(memory.version, 1);
    cr_assert(dial_put_first(&memory, &answer, now_ns));
    expect_order(&answer, "312");
    cr_assert_not(dial_put_first(&memory, &answer, now_ns), "it is there");
    expect_order(&answer, "312");
    answer = fresh;
    pass(LIMIT_DIAL_WORKED_MS - 1);
    cr_assert(dial_put_first(&memory, &answer, now_ns));
    expect_order(&answer, "312");
    answer = fresh;
    pass(1);
    cr_assert_not(dial_put_first(&memory, &answer, now_ns), "for a while");
    expect_order(&answer, "123");
    struct addr other = addr_of(9);
    dial_remember(&memory, &other, now_ns);
    cr_assert_not(dial_put_first(&memory, &answer, now_ns), "it is not among them");
    expect_order(&answer, "123");
    dial_memory_finish(&memory);
}

/* There are other names: each address gets its part of the round, the last one too. */
Test(dial, one_round)
{
    struct dial dial;
    begin(&dial, 3);
    dial_one_round(&dial, 0);
    expect(&dial, 0, LIMIT_DIAL_FIRST_MS);
    time_out(&dial);
    expect(&dial, 1, LIMIT_DIAL_FIRST_MS);
    dial_failed(&dial, -ECONNREFUSED);
    expect(&dial, 2, LIMIT_DIAL_FIRST_MS);
    time_out(&dial);
    cr_expect_not(dial_next(&dial, now_ns));
    dial_addresses(&dial, 1, now_ns); /* another name, in the next round */
    dial_one_round(&dial, 1);
    expect(&dial, 0, 2 * LIMIT_DIAL_FIRST_MS);
    time_out(&dial);
    cr_expect_not(dial_next(&dial, now_ns));
    cr_expect_eq(dial.left_ms, LIMIT_MS - 4 * LIMIT_DIAL_FIRST_MS, "%u", dial.left_ms);
    dial_addresses(&dial, 1, now_ns); /* the last name, alone */
    expect(&dial, 0, LIMIT_MS - 4 * LIMIT_DIAL_FIRST_MS);
}
