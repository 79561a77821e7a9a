#include "relay_rig.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "noise_ends.h"

/* A window of 4 KiB is less than a loopback segment. A sender may then depend on the kernel's
 * window probes, after 0.2, 0.4, ... 6.4 s, so a shorter wait is not a stall. */
enum { TURNS_MAX = 120000, QUICK_TURNS = 5000, OF_PEERS = 2 };

static const struct relay_ops rig_ops;

/* ---- encryption ---- */

void rig_make_engines(struct rig *rig)
{
    for (size_t i = 0; i < ARRAY_SIZE(rig->engines); i++)
        cr_assert_eq(link_engine_create(&rig->engines[i]), 0);
    rig->engine.links = rig->engines[0];
    rig->other_engine.links = rig->engines[1];
}

void rig_use_links(struct rig *rig, unsigned int end, struct link *of_peer, struct link *own)
{
    peer_encrypt(&rig->peers[end], of_peer, rig->engines[OF_PEERS]);
    rig->options.links[end] = own;
}

void rig_encrypt(struct rig *rig, unsigned int end)
{
    struct link *links[2];
    rig_make_engines(rig);
    noise_ends_connect(links, rig->engines[OF_PEERS], NOISE_NK);
    rig_use_links(rig, end, links[0], links[1]);
}

void rig_come_early(struct rig *rig, unsigned int end, size_t size, size_t partial)
{
    static unsigned char early[NOISE_BATCH_CODED];
    struct peer *peer = &rig->peers[end];
    struct link *link = rig->options.links[end];
    if (size > 0) {
        peer_take(peer, early, size);
        cr_assert_eq(link_keep_early(link, early, size), 0);
    }
    if (partial > 0) {
        size_t frame = MIN(peer->total - peer->sent, (size_t)NOISE_PAYLOAD_MAX);
        cr_assert(frame > 0 && partial < frame + NOISE_FRAME_OVERHEAD);
        peer_seal(peer, frame);
        cr_assert_eq(link_open(link, rig->engines[0], peer->wire, partial), 0);
        peer->wire_sent = partial;
    }
}

/* The hot buffers, and scratch, are valid within one callback only. Overwrites them between turns, so that a
 * relay that uses them for longer corrupts its bytes. */
static void spoil(struct rig *rig)
{
    memset(rig->engine.scratch, 0xdd, LIMIT_FIRST_READ);
    if (rig->other_loop != NULL)
        memset(rig->other_engine.scratch, 0xdd, LIMIT_FIRST_READ);
    for (size_t i = 0; i < OF_PEERS && rig->engines[i] != NULL; i++) {
        memset(rig->engines[i]->coded, 0xdd, LINK_BATCH_CODED);
        memset(rig->engines[i]->plain, 0xdd, LINK_PLAIN_SIZE);
    }
}

/* ---- the relay's owner ---- */

static bool rig_place(struct relay *relay, bool is_new)
{
    struct rig *rig = container_of(relay, struct rig, relay);
    rig->asked[is_new]++;
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
        for (unsigned int i = 0; i < 2; i++)
            options->links[i] = relay_take_link(relay, i);
        if (rig->other_loop != NULL)
            options->engine = options->engine == &rig->engine ? &rig->other_engine : &rig->engine;
        relay_start(relay, options);
        return;
    }
    rig->closed = true;
}

static const struct relay_ops rig_ops = {
    .place = rig_place,
    .closed = rig_relay_closed,
};

