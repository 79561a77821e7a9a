/* Relays with limits of the bandwidth, on the fake loop in virtual time. The promise of test_relay.c
 * holds, and no more bytes are read than the rate has in the time, plus the depth and a quantum. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "relay/pace.h"
#include "relay_rig.h"

enum { KBIT = 1000, MBIT = 1000 * KBIT };

static void limit(struct rig *rig, struct pace_rates *rates, uint64_t service_bps,
                  uint64_t connection_bps)
{
    pace_rates_set(rates, service_bps, connection_bps);
    rig->options.rates = rates;
}

/* Bytes that may have been read since begin_ns. An encrypted frame counts when it is whole. */
static uint64_t allowed(const struct rig *rig, uint64_t begin_ns, uint64_t bps)
{
    uint64_t ns = loop_now_ns(rig->loop) - begin_ns + ms_to_ns(LIMIT_PACE_DEPTH_MS);
    uint64_t quantum = MAX(rate_bytes(bps, LIMIT_PACE_QUANTUM_MS), (uint64_t)LIMIT_PACE_READ_MIN);
    return (uint64_t)((unsigned __int128)ns * bps / 8 / NS_PER_S) + quantum + LINK_FRAME_MAX;
}

/* ---- the seeded runs ---- */

static const uint64_t some_rates[] = {0, 64 * KBIT, 1 * MBIT, 20 * MBIT, 1000 * (uint64_t)MBIT};

static void run_paced(uint64_t seed)
{
    struct rig rig;
    struct pace_rates rates = {0};
    rig_init(&rig, seed, seed % 5 == 0 ? 16384 : 0);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
    rig_plan(&rig);
    uint64_t service_bps = some_rates[random_below(&rig.random, ARRAY_SIZE(some_rates))];
    limit(&rig, &rates, service_bps, some_rates[random_below(&rig.random, ARRAY_SIZE(some_rates))]);
    for (unsigned int i = 0; i < 2; i++)
        rig.peers[i].total %= 200000;
    if (seed % 3 == 0)
        rig_use_second_worker(&rig);
    if (seed % 2 == 0)
        rig_use_prefix(&rig);
    else if (seed % 4 == 1)
        rig_encrypt(&rig, RELAY_SERVICE_END);
    relay_start(&rig.relay, &rig.options);
    bool is_over = false;
    for (int turn = 0; turn < 60000 && !is_over; turn++) {
        if (turn % 100 == 50 && seed % 4 == 2 && !rig.closed) {
            pace_rates_set(&rates, some_rates[random_below(&rig.random, ARRAY_SIZE(some_rates))],
                           some_rates[random_below(&rig.random, ARRAY_SIZE(some_rates))]);
            pace_review(&rig.relay, &rates);
        }
        rig_turn(&rig);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig.peers[i], random_next(&rig.random));
        if (turn > 5000)
            (void)usleep(100);
        is_over = rig.closed && fake_loop_in_flight(rig.loop) == 0;
    }
    cr_assert(is_over && rig_run(&rig), "seed %llu: a stall; %zu of %zu and %zu of %zu bytes",
              (unsigned long long)seed, rig.peers[1].got, rig.peers[0].total, rig.peers[0].got,
              rig.peers[1].total);
    rig_judge(&rig, seed, true);
    rig_finish(&rig, seed);
}

Test(pace, transient_faults_lose_nothing)
{
    run_seeds(run_paced, 300001, 600);
}

static void run_deadly(uint64_t seed)
{
    struct rig rig;
    struct pace_rates rates = {0};
    rig_init(&rig, seed, 0);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    faults.reset = faults.epipe = faults.enomem = (unsigned int)random_below(&rig.random, 15);
    rig_set_faults(&rig, &faults);
    rig_plan(&rig);
    limit(&rig, &rates, 20 * MBIT, seed % 2 != 0 ? 1 * MBIT : 0);
    for (unsigned int i = 0; i < 2; i++)
        rig.peers[i].total %= 200000;
    relay_start(&rig.relay, &rig.options);
    cr_assert(rig_run(&rig), "seed %llu: a stall", (unsigned long long)seed);
    rig_judge(&rig, seed, fake_loop_deadly_count(rig.loop) == 0);
    rig_finish(&rig, seed);
}

