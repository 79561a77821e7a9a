/* Encrypted bulk without a copy, on the fake loop: src/relay/zerocopy_pool.c and
 * src/relay/zerocopy.c. The promise is that of test_relay_noise.c; besides, no buffer changes while
 * it is the kernel's (the fake loop compares), and each comes back. RELAY_SEED repeats one
 * transfer. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "alloc.h"
#include "base/limits.h"
#include "relay_rig.h"

enum { SENDER = 0, BULK = 1500000, SMALL_SOCKET = 65536 /* takes a part of a batch */ };

static void begin(struct rig *rig, uint64_t seed, int buffer_size, enum zerocopy_mode mode)
{
    alloc_count_begin();
    rig_init(rig, seed, buffer_size);
    rig_encrypt(rig, 1 - SENDER);
    rig->engine.zerocopy_mode = mode;
}

static uint64_t count(const struct rig *rig, enum metric metric)
{
    return metrics_get(&rig->metrics, metric);
}

static void end_run(struct rig *rig, uint64_t seed)
{
    rig_finish(rig, seed);
    cr_assert_eq(count(rig, METRIC_ZEROCOPY_NOTIFIED), count(rig, METRIC_ZEROCOPY_SENDS),
                 "seed %llu", (unsigned long long)seed);
    cr_assert_eq(alloc_blocks(), 0, "seed %llu: memory", (unsigned long long)seed);
}

/* One peer sends in large pieces, the other reads. */
static void plan_bulk(struct rig *rig, size_t total)
{
    rig->peers[SENDER].total = total;
    rig->peers[1 - SENDER].total = 0;
}

static void run(struct rig *rig, uint64_t seed)
{
    cr_assert(rig_run(rig), "seed %llu: a stall; state %u, %zu of %zu bytes",
              (unsigned long long)seed, rig->relay.state, rig->peers[1 - SENDER].got,
              rig->peers[SENDER].total);
}

static void transfer(struct rig *rig, size_t total)
{
    plan_bulk(rig, total);
    relay_start(&rig->relay, &rig->options);
    run(rig, 0);
    rig_judge(rig, 0, true);
}

/* ---- seeded ---- */

static struct fake_faults zerocopy_faults(struct random *random)
{
    static const int errors[] = {-ENOMEM, -ENOBUFS, -EOPNOTSUPP, -EINVAL};
    struct fake_faults faults = rig_transient_faults(random);
    faults.late_notification = (unsigned int)random_below(random, 950);
    faults.zerocopy_copied = random_permille(random, 500) ? 300 : 0;
    faults.zerocopy_refused = random_permille(random, 300) ? 100 : 0;
    faults.zerocopy_error = errors[random_below(random, ARRAY_SIZE(errors))];
    faults.register_error = random_permille(random, 300) ? -ENOMEM : 0;
    return faults;
}

static void begin_seeded(struct rig *rig, uint64_t seed, struct fake_faults *ret_faults)
{
    begin(rig, seed, seed % 5 == 0 ? SMALL_SOCKET : 0, seed % 3 == 0 ? ZEROCOPY_AUTO : ZEROCOPY_ON);
    fake_socket_set_elsewhere(true);
    rig_plan(rig);
    rig->peers[SENDER].total = random_below(&rig->random, BULK);
    rig->peers[SENDER].chunk_max = 65536;
    rig->peers[1 - SENDER].chunk_max = MAX(rig->peers[1 - SENDER].chunk_max, (size_t)200);
    if (seed % 2 == 0) {
        rig_use_second_worker(rig);
        rig->other_engine.zerocopy_mode = rig->engine.zerocopy_mode;
    }
    if (seed % 7 == 0)
        rig_use_prefix(rig);
    *ret_faults = zerocopy_faults(&rig->random);
}

static void run_transient(uint64_t seed)
{
    struct rig rig;
    struct fake_faults faults;
    begin_seeded(&rig, seed, &faults);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    run(&rig, seed);
    rig_judge(&rig, seed, true);
    end_run(&rig, seed);
}

Test(zerocopy, transient_faults_lose_nothing)
{
    run_seeds(run_transient, 1, 300);
}

static void run_deadly(uint64_t seed)
{
    struct rig rig;
    struct fake_faults faults;
    begin_seeded(&rig, seed, &faults);
    unsigned int rate = (unsigned int)random_below(&rig.random, 40);
    if (seed % 4 == 0)
        faults.reset = rate;
    else if (seed % 4 == 1)
        faults.epipe = rate;
    else
        rig.peers[seed % 2].reset_at = random_below(&rig.random, rig.peers[seed % 2].total + 1);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    run(&rig, seed);
    rig_judge(&rig, seed, false);
    end_run(&rig, seed);
}

Test(zerocopy, deadly_faults_show)
{
    run_seeds(run_deadly, 1001, 300);
}

/* ---- single properties ---- */