void rig_init(struct rig *rig, uint64_t seed, int buffer_size)
{
    memset(rig, 0, sizeof(*rig));
    rig->fds_before = open_fd_count();
    rig->random.state = seed;
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

void rig_use_prefix(struct rig *rig)
{
    rig->options.prefix = "\1\2\3\4";
    rig->options.prefix_len = rig->peers[1].skip = PREFIX_SIZE;
}

void rig_turn(struct rig *rig)
{
    spoil(rig);
    cr_assert_eq(loop_run_once(rig->loop), 0);
    if (rig->other_loop != NULL)
        cr_assert_eq(loop_run_once(rig->other_loop), 0);
}

void rig_turns(struct rig *rig, int turns)
{
    for (int i = 0; i < turns; i++)
        rig_turn(rig);
}

static size_t in_flight(const struct rig *rig)
{
    size_t count = fake_loop_in_flight(rig->loop);
    return rig->other_loop != NULL ? count + fake_loop_in_flight(rig->other_loop) : count;
}

void rig_set_faults(struct rig *rig, const struct fake_faults *faults)
{
    fake_loop_set_faults(rig->loop, faults);
    if (rig->other_loop != NULL)
        fake_loop_set_faults(rig->other_loop, faults);
}

void rig_use_second_worker(struct rig *rig)
{
    struct loop_options options = {.metrics = &rig->metrics, .buffer_count = 8};
    cr_assert_eq(loop_create(&options, &rig->other_loop), 0);
    cr_assert_eq(relay_engine_init(&rig->other_engine, rig->other_loop, 2 << 20), 0);
    rig->other_engine.links = rig->engines[1];
}

bool rig_run(struct rig *rig)
{
    for (int turn = 0; turn < TURNS_MAX; turn++) {
        rig_turn(rig);
        for (unsigned int i = 0; i < 2; i++)
            peer_step(&rig->peers[i], random_next(&rig->random));
        if (turn > QUICK_TURNS)
            (void)usleep(200); /* a small socket's window opens in real time, not in turns */
        if (rig->closed && in_flight(rig) == 0)
            return true;
    }
    return false;
}

static void finish_worker(struct loop *loop, struct relay_engine *engine, unsigned long long seed)
{
    if (loop == NULL)
        return;
    cr_assert_eq(fake_loop_in_flight(loop), 0, "seed %llu", seed);
    cr_assert_not(fake_loop_has_timers(loop), "seed %llu", seed);
    cr_assert_eq(fake_loop_lent(loop), 0, "seed %llu", seed);
    cr_assert_eq(engine->relay_count, 0, "seed %llu", seed);
    cr_assert_eq(relay_engine_bulk_flows(engine), 0, "seed %llu", seed);
    cr_assert_eq(engine->bulk_count, engine->bulk_free_count, "seed %llu", seed);
    relay_engine_finish(engine);
    loop_destroy(loop);
}

void rig_finish(struct rig *rig, uint64_t seed)
{
    finish_worker(rig->loop, &rig->engine, seed);
    finish_worker(rig->other_loop, &rig->other_engine, seed);
    peer_close(&rig->peers[0]);
    peer_close(&rig->peers[1]);
    for (size_t i = 0; i < ARRAY_SIZE(rig->engines); i++)
        link_engine_destroy(rig->engines[i]);
    cr_assert_eq(open_fd_count(), rig->fds_before, "seed %llu: descriptors",
                 (unsigned long long)seed);
}

static bool got_all(const struct peer *to, const struct peer *from)
{
    return from->sent == from->total && to->got == to->skip + from->total;
}

void rig_judge(struct rig *rig, uint64_t seed, bool lossless)
{
    unsigned long long n = seed;
    for (unsigned int i = 0; i < 2; i++)
        peer_drain(&rig->peers[i]);
    for (unsigned int i = 0; i < 2; i++) {
        const struct peer *to = &rig->peers[i], *from = &rig->peers[1 - i];
        cr_assert_not(lossless && to->has_dropped, "seed %llu: an end too early at end %u", n, i);
        cr_assert_not(to->corrupt, "seed %llu: wrong bytes at end %u", n, i);
        if (to->got_fin)
            cr_assert(from->fin_sent && got_all(to, from),
                      "seed %llu: a cut transfer looks complete at end %u (%zu of %zu)", n, i,
                      to->got, from->total);
        cr_assert(to->got_fin || to->got_reset || to->has_reset,
                  "seed %llu: neither FIN nor reset at end %u", n, i);
        if (lossless)
            cr_assert(to->got_fin && !to->got_reset,
                      "seed %llu: no clean end at end %u (%zu of %zu bytes): error %d", n, i,
                      to->got, from->total, rig->relay.error);
    }
}

static size_t random_total(struct random *random)
{
    static const size_t sizes[] = {0, 1, 100, 16384, 65536, 300000, 1500000};
    size_t below = sizes[random_below(random, ARRAY_SIZE(sizes))];
    return below == 0 ? 0 : random_below(random, below + 1);
}

struct fake_faults rig_transient_faults(struct random *random)
{
    return (struct fake_faults){
        .delay = (unsigned int)random_below(random, 500),
        .reorder = 500,
        .short_count = (unsigned int)random_below(random, 400),
        .eintr = (unsigned int)random_below(random, 60),
        .eagain = (unsigned int)random_below(random, 60),
        .enobufs = (unsigned int)random_below(random, 100),
        .lost_cancel = 500,
        .crowded = 500,
    };
}

void rig_plan(struct rig *rig)
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
    fake_loop_set_busy(rig->loop, random_permille(random, 500) ? 1000 : 0);
}

void run_seeds(void (*run)(uint64_t seed), uint64_t first, uint64_t count)
{
    uint64_t only = env_number("RELAY_SEED", 0);
    if (only != 0) {
        run(only);
        return;
    }
    for (uint64_t seed = first; seed < first + seeds_of(count); seed++)
        run(seed);
}
