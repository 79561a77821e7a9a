/* Relays with a WebSocket end whose payload is spliced: large frames in one direction, pings and
 * small frames among them, full sockets, moves between workers. RELAY_SEED=N runs only one seed's
 * transfers. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "base/error.h"
#include "base/metrics.h"
#include "io/socket.h"
#include "link_ends.h"
#include "proto/websocket.h"
#include "relay_rig.h"

enum { TOTAL_MAX = 1500000, CUT_MAX = 2000 };

TestSuite(relay_framed, .init = link_ends_set_up, .fini = link_ends_tear_down);

static uint64_t spliced;

/* A server's frames: large ones, and what link_ends_seal makes. */
static size_t seal_large(struct link *link, struct link_engine *engine, const unsigned char *plain,
                         size_t size, unsigned char *out)
{
    size_t at = 0;
    if (plain[0] % 4 == 0)
        return link_ends_seal(link, engine, plain, size, out);
    if (plain[0] % 4 == 1)
        at = websocket_encode(WEBSOCKET_PING, NULL, plain, MIN(size, (size_t)100), out);
    return at + websocket_encode(WEBSOCKET_BINARY, NULL, plain, size, out + at);
}

/* End 0: the relay is a client's, and opens frames. End 1: a server's, and makes them. */
static void begin(struct rig *rig, uint64_t seed, unsigned int end)
{
    struct link *links[2];
    alloc_count_begin();
    rig_init(rig, seed, seed % 5 == 0 ? 4096 : 0);
    rig_make_engines(rig);
    link_ends_set_seed(seed);
    link_ends_connect(links, rig->engines[2], KIND_WEBSOCKET);
    rig_use_links(rig, end, links[1 - end], links[end]);
    rig->peers[end].seal = end == RELAY_VISITOR_END ? seal_large : link_ends_seal;
    rig->options.half_close_timeout_ms = 3600000;
    rig_plan(rig);
    for (unsigned int i = 0; i < 2; i++) {
        rig->peers[i].chunk_max = LINK_ENDS_MAX;
        rig->peers[i].total = random_below(&rig->random, seed % 5 == 0 ? 150000 : TOTAL_MAX);
    }
    if (random_permille(&rig->random, 500))
        rig_use_second_worker(rig);
    struct fake_faults faults = rig_transient_faults(&rig->random);
    if (seed % 3 != 0) /* short reads and writes keep most flows from becoming bulk */
        faults.short_count = 20;
    rig_set_faults(rig, &faults);
}

static void run_and_judge(struct rig *rig, uint64_t seed, bool lossless)
{
    relay_start(&rig->relay, &rig->options);
    cr_assert(rig_run(rig), "seed %llu: a stall; state %u, %zu of %zu and %zu of %zu bytes",
              (unsigned long long)seed, rig->relay.state, rig->peers[1].got, rig->peers[0].total,
              rig->peers[0].got, rig->peers[1].total);
    rig_judge(rig, seed, lossless);
    spliced += metrics_get(&rig->metrics, METRIC_BYTES_SPLICED);
}

static void end_run(struct rig *rig, uint64_t seed)
{
    rig_finish(rig, seed);
    cr_assert_eq(alloc_blocks(), 0, "seed %llu: memory", (unsigned long long)seed);
}

static void run_opening(uint64_t seed)
{
    struct rig rig;
    begin(&rig, seed, RELAY_VISITOR_END);
    run_and_judge(&rig, seed, true);
    end_run(&rig, seed);
}

static void run_sealing(uint64_t seed)
{
    struct rig rig;
    begin(&rig, seed, RELAY_SERVICE_END);
    run_and_judge(&rig, seed, true);
    end_run(&rig, seed);
}

static void run_both(void (*run)(uint64_t seed), uint64_t first, uint64_t count)
{
    spliced = 0;
    run_seeds(run, first, count);
    cr_assert_gt(spliced, 100000, "the test does not reach what it tests");
}

Test(relay_framed, large_frames_lose_nothing)
{
    run_both(run_opening, 1, 200);
}

Test(relay_framed, what_is_framed_loses_nothing)
{
    run_both(run_sealing, 1001, 200);
}