Test(pace, deadly_faults_show)
{
    run_seeds(run_deadly, 400001, 300);
}

/* ---- the rate ---- */

static void pump(struct rig *rig, unsigned int from, uint64_t until_ns)
{
    static char block[65536];
    while (loop_now_ns(rig->loop) < until_ns) {
        while (send(rig->peers[from].fd, block, sizeof(block), MSG_DONTWAIT) > 0)
            ;
        rig_turns(rig, 3);
        while (recv(rig->peers[1 - from].fd, block, sizeof(block), MSG_DONTWAIT) > 0)
            ;
    }
}

static void rate_holds(uint64_t service_bps, uint64_t connection_bps, unsigned int from)
{
    struct rig rig;
    struct pace_rates rates = {0};
    uint64_t bps = service_bps != 0 ? service_bps : connection_bps;
    rig_init(&rig, 1, 0);
    fake_loop_set_idle_step_ms(rig.loop, 1);
    limit(&rig, &rates, service_bps, connection_bps);
    relay_start(&rig.relay, &rig.options);
    uint64_t begin_ns = loop_now_ns(rig.loop);
    for (int i = 1; i <= 20; i++) {
        pump(&rig, from, begin_ns + (uint64_t)i * 100 * NS_PER_MS);
        cr_assert_leq(relay_bytes(&rig.relay, from), allowed(&rig, begin_ns, bps));
    }
    /* In virtual time nothing is late, so nothing is lost. */
    uint64_t ms = (loop_now_ns(rig.loop) - begin_ns) / NS_PER_MS;
    uint64_t full = (uint64_t)((unsigned __int128)bps * ms / 8000);
    uint64_t quantum = MAX(rate_bytes(bps, LIMIT_PACE_QUANTUM_MS), (uint64_t)LIMIT_PACE_READ_MIN);
    cr_assert_geq(relay_bytes(&rig.relay, from) + quantum * 2 + full / 50, full,
                  "%llu bit/s: %llu bytes in %llu ms", (unsigned long long)bps,
                  (unsigned long long)relay_bytes(&rig.relay, from), (unsigned long long)ms);
    if (bps >= 100 * MBIT) /* and by splice(2), not by copies */
        cr_assert_gt(metrics_get(&rig.metrics, METRIC_BYTES_SPLICED), full / 2);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 1);
}

Test(pace, rate_holds)
{
    rate_holds(0, 64 * KBIT, RELAY_VISITOR_END);
    rate_holds(0, 10 * MBIT, RELAY_SERVICE_END);
    rate_holds(0, 100 * MBIT, RELAY_VISITOR_END);
    rate_holds(0, 1000 * (uint64_t)MBIT, RELAY_SERVICE_END);
    rate_holds(64 * KBIT, 0, RELAY_SERVICE_END);
    rate_holds(100 * MBIT, 0, RELAY_VISITOR_END);
    rate_holds(10 * MBIT, 100 * MBIT, RELAY_VISITOR_END);
}

/* One direction does not slow the other. */
Test(pace, directions_are_apart)
{
    struct rig rig;
    struct pace_rates rates = {0};
    rig_init(&rig, 2, 0);
    fake_loop_set_idle_step_ms(rig.loop, 1);
    limit(&rig, &rates, 0, 64 * KBIT);
    relay_start(&rig.relay, &rig.options);
    pump(&rig, RELAY_VISITOR_END, loop_now_ns(rig.loop) + NS_PER_S);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(send(rig.peers[1].fd, "ping", 4, 0), 4);
        rig_turns(&rig, 2);
        char bytes[8];
        cr_assert_eq(recv(rig.peers[0].fd, bytes, sizeof(bytes), MSG_DONTWAIT), 4);
    }
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 2);
}

/* ---- while a flow waits ---- */

static void begin_waiting(struct rig *rig, struct pace_rates *rates, uint32_t idle_timeout_ms)
{
    static char block[65536];
    rig_init(rig, 3, 0);
    fake_loop_set_idle_step_ms(rig->loop, 0);
    limit(rig, rates, 0, 8 * KBIT); /* a read of 4 KiB takes 4 s */
    rig->options.idle_timeout_ms = idle_timeout_ms;
    relay_start(&rig->relay, &rig->options);
    cr_assert_eq(send(rig->peers[0].fd, block, sizeof(block), 0), sizeof(block));
    rig_turns(rig, 10);
    cr_assert_eq(relay_bytes(&rig->relay, 0), LIMIT_PACE_READ_MIN);
}