Test(zerocopy, bulk_is_sent_without_a_copy)
{
    struct rig rig;
    begin(&rig, 1, 0, ZEROCOPY_ON);
    transfer(&rig, BULK);
    cr_expect_gt(count(&rig, METRIC_ZEROCOPY_SENDS), 5);
    cr_expect_eq(count(&rig, METRIC_ZEROCOPY_COPIED), 0);
    cr_expect_eq(count(&rig, METRIC_ZEROCOPY_NO_BUFFER), 0);
    end_run(&rig, 1);
}

Test(zerocopy, off_and_small_transfers_and_opening_use_none)
{
    for (int i = 0; i < 3; i++) {
        struct rig rig;
        begin(&rig, 1, 0, i == 0 ? ZEROCOPY_OFF : ZEROCOPY_ON);
        plan_bulk(&rig, i == 0 ? BULK : i == 1 ? 30000 : 0);
        if (i == 2) /* what comes encrypted leaves as plaintext, through the hot buffer */
            rig.peers[1 - SENDER].total = BULK;
        relay_start(&rig.relay, &rig.options);
        run(&rig, 1);
        rig_judge(&rig, 1, true);
        cr_expect_eq(count(&rig, METRIC_ZEROCOPY_SENDS), 0, "case %d", i);
        cr_expect_null(rig.engine.zerocopy, "nothing is made for nothing: case %d", i);
        end_run(&rig, 1);
    }
}

/* A connection that the kernel copies for all the same is left alone by auto, and only counted by
 * on. */
Test(zerocopy, copied)
{
    const struct fake_faults faults = {.zerocopy_copied = 1000};
    for (int i = 0; i < 2; i++) {
        struct rig rig;
        begin(&rig, 1, 0, i == 0 ? ZEROCOPY_AUTO : ZEROCOPY_ON);
        fake_socket_set_elsewhere(true);
        rig_set_faults(&rig, &faults);
        transfer(&rig, BULK);
        uint64_t sends = count(&rig, METRIC_ZEROCOPY_SENDS);
        cr_expect(i == 0 ? sends >= 1 && sends <= 2 : sends > 5, "%llu", (unsigned long long)sends);
        cr_expect_eq(count(&rig, METRIC_ZEROCOPY_COPIED), sends);
        end_run(&rig, 1);
    }
}

Test(zerocopy, auto_is_for_other_hosts)
{
    for (int i = 0; i < 2; i++) {
        struct rig rig;
        begin(&rig, 1, 0, ZEROCOPY_AUTO);
        fake_socket_set_elsewhere(i == 1);
        transfer(&rig, BULK);
        cr_expect_eq(count(&rig, METRIC_ZEROCOPY_SENDS) > 5, i == 1);
        end_run(&rig, 1);
    }
}

/* The peer acknowledges nothing: when all buffers are out the rest is copied, and when they are
 * back they are used again. */
Test(zerocopy, all_buffers_out)
{
    struct rig rig;
    struct fake_faults faults = {.late_notification = 1000};
    begin(&rig, 1, 0, ZEROCOPY_ON);
    rig_set_faults(&rig, &faults);
    plan_bulk(&rig, 20 << 20);
    relay_start(&rig.relay, &rig.options);
    for (int turn = 0; turn < 20000 && count(&rig, METRIC_ZEROCOPY_NO_BUFFER) < 10; turn++) {
        rig_turns(&rig, 1);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig.peers[i], random_next(&rig.random));
    }
    cr_assert_eq(zerocopy_in_use(rig.engine.zerocopy), LIMIT_ZEROCOPY_BUFFERS);
    cr_assert_eq(count(&rig, METRIC_ZEROCOPY_SENDS), LIMIT_ZEROCOPY_BUFFERS);
    cr_assert_geq(count(&rig, METRIC_ZEROCOPY_NO_BUFFER), 10);
    faults.late_notification = 0;
    rig_set_faults(&rig, &faults);
    run(&rig, 1);
    rig_judge(&rig, 1, true);
    cr_expect_gt(count(&rig, METRIC_ZEROCOPY_SENDS), LIMIT_ZEROCOPY_BUFFERS);
    end_run(&rig, 1);
}

/* A relay ends, by itself or by a reset, while buffers are out: they stay out, untouched, and come
 * back later without a word to anybody. */
