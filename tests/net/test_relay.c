/* Relays on the fake loop: thousands of seeded transfers under every fault the kernel may show. The
 * promise that is tested: both ends get all bytes and a clean end, or a cut is visible as a reset;
 * and nothing is left behind. Covers src/net/relay.c, src/net/relay_copy.c,
 * src/net/relay_end.c, src/net/relay_flow.c, src/net/relay_splice.c and src/net/relay_watch.c.
 * RELAY_SEED repeats one transfer. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "fake_loop.h"
#include "io/pipe_pool.h"
#include "io/socket.h"
#include "rig.h"
#include "testing.h"

enum { TURNS_MAX = 40000, QUICK_TURNS = 5000, REBINDS_MAX = 2, PREFIX_SIZE = 4 };

struct rig {
    struct relay relay;
    struct loop *loop;
    struct relay_engine engine;
    struct metrics metrics;
    struct peer peers[2];
    struct random random;
    struct relay_options options;
    size_t fds_before;
    unsigned int rebinds, rebinds_max, detaches;
    int pending_rebind; /* turns until relay_rebind; -1: none */
    bool closed, moves, later;
};

static const struct relay_ops rig_ops;

static void rig_new_end1(struct rig *rig)
{
    int fds[2];
    struct peer *old = &rig->peers[1];
    peer_drain(old);
    struct peer fresh;
    tcp_pair(fds, 0);
    tcp_without_pacing(fds);
    peer_init(&fresh, fds[0], old->pattern, old->expected, old->total);
    fresh.skip = old->skip;
    if (rig->rebinds < rig->rebinds_max)
        fresh.reset_at = 0;
    peer_close(old);
    *old = fresh;
    rig->options.fds[1] = fds[1];
}

static bool rig_end1_lost(struct relay *relay)
{
    struct rig *rig = container_of(relay, struct rig, relay);
    if (rig->rebinds == REBINDS_MAX)
        return false;
    rig->rebinds++;
    rig_new_end1(rig);
    if (rig->later)
        rig->pending_rebind = (int)random_below(&rig->random, 20);
    else
        relay_rebind(relay, (struct transport){.fd = rig->options.fds[1]});
    return true;
}

static bool rig_became_bulk(struct relay *relay)
{
    struct rig *rig = container_of(relay, struct rig, relay);
    if (!rig->moves || rig->detaches > 20)
        return false;
    rig->detaches++;
    relay_detach(relay);
    return true;
}

static void rig_relay_closed(struct relay *relay)
{
    struct rig *rig = container_of(relay, struct rig, relay);
    struct relay_options *options = &rig->options;
    if (relay_detached(relay, options->fds, options->ended)) {
        options->prefix_len = 0;
        options->replay = false;
        relay_start(relay, options);
        return;
    }
    if (rig->pending_rebind >= 0) { /* the replacement has come in vain */
        tcp_abort_on_close(options->fds[1]);
        (void)close(options->fds[1]);
        rig->pending_rebind = -1;
    }
    rig->closed = true;
}

static const struct relay_ops rig_ops = {
    .end1_lost = rig_end1_lost,
    .became_bulk = rig_became_bulk,
    .closed = rig_relay_closed,
};

static void rig_init(struct rig *rig, uint64_t seed, int buffer_size)
{
    memset(rig, 0, sizeof(*rig));
    rig->fds_before = open_fd_count();
    rig->random.state = seed;
    rig->pending_rebind = -1;
    fake_loop_set_seed(seed);
    struct loop_options options = {.metrics = &rig->metrics, .buffer_count = 8};
    cr_assert_eq(loop_create(&options, &rig->loop), 0);
    cr_assert_eq(relay_engine_init(&rig->engine, rig->loop, 2 << 20), 0);
    int fds[2][2];
    tcp_pair(fds[0], buffer_size);
    tcp_without_pacing(fds[0]);
    tcp_pair(fds[1], buffer_size);
    tcp_without_pacing(fds[1]);
    peer_init(&rig->peers[0], fds[0][0], 3, 100, 0);
    peer_init(&rig->peers[1], fds[1][0], 100, 3, 0);
    rig->options = (struct relay_options){.engine = &rig->engine,
                                          .ops = &rig_ops,
                                          .fds = {fds[0][1], fds[1][1]}};
}

