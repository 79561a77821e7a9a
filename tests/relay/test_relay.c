/* Relays on the fake loop: thousands of seeded transfers under every fault that the kernel may
 * show. The promise: both peers get all bytes and an end of stream, or they see a reset; and
 * nothing is leaked. RELAY_SEED=N runs only the transfers of one seed. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/pipe_pool.h"
#include "io/socket.h"
#include "relay_rig.h"

/* ---- the seeded runs ---- */

static void run_transient(uint64_t seed)
{
    struct rig rig;
    rig_init(&rig, seed, seed % 3 == 0 ? 4096 : 0);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
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
    struct fake_faults faults = rig_transient_faults(&rig.random);
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
    rig_set_faults(&rig, &faults);
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

Test(relay, transient_faults_lose_nothing)
{
    run_seeds(run_transient, 1, 1500);
}

Test(relay, deadly_faults_show)
{
    run_seeds(run_deadly, 100001, 2000);
}

/* ---- the service end is reset before its first byte: nothing is sent again ---- */

static void run_loss(uint64_t seed)
{
    struct rig rig;
    rig_init(&rig, seed, 0);
    struct fake_faults faults = {.delay = (unsigned int)random_below(&rig.random, 500),
                                 .reorder = 500,
                                 .lost_cancel = 500,
                                 .crowded = 500};
    rig_set_faults(&rig, &faults);
    rig_use_prefix(&rig);
    rig.peers[0].total = random_below(&rig.random, 9000);
    rig.peers[0].chunk_max = rig.peers[0].total + 1;
    rig.peers[1].total = random_below(&rig.random, 9000);
    rig.peers[1].reset_at = 0;
    while (!rig.peers[0].fin_sent)
        peer_step(&rig.peers[0], UINT64_MAX);
    rig.peers[1].stalled_turns = UINT32_MAX;
    if (seed % 2 == 0)
        peer_step(&rig.peers[1], 0); /* the channel is reset before the relay starts */
    relay_start(&rig.relay, &rig.options);
    cr_assert(rig_run(&rig), "seed %llu: a stall", (unsigned long long)seed);
    rig_judge(&rig, seed, false);
    cr_assert(rig.peers[0].got_reset, "seed %llu", (unsigned long long)seed);
    rig_finish(&rig, seed);
}

Test(relay, a_lost_end_is_the_relays_end)
{
    run_seeds(run_loss, 200001, 500);
}

/* After a failed send has consumed SO_ERROR, recv() on the reset data channel returns 0. The relay
 * must not take that for the service's end of stream. */
Test(relay, a_send_sees_the_reset)
{
    struct rig rig;
    rig_init(&rig, 1, 0);
    rig_use_prefix(&rig);
    relay_start(&rig.relay, &rig.options);
    rig_turns(&rig, 5);
    rig.peers[0].total = rig.peers[0].chunk_max = 50;
    rig.peers[1].total = 10;
    while (!rig.peers[0].fin_sent)
        peer_step(&rig.peers[0], UINT64_MAX - 1);
    struct peer *lost = &rig.peers[1];
    lost->reset_at = 0;
    tcp_abort_on_close(lost->fd);
    peer_close(lost);
    /* Reordered ops, so that the visitor end's read, which sends, may run before the service end's
     * read. */
    struct fake_faults faults = {.delay = 500, .reorder = 1000, .lost_cancel = 1000};
    rig_set_faults(&rig, &faults);
    for (int i = 0; i < 1000 && !rig.closed; i++)
        rig_turn(&rig);
    cr_assert(rig.closed);
    rig_turns(&rig, 5); /* the sockets are closed */
    peer_drain(&rig.peers[0]);
    cr_assert(rig.peers[0].got_reset && !rig.peers[0].got_fin);
    rig_finish(&rig, 1);
}

/* ---- single properties ---- */

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
        rig_turns(rig, 2);
    }
}

static ssize_t read_some(int fd)
{
    char bytes[65536];
    ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}

/* The source is reset while the sink does not read: the relay sees it at once. */
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
    rig_turns(&rig, 10);
    cr_assert(rig.closed);
    peer_drain(&rig.peers[1 - source]);
    rig.peers[1 - source].corrupt = false;
    cr_assert(rig.peers[1 - source].got_reset);
    rig_finish(&rig, 7);
}

