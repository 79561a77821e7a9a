/* Relays with an end over TLS, WebSocket, or both, on the fake loop: they keep the promise of
 * test_relay.c, with ends of stream that are messages. RELAY_SEED=N runs only one seed's
 * transfers. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "base/error.h"
#include "base/limits.h"
#include "io/socket.h"
#include "link_ends.h"
#include "relay_rig.h"

enum { NEVER_MS = 3600000, CODED_CUT_MAX = 6 };

TestSuite(relay_links, .init = link_ends_set_up, .fini = link_ends_tear_down);

static void begin(struct rig *rig, uint64_t seed, enum link_kind kind, unsigned int end,
                  int buffer_size)
{
    struct link *links[2];
    alloc_count_begin();
    rig_init(rig, seed, buffer_size);
    rig_make_engines(rig);
    link_ends_set_seed(seed);
    link_ends_connect(links, rig->engines[2], kind);
    /* The service end is a server's. */
    bool is_server = end == RELAY_SERVICE_END;
    rig_use_links(rig, end, links[is_server ? 0 : 1], links[is_server ? 1 : 0]);
    rig->peers[end].seal = link_ends_seal;
    rig->options.half_close_timeout_ms = NEVER_MS;
}

/* The peer drops its direction when our end comes, so the relay has to hold its end back. */
static void hold_end(struct rig *rig, unsigned int end)
{
    rig->options.links[end]->holds_end = true;
    rig->peers[end].drops_at_end = true;
}

static void end_run(struct rig *rig, uint64_t seed)
{
    rig_finish(rig, seed);
    cr_assert_eq(alloc_blocks(), 0, "seed %llu: memory", (unsigned long long)seed);
}