static void rig_use_prefix(struct rig *rig)
{
    rig->options.prefix = "\1\2\3\4";
    rig->options.prefix_len = rig->peers[1].skip = PREFIX_SIZE;
    rig->options.replay = true;
}

static void rig_turn(struct rig *rig)
{
    cr_assert_eq(loop_run_once(rig->loop), 0);
    if (rig->pending_rebind >= 0 && rig->pending_rebind-- == 0 && !rig->closed)
        relay_rebind(&rig->relay, (struct transport){.fd = rig->options.fds[1]});
}

/* Until the relay and its peers are over. */
static bool rig_run(struct rig *rig)
{
    for (int turn = 0; turn < TURNS_MAX; turn++) {
        rig_turn(rig);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig->peers[i], random_next(&rig->random));
        if (turn > QUICK_TURNS)
            (void)usleep(200); /* the window of a small socket opens in the kernel's time */
        if (rig->closed && fake_loop_in_flight(rig->loop) == 0)
            return true;
    }
    return false;
}

/* Nothing may be left: ops, timers, buffers, pipes, replays, descriptors. */
static void rig_finish(struct rig *rig, uint64_t seed)
{
    unsigned long long n = seed;
    cr_assert_eq(fake_loop_in_flight(rig->loop), 0, "seed %llu", n);
    cr_assert_not(fake_loop_has_timers(rig->loop), "seed %llu", n);
    cr_assert_eq(fake_loop_lent(rig->loop), 0, "seed %llu", n);
    cr_assert_eq(rig->engine.relay_count, 0, "seed %llu", n);
    cr_assert_eq(rig->engine.replay_bytes, 0, "seed %llu", n);
    cr_assert_eq(relay_engine_bulk_flows(&rig->engine), 0, "seed %llu", n);
    cr_assert_eq(rig->engine.bulk_count, rig->engine.bulk_free_count, "seed %llu", n);
    relay_engine_finish(&rig->engine);
    peer_close(&rig->peers[0]);
    peer_close(&rig->peers[1]);
    loop_destroy(rig->loop);
    cr_assert_eq(open_fd_count(), rig->fds_before, "seed %llu: descriptors", n);
}

static bool got_all(const struct peer *to, const struct peer *from)
{
    return from->sent == from->total && to->got == to->skip + from->total;
}

/* The promise. lossless: nothing deadly happened, so all must have come. */
static void rig_judge(struct rig *rig, uint64_t seed, bool lossless)
{
    unsigned long long n = seed;
    for (unsigned int i = 0; i < 2; i++)
        peer_drain(&rig->peers[i]);
    for (unsigned int i = 0; i < 2; i++) {
        const struct peer *to = &rig->peers[i], *from = &rig->peers[1 - i];
        cr_assert_not(to->corrupt, "seed %llu: wrong bytes at end %u", n, i);
        if (to->got_fin)
            cr_assert(from->fin_sent && got_all(to, from),
                      "seed %llu: a cut transfer looks complete at end %u (%zu of %zu)", n, i,
                      to->got, from->total);
        cr_assert(to->got_fin || to->got_reset || to->has_reset, "seed %llu: no end at %u", n, i);
        if (lossless)
            cr_assert(to->got_fin && !to->got_reset,
                      "seed %llu: not clean at end %u (%zu of %zu): %d, %u rebinds", n, i, to->got,
                      from->total, rig->relay.error, rig->rebinds);
    }
}

static size_t random_total(struct random *random)
{
    static const size_t sizes[] = {0, 1, 100, 16384, 65536, 300000, 1500000};
    size_t below = sizes[random_below(random, ARRAY_SIZE(sizes))];
    return below == 0 ? 0 : random_below(random, below + 1);
}