Test(relay, blocked_source_resets)
{
    blocked_source_resets(false, RELAY_VISITOR_END);
    blocked_source_resets(false, RELAY_SERVICE_END);
    blocked_source_resets(true, RELAY_VISITOR_END);
    blocked_source_resets(true, RELAY_SERVICE_END);
}

/* After an end of stream the other direction goes on, and a later reset of the half-closed end is
 * seen. */
static void half_close(unsigned int end)
{
    struct rig rig;
    rig_init(&rig, 9, 0);
    relay_start(&rig.relay, &rig.options);
    struct peer *a = &rig.peers[end], *b = &rig.peers[1 - end];
    (void)shutdown(a->fd, SHUT_WR);
    rig_turns(&rig, 5);
    cr_assert_eq(read_some(b->fd), 0);
    cr_assert_eq(send(b->fd, "late", 4, 0), 4);
    rig_turns(&rig, 5);
    cr_assert_eq(read_some(a->fd), 4);
    cr_assert_not(rig.closed);
    if (end == RELAY_VISITOR_END) {
        (void)shutdown(b->fd, SHUT_WR);
        rig_turns(&rig, 10);
        cr_assert_eq(read_some(a->fd), 0);
    } else {
        tcp_abort_on_close(a->fd);
        peer_close(a);
        rig_turns(&rig, 10);
        /* No poll watches the half-closed end yet, so the next write finds the reset. */
        (void)send(b->fd, "more", 4, MSG_NOSIGNAL);
        rig_turns(&rig, 10);
        cr_assert_lt(socket_take_error(b->fd), 0);
    }
    cr_assert(rig.closed);
    rig_finish(&rig, 9);
}

Test(relay, half_close)
{
    half_close(RELAY_VISITOR_END);
    half_close(RELAY_SERVICE_END);
}

/* The source half-closes while the sink does not read. That is no sign that it has gone, so the
 * service may take its time for the answer. */
Test(relay, a_blocked_source_half_closes)
{
    struct rig rig;
    rig_init(&rig, 8, 0);
    relay_start(&rig.relay, &rig.options);
    /* In small parts, so that the end of stream finds room behind the last one. */
    uint64_t sent = 0;
    while (sent == relay_bytes(&rig.relay, RELAY_VISITOR_END)) {
        static const char block[4096];
        cr_assert_eq(send(rig.peers[RELAY_VISITOR_END].fd, block, sizeof(block), 0), 4096);
        sent += sizeof(block);
        rig_turns(&rig, 5);
    }
    (void)shutdown(rig.peers[RELAY_VISITOR_END].fd, SHUT_WR);
    rig_turns(&rig, 10);
    ssize_t got = 1;
    for (int i = 0; i < 100000 && got != 0; i++) {
        got = read_some(rig.peers[RELAY_SERVICE_END].fd);
        rig_turns(&rig, 1);
    }
    cr_assert_eq(got, 0);
    for (int i = 0; i < 3; i++) {
        fake_loop_advance_ms(rig.loop, LIMIT_GONE_MS);
        rig_turns(&rig, 10);
    }
    cr_assert_not(rig.closed);
    cr_assert_eq(send(rig.peers[RELAY_SERVICE_END].fd, "late", 4, 0), 4);
    rig_turns(&rig, 5);
    cr_assert_eq(read_some(rig.peers[RELAY_VISITOR_END].fd), 4);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 8);
}

Test(relay, promotion_and_demotion)
{
    struct rig rig;
    rig_init(&rig, 3, 0);
    relay_start(&rig.relay, &rig.options);
    for (int i = 0; i < 200; i++) {
        static const char block[65536];
        (void)send(rig.peers[0].fd, block, sizeof(block), MSG_DONTWAIT);
        rig_turns(&rig, 1);
        (void)read_some(rig.peers[1].fd);
    }
    cr_assert_eq(relay_engine_bulk_flows(&rig.engine), 1);
    cr_assert_gt(metrics_get(&rig.metrics, METRIC_BYTES_SPLICED), 0);
    while (read_some(rig.peers[1].fd) > 0)
        rig_turns(&rig, 3);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(send(rig.peers[0].fd, "ping", 4, 0), 4);
        rig_turns(&rig, 3);
        (void)read_some(rig.peers[1].fd);
    }
    cr_assert_eq(relay_engine_bulk_flows(&rig.engine), 0);
    cr_assert_gt(metrics_get(&rig.metrics, METRIC_DEMOTIONS), 0);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 3);
}

