/* Token buckets in a model: time is a number here. The promise: in any interval no more bytes go
 * than the rate has in it, plus the depth, plus what one taker takes. */
#include "base/rate.h"

#include <criterion/criterion.h>

#include "base/clock.h"

enum { DEPTH_MS = 20 };
#define DEPTH_NS ms_to_ns(DEPTH_MS)

static const uint64_t rates[] = {1,       7,         8000,       999983,       1000000,
                                 3333333, 100000000, 1000000000, 400000000000, 1000000000000};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

Test(rate, costs)
{
    cr_assert_eq(rate_cost_ns(8, 1), NS_PER_S);
    cr_assert_eq(rate_cost_ns(8000, 1000), NS_PER_S);
    cr_assert_eq(rate_cost_ns(100000000, 12500000), NS_PER_S);
    cr_assert_eq(rate_cost_ns(1000000000000, 1), 1, "rounded up");
    cr_assert_eq(rate_cost_ns(1000000000000, 0), 0);
    cr_assert_eq(rate_cost_ns(3, 1), 2666666667u);
    cr_assert_eq(rate_cost_ns(1, (size_t)1 << 31), ((uint64_t)8 << 31) * NS_PER_S);
    cr_assert_eq(rate_bytes(100000000, 10), 125000);
    cr_assert_eq(rate_bytes(1000000000000, 1000), 125000000000);
    cr_assert_eq(rate_bytes(1, 1000), 0);
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        for (size_t size = 1; size < 1 << 20; size = size * 3 + 1) {
            /* bytes / cost never exceeds the rate, and misses it by less than 1 ns. */
            unsigned __int128 bits = (unsigned __int128)size * 8 * NS_PER_S;
            uint64_t cost_ns = rate_cost_ns(rates[i], size);
            cr_assert_geq((unsigned __int128)cost_ns * rates[i], bits);
            cr_assert_lt((unsigned __int128)(cost_ns - 1) * rates[i], bits);
        }
    }
}

/* A taker that always wants more, comes late by up to `late_ns`, and gives parts back. */
static void run_greedy(uint64_t bps, uint64_t seed, uint64_t late_ns, bool is_exact)
{
    struct rate rate = {0};
    uint64_t state = seed, now_ns = 5000000000, begin_ns = now_ns, sent = 0;
    uint64_t largest = rate_bytes(bps, 10) + 1;
    for (int i = 0; i < 3000; i++) {
        uint64_t size = 1 + next_random(&state) % largest;
        uint64_t used = next_random(&state) % 4 == 0 ? next_random(&state) % size : size;
        uint64_t at_ns = rate_take(&rate, rate_cost_ns(bps, size), now_ns, DEPTH_NS);
        if (at_ns > now_ns) /* a timer, and a loop that is late */
            now_ns = at_ns + (late_ns > 0 ? next_random(&state) % late_ns : 0);
        sent += used;
        rate_give_back(&rate, rate_cost_ns(bps, size) - rate_cost_ns(bps, used));
        unsigned __int128 may = (unsigned __int128)(now_ns - begin_ns + DEPTH_NS) * bps;
        cr_assert_leq((unsigned __int128)(sent - used) * 8 * NS_PER_S, may, "%llu bit/s, seed %llu",
                      (unsigned long long)bps, (unsigned long long)seed);
    }
    if (!is_exact)
        return;
    /* Nothing is lost either, whatever was late, as it was late by less than the depth. */
    unsigned __int128 has = (unsigned __int128)(now_ns - begin_ns) * bps;
    unsigned __int128 took = (unsigned __int128)(sent + largest + 3000) * 8 * NS_PER_S +
                             (unsigned __int128)DEPTH_NS * bps + (unsigned __int128)3000 * 3 * bps;
    cr_assert_geq(took, has, "%llu bit/s, seed %llu", (unsigned long long)bps,
                  (unsigned long long)seed);
}

Test(rate, holds_exactly)
{
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        for (uint64_t seed = 1; seed <= 20; seed++) {
            run_greedy(rates[i], seed, 0, true);
            run_greedy(rates[i], seed, ms_to_ns(DEPTH_MS) / 2, true);
            run_greedy(rates[i], seed, ms_to_ns(500), false);
        }
    }
}

