/* Relays with one encrypted end, on the fake loop. They keep the promise of test_relay.c, and pass
 * on only frames that are complete and authentic. RELAY_SEED=N runs only one seed's
 * transfers. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "base/error.h"
#include "base/limits.h"
#include "io/socket.h"
#include "relay_rig.h"

/* ---- the seeded runs ---- */

static void begin(struct rig *rig, uint64_t seed, unsigned int end, int buffer_size)
{
    alloc_count_begin();
    rig_init(rig, seed, buffer_size);
    rig_encrypt(rig, end);
}

static void end_run(struct rig *rig, uint64_t seed)
{
    rig_finish(rig, seed);
    cr_assert_eq(alloc_blocks(), 0, "seed %llu: memory", (unsigned long long)seed);
}

/* Plans a transfer. Only a relay with an encrypted service end, as on a server, has a prefix. */
static void plan(struct rig *rig, uint64_t seed, unsigned int end)
{
    struct random *random = &rig->random;
    rig_plan(rig);
    for (unsigned int i = 0; i < 2; i++) { /* bound the time with small sockets or small steps */
        if (seed % 5 == 0)
            rig->peers[i].total %= 150000;
        rig->peers[i].chunk_max = MAX(rig->peers[i].chunk_max, (size_t)200);
    }
    if (random_permille(random, 500))
        rig_use_second_worker(rig);
    if (end == RELAY_SERVICE_END && seed % 3 != 0)
        rig_use_prefix(rig);
    if (random_permille(random, 300)) {
        size_t most = MIN(rig->peers[end].total, (size_t)30000);
        size_t early = random_below(random, most + 1), partial = 0;
        if (early < rig->peers[end].total)
            partial = random_below(random, NOISE_FRAME_OVERHEAD);
        rig_come_early(rig, end, early, partial);
    }
}

static void must_end(struct rig *rig, uint64_t seed)
{
    cr_assert(rig_run(rig), "seed %llu: a stall; state %u, %zu of %zu and %zu of %zu bytes",
              (unsigned long long)seed, rig->relay.state, rig->peers[1].got, rig->peers[0].total,
              rig->peers[0].got, rig->peers[1].total);
}

static void run_transient(uint64_t seed)
{
    struct rig rig;
    unsigned int end = (unsigned int)(seed % 2);
    begin(&rig, seed, end, seed % 5 == 0 ? 4096 : 0);
    plan(&rig, seed, end);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    must_end(&rig, seed);
    rig_judge(&rig, seed, true);
    end_run(&rig, seed);
}

Test(relay_noise, transient_faults_lose_nothing)
{
    run_seeds(run_transient, 1, 700);
}

static void run_deadly(uint64_t seed)
{
    struct rig rig;
    unsigned int end = (unsigned int)(seed / 4 % 2);
    begin(&rig, seed, end, seed % 5 == 0 ? 4096 : 0);
    plan(&rig, seed, end);
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
    default: {
        struct peer *peer = &rig.peers[random_below(&rig.random, 2)];
        peer->reset_at = peer->sent + random_below(&rig.random, peer->total - peer->sent + 1);
        break;
    }
    }
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    must_end(&rig, seed);
    rig_judge(&rig, seed, false);
    end_run(&rig, seed);
}

Test(relay_noise, deadly_faults_show)
{
    run_seeds(run_deadly, 100001, 900);
}

/* The n-th allocation fails: the transfer is reset, or completes. */
static bool run_without_memory(unsigned int n, unsigned int end)
{
    struct rig rig;
    begin(&rig, n, end, 4096);
    for (unsigned int i = 0; i < 2; i++)
        rig.peers[i].total = 90000;
    rig.peers[1 - end].stalled_turns = 30;
    if (end == RELAY_SERVICE_END)
        rig_use_prefix(&rig);
    rig_come_early(&rig, end, 100, 10);
    alloc_fail_nth(n);
    relay_start(&rig.relay, &rig.options);
    for (int turn = 0; turn < 400 && !alloc_has_failed(); turn++) {
        rig_turns(&rig, 1);
        alloc_pause(true);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig.peers[i], random_next(&rig.random));
        alloc_pause(false);
    }
    alloc_pause(true);
    must_end(&rig, n);
    alloc_pause(false);
    bool has_failed = alloc_has_failed();
    alloc_fail_nth(0);
    rig_judge(&rig, n, false);
    end_run(&rig, n);
    return has_failed;
}