static void end_before_the_notification(bool by_reset)
{
    struct rig rig;
    struct fake_faults faults = {.late_notification = 1000, .zerocopy_copied = 1000};
    begin(&rig, 1, 0, ZEROCOPY_ON);
    rig_set_faults(&rig, &faults);
    plan_bulk(&rig, BULK);
    relay_start(&rig.relay, &rig.options);
    for (int turn = 0; turn < 20000 && !rig.closed; turn++) {
        rig_turns(&rig, 1);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig.peers[i], random_next(&rig.random));
        if (by_reset && count(&rig, METRIC_ZEROCOPY_SENDS) == 3) {
            rig.peers[1 - SENDER].reset_at = 0;
            peer_step(&rig.peers[1 - SENDER], 0);
        }
    }
    cr_assert(rig.closed, "it does not wait for notifications");
    rig_turns(&rig, 1); /* the closes themselves */
    unsigned int out = zerocopy_in_use(rig.engine.zerocopy);
    cr_assert_geq(out, 3);
    cr_assert_eq(fake_loop_in_flight(rig.loop), out);
    memset(&rig.relay, 0xdd, sizeof(rig.relay)); /* whoever still looks at it will be seen */
    rig_turns(&rig, 10);
    cr_assert_eq(zerocopy_in_use(rig.engine.zerocopy), out);
    faults.late_notification = 0;
    rig_set_faults(&rig, &faults);
    rig_turns(&rig, 2);
    cr_assert_eq(zerocopy_in_use(rig.engine.zerocopy), 0);
    cr_assert_eq(count(&rig, METRIC_ZEROCOPY_COPIED), count(&rig, METRIC_ZEROCOPY_SENDS));
    rig_judge(&rig, 1, !by_reset);
    end_run(&rig, 1);
}

Test(zerocopy, end_of_stream_before_the_notification)
{
    end_before_the_notification(false);
}

Test(zerocopy, reset_before_the_notification)
{
    end_before_the_notification(true);
}

/* Terminated between the send and its result: the relay waits for that. */
Test(zerocopy, termination_before_the_result)
{
    struct rig rig;
    begin(&rig, 1, 0, ZEROCOPY_ON);
    plan_bulk(&rig, BULK);
    relay_start(&rig.relay, &rig.options);
    for (int turn = 0; turn < 2000 && !rig.relay.flow[SENDER].zerocopy_sending; turn++) {
        rig_turns(&rig, 1);
        peer_step(&rig.peers[SENDER], UINT64_MAX - 1);
    }
    cr_assert(rig.relay.flow[SENDER].zerocopy_sending);
    relay_terminate(&rig.relay);
    cr_assert_not(rig.closed);
    rig_turns(&rig, 5);
    cr_assert(rig.closed);
    rig_turns(&rig, 5);
    end_run(&rig, 1);
}

/* What the kernel refuses to send in this way is sent in the other, all of it, and the flow does
 * not ask again; -EINVAL is an old kernel's, and ends it for all flows. */
Test(zerocopy, refusals)
{
    static const int errors[] = {-ENOMEM, -ENOBUFS, -EOPNOTSUPP, -EINVAL};
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        struct rig rig;
        struct fake_faults faults = {.zerocopy_refused = 1000, .zerocopy_error = errors[i]};
        begin(&rig, 1, 0, ZEROCOPY_ON);
        rig_set_faults(&rig, &faults);
        transfer(&rig, BULK);
        cr_expect_eq(count(&rig, METRIC_ZEROCOPY_REFUSED), 1, "%s", strerror(-errors[i]));
        cr_expect_eq(rig.engine.zerocopy_mode, errors[i] == -EINVAL ? ZEROCOPY_OFF : ZEROCOPY_ON,
                     "%s", strerror(-errors[i]));
        end_run(&rig, 1);
    }
}

Test(zerocopy, without_locked_memory)
{
    struct rig rig;
    struct fake_faults faults = {.register_error = -ENOMEM};
    begin(&rig, 1, 0, ZEROCOPY_ON);
    rig_set_faults(&rig, &faults);
    transfer(&rig, BULK);
    cr_expect_gt(count(&rig, METRIC_ZEROCOPY_SENDS), 5);
    end_run(&rig, 1);
}

/* Each allocation fails in turn, that of the pool and those for what a full socket did not take: a
 * reset, or no harm at all. */
static bool run_without_memory(unsigned int n)
{
    struct rig rig;
    begin(&rig, n, SMALL_SOCKET, ZEROCOPY_ON);
    plan_bulk(&rig, 400000);
    rig.peers[1 - SENDER].stalled_turns = 100;
    relay_start(&rig.relay, &rig.options);
    alloc_fail_nth(n);
    for (int turn = 0; turn < 400 && !alloc_has_failed(); turn++) {
        rig_turns(&rig, 1);
        alloc_pause(true);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig.peers[i], random_next(&rig.random));
        alloc_pause(false);
    }
    alloc_pause(true);
    run(&rig, n);
    alloc_pause(false);
    bool has_failed = alloc_has_failed();
    alloc_fail_nth(0);
    rig_judge(&rig, n, false);
    end_run(&rig, n);
    return has_failed;
}

Test(zerocopy, each_allocation_fails_once)
{
    unsigned int n = 1;
    while (n < 60 && run_without_memory(n))
        n++;
    cr_assert_gt(n, 2, "not what it tests: %u", n);
}