static void run_deadly(uint64_t seed)
{
    struct rig rig;
    begin(&rig, seed, (unsigned int)(seed / 2 % 2));
    struct fake_faults faults = {.short_count = 20};
    unsigned int rate = (unsigned int)random_below(&rig.random, 20);
    if (seed % 2 == 0) {
        faults.reset = faults.epipe = rate;
    } else {
        struct peer *peer = &rig.peers[random_below(&rig.random, 2)];
        peer->reset_at = peer->sent + random_below(&rig.random, peer->total - peer->sent + 1);
    }
    rig_set_faults(&rig, &faults);
    run_and_judge(&rig, seed, false);
    end_run(&rig, seed);
}

Test(relay_framed, deadly_faults_show)
{
    run_both(run_deadly, 100001, 200);
}

/* A FIN in the middle of a frame, while its payload is spliced. */
static void run_cut(uint64_t seed)
{
    struct rig rig;
    begin(&rig, seed, RELAY_VISITOR_END);
    struct peer *peer = &rig.peers[RELAY_VISITOR_END];
    peer->total += 3 * (size_t)LINK_ENDS_MAX;
    peer->omits_end = true;
    peer->cut = 1 + random_below(&rig.random, CUT_MAX);
    run_and_judge(&rig, seed, false);
    const struct peer *other = &rig.peers[RELAY_SERVICE_END];
    cr_assert(other->got_reset && !other->got_fin, "seed %llu", (unsigned long long)seed);
    cr_assert_eq(rig.relay.error, ERR_TRUNCATED, "seed %llu: %d", (unsigned long long)seed,
                 rig.relay.error);
    end_run(&rig, seed);
}

Test(relay_framed, a_cut_frame_becomes_a_reset)
{
    run_both(run_cut, 1, 100);
}

/* ---- what may be spliced ---- */

Test(relay_framed, which_links_splice_what_they_send)
{
    struct link_engine *engine;
    cr_assert_eq(link_engine_create(&engine), 0);
    for (int kind = 0; kind < LINK_KINDS; kind++) {
        struct link *links[2];
        link_ends_connect(links, engine, (enum link_kind)kind);
        cr_expect_eq(link_splice_max(links[0]), 0, "a client masks");
        cr_expect_eq(link_splice_max(links[1]) > 0, kind == KIND_WEBSOCKET);
        if (kind == KIND_WEBSOCKET) {
            size_t most = link_splice_max(links[1]);
            links[1]->holds_end = true; /* rathole's client keeps a whole frame */
            cr_expect_eq(link_splice_max(links[1]), LINK_BATCH_PLAIN);
            cr_expect_gt(most, LINK_BATCH_PLAIN);
            cr_assert_eq(link_add_reply(links[1], "pong", 4), 0);
            cr_expect_eq(link_splice_max(links[1]), 0, "a reply goes first");
        }
        link_free(links[0]);
        link_free(links[1]);
    }
    link_engine_destroy(engine);
}

/* ---- an end that is held back, and a move ---- */

Test(relay_framed, a_move_does_not_begin_half_close_timeout_again)
{
    enum { TIMEOUT_MS = 3000 };
    struct rig rig;
    struct link *links[2];
    alloc_count_begin();
    rig_init(&rig, 1, 0);
    rig_make_engines(&rig);
    link_ends_connect(links, rig.engines[2], KIND_WEBSOCKET);
    rig_use_links(&rig, RELAY_SERVICE_END, links[0], links[1]);
    rig.options.links[RELAY_SERVICE_END]->holds_end = true;
    rig.options.half_close_timeout_ms = TIMEOUT_MS;
    fake_loop_set_idle_step_ms(rig.loop, 0);
    relay_start(&rig.relay, &rig.options);
    (void)shutdown(rig.peers[0].fd, SHUT_WR);
    rig_turns(&rig, 5);
    cr_assert(rig.relay.flow[0].finished);
    for (int i = 0; i < 2; i++) { /* moved twice, after a third of the time each */
        fake_loop_advance_ms(rig.loop, TIMEOUT_MS / 3);
        relay_detach(&rig.relay);
        rig_turns(&rig, 5);
        cr_assert(rig.relay.flow[0].finished && !rig.options.links[1]->end_is_said);
    }
    fake_loop_advance_ms(rig.loop, TIMEOUT_MS / 3 - 100);
    rig_turns(&rig, 5);
    cr_assert_not(rig.options.links[1]->end_is_said, "too early");
    fake_loop_advance_ms(rig.loop, 200);
    rig_turns(&rig, 5);
    cr_assert(rig.options.links[1]->end_is_said, "the time began again");
    relay_terminate(&rig.relay);
    rig_turns(&rig, 10);
    end_run(&rig, 1);
}