/* Plans a transfer. */
static void plan(struct rig *rig, uint64_t seed, unsigned int end)
{
    struct random *random = &rig->random;
    rig_plan(rig);
    for (unsigned int i = 0; i < 2; i++) { /* bound the time with small sockets or small steps */
        rig->peers[i].total %= seed % 5 == 0 ? 150000 : 600000;
        rig->peers[i].chunk_max = MAX(rig->peers[i].chunk_max, (size_t)200);
    }
    if (random_permille(random, 500))
        rig_use_second_worker(rig);
    if (end == RELAY_SERVICE_END && random_permille(random, 300))
        hold_end(rig, end);
    if (end == RELAY_SERVICE_END && seed % 3 != 0)
        rig_use_prefix(rig);
    if (random_permille(random, 300)) {
        size_t most = MIN(rig->peers[end].total, (size_t)30000);
        size_t early = random_below(random, most + 1);
        rig_come_early(rig, end, early, early < rig->peers[end].total ? 1 : 0);
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
    begin(&rig, seed, (enum link_kind)(seed / 2 % LINK_KINDS), end, seed % 5 == 0 ? 4096 : 0);
    plan(&rig, seed, end);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    must_end(&rig, seed);
    rig_judge(&rig, seed, true);
    end_run(&rig, seed);
}

Test(relay_links, transient_faults_lose_nothing)
{
    run_seeds(run_transient, 1, 700);
}

static void run_deadly(uint64_t seed)
{
    struct rig rig;
    unsigned int end = (unsigned int)(seed / 4 % 2);
    begin(&rig, seed, (enum link_kind)(seed / 8 % LINK_KINDS), end, seed % 5 == 0 ? 4096 : 0);
    plan(&rig, seed, end);
    rig.options.half_close_timeout_ms = (uint32_t)random_below(&rig.random, 3000);
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

Test(relay_links, deadly_faults_show)
{
    run_seeds(run_deadly, 100001, 900);
}

/* The n-th allocation fails: the transfer is reset, or completes. */
static bool run_without_memory(unsigned int n, enum link_kind kind, unsigned int end)
{
    struct rig rig;
    begin(&rig, n, kind, end, 4096);
    for (unsigned int i = 0; i < 2; i++)
        rig.peers[i].total = 90000;
    rig.peers[1 - end].stalled_turns = 30;
    if (end == RELAY_SERVICE_END)
        rig_use_prefix(&rig);
    rig_come_early(&rig, end, 100, 1);
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

Test(relay_links, each_allocation_fails_once)
{
    for (unsigned int i = 0; i < 2 * LINK_KINDS; i++) {
        unsigned int n = 1;
        while (n < 60 && run_without_memory(n, (enum link_kind)(i / 2), i % 2))
            n++;
        cr_assert_gt(n, 3, "only %u allocations: the test does not reach what it tests", n);
    }
}

/* The peer ends with a FIN alone: within its last frame, or between frames. The other peer must see
 * a reset, in every state of the relay. */
static void run_cut(uint64_t seed)
{
    struct rig rig;
    unsigned int end = (unsigned int)(seed % 2);
    begin(&rig, seed, (enum link_kind)(seed / 2 % LINK_KINDS), end, 0);
    plan(&rig, seed, end);
    struct peer *peer = &rig.peers[end];
    peer->omits_end = true;
    if (seed % 3 == 0 && peer->sent < peer->total && peer->wire_size == 0)
        peer->cut = 1 + random_below(&rig.random, CODED_CUT_MAX);
    struct fake_faults faults = rig_transient_faults(&rig.random);
    rig_set_faults(&rig, &faults);
    relay_start(&rig.relay, &rig.options);
    must_end(&rig, seed);
    rig_judge(&rig, seed, false);
    cr_assert(rig.peers[1 - end].got_reset && !rig.peers[1 - end].got_fin, "seed %llu",
              (unsigned long long)seed);
    cr_assert_eq(rig.relay.error, ERR_TRUNCATED, "seed %llu: %d", (unsigned long long)seed,
                 rig.relay.error);
    end_run(&rig, seed);
}

Test(relay_links, a_fin_alone_becomes_a_reset)
{
    run_seeds(run_cut, 1, 600);
}

/* ---- single properties ---- */

/* After an end that is a message the other direction goes on, so no FIN follows: the kernel must
 * not wait for more before it sends the last bytes. */
static void nothing_is_kept(enum link_kind kind, unsigned int end, bool holds)
{
    struct rig rig;
    int unsent = -1;
    begin(&rig, 1, kind, end, 0);
    if (holds)
        hold_end(&rig, end);
    relay_start(&rig.relay, &rig.options);
    cr_assert_eq(send(rig.peers[1 - end].fd, "request", 7, 0), 7);
    (void)shutdown(rig.peers[1 - end].fd, SHUT_WR);
    rig_turns(&rig, 10);
    cr_assert(rig.relay.flow[1 - end].finished);
    cr_assert_eq(ioctl(rig.relay.fds[end], SIOCOUTQNSD, &unsent), 0);
    cr_expect_eq(unsent, 0, "kind %u, end %u, holds %d: %d bytes wait", kind, end, holds, unsent);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    end_run(&rig, 1);
}

Test(relay_links, the_last_bytes_do_not_wait_for_a_fin)
{
    for (unsigned int i = 0; i < 3 * LINK_KINDS; i++)
        nothing_is_kept((enum link_kind)(i / 3), i % 3 == 0 ? RELAY_VISITOR_END : RELAY_SERVICE_END,
                        i % 3 == 2);
}

/* Fills the socket towards an end's peer. */
static void fill(const struct rig *rig, unsigned int end)
{
    static const char block[65536];
    while (send(rig->relay.fds[end], block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        ;
}

/* half_close_timeout is over while the socket is full, so the end waits for room. */
static void let_end_wait(struct rig *rig)
{
    begin(rig, 2, KIND_WEBSOCKET, RELAY_SERVICE_END, 4096);
    hold_end(rig, RELAY_SERVICE_END);
    rig->options.half_close_timeout_ms = 100;
    rig->options.idle_timeout_ms = 60000;
    relay_start(&rig->relay, &rig->options);
    (void)shutdown(rig->peers[0].fd, SHUT_WR);
    rig_turns(rig, 5);
    cr_assert(rig->relay.flow[0].finished);
    fill(rig, RELAY_SERVICE_END);
    fake_loop_advance_ms(rig->loop, 200);
    rig_turns(rig, 5);
    cr_assert_not(loop_op_is_idle(&rig->relay.flow[0].write_op), "the end waits for its sink");
}

Test(relay_links, an_end_that_waits_has_the_idle_timeout)
{
    struct rig rig;
    let_end_wait(&rig);
    for (int i = 0; i < 5 && !rig.closed; i++) {
        fake_loop_advance_ms(rig.loop, 61000);
        rig_turns(&rig, 3);
    }
    cr_assert(rig.closed && rig.relay.idle_timed_out);
    end_run(&rig, 2);
}

/* Nor does a move to another worker lose it. */
Test(relay_links, an_end_that_waits_survives_a_move)
{
    struct rig rig;
    let_end_wait(&rig);
    relay_detach(&rig.relay);
    rig_turns(&rig, 5);
    cr_assert_not(rig.closed);
    cr_assert(rig.relay.flow[0].pending == 0 || !loop_op_is_idle(&rig.relay.flow[0].write_op),
              "nobody sends the end");
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    end_run(&rig, 2);
}

/* ---- what comes behind an end that is a message ---- */

/* More than the small receive buffer of a peer that does not read, and less than that and the
 * relay's send buffer together. */
enum { BEHIND_TOTAL = 8000, SLOW_CHUNK = 400 };

/* The coded peer has said its end, without a FIN, and more bytes follow it. The relay knows the end
 * and does not read any more. Time stands still from here on. */
static void begin_behind(struct rig *rig, enum link_kind kind, unsigned int end)
{
    struct peer *peer = &rig->peers[end];
    begin(rig, 3, kind, end, 4096);
    fake_loop_set_idle_step_ms(rig->loop, 0);
    peer->total = 1; /* odd: no FIN follows (peer_end) */
    relay_start(&rig->relay, &rig->options);
    for (int turn = 0; turn < 100 && !rig->relay.flow[end].finished; turn++) {
        peer_step(peer, 0);
        rig_turn(rig);
    }
    cr_assert(rig->relay.flow[end].finished && peer->fin_sent);
    cr_assert_eq(send(peer->fd, "behind", 6, 0), 6);
}

/* Whether our FIN has come to this end's peer, which has read everything. */
static bool saw_fin(const struct rig *rig, unsigned int end)
{
    char byte;
    struct pollfd fin = {.fd = rig->peers[end].fd, .events = POLLIN};
    return poll(&fin, 1, 5000) == 1 && recv(fin.fd, &byte, 1, MSG_DONTWAIT) == 0;
}

/* The other direction, to a coded peer that reads late and slowly: the last bytes and our end are
 * still in our send queue when the relay has written them. Our FIN follows. */
static void end_slowly(struct rig *rig, enum link_kind kind, unsigned int end)
{
    struct peer *slow = &rig->peers[end], *quick = &rig->peers[1 - end];
    int unsent = 0;
    quick->total = BEHIND_TOTAL;
    slow->chunk_max = SLOW_CHUNK;
    for (int turn = 0; turn < 1000 && !rig->relay.flow[1 - end].finished; turn++) {
        peer_step(quick, random_next(&rig->random));
        rig_turn(rig);
    }
    cr_assert(rig->relay.flow[1 - end].finished, "kind %u, end %u: a stall", kind, end);
    if (!rig->closed) {
        cr_assert_eq(ioctl(rig->relay.fds[end], SIOCOUTQNSD, &unsent), 0);
        cr_assert_gt(unsent, 0, "kind %u, end %u: nothing is left to lose", kind, end);
    }
    for (int turn = 0; turn < 50000 && !slow->got_fin && !slow->got_reset; turn++) {
        rig_turn(rig);
        peer_step(slow, random_next(&rig->random));
        (void)usleep(200); /* the window opens in real time */
    }
    cr_assert(slow->got_fin && !slow->got_reset && !slow->corrupt && slow->got == BEHIND_TOTAL,
              "kind %u, end %u: %zu of %d bytes, reset %d", kind, end, slow->got, BEHIND_TOTAL,
              slow->got_reset);
    peer_drain(quick);
    cr_assert(quick->got_fin && !quick->got_reset && quick->got == 1);
    cr_assert(saw_fin(rig, end), "kind %u, end %u: no FIN behind our end", kind, end);
    cr_assert_not(rig->closed, "kind %u, end %u: the peer has sent no FIN", kind, end);
}

/* The relay has ended cleanly, without a reset. Nothing is left. */
static void closed_behind(struct rig *rig, unsigned int end)
{
    rig_turns(rig, 5);
    cr_assert(rig->closed);
    cr_expect_eq(socket_take_error(rig->peers[end].fd), 0, "end %u: a reset", end);
    cr_expect_eq(metrics_get(&rig->metrics, METRIC_RELAYS_CLEAN), 1);
    end_run(rig, 3);
}

static void close_at_fin(enum link_kind kind, unsigned int end)
{
    struct rig rig;
    begin_behind(&rig, kind, end);
    end_slowly(&rig, kind, end);
    cr_assert_eq(send(rig.peers[end].fd, "more", 4, 0), 4);
    rig_turns(&rig, 100);
    cr_assert_not(rig.closed);
    (void)shutdown(rig.peers[end].fd, SHUT_WR);
    closed_behind(&rig, end);
}

Test(relay_links, bytes_behind_an_end_reset_nothing)
{
    for (unsigned int i = 0; i < 2 * LINK_KINDS; i++)
        close_at_fin((enum link_kind)(i / 2), i % 2);
}

Test(relay_links, a_fin_behind_an_end_is_not_waited_for_long)
{
    for (unsigned int end = 0; end < 2; end++) {
        struct rig rig;
        begin_behind(&rig, KIND_WEBSOCKET_TLS, end);
        end_slowly(&rig, KIND_WEBSOCKET_TLS, end);
        fake_loop_advance_ms(rig.loop, LIMIT_LINGER_MS / 2);
        rig_turns(&rig, 5);
        cr_assert_not(rig.closed);
        fake_loop_advance_ms(rig.loop, LIMIT_LINGER_MS);
        closed_behind(&rig, end);
    }
}

/* A peer that never stops sending does not keep the relay. */
Test(relay_links, bytes_behind_an_end_have_a_limit)
{
    static const char block[1000];
    for (unsigned int end = 0; end < 2; end++) {
        struct rig rig;
        size_t behind = sizeof("behind") - 1, before = 0;
        begin_behind(&rig, KIND_WEBSOCKET_TLS, end);
        end_slowly(&rig, KIND_WEBSOCKET_TLS, end);
        for (int turn = 0; turn < 10000 && !rig.closed; turn++) {
            before = behind;
            ssize_t sent = send(rig.peers[end].fd, block, sizeof(block), MSG_NOSIGNAL);
            behind += sent > 0 ? (size_t)sent : 0;
            rig_turns(&rig, 3);
            if (behind == before)
                (void)usleep(200);
        }
        cr_assert(rig.closed, "after %zu bytes", behind);
        cr_expect_geq(behind, LINK_BATCH_CODED);
        cr_expect_leq(before, LINK_BATCH_CODED + 65536, "%zu bytes", before);
        end_run(&rig, 3);
    }
}

static void judge_slow(struct rig *rig, struct peer *slow, size_t total)
{
    for (int turn = 0; turn < 20000 && !slow->got_fin && !slow->got_reset; turn++) {
        rig_turn(rig);
        peer_step(&rig->peers[slow == &rig->peers[0] ? 1 : 0], random_next(&rig->random));
        peer_step(slow, random_next(&rig->random));
        (void)usleep(200);
    }
    cr_assert(slow->got_fin && !slow->got_reset && slow->got == total, "%zu of %zu bytes, reset %d",
              slow->got, total, slow->got_reset);
    if (!rig->closed)
        relay_terminate(&rig->relay);
    rig_turns(rig, 5);
    end_run(rig, 3);
}

/* The poll for room sees that FIN, before the bytes are read. */
Test(relay_links, a_fin_behind_the_bytes_while_the_flow_waits_for_room)
{
    for (unsigned int i = 0; i < 2 * LINK_KINDS; i++) {
        struct rig rig;
        struct peer *slow = &rig.peers[i % 2], *quick = &rig.peers[1 - i % 2];
        begin_behind(&rig, (enum link_kind)(i / 2), i % 2);
        (void)shutdown(slow->fd, SHUT_WR);
        quick->total = 20000;
        slow->chunk_max = SLOW_CHUNK;
        for (int turn = 0; turn < 100; turn++) {
            rig_turn(&rig);
            peer_step(quick, random_next(&rig.random));
        }
        judge_slow(&rig, slow, 20000);
    }
}

Test(relay_links, an_idle_timeout_does_not_cut_what_is_being_sent)
{
    struct rig rig;
    struct peer *slow = &rig.peers[1], *quick = &rig.peers[0];
    begin_behind(&rig, KIND_WEBSOCKET, 1);
    rig.relay.idle_timeout_ms = 1000;
    quick->total = 8000;
    for (int turn = 0; turn < 1000 && !rig.relay.flow[0].finished; turn++) {
        peer_step(quick, random_next(&rig.random));
        rig_turn(&rig);
    }
    cr_assert(rig.relay.flow[0].finished);
    fake_loop_advance_ms(rig.loop, 1500);
    rig_turns(&rig, 5);
    judge_slow(&rig, slow, 8000);
}
