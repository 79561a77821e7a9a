/* A relay on the fake loop between two peers. The input chooses the kind of relay (plain, or coded at
 * one end; a prefix, a second worker, bytes that come early), the sizes, which faults the kernel
 * shows and how often, whether a peer resets and where; then, step by step, how much each peer reads
 * and writes. What follows the script's end goes at full speed. The promise (relay_rig.h): each peer
 * gets all bytes, in order, and an end of stream, or it sees a reset; and nothing is left over. */
#include <string.h>

#include "chance.h"
#include "crypto/keys.h"
#include "fuzz.h"
#include "relay_rig.h"
#include "script.h"

enum kind {
    IS_CODED = 1,
    CODED_SERVICE = 2,
    HAS_PREFIX = 4,
    TWO_WORKERS = 8,
    MOVES = 16,
    IS_BUSY = 32,
    HAS_TIMEOUT = 64,
    COMES_EARLY = 128,
};

enum { STEPS_MAX = 600, EARLY_MAX = 30000 };

/* Of faults that end a connection. Low, so that some bytes pass before. */
static unsigned int deadly_rate(struct script *script)
{
    return script_below(script, 40);
}

static bool take_faults(struct script *script, struct rig *rig)
{
    uint8_t choice = script_byte(script);
    struct fake_faults faults = {
        .delay = script_below(script, 6) * 100u,
        .reorder = (choice & 1) != 0 ? 500 : 0,
        .short_count = script_below(script, 5) * 100u,
        .eintr = script_below(script, 4) * 20u,
        .eagain = script_below(script, 4) * 20u,
        .enobufs = script_below(script, 5) * 25u,
        .lost_cancel = (choice & 2) != 0 ? 500 : 0,
        .crowded = (choice & 64) != 0 ? 500 : 0,
    };
    switch (choice >> 2 & 7) {
    case 1:
        faults.reset = deadly_rate(script);
        break;
    case 2:
        faults.epipe = deadly_rate(script);
        break;
    case 3:
        faults.enomem = deadly_rate(script);
        break;
    default:
        break;
    }
    rig_set_faults(rig, &faults);
    return (choice & 32) != 0;
}

static void plan(struct script *script, struct rig *rig, uint8_t kind)
{
    for (unsigned int i = 0; i < 2; i++) {
        struct peer *peer = &rig->peers[i];
        unsigned int size = script_u16(script), how = script_byte(script);
        /* Mostly small: a large transfer takes as long as a hundred others. */
        peer->total = (how & 15) == 15 ? size * 4 : (how & 1) != 0 ? size & 0xfff : size & 0xff;
        peer->stalled_turns = (how & 64) != 0 ? how & 63 : 0;
        peer->chunk_max = (how & 128) != 0 ? 200 + script_u16(script) % 20000 : peer->chunk_max;
    }
    rig->options.idle_timeout_ms = (kind & HAS_TIMEOUT) != 0 ? 3600000 : 0;
    rig->moves = (kind & MOVES) != 0;
    fake_loop_set_busy(rig->loop, (kind & IS_BUSY) != 0 ? 1000 : 0);
}

static void come_early(struct script *script, struct rig *rig, unsigned int end)
{
    const struct peer *peer = &rig->peers[end];
    size_t most = MIN(peer->total, (size_t)EARLY_MAX);
    size_t early = script_u16(script) % (most + 1), partial = script_byte(script);
    if (early == peer->total)
        partial = 0;
    rig_come_early(rig, end, early, partial % NOISE_FRAME_OVERHEAD);
}

static void run_steps(struct script *script, struct rig *rig)
{
    for (int step = 0; step < STEPS_MAX && !script_is_over(script) && !rig->closed; step++) {
        uint8_t what = script_byte(script);
        uint64_t sizes = script_u16(script);
        if ((what & 1) != 0)
            peer_step(&rig->peers[0], sizes << 32 | (what & 4 ? sizes : 0));
        if ((what & 2) != 0)
            peer_step(&rig->peers[1], sizes << 32 | (what & 4 ? sizes : 0));
        if ((what & 0xf8) == 0xf8)
            fake_loop_advance_ms(rig->loop, sizes % 2000);
        rig_turns(rig, what >> 3 & 3);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rig rig;
    struct script script = {data, size};
    if (size < 8)
        return 0;
    chance_begin(0);
    FUZZ_CHECK(keys_init() == 0);
    uint8_t kind = script_byte(&script);
    uint64_t seed = script_byte(&script);
    unsigned int end = (kind & CODED_SERVICE) != 0 ? RELAY_SERVICE_END : RELAY_VISITOR_END;
    bool is_coded = (kind & IS_CODED) != 0;
    rig_init(&rig, seed, 0);
    if (is_coded)
        rig_encrypt(&rig, end);
    bool resets = take_faults(&script, &rig);
    plan(&script, &rig, kind);
    if ((kind & TWO_WORKERS) != 0)
        rig_use_second_worker(&rig);
    /* Only a server's relay has one, and there the service end is the coded one. */
    if ((kind & HAS_PREFIX) != 0 && (!is_coded || end == RELAY_SERVICE_END))
        rig_use_prefix(&rig);
    if (is_coded && (kind & COMES_EARLY) != 0)
        come_early(&script, &rig, end);
    if (resets) {
        struct peer *peer = &rig.peers[script_below(&script, 2)];
        peer->reset_at = MAX(peer->sent, script_u16(&script) % (peer->total + 1));
    }
    relay_start(&rig.relay, &rig.options);
    run_steps(&script, &rig);
    FUZZ_CHECK(rig_run(&rig)); /* no stall */
    unsigned int deadly = fake_loop_deadly_count(rig.loop);
    if (rig.other_loop != NULL)
        deadly += fake_loop_deadly_count(rig.other_loop);
    rig_judge(&rig, seed, !resets && deadly == 0);
    rig_finish(&rig, seed);
    return 0;
}