Test(relay_noise, each_allocation_fails_once)
{
    for (unsigned int end = 0; end < 2; end++) {
        unsigned int n = 1;
        while (n < 60 && run_without_memory(n, end))
            n++;
        cr_assert_gt(n, 3, "only %u allocations: the test does not reach what it tests", n);
    }
}

/* ---- truncated and forged frames ---- */

/* The encrypted peer ends within its last frame. The other peer must see a reset, in every state of
 * the relay. */
static void run_cut(uint64_t seed)
{
    struct rig rig;
    unsigned int end = (unsigned int)(seed % 2);
    begin(&rig, seed, end, 0);
    plan(&rig, seed, end);
    struct peer *peer = &rig.peers[end];
    if (peer->sent < peer->total && peer->wire_size == 0)
        peer->cut = 1 + random_below(&rig.random, NOISE_FRAME_OVERHEAD);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    must_end(&rig, seed);
    rig_judge(&rig, seed, false);
    if (peer->cut > 0) {
        cr_assert(rig.peers[1 - end].got_reset && !rig.peers[1 - end].got_fin, "seed %llu",
                  (unsigned long long)seed);
        cr_assert_eq(rig.relay.error, ERR_TRUNCATED, "seed %llu: %d", (unsigned long long)seed,
                     rig.relay.error);
    }
    end_run(&rig, seed);
}

Test(relay_noise, a_truncation_becomes_a_reset)
{
    run_seeds(run_cut, 1, 400);
}

static void run_bad(uint64_t seed)
{
    struct rig rig;
    unsigned int end = (unsigned int)(seed % 2);
    begin(&rig, seed, end, 0);
    plan(&rig, seed, end);
    struct peer *peer = &rig.peers[end], *other = &rig.peers[1 - end];
    if (peer->sent < peer->total && peer->wire_size == 0)
        peer->bad_at = peer->sent + random_below(&rig.random, peer->total - peer->sent);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    must_end(&rig, seed);
    rig_judge(&rig, seed, false);
    if (peer->bad_at != SIZE_MAX) {
        cr_assert(other->got_reset && !other->got_fin, "seed %llu", (unsigned long long)seed);
        cr_assert_leq(other->got, other->skip + peer->sent_before_bad, "seed %llu",
                      (unsigned long long)seed);
        cr_assert_eq(rig.relay.error, -EBADMSG, "seed %llu", (unsigned long long)seed);
        cr_assert_eq(metrics_get(&rig.metrics, METRIC_FRAMES_REFUSED), 1);
    }
    end_run(&rig, seed);
}

Test(relay_noise, a_changed_frame_becomes_a_reset)
{
    run_seeds(run_bad, 1, 400);
}

/* The other direction becomes bulk, so the relay is detaching for a move to another worker when it
 * reads an end of stream within a frame. */
static void run_cut_while_moving(uint64_t seed)
{
    struct rig rig;
    begin(&rig, seed, RELAY_SERVICE_END, 0);
    struct fake_faults faults = {.lost_cancel = 1000, .reorder = 1000, .delay = 300};
    rig.moves = true;
    rig.peers[0].total = rig.peers[1].total = 10 * LIMIT_BUFFER_SIZE;
    rig.peers[0].chunk_max = LIMIT_BUFFER_SIZE;
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    peer_seal(&rig.peers[1], 100);
    cr_assert_eq(send(rig.peers[1].fd, rig.peers[1].wire, 20, 0), 20);
    rig_turns(&rig, 10);
    for (int i = 0; i < 60 && !rig.closed; i++) {
        if (i == (int)(seed % 12))
            (void)shutdown(rig.peers[1].fd, SHUT_WR);
        if (rig.peers[0].sent < rig.peers[0].total)
            peer_step(&rig.peers[0], UINT64_MAX - UINT64_MAX % LIMIT_BUFFER_SIZE - 1);
        rig_turns(&rig, 1);
    }
    rig_turns(&rig, 2);
    peer_drain(&rig.peers[0]);
    cr_assert_not(rig.peers[0].got_fin, "seed %llu: a truncated answer looks complete",
                  (unsigned long long)seed);
    cr_assert(rig.peers[0].got_reset && rig.closed, "seed %llu", (unsigned long long)seed);
    cr_assert_eq(rig.relay.error, ERR_TRUNCATED, "seed %llu", (unsigned long long)seed);
    end_run(&rig, seed);
}