static struct fake_faults transient_faults(struct random *random)
{
    return (struct fake_faults){
        .delay = (unsigned int)random_below(random, 500),
        .reorder = 500,
        .short_count = (unsigned int)random_below(random, 400),
        .eintr = (unsigned int)random_below(random, 60),
        .eagain = (unsigned int)random_below(random, 60),
        .enobufs = (unsigned int)random_below(random, 100),
        .lost_cancel = 500,
    };
}

static void rig_plan(struct rig *rig)
{
    struct random *random = &rig->random;
    for (unsigned int i = 0; i < 2; i++) {
        struct peer *peer = &rig->peers[i];
        peer->total = random_total(random);
        if (random_permille(random, 300))
            peer->stalled_turns = (unsigned int)random_below(random, 200);
        if (random_permille(random, 300))
            peer->chunk_max = 1 + random_below(random, 20000);
    }
    rig->options.idle_timeout_ms = random_permille(random, 500) ? 3600000 : 0;
    rig->moves = random_permille(random, 400);
    rig->later = random_permille(random, 500);
    fake_loop_set_busy(rig->loop, random_permille(random, 500) ? 1000 : 0);
}

/* ---- the seeded runs ---- */

static void run_transient(uint64_t seed)
{
    struct rig rig;
    rig_init(&rig, seed, seed % 3 == 0 ? 4096 : 0);
    struct fake_faults faults = transient_faults(&rig.random);
    fake_loop_set_faults(rig.loop, &faults);
    rig_plan(&rig);
    if (seed % 2 == 0)
        rig_use_prefix(&rig);
    relay_start(&rig.relay, &rig.options);
    cr_assert(rig_run(&rig), "seed %llu: a stall; %zu of %zu and %zu of %zu bytes",
              (unsigned long long)seed, rig.peers[1].got, rig.peers[0].total, rig.peers[0].got,
              rig.peers[1].total);
    rig_judge(&rig, seed, true);
    rig_finish(&rig, seed);
}

static void run_deadly(uint64_t seed)
{
    struct rig rig;
    rig_init(&rig, seed, seed % 3 == 0 ? 4096 : 0);
    struct fake_faults faults = transient_faults(&rig.random);
    unsigned int rate = (unsigned int)random_below(&rig.random, 30);
    switch (seed % 4) {
    case 0:
        faults.reset = rate;
        break;
    case 1:
        faults.epipe = rate;
        break;
    case 2:
        faults.enomem = rate;
        break;
    default:
        break;
    }
    fake_loop_set_faults(rig.loop, &faults);
    rig_plan(&rig);
    if (random_permille(&rig.random, 500))
        rig_use_prefix(&rig);
    if (seed % 4 == 3) {
        struct peer *peer = &rig.peers[random_below(&rig.random, 2)];
        peer->reset_at = random_below(&rig.random, peer->total + 1);
    }
    relay_start(&rig.relay, &rig.options);
    cr_assert(rig_run(&rig), "seed %llu: a stall: state %u, error %d; in flight %zu",
              (unsigned long long)seed, rig.relay.state, rig.relay.error,
              fake_loop_in_flight(rig.loop));
    rig_judge(&rig, seed, fake_loop_deadly_count(rig.loop) == 0 && seed % 4 != 3);
    rig_finish(&rig, seed);
}

static void run_seeds(void (*run)(uint64_t seed), uint64_t first, uint64_t count)
{
    uint64_t only = env_number("RELAY_SEED", 0);
    if (only != 0) {
        run(only);
        return;
    }
    for (uint64_t seed = first; seed < first + count; seed++)
        run(seed);
}

Test(relay, transient_faults_lose_nothing)
{
    run_seeds(run_transient, 1, 1500);
}

Test(relay, deadly_faults_show)
{
    run_seeds(run_deadly, 100001, 2000);
}

/* ---- rebinding: end 1 is reset before its first byte ---- */

