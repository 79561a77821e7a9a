/* The pauses before datagrams are received, under a virtual clock: streams of several shapes, how
 * often they are received and how long a datagram waits. */
#include "net/udp_pace.h"

#include <criterion/criterion.h>

#include "base/limits.h"
#include "base/macros.h"

enum { US = 1000, MS = 1000000, BOUND_NS = LIMIT_UDP_PAUSE_US * US };

/* A burst of `size` datagrams comes every period_ns. */
struct stream {
    uint64_t period_ns;
    uint32_t size, answers; /* per burst */
};

struct outcome {
    unsigned int looks, vain;
    uint64_t received, wait_max_ns, end_ns;
};

/* Does what the owner of a socket does, in virtual time. */
static struct outcome run(struct udp_pace *pace, const struct stream *stream, uint64_t from_ns,
                          uint64_t length_ns)
{
    struct outcome outcome = {0};
    uint64_t now_ns = from_ns, next_ns = from_ns, end_ns = from_ns + length_ns;
    while (now_ns < end_ns) {
        uint64_t pause_ns = 0;
        now_ns = MAX(now_ns, next_ns); /* readiness */
        uint64_t first_ns = next_ns;
        pause_ns = udp_pace_ready(pace, now_ns);
        do {
            uint32_t datagrams = 0;
            now_ns += pause_ns;
            for (; next_ns <= now_ns; next_ns += stream->period_ns, datagrams += stream->size)
                udp_pace_count(pace, stream->size, stream->answers);
            if (datagrams > 0)
                outcome.wait_max_ns = MAX(outcome.wait_max_ns, now_ns - first_ns);
            outcome.looks++;
            outcome.vain += datagrams == 0;
            outcome.received += datagrams;
            first_ns = next_ns;
            pause_ns = udp_pace_received(pace, datagrams, now_ns);
        } while (pause_ns != 0 && now_ns < end_ns);
    }
    outcome.end_ns = now_ns;
    return outcome;
}

static struct outcome run_new(struct stream stream, uint64_t length_ns)
{
    struct udp_pace pace;
    udp_pace_init(&pace, 0);
    return run(&pace, &stream, 0, length_ns);
}

Test(udp_pace, a_steady_stream_gathers_within_the_bound)
{
    struct outcome outcome = run_new((struct stream){.period_ns = 50 * US, .size = 1}, 200 * MS);
    cr_expect_geq(outcome.received, 4000);
    cr_expect_leq(outcome.wait_max_ns, BOUND_NS);
    /* After 20 ms it is known that there are no answers; then there is one receive per pause. */
    cr_expect_lt(outcome.looks, 400 + 200 * MS / BOUND_NS + 10);
    cr_expect_eq(outcome.vain, 0);
}

Test(udp_pace, bursts_are_waited_for_between_pauses)
{
    struct outcome outcome = run_new((struct stream){.period_ns = 4 * MS, .size = 40}, 400 * MS);
    cr_expect_geq(outcome.received, 4000);
    cr_expect_leq(outcome.wait_max_ns, BOUND_NS);
    cr_expect_leq(outcome.looks, 102);
    cr_expect_eq(outcome.vain, 0, "every second look would be");
}

Test(udp_pace, a_fast_stream_waits_for_a_few_batches_worth_only)
{
    struct udp_pace pace;
    struct stream stream = {.period_ns = 10 * US, .size = 2};
    udp_pace_init(&pace, 0);
    (void)run(&pace, &stream, 0, 100 * MS);
    struct outcome outcome = run(&pace, &stream, 100 * MS, 100 * MS);
    cr_expect_leq(outcome.wait_max_ns, 200 * US, "32 datagrams at 200 per ms, and some");
}

Test(udp_pace, never_when_there_are_answers)
{
    struct outcome outcome =
        run_new((struct stream){.period_ns = 20 * US, .size = 1, .answers = 1}, 100 * MS);
    cr_expect_eq(outcome.wait_max_ns, 0);
    outcome = run_new((struct stream){.period_ns = 200 * US, .size = 11, .answers = 3}, 100 * MS);
    cr_expect_eq(outcome.wait_max_ns, 0, "fewer answers, but somebody waits");
    outcome = run_new((struct stream){.period_ns = 200 * US, .size = 20, .answers = 2}, 100 * MS);
    cr_expect_gt(outcome.wait_max_ns, 0, "receipts");
}

Test(udp_pace, answers_are_remembered_for_a_while)
{
    struct udp_pace pace;
    struct stream both = {.period_ns = 50 * US, .size = 1, .answers = 1};
    struct stream alone = {.period_ns = 50 * US, .size = 1};
    udp_pace_init(&pace, 0);
    (void)run(&pace, &both, 0, 50 * MS);
    struct outcome outcome =
        run(&pace, &alone, 50 * MS, (LIMIT_UDP_PAUSE_QUIET_MS - 3) * (uint64_t)MS);
    cr_expect_eq(outcome.wait_max_ns, 0);
    outcome = run(&pace, &alone, 75 * MS, 10 * MS);
    cr_expect_gt(outcome.wait_max_ns, 0);
    outcome = run(&pace, &both, 85 * MS, 5 * MS);
    outcome = run(&pace, &both, 90 * MS, 100 * MS);
    cr_expect_eq(outcome.wait_max_ns, 0, "and noticed at once");
}

Test(udp_pace, thin_streams_and_stragglers_do_not_wait)
{
    struct udp_pace pace;
    struct stream dense = {.period_ns = 50 * US, .size = 1};
    cr_expect_eq(run_new((struct stream){.period_ns = 500 * US, .size = 1}, 100 * MS).wait_max_ns,
                 0);
    udp_pace_init(&pace, 0);
    (void)run(&pace, &dense, 0, 100 * MS);
    cr_expect_eq(udp_pace_ready(&pace, 5000ull * MS), 0, "the stream has been over for long");
}

Test(udp_pace, there_is_no_time_to_pause_when_behind)
{
    struct udp_pace pace;
    struct stream dense = {.period_ns = 50 * US, .size = 1};
    udp_pace_init(&pace, 0);
    uint64_t now_ns = run(&pace, &dense, 0, 100 * MS).end_ns;
    cr_assert_eq(udp_pace_received(&pace, 0, now_ns), 0);
    cr_assert_gt(udp_pace_ready(&pace, now_ns), 0);
    udp_pace_count(&pace, 256, 0);
    cr_expect_eq(udp_pace_received(&pace, 256, now_ns), 0);
    cr_expect_eq(udp_pace_ready(&pace, now_ns), 0);
}