static void pass_blocks(struct rig *rig, int count)
{
    static const char block[65536];
    for (int i = 0; i < count; i++) {
        (void)send(rig->peers[0].fd, block, sizeof(block), MSG_DONTWAIT);
        rig_turns(rig, 1);
        (void)read_some(rig->peers[1].fd);
    }
}

Test(relay, a_bulk_flow_is_asked_for_its_place_again)
{
    struct rig rig;
    rig_init(&rig, 3, 0);
    relay_start(&rig.relay, &rig.options);
    pass_blocks(&rig, 100);
    cr_assert_eq(rig.asked[true], 1);
    unsigned int asked = rig.asked[false];
    for (unsigned int i = 1; i <= 5; i++) {
        fake_loop_advance_ms(rig.loop, LIMIT_PLACE_MS);
        pass_blocks(&rig, 10);
        cr_assert_eq(rig.asked[false], asked + i, "once in this time");
    }
    relay_engine_stay(&rig.engine);
    fake_loop_advance_ms(rig.loop, LIMIT_STAY_MS / 2);
    pass_blocks(&rig, 10);
    cr_assert_eq(rig.asked[false], asked + 5, "a move has failed");
    fake_loop_advance_ms(rig.loop, LIMIT_STAY_MS / 2);
    pass_blocks(&rig, 10);
    cr_assert_eq(rig.asked[false], asked + 6);
    cr_assert_eq(rig.asked[true], 1);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 3);
}

/* ---- urgent bytes ---- */

static void make_bulk(struct rig *rig, unsigned int end)
{
    static const char block[65536];
    for (int i = 0; i < 200 && relay_engine_bulk_flows(&rig->engine) == 0; i++) {
        (void)send(rig->peers[end].fd, block, sizeof(block), MSG_DONTWAIT);
        rig_turns(rig, 1);
        (void)read_some(rig->peers[1 - end].fd);
    }
    for (int i = 0; i < 200; i++) {
        rig_turns(rig, 1);
        (void)read_some(rig->peers[1 - end].fd);
    }
    cr_assert_eq(relay_engine_bulk_flows(&rig->engine), 1);
}

/* splice(2) never passes the urgent mark: it returns -EAGAIN there, or 0 after the peer's FIN. The
 * relay must pass on the urgent byte, at its place, and the bytes behind it. */
static void urgent_bytes(unsigned int end, bool half_closed, int urgent)
{
    struct rig rig;
    rig_init(&rig, 4, 0);
    int inlined = 1;
    cr_assert_eq(setsockopt(rig.options.fds[end], SOL_SOCKET, SO_OOBINLINE, &inlined, sizeof(int)),
                 0);
    relay_start(&rig.relay, &rig.options);
    make_bulk(&rig, end);
    int from = rig.peers[end].fd, to = rig.peers[1 - end].fd;
    static unsigned char block[10000];
    memset(block, 'b', sizeof(block));
    for (int i = 0; i < urgent; i++)
        cr_assert_eq(send(from, "U", 1, MSG_OOB), 1);
    cr_assert_eq(send(from, block, sizeof(block), 0), (ssize_t)sizeof(block));
    if (half_closed)
        cr_assert_eq(shutdown(from, SHUT_WR), 0);
    rig_turns(&rig, 20);
    static unsigned char got[20000];
    size_t want = (size_t)urgent + sizeof(block);
    size_t size = 0;
    for (ssize_t part = 1; part > 0; size += (size_t)MAX(part, (ssize_t)0))
        part = recv(to, got + size, sizeof(got) - size, MSG_DONTWAIT);
    cr_assert_eq(size, want, "%zu of %zu", size, want);
    for (size_t i = 0; i < want; i++)
        cr_assert_eq(got[i], i < (size_t)urgent ? 'U' : 'b', "at %zu", i);
    cr_assert_eq(read_some(to), half_closed ? 0 : -EAGAIN);
    cr_assert_not(rig.closed);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 4);
}

Test(relay, urgent_bytes)
{
    for (unsigned int i = 0; i < 8; i++)
        urgent_bytes(i & 1, (i & 2) != 0, (i & 4) != 0 ? 5 : 1);
}

/* The service's answer and a reset have both arrived when the answer is read. The look for an end
 * of stream may clear SO_ERROR, and the next receive would return 0. */