Test(relay_noise, a_truncation_during_a_move)
{
    run_seeds(run_cut_while_moving, 1, 400);
}

/* ---- single properties ---- */

/* The two directions end one after the other; the encrypted end is the first or the last. */
static void half_close(unsigned int encrypted, unsigned int first)
{
    struct rig rig;
    begin(&rig, 1, encrypted, 0);
    relay_start(&rig.relay, &rig.options);
    struct peer *a = &rig.peers[first], *b = &rig.peers[1 - first];
    a->total = 1000;
    for (int i = 0; i < 20 && !b->got_fin; i++) {
        peer_step(a, UINT64_MAX);
        rig_turns(&rig, 2);
        peer_drain(b);
        b->got_reset = false;
    }
    cr_assert(b->got_fin && b->got == 1000 && !b->corrupt && !rig.closed);
    b->total = 50000;
    cr_assert(rig_run(&rig));
    rig_judge(&rig, 1, true);
    cr_assert_eq(a->got, 50000);
    end_run(&rig, 1);
}

Test(relay_noise, half_close)
{
    for (unsigned int i = 0; i < 4; i++)
        half_close(i / 2, i % 2);
}

/* A bulk flow moves large batches, without pipes. */
static void promotion(unsigned int encrypted, unsigned int from)
{
    struct rig rig;
    begin(&rig, 3, encrypted, 0);
    relay_start(&rig.relay, &rig.options);
    struct peer *source = &rig.peers[from], *sink = &rig.peers[1 - from];
    source->total = SIZE_MAX / 2;
    for (int i = 0; i < 200; i++) {
        peer_step(source, UINT64_MAX - 1);
        rig_turns(&rig, 1);
        peer_step(sink, UINT64_MAX >> 33);
        sink->fin_sent = true; /* makes it only read */
    }
    cr_assert_eq(relay_engine_bulk_flows(&rig.engine), 1);
    cr_assert_gt(metrics_get(&rig.metrics, METRIC_BYTES_BULK_COPIED), 0);
    cr_assert_eq(metrics_get(&rig.metrics, METRIC_BYTES_SPLICED), 0);
    cr_assert_not(sink->corrupt);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    cr_assert(rig.closed);
    end_run(&rig, 3);
}

Test(relay_noise, promotion)
{
    for (unsigned int i = 0; i < 4; i++)
        promotion(i / 2, i % 2);
}

/* While the sink does not read, the flow keeps only the rest of its batch. */
static void blocked_sink(unsigned int encrypted, unsigned int from)
{
    struct rig rig;
    begin(&rig, 4, encrypted, 4096);
    relay_start(&rig.relay, &rig.options);
    struct peer *source = &rig.peers[from], *sink = &rig.peers[1 - from];
    source->total = 600000;
    sink->stalled_turns = 300;
    size_t idle = alloc_bytes();
    for (int i = 0; i < 200; i++) {
        peer_step(source, UINT64_MAX - 1);
        rig_turns(&rig, 1);
    }
    cr_assert_not(loop_op_is_idle(&rig.relay.flow[from].write_op), "it waits for its sink");
    cr_assert_eq(fake_loop_lent(rig.loop), 0);
    cr_assert_leq(alloc_bytes() - idle, (size_t)NOISE_BATCH_CODED + 2 * NOISE_MESSAGE_MAX);
    cr_assert(rig_run(&rig));
    rig_judge(&rig, 4, true);
    end_run(&rig, 4);
}

Test(relay_noise, blocked_sinks)
{
    for (unsigned int i = 0; i < 4; i++)
        blocked_sink(i / 2, i % 2);
}