static void run_rebind(uint64_t seed)
{
    struct rig rig;
    rig_init(&rig, seed, 0);
    struct fake_faults faults = {.delay = (unsigned int)random_below(&rig.random, 500),
                                 .reorder = 500,
                                 .lost_cancel = 500};
    fake_loop_set_faults(rig.loop, &faults);
    rig_use_prefix(&rig);
    rig.peers[0].total = random_below(&rig.random, 9000);
    rig.peers[0].chunk_max = rig.peers[0].total + 1;
    rig.peers[1].total = random_below(&rig.random, 9000);
    rig.peers[1].reset_at = 0;
    rig.rebinds_max = 1 + (unsigned int)(seed % 2);
    rig.later = seed % 3 == 0;
    /* All of the visitor's first bytes in one read, or the relay rightly gives up. */
    while (!rig.peers[0].fin_sent)
        peer_step(&rig.peers[0], UINT64_MAX);
    rig.peers[1].stalled_turns = UINT32_MAX;
    if (seed % 2 == 0)
        peer_step(&rig.peers[1], 0); /* a stale channel from the start */
    relay_start(&rig.relay, &rig.options);
    cr_assert(rig_run(&rig), "seed %llu: a stall", (unsigned long long)seed);
    rig_judge(&rig, seed, true);
    cr_assert_eq(rig.rebinds, rig.rebinds_max, "seed %llu", (unsigned long long)seed);
    rig_finish(&rig, seed);
}

Test(relay, rebind_replays_the_first_bytes)
{
    run_seeds(run_rebind, 200001, 500);
}

