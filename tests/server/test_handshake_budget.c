/* The budgets of handshakes alone: who is known and expected, and what the gate does with them, is
 * in test_gate.c. */
#include "server/handshake_budget.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/addr.h"
#include "base/limits.h"
#include "crypto/keys.h"

enum { MS = 1000000 };

static const uint64_t start_ns = 5000000000u;

static struct handshake_budgets budgets;

static void setup(void)
{
    cr_assert_eq(keys_init(), 0);
    memset(&budgets, 0, sizeof(budgets));
}

static struct handshake_taker taker_at(size_t at)
{
    return (struct handshake_taker){.own = &budgets.by_addr[at]};
}

static bool take(size_t at, uint32_t cost, uint64_t at_ns)
{
    struct handshake_taker taker = taker_at(at);
    return handshake_budget_take(&budgets, &taker, cost, at_ns);
}

static unsigned int take_all_of(const struct handshake_taker *taker, uint32_t cost, uint64_t at_ns)
{
    unsigned int count = 0;
    while (count < 100000 && handshake_budget_take(&budgets, taker, cost, at_ns))
        count++;
    return count;
}

static unsigned int take_all(size_t at, uint32_t cost, uint64_t at_ns)
{
    struct handshake_taker taker = taker_at(at);
    return take_all_of(&taker, cost, at_ns);
}

Test(handshake_budget, bursts_and_growth, .init = setup)
{
    cr_assert_eq(take_all(7, 1, start_ns), LIMIT_HANDSHAKES_BURST);
    cr_assert_not(take(7, 1, start_ns + 1000 * MS / LIMIT_HANDSHAKES_PER_S - 1));
    uint64_t later_ns = start_ns + 1000 * (uint64_t)MS / LIMIT_HANDSHAKES_PER_S;
    cr_assert(take(7, 1, later_ns));
    cr_assert_not(take(7, 1, later_ns));
    /* Steps shorter than one handshake add up. */
    unsigned int count = 0;
    for (uint64_t ms = 1; ms <= 1000; ms++)
        count += take(7, 1, later_ns + ms * MS) ? 1 : 0;
    cr_assert_eq(count, LIMIT_HANDSHAKES_PER_S);
    /* A long pause saves up no more than a burst. */
    cr_assert_eq(take_all(7, 1, start_ns + 3600 * 1000 * (uint64_t)MS), LIMIT_HANDSHAKES_BURST);
}

Test(handshake_budget, an_address_has_one_of_them, .init = setup)
{
    struct addr_key key = {{1}}, other = {{2}};
    struct handshake_budget *own = handshake_budget_shared(&budgets, &key);
    cr_assert_eq(handshake_budget_shared(&budgets, &key), own);
    for (uint8_t i = 3; i < 255 && handshake_budget_shared(&budgets, &other) == own; i++)
        other.bytes[0] = i;
    cr_assert_neq(handshake_budget_shared(&budgets, &other), own);
    cr_assert(own >= budgets.by_addr && own < budgets.by_addr + HANDSHAKE_BUDGETS);
}

/* A handshake of TLS weighs more, and in the budget of all more than in its address' own. */
Test(handshake_budget, costly_handshakes, .init = setup)
{
    unsigned int count = 0;
    size_t last = 0;
    for (size_t at = 0; at < 254; at++) {
        unsigned int own = take_all(at, LIMIT_HANDSHAKES_TLS, start_ns);
        cr_assert_leq(own, LIMIT_HANDSHAKES_BURST / LIMIT_HANDSHAKES_OWN_MAX);
        last = own > 0 ? at : last;
        count += own;
    }
    cr_assert_eq(count, LIMIT_HANDSHAKES_ALL_BURST / LIMIT_HANDSHAKES_TLS);
    handshake_budget_give_back(&budgets, &budgets.by_addr[last], LIMIT_HANDSHAKES_TLS);
    cr_assert_eq(budgets.all.spent, LIMIT_HANDSHAKES_ALL_BURST - LIMIT_HANDSHAKES_TLS);
}

/* One address alone, which does not get as far as the budget of all. */
Test(handshake_budget, costly_handshakes_of_one_address, .init = setup)
{
    cr_assert_eq(take_all(7, LIMIT_HANDSHAKES_TLS, start_ns),
                 LIMIT_HANDSHAKES_BURST / LIMIT_HANDSHAKES_OWN_MAX);
    handshake_budget_give_back(&budgets, &budgets.by_addr[7], LIMIT_HANDSHAKES_TLS);
    cr_assert(take(7, LIMIT_HANDSHAKES_TLS, start_ns));
    cr_assert_not(take(7, LIMIT_HANDSHAKES_TLS, start_ns));
}

Test(handshake_budget, a_look_takes_nothing, .init = setup)
{
    for (int i = 0; i < 2 * LIMIT_HANDSHAKES_BURST; i++)
        cr_assert(take(7, 0, start_ns));
    cr_assert_eq(take_all(7, 1, start_ns), LIMIT_HANDSHAKES_BURST);
    cr_assert_not(take(7, 0, start_ns));
    cr_assert(take(7, 0, start_ns + 1000 * (uint64_t)MS));
}

Test(handshake_budget, no_more_is_given_back_than_was_taken, .init = setup)
{
    cr_assert(take(7, 1, start_ns));
    for (int i = 0; i < 2 * LIMIT_HANDSHAKES_BURST; i++)
        handshake_budget_give_back(&budgets, &budgets.by_addr[7], 1);
    cr_assert_eq(budgets.all.spent, 0);
    cr_assert_eq(take_all(7, 1, start_ns), LIMIT_HANDSHAKES_BURST);
}

/* The budget of all limits those who are neither known nor expected. */
Test(handshake_budget, who_is_known_or_expected, .init = setup)
{
    budgets.all = (struct handshake_budget){LIMIT_HANDSHAKES_ALL_BURST, start_ns};
    struct handshake_taker taker = taker_at(7);
    cr_assert_eq(take_all_of(&taker, 1, start_ns), 0);
    taker.is_known = true;
    cr_assert_eq(take_all_of(&taker, 1, start_ns), LIMIT_HANDSHAKES_BURST);
    taker = taker_at(8);
    taker.is_expected = true;
    cr_assert_eq(take_all_of(&taker, 1, start_ns), LIMIT_HANDSHAKES_EXPECTED_BURST);
}

/* Each worker passes the time of its own turn. A difference between two workers must not refill a
 * budget. */
Test(handshake_budget, clocks_that_differ_add_nothing, .init = setup)
{
    unsigned int count = 0;
    for (int i = 0; i < 100000; i++)
        count += take(7, 1, start_ns + (uint64_t)(i % 2) * 100 * MS) ? 1 : 0;
    cr_assert_leq(count, LIMIT_HANDSHAKES_BURST + LIMIT_HANDSHAKES_PER_S / 10);
}