/* An idle relay holds its two keys and no buffer. */
Test(relay_noise, an_idle_relay_holds_nothing)
{
    struct rig rig;
    begin(&rig, 5, 0, 0);
    size_t before = alloc_bytes();
    relay_start(&rig.relay, &rig.options);
    for (unsigned int i = 0; i < 2; i++) {
        rig.peers[i].total = 300000;
        rig.peers[i].reset_at = SIZE_MAX - 1; /* never reached: the peer just sends no FIN */
    }
    for (int i = 0; i < 300; i++) {
        for (unsigned int end = 0; end < 2; end++)
            peer_step(&rig.peers[end], (uint64_t)40000 << 32 | 65535);
        rig_turns(&rig, 1);
    }
    cr_assert(rig.peers[0].got == 300000 && rig.peers[1].got == 300000 && !rig.closed);
    cr_assert_leq(alloc_bytes(), before);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    end_run(&rig, 5);
}

/* When the nonces of a connection are used up, both ends are reset, even if that happens while the
 * prefix is sent. */
static void counters_end(bool at_start, bool with_prefix)
{
    struct rig rig;
    begin(&rig, 6, RELAY_SERVICE_END, 0);
    noise_of(rig.options.links[RELAY_SERVICE_END])->send.nonce = UINT64_MAX - (at_start ? 0 : 1);
    noise_of(rig.peers[1].link)->receive.nonce = UINT64_MAX - 1;
    rig.peers[0].total = 500;
    rig.peers[0].chunk_max = 100;
    if (with_prefix)
        rig_use_prefix(&rig);
    relay_start(&rig.relay, &rig.options);
    for (int i = 0; i < 50; i++) {
        peer_step(&rig.peers[0], UINT64_MAX - 1);
        rig_turns(&rig, 2);
    }
    cr_assert(rig.closed);
    cr_assert_eq(rig.relay.error, -EOVERFLOW);
    end_run(&rig, 6);
}

Test(relay_noise, counters_end)
{
    for (unsigned int i = 0; i < 4; i++)
        counters_end(i / 2 == 0, i % 2 == 0);
}

/* The data channel is reset before its first byte, or within its first frame. The visitor gets a
 * reset, and the bytes that were sent to the channel are not sent again. */
Test(relay_noise, a_lost_end_is_the_relays_end)
{
    for (size_t size = 0; size < 100 + NOISE_FRAME_OVERHEAD; size += 39) {
        struct rig rig;
        begin(&rig, 7, RELAY_SERVICE_END, 0);
        rig_use_prefix(&rig);
        relay_start(&rig.relay, &rig.options);
        cr_assert_eq(send(rig.peers[0].fd, "request", 7, 0), 7);
        rig_turns(&rig, 5);
        rig.peers[1].total = 100;
        peer_seal(&rig.peers[1], 100);
        if (size > 0)
            cr_assert_eq(send(rig.peers[1].fd, rig.peers[1].wire, size, 0), (ssize_t)size);
        rig_turns(&rig, 5);
        tcp_abort_on_close(rig.peers[1].fd);
        peer_close(&rig.peers[1]);
        rig_turns(&rig, 20);
        cr_assert(rig.closed);
        peer_drain(&rig.peers[0]);
        cr_assert(rig.peers[0].got_reset && !rig.peers[0].got_fin);
        end_run(&rig, 7);
    }
}

/* Early bytes from the service end are written to a visitor end that is gone. That ends the relay
 * before it sends the prefix, so it must not wait for the service end to read. */
Test(relay_noise, an_end_before_the_greeting)
{
    for (int early = 0; early < 2; early++) {
        struct rig rig;
        begin(&rig, 8, RELAY_SERVICE_END, 4096);
        rig_use_prefix(&rig);
        rig.peers[1].total = 100;
        if (early)
            rig_come_early(&rig, RELAY_SERVICE_END, 100, 0);
        static const char block[65536];
        int channel_fd = rig.options.fds[RELAY_SERVICE_END];
        while (send(channel_fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
            ;
        tcp_abort_on_close(rig.peers[0].fd);
        peer_close(&rig.peers[0]);
        relay_start(&rig.relay, &rig.options);
        rig_turns(&rig, 20);
        cr_assert(rig.closed, "the relay waits for a sink");
        end_run(&rig, 8);
    }
}