/* The window for it is 2 s, also when the replacement took longer and nothing was kept yet. */
Test(relay, rebind_window_ends)
{
    struct rig rig;
    rig_init(&rig, 1, 0);
    rig_use_prefix(&rig);
    rig.later = true;
    relay_start(&rig.relay, &rig.options);
    rig.peers[1].reset_at = 0;
    peer_step(&rig.peers[1], 0);
    for (int i = 0; i < 10 && rig.rebinds == 0; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_assert_eq(rig.rebinds, 1);
    fake_loop_advance_ms(rig.loop, LIMIT_REPLAY_MS + 1000);
    cr_assert_eq(loop_run_once(rig.loop), 0);
    rig.pending_rebind = -1;
    relay_rebind(&rig.relay, (struct transport){.fd = rig.options.fds[1]});
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    fake_loop_advance_ms(rig.loop, LIMIT_REPLAY_MS + 1000);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    /* A request now, and a loss much later: a second service must not get the same request. */
    cr_assert_eq(send(rig.peers[0].fd, "x", 1, 0), 1);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_expect_eq(rig.engine.replay_bytes, 0, "kept beyond its time");
    tcp_abort_on_close(rig.peers[1].fd);
    peer_close(&rig.peers[1]);
    for (int i = 0; i < 20; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_expect(rig.closed);
    cr_expect_eq(rig.rebinds, 1, "the request was sent twice");
}

/* A send that meets the reset first takes the error out of the socket; the read of end 1 then sees
 * an end of stream, which is not the service's answer. */
Test(relay, rebind_when_the_send_sees_the_reset)
{
    struct rig rig;
    rig_init(&rig, 1, 0);
    rig_use_prefix(&rig);
    relay_start(&rig.relay, &rig.options);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    rig.peers[0].total = rig.peers[0].chunk_max = 50;
    rig.peers[1].total = 10;
    while (!rig.peers[0].fin_sent)
        peer_step(&rig.peers[0], UINT64_MAX - 1);
    struct peer *stale = &rig.peers[1];
    stale->reset_at = 0;
    tcp_abort_on_close(stale->fd);
    peer_close(stale);
    /* Only the visitor's read runs this turn: ops are taken in the order they were started, and end
     * 1's was started first, so let it lose its turn. */
    struct fake_faults faults = {.delay = 500, .reorder = 1000, .lost_cancel = 1000};
    fake_loop_set_faults(rig.loop, &faults);
    cr_assert(rig_run(&rig));
    rig_judge(&rig, 1, true);
    rig_finish(&rig, 1);
}

/* ---- single properties ---- */

static void settle(struct rig *rig, int turns)
{
    for (int i = 0; i < turns; i++)
        cr_assert_eq(loop_run_once(rig->loop), 0);
}

static void fill(int fd)
{
    static const char block[65536];
    while (send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
}

static void fill_through(struct rig *rig, unsigned int end)
{
    for (int i = 0; i < 400; i++) {
        fill(rig->peers[end].fd);
        settle(rig, 2);
    }
}

static ssize_t read_some(int fd)
{
    char bytes[65536];
    ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}

/* A sink that does not read, and a source that is reset meanwhile: seen at once. */
static void blocked_source_resets(bool small, unsigned int source)
{
    struct rig rig;
    rig_init(&rig, 7, 4096);
    relay_start(&rig.relay, &rig.options);
    if (small)
        fake_loop_set_faults(rig.loop, &(struct fake_faults){.short_count = 1000});
    fill_through(&rig, source);
    cr_assert_not(rig.closed);
    tcp_abort_on_close(rig.peers[source].fd);
    peer_close(&rig.peers[source]);
    settle(&rig, 10);
    cr_assert(rig.closed);
    peer_drain(&rig.peers[1 - source]);
    rig.peers[1 - source].corrupt = false;
    cr_assert(rig.peers[1 - source].got_reset);
    rig_finish(&rig, 7);
}

Test(relay, blocked_source_resets)
{
    blocked_source_resets(false, 0);
    blocked_source_resets(false, 1);
    blocked_source_resets(true, 0);
    blocked_source_resets(true, 1);
}

/* After an end of stream the other direction lives on, and a reset of the silent end is seen. */
static void half_close(unsigned int end)
{
    struct rig rig;
    rig_init(&rig, 9, 0);
    relay_start(&rig.relay, &rig.options);
    struct peer *a = &rig.peers[end], *b = &rig.peers[1 - end];
    (void)shutdown(a->fd, SHUT_WR);
    settle(&rig, 5);
    cr_assert_eq(read_some(b->fd), 0);
    cr_assert_eq(send(b->fd, "late", 4, 0), 4);
    settle(&rig, 5);
    cr_assert_eq(read_some(a->fd), 4);
    cr_assert_not(rig.closed);
    if (end == 0) {
        (void)shutdown(b->fd, SHUT_WR);
        settle(&rig, 10);
        cr_assert_eq(read_some(a->fd), 0);
    } else {
        tcp_abort_on_close(a->fd);
        peer_close(a);
        settle(&rig, 10);
        /* Nobody watches an end that is only written to; the next write tells. */
        (void)send(b->fd, "more", 4, MSG_NOSIGNAL);
        settle(&rig, 10);
        cr_assert_lt(socket_take_error(b->fd), 0);
    }
    cr_assert(rig.closed);
    rig_finish(&rig, 9);
}

Test(relay, half_close)
{
    half_close(0);
    half_close(1);
}

Test(relay, promotion_and_demotion)
{
    struct rig rig;
    rig_init(&rig, 3, 0);
    relay_start(&rig.relay, &rig.options);
    for (int i = 0; i < 200; i++) {
        static const char block[65536];
        (void)send(rig.peers[0].fd, block, sizeof(block), MSG_DONTWAIT);
        settle(&rig, 1);
        (void)read_some(rig.peers[1].fd);
    }
    cr_assert_eq(relay_engine_bulk_flows(&rig.engine), 1);
    cr_assert_gt(metrics_get(&rig.metrics, METRIC_BYTES_SPLICED), 0);
    while (read_some(rig.peers[1].fd) > 0)
        settle(&rig, 3);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(send(rig.peers[0].fd, "ping", 4, 0), 4);
        settle(&rig, 3);
        (void)read_some(rig.peers[1].fd);
    }
    cr_assert_eq(relay_engine_bulk_flows(&rig.engine), 0);
    cr_assert_gt(metrics_get(&rig.metrics, METRIC_DEMOTIONS), 0);
    relay_terminate(&rig.relay);
    settle(&rig, 10);
    rig_finish(&rig, 3);
}

/* ---- time ---- */

Test(relay, idle_timeout)
{
    struct rig rig;
    rig_init(&rig, 5, 0);
    rig.options.idle_timeout_ms = 60000;
    relay_start(&rig.relay, &rig.options);
    settle(&rig, 3);
    fake_loop_advance_ms(rig.loop, 50000);
    cr_assert_eq(send(rig.peers[1].fd, "still here", 10, 0), 10);
    settle(&rig, 3);
    fake_loop_advance_ms(rig.loop, 50000);
    settle(&rig, 3);
    cr_assert_not(rig.closed);
    fake_loop_advance_ms(rig.loop, 11000);
    settle(&rig, 10);
    cr_assert(rig.closed);
    cr_assert_eq(metrics_get(&rig.metrics, METRIC_RELAYS_IDLE_TIMEOUT), 1);
    (void)read_some(rig.peers[0].fd);
    cr_assert_eq(read_some(rig.peers[1].fd), -ECONNRESET);
    rig_finish(&rig, 5);
}

/* A slow reader of a large backlog is not idle: bytes move, although none are read from the
 * source. */
Test(relay, a_slow_sink_is_not_idle)
{
    struct rig rig;
    rig_init(&rig, 6, 0);
    rig.options.idle_timeout_ms = 60000;
    relay_start(&rig.relay, &rig.options);
    fake_loop_set_idle_step_ms(rig.loop, 0);
    fill_through(&rig, 0);
    uint64_t read_in = relay_bytes(&rig.relay, 0);
    /* 4 KiB in 10 s, and the pipe holds hundreds: for minutes nothing is read from the source. */
    for (int i = 0; i < 30; i++) {
        fake_loop_advance_ms(rig.loop, 10000);
        for (int part = 0; part < 32; part++) {
            char bytes[8192];
            (void)recv(rig.peers[1].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
            settle(&rig, 1);
        }
        cr_assert_not(rig.closed, "a transfer in progress was cut after %d s", (i + 1) * 10);
        if (relay_bytes(&rig.relay, 0) != read_in)
            break;
    }
    relay_terminate(&rig.relay);
    settle(&rig, 10);
}

/* ---- A09: sinks that do not read must not take the buffers of the others ---- */

enum { STUCK_COUNT = 16 };

struct many {
    struct relay relay;
    bool closed;
};

static void many_closed(struct relay *relay)
{
    container_of(relay, struct many, relay)->closed = true;
}

static const struct relay_ops many_ops = {.closed = many_closed};

Test(relay, stuck_sinks_leave_buffers_to_others)
{
    struct rig rig; /* its relay is the one that must go on; the ring has 8 buffers */
    rig_init(&rig, 8, 0);
    static struct many many[STUCK_COUNT];
    int outer[STUCK_COUNT][2];
    relay_engine_finish(&rig.engine);
    cr_assert_eq(relay_engine_init(&rig.engine, rig.loop, 0), 0); /* copies only */
    for (int i = 0; i < STUCK_COUNT; i++) {
        int fds[2][2];
        tcp_pair(fds[0], 4096);
        tcp_without_pacing(fds[0]);
        tcp_pair(fds[1], 4096);
        tcp_without_pacing(fds[1]);
        struct relay_options options = {.engine = &rig.engine,
                                        .ops = &many_ops,
                                        .fds = {fds[0][1], fds[1][1]}};
        outer[i][0] = fds[0][0];
        outer[i][1] = fds[1][0];
        relay_start(&many[i].relay, &options);
    }
    relay_start(&rig.relay, &rig.options);
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < STUCK_COUNT; i++)
            fill(outer[i][0]);
        settle(&rig, 2);
    }
    ssize_t got = 0;
    cr_assert_eq(send(rig.peers[0].fd, "ping", 4, 0), 4);
    for (int i = 0; i < 200 && got <= 0; i++) {
        settle(&rig, 1);
        got = read_some(rig.peers[1].fd);
    }
    cr_expect_eq(got, 4, "a flow starves: %u buffers lent", fake_loop_lent(rig.loop));
    for (int i = 0; i < STUCK_COUNT; i++) {
        relay_terminate(&many[i].relay);
        (void)close(outer[i][0]);
        (void)close(outer[i][1]);
    }
    relay_terminate(&rig.relay);
    settle(&rig, 20);
    rig_finish(&rig, 8);
}