Test(rate, credit_is_bounded)
{
    struct rate rate = {0};
    uint64_t now_ns = UINT64_C(100) * 86400 * NS_PER_S; /* idle for a hundred days */
    uint64_t sent = 0;
    while (rate_take(&rate, rate_cost_ns(8000000, 1000), now_ns, DEPTH_NS) <= now_ns)
        sent += 1000;
    cr_assert_eq(sent, DEPTH_MS * 1000 + 1000);
}

Test(rate, clocks_jump)
{
    struct rate rate = {0};
    uint64_t cost_ns = rate_cost_ns(8000, 1000);
    cr_assert_leq(rate_take(&rate, cost_ns, 50 * (uint64_t)NS_PER_S, DEPTH_NS),
                  50 * (uint64_t)NS_PER_S);
    /* Another thread's turn began earlier: it waits longer, and takes nothing twice. */
    uint64_t due_ns = rate.due_ns;
    cr_assert_eq(rate_take(&rate, cost_ns, 49 * (uint64_t)NS_PER_S, DEPTH_NS), due_ns);
    cr_assert_eq(rate.due_ns, due_ns + cost_ns);
    /* A machine that was suspended: credit for the depth, not for the night. */
    uint64_t night_ns = 40000 * (uint64_t)NS_PER_S;
    cr_assert_eq(rate_take(&rate, cost_ns, night_ns, DEPTH_NS), night_ns - DEPTH_NS);
    /* Times below the depth, and beyond all ages. */
    rate.due_ns = 0;
    cr_assert_eq(rate_take(&rate, 1, 5, DEPTH_NS), 0);
    rate.due_ns = UINT64_MAX - 1;
    cr_assert_eq(rate_take(&rate, cost_ns, 5, DEPTH_NS), UINT64_MAX - 1);
    cr_assert_eq(rate.due_ns, UINT64_MAX);
    rate.due_ns = 7;
    rate_give_back(&rate, cost_ns);
    cr_assert_eq(rate.due_ns, 0);
}

Test(rate, whoever_asks_is_served_in_turn)
{
    struct rate_shared rate = {0};
    uint64_t now_ns = NS_PER_S, cost_ns = rate_cost_ns(8000000, 1000), last_ns = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t at_ns = rate_shared_take(&rate, cost_ns, now_ns, 0);
        cr_assert_eq(at_ns, i == 0 ? now_ns : last_ns + cost_ns);
        last_ns = at_ns;
    }
    rate_shared_give_back(&rate, cost_ns);
    cr_assert_eq(rate_shared_due_ns(&rate), last_ns);
    rate_shared_reset(&rate);
    cr_assert_eq(rate_shared_take(&rate, cost_ns, now_ns, 0), now_ns);
}

Test(rate, what_can_not_wait_is_dropped)
{
    struct rate one = {0};
    struct rate_shared shared = {0};
    uint64_t cost_ns = rate_cost_ns(8000000, 1000), passed = 0; /* 1 ms */
    for (uint64_t now_ns = NS_PER_S; now_ns < 3 * (uint64_t)NS_PER_S; now_ns += 100000) {
        bool passes = rate_pass(&one, cost_ns, now_ns, DEPTH_NS);
        cr_assert_eq(rate_shared_pass(&shared, cost_ns, now_ns, DEPTH_NS), passes);
        passed += passes;
    }
    cr_assert_eq(passed, 2000 + DEPTH_MS);
    /* However large, it passes if there is no debt; otherwise large datagrams would never do. */
    struct rate slow = {0};
    cr_assert(rate_pass(&slow, rate_cost_ns(8000, 65507), NS_PER_S, DEPTH_NS));
    cr_assert_not(rate_pass(&slow, rate_cost_ns(8000, 1), 60 * (uint64_t)NS_PER_S, DEPTH_NS));
    cr_assert(rate_pass(&slow, rate_cost_ns(8000, 1), 67 * (uint64_t)NS_PER_S, DEPTH_NS));
}