/* No read, no poll but the watch for a reset of the source, and the read of the other flow. */
Test(pace, a_waiting_flow_holds_nothing)
{
    struct rig rig;
    struct pace_rates rates = {0};
    begin_waiting(&rig, &rates, 0);
    cr_assert_eq(fake_loop_in_flight(rig.loop), 2);
    cr_assert_eq(fake_loop_lent(rig.loop), 0);
    cr_assert(fake_loop_has_timers(rig.loop));
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 3);
}

Test(pace, a_waiting_flow_sees_a_reset)
{
    struct rig rig;
    struct pace_rates rates = {0};
    begin_waiting(&rig, &rates, 0);
    tcp_abort_on_close(rig.peers[0].fd);
    peer_close(&rig.peers[0]);
    rig_turns(&rig, 10);
    cr_assert(rig.closed);
    peer_drain(&rig.peers[1]);
    cr_assert(rig.peers[1].got_reset);
    rig_finish(&rig, 3);
}

Test(pace, a_waiting_flow_is_not_idle)
{
    struct rig rig;
    struct pace_rates rates = {0};
    begin_waiting(&rig, &rates, 1000);
    for (int i = 0; i < 60; i++) { /* 64 KiB take 65 s */
        fake_loop_advance_ms(rig.loop, 1000);
        rig_turns(&rig, 10);
        cr_assert_not(rig.closed, "after %d s", i);
    }
    for (int i = 0; i < 30; i++) {
        fake_loop_advance_ms(rig.loop, 1000);
        rig_turns(&rig, 10);
    }
    cr_assert(rig.closed);
    cr_assert(rig.relay.idle_timed_out);
    rig_finish(&rig, 3);
}

/* The end of stream stands behind bytes that wait: all come, then the end, and the service may
 * answer late. */
Test(pace, half_close)
{
    struct rig rig;
    struct pace_rates rates = {0};
    begin_waiting(&rig, &rates, 0);
    (void)shutdown(rig.peers[0].fd, SHUT_WR);
    size_t got = 0;
    ssize_t part = -1;
    for (int i = 0; i < 100 && part != 0; i++) {
        static char bytes[65536];
        fake_loop_advance_ms(rig.loop, 1000);
        rig_turns(&rig, 10);
        while ((part = recv(rig.peers[1].fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
            got += (size_t)part;
    }
    cr_assert_eq(part, 0);
    cr_assert_eq(got, 65536);
    fake_loop_advance_ms(rig.loop, 2 * LIMIT_GONE_MS);
    rig_turns(&rig, 10);
    cr_assert_eq(send(rig.peers[1].fd, "late", 4, 0), 4);
    rig_turns(&rig, 10);
    char late[8];
    cr_assert_eq(recv(rig.peers[0].fd, late, sizeof(late), MSG_DONTWAIT), 4);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 3);
}

Test(pace, a_waiting_relay_detaches)
{
    struct rig rig;
    struct pace_rates rates = {0};
    begin_waiting(&rig, &rates, 0);
    uint64_t before = relay_bytes(&rig.relay, 0);
    for (int i = 0; i < 10; i++) {
        relay_detach(&rig.relay); /* the rig starts it again */
        rig_turns(&rig, 10);
        cr_assert_not(rig.closed);
        /* Each start may read a quantum, not more. */
        cr_assert_leq(relay_bytes(&rig.relay, 0), LIMIT_PACE_READ_MIN);
    }
    cr_assert_leq(before, LIMIT_PACE_READ_MIN);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 3);
}

/* ---- reloads ---- */

Test(pace, changes_hold_at_once)
{
    struct rig rig;
    struct pace_rates rates = {0};
    begin_waiting(&rig, &rates, 0);
    /* Raised: the debt of the low rate is forgotten. */
    pace_rates_set(&rates, 0, 1 * MBIT);
    pace_review(&rig.relay, &rates);
    rig_turns(&rig, 5);
    cr_assert_gt(relay_bytes(&rig.relay, 0), LIMIT_PACE_READ_MIN);
    fake_loop_set_idle_step_ms(rig.loop, 1);
    rig_turns(&rig, 20);
    cr_assert_lt(relay_bytes(&rig.relay, 0), 65536);
    /* Lifted while it waits: nothing is left of the limit. */
    pace_rates_set(&rates, 0, 0);
    pace_review(&rig.relay, &rates);
    cr_assert_null(rig.relay.pace);
    rig_turns(&rig, 30);
    cr_assert_eq(relay_bytes(&rig.relay, 0), 65536);
    /* Set anew, with a read in flight that has no limit. */
    pace_rates_set(&rates, 8 * KBIT, 0);
    pace_review(&rig.relay, &rates);
    cr_assert_not_null(rig.relay.pace);
    fake_loop_set_idle_step_ms(rig.loop, 0);
    static char block[65536];
    cr_assert_eq(send(rig.peers[0].fd, block, sizeof(block), 0), sizeof(block));
    rig_turns(&rig, 30);
    cr_assert_leq(relay_bytes(&rig.relay, 0),
                  65536 + LIMIT_BUFFER_SIZE + LIMIT_PACE_READ_MIN + 1000);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 3);
}

