#include <criterion/criterion.h>

#include "app/drain.h"
#include "base/limits.h"
#include "base/macros.h"
#include "tunnel/tunnel_worker.h"

enum { DELAY_MS = 5000, TIMEOUT_MS = 30000, START_MS = 1000 };

static struct drain_view at(uint64_t ms)
{
    return (
        struct drain_view){.now_ms = START_MS + ms, .delay_ms = DELAY_MS, .timeout_ms = TIMEOUT_MS};
}

static uint32_t turn(struct drain *drain, uint64_t ms)
{
    const struct drain_view view = at(ms);
    return drain_turn(drain, &view);
}

static struct drain begun(void)
{
    struct drain drain = {0};
    const struct drain_view view = at(0);
    cr_assert_eq(drain_begin(&drain, &view), 0, "the workers hear nothing yet");
    cr_assert_eq(drain.state, DRAIN_DELAYED);
    return drain;
}

Test(drain, nothing_is_due_before_it_is_asked)
{
    struct drain drain = {0};
    const struct drain_view view = at(1000000);
    cr_expect_eq(drain_turn(&drain, &view), 0);
    cr_expect_eq(drain_timeout_ms(&drain, &view), -1);
    cr_expect_not(drain_has_ended_service(&drain));
}

Test(drain, without_a_delay_it_drains_at_once)
{
    struct drain drain = {0};
    struct drain_view view = at(0);
    view.delay_ms = 0;
    cr_expect_eq(drain_begin(&drain, &view), TUNNEL_SIGNAL_DRAIN);
    cr_expect_eq(drain.state, DRAIN_FINISHING);
    cr_expect_eq(drain_timeout_ms(&drain, &view), TIMEOUT_MS);
    view.now_ms += TIMEOUT_MS - 1;
    cr_expect_eq(drain_turn(&drain, &view), 0);
    view.now_ms++;
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_STOP);
    cr_expect_eq(drain_turn(&drain, &view), 0, "said once");
    cr_expect_eq(drain_timeout_ms(&drain, &view), -1);
}

Test(drain, refuses_after_the_delay_and_drains_when_quiet)
{
    struct drain drain = begun();
    const struct drain_view view = at(1000);
    cr_expect_eq(drain_timeout_ms(&drain, &view), DELAY_MS - 1000);
    cr_expect_eq(turn(&drain, DELAY_MS - 1), 0);
    cr_expect_not(drain_has_ended_service(&drain));
    cr_expect_eq(turn(&drain, DELAY_MS), TUNNEL_SIGNAL_REFUSE);
    cr_expect(drain_has_ended_service(&drain));
    cr_expect_eq(turn(&drain, DELAY_MS + 1), 0);
    cr_expect_eq(turn(&drain, DELAY_MS + LIMIT_UPGRADE_SETTLE_MS), 0);
    cr_expect_eq(turn(&drain, DELAY_MS + 1 + LIMIT_UPGRADE_SETTLE_MS), TUNNEL_SIGNAL_DRAIN);
    /* drain_timeout counts from the end of the delay. */
    cr_expect_eq(turn(&drain, DELAY_MS + TIMEOUT_MS - 1), 0);
    cr_expect_eq(turn(&drain, DELAY_MS + TIMEOUT_MS), TUNNEL_SIGNAL_STOP);
}

Test(drain, visitors_that_wait_get_their_channels_first)
{
    struct drain drain = begun();
    cr_assert_eq(turn(&drain, DELAY_MS), TUNNEL_SIGNAL_REFUSE);
    struct drain_view view = at(DELAY_MS + 10);
    cr_expect_eq(drain_turn(&drain, &view), 0);
    view.waiting_visitors = 1; /* one that had just been accepted */
    view.now_ms += LIMIT_UPGRADE_SETTLE_MS;
    cr_expect_eq(drain_turn(&drain, &view), 0);
    view.waiting_visitors = 0;
    view.now_ms++;
    cr_expect_eq(drain_turn(&drain, &view), 0, "its command has to reach the client");
    view.now_ms += LIMIT_UPGRADE_SETTLE_MS;
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_DRAIN);
}

Test(drain, visitors_without_a_client_do_not_hold_it_up)
{
    struct drain drain = begun();
    cr_assert_eq(turn(&drain, DELAY_MS), TUNNEL_SIGNAL_REFUSE);
    struct drain_view view = at(DELAY_MS + LIMIT_UPGRADE_QUIET_MS - 1);
    view.waiting_visitors = 7;
    cr_expect_eq(drain_turn(&drain, &view), 0);
    view.now_ms++;
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_DRAIN);
}

Test(drain, drain_timeout_0_waits_for_nobody)
{
    struct drain drain = begun();
    struct drain_view view = at(DELAY_MS);
    view.timeout_ms = 0;
    view.waiting_visitors = 7;
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_REFUSE);
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_DRAIN);
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_STOP);
}

Test(drain, a_reload_counts_for_a_delay_that_runs)
{
    struct drain drain = begun();
    struct drain_view view = at(2000);
    view.delay_ms = 2 * DELAY_MS;
    cr_expect_eq(drain_timeout_ms(&drain, &view), 2 * DELAY_MS - 2000);
    view.now_ms = START_MS + DELAY_MS;
    cr_expect_eq(drain_turn(&drain, &view), 0);
    view.delay_ms = 0;
    cr_expect_eq(drain_timeout_ms(&drain, &view), 0);
    cr_expect_eq(drain_turn(&drain, &view), TUNNEL_SIGNAL_REFUSE);
}

Test(drain, a_second_signal_stops_at_once_in_each_state)
{
    const uint64_t times_ms[] = {0, DELAY_MS, DELAY_MS + LIMIT_UPGRADE_QUIET_MS};
    for (size_t i = 0; i < ARRAY_SIZE(times_ms); i++) {
        struct drain drain = begun();
        for (size_t j = 0; j <= i; j++)
            (void)turn(&drain, times_ms[j]);
        cr_assert_eq(drain.state, (enum drain_state)(DRAIN_DELAYED + i));
        cr_expect_eq(drain_stop(&drain), TUNNEL_SIGNAL_STOP);
        cr_expect_eq(drain_stop(&drain), 0);
        const struct drain_view view = at(times_ms[i]);
        cr_expect_eq(drain_timeout_ms(&drain, &view), -1);
        cr_expect_eq(turn(&drain, 10 * (DELAY_MS + TIMEOUT_MS)) & TUNNEL_SIGNAL_STOP, 0);
    }
}

Test(drain, a_successor_takes_over_without_a_delay)
{
    struct drain drain = {0};
    drain_follow(&drain, START_MS);
    const struct drain_view view = at(0);
    cr_expect_eq(drain_begin(&drain, &view), 0, "SIGTERM after it changes nothing");
    cr_expect_eq(drain.state, DRAIN_FINISHING);
    cr_expect_eq(turn(&drain, TIMEOUT_MS - 1), 0);
    cr_expect_eq(turn(&drain, TIMEOUT_MS), TUNNEL_SIGNAL_STOP);
}