Test(relay, a_reset_behind_the_first_bytes)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct rig rig;
        rig_init(&rig, seed, 0);
        if (seed % 2 == 0)
            rig_encrypt(&rig, RELAY_VISITOR_END);
        rig.options.expect_empty[RELAY_SERVICE_END] = true;
        relay_start(&rig.relay, &rig.options);
        rig_turns(&rig, 3);
        rig.peers[1].total = 100;
        rig.peers[1].reset_at = 6;
        peer_step(&rig.peers[1], UINT64_MAX - 1);
        cr_assert(rig.peers[1].has_reset);
        rig_turns(&rig, 10);
        cr_assert(rig.closed);
        peer_drain(&rig.peers[0]);
        cr_expect_eq(rig.peers[0].got, 6);
        cr_expect(rig.peers[0].got_reset && !rig.peers[0].got_fin, "a cut answer looks complete");
        rig_finish(&rig, seed);
    }
}

/* ---- time ---- */

Test(relay, idle_timeout)
{
    struct rig rig;
    rig_init(&rig, 5, 0);
    rig.options.idle_timeout_ms = 60000;
    relay_start(&rig.relay, &rig.options);
    rig_turns(&rig, 3);
    fake_loop_advance_ms(rig.loop, 50000);
    cr_assert_eq(send(rig.peers[1].fd, "still here", 10, 0), 10);
    rig_turns(&rig, 3);
    fake_loop_advance_ms(rig.loop, 50000);
    rig_turns(&rig, 3);
    cr_assert_not(rig.closed);
    fake_loop_advance_ms(rig.loop, 11000);
    rig_turns(&rig, 10);
    cr_assert(rig.closed);
    cr_assert_eq(metrics_get(&rig.metrics, METRIC_RELAYS_IDLE_TIMEOUT), 1);
    (void)read_some(rig.peers[0].fd);
    cr_assert_eq(read_some(rig.peers[1].fd), -ECONNRESET);
    rig_finish(&rig, 5);
}

/* A relay with a slow reader and a large backlog is not idle: bytes leave, even while none are read
 * from the source. */
Test(relay, a_slow_sink_is_not_idle)
{
    struct rig rig;
    rig_init(&rig, 6, 0);
    rig.options.idle_timeout_ms = 60000;
    relay_start(&rig.relay, &rig.options);
    fake_loop_set_idle_step_ms(rig.loop, 0);
    fill_through(&rig, RELAY_VISITOR_END);
    uint64_t read_in = relay_bytes(&rig.relay, RELAY_VISITOR_END);
    /* The pipe holds much more than the peer reads in 10 s: for minutes nothing is read from the
     * source. */
    for (int i = 0; i < 30; i++) {
        fake_loop_advance_ms(rig.loop, 10000);
        for (int part = 0; part < 32; part++) {
            char bytes[8192];
            (void)recv(rig.peers[1].fd, bytes, sizeof(bytes), MSG_DONTWAIT);
            rig_turns(&rig, 1);
        }
        cr_assert_not(rig.closed, "a transfer in progress was cut after %d s", (i + 1) * 10);
        if (relay_bytes(&rig.relay, RELAY_VISITOR_END) != read_in)
            break;
    }
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    rig_finish(&rig, 6);
}

/* ---- sinks that do not read must not hold the buffers of other relays (A09) ---- */

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
    struct rig rig; /* rig.relay has to go on; the ring has 8 buffers */
    rig_init(&rig, 8, 0);
    static struct many many[STUCK_COUNT];
    int outer[STUCK_COUNT][2];
    relay_engine_finish(&rig.engine);
    cr_assert_eq(relay_engine_init(&rig.engine, rig.loop, 0), 0); /* no pipes: copies only */
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
        rig_turns(&rig, 2);
    }
    ssize_t got = 0;
    cr_assert_eq(send(rig.peers[0].fd, "ping", 4, 0), 4);
    for (int i = 0; i < 200 && got <= 0; i++) {
        rig_turns(&rig, 1);
        got = read_some(rig.peers[1].fd);
    }
    cr_expect_eq(got, 4, "a flow starves: %u buffers lent", fake_loop_lent(rig.loop));
    for (int i = 0; i < STUCK_COUNT; i++) {
        relay_terminate(&many[i].relay);
        (void)close(outer[i][0]);
        (void)close(outer[i][1]);
    }
    relay_terminate(&rig.relay);
    rig_turns(&rig, 20);
    rig_finish(&rig, 8);
}