/* ---- many under one limit ---- */

enum { STREAMS = 8 };

static void streams_are_fair(bool is_staggered)
{
    static struct rig rigs[STREAMS];
    static char block[65536];
    struct pace_rates rates = {0};
    struct loop *loop = NULL;
    for (unsigned int i = 0; i < STREAMS; i++) {
        rig_init(&rigs[i], i + 1, 0);
        limit(&rigs[i], &rates, 100 * MBIT, 0);
        fake_loop_set_idle_step_ms(rigs[i].loop, 1);
    }
    /* All on one loop and engine, as on one worker. */
    loop = rigs[0].loop;
    for (unsigned int i = 0; i < STREAMS; i++)
        rigs[i].options.engine = &rigs[0].engine;
    uint64_t begin_ns = loop_now_ns(loop), counted_ns = 0, before[STREAMS], sum = 0;
    unsigned int started = 0;
    while (loop_now_ns(loop) < begin_ns + 4 * (uint64_t)NS_PER_S) {
        uint64_t ms = (loop_now_ns(loop) - begin_ns) / NS_PER_MS;
        while (started < STREAMS && ms >= (is_staggered ? started * 100 : 0)) {
            relay_start(&rigs[started].relay, &rigs[started].options);
            started++;
        }
        for (unsigned int i = 0; i < started; i++) {
            while (send(rigs[i].peers[1].fd, block, sizeof(block), MSG_DONTWAIT) > 0)
                ;
            while (recv(rigs[i].peers[0].fd, block, sizeof(block), MSG_DONTWAIT) > 0)
                ;
        }
        cr_assert_eq(loop_run_once(loop), 0);
        if (counted_ns == 0 && ms >= 1000) {
            counted_ns = loop_now_ns(loop);
            for (unsigned int i = 0; i < STREAMS; i++)
                before[i] = relay_bytes(&rigs[i].relay, 1);
        }
    }
    uint64_t fair = 12500000 * (loop_now_ns(loop) - counted_ns) / NS_PER_S / STREAMS;
    for (unsigned int i = 0; i < STREAMS; i++) {
        uint64_t got = relay_bytes(&rigs[i].relay, 1) - before[i];
        sum += got;
        cr_assert(got > fair * 8 / 10 && got < fair * 12 / 10, "stream %u: %llu bytes, fair: %llu",
                  i, (unsigned long long)got, (unsigned long long)fair);
    }
    cr_assert_leq(sum, fair * STREAMS * 102 / 100);
    for (unsigned int i = 0; i < STREAMS; i++)
        relay_terminate(&rigs[i].relay);
    rig_turns(&rigs[0], 20);
    for (unsigned int i = STREAMS; i-- > 0;) {
        peer_close(&rigs[i].peers[0]);
        peer_close(&rigs[i].peers[1]);
        relay_engine_finish(&rigs[i].engine);
        loop_destroy(rigs[i].loop);
    }
}

Test(pace, streams_are_fair)
{
    streams_are_fair(false);
    streams_are_fair(true);
}
