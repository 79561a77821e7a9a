/* A relay on the fake loop between two peers (tests/support/rig.h), plain or with one encrypted
 * end, on one worker or moving between two. peers[RELAY_VISITOR_END] plays the visitor,
 * peers[RELAY_SERVICE_END] the service. rig_judge checks the promise: each peer gets all bytes and
 * an end of stream, or a reset. */
#pragma once

#include "fake_loop.h"
#include "relay/relay.h"
#include "rig.h"
#include "testing.h"

enum { PREFIX_SIZE = 4 };

struct rig {
    struct relay relay;
    struct loop *loop;
    struct relay_engine engine;
    struct loop *other_loop; /* NULL: one worker */
    struct relay_engine other_engine;
    struct link_engine *engines[3]; /* of worker 1, worker 2 and the peers; NULL: plain */
    struct metrics metrics;
    struct peer peers[2];
    struct random random;
    struct relay_options options;
    size_t fds_before;
    unsigned int detaches, asked[2]; /* asked: by is_new */
    bool closed, moves;
};

void rig_init(struct rig *rig, uint64_t seed, int buffer_size);
void rig_use_prefix(struct rig *rig);
/* A relay that moves goes to a second loop and engine, and back. Without this call it restarts on
 * its own loop. */
void rig_use_second_worker(struct rig *rig);
/* Encrypts the connection to this end's peer. */
void rig_encrypt(struct rig *rig, unsigned int end);
/* Makes it a connection with these ends: of the peer, and of the relay. */
void rig_use_links(struct rig *rig, unsigned int end, struct link *of_peer, struct link *own);
void rig_make_engines(struct rig *rig);
/* The peer's first `size` bytes, and `partial` bytes of the frame behind them, come with its last
 * handshake message. To be called after the peer's plan (total) is made. */
void rig_come_early(struct rig *rig, unsigned int end, size_t size, size_t partial);
void rig_set_faults(struct rig *rig, const struct fake_faults *faults);
void rig_turn(struct rig *rig);
void rig_turns(struct rig *rig, int turns);
/* Runs until the relay is closed. False: a stall. */
bool rig_run(struct rig *rig);
/* Checks the promise. lossless: no fault was deadly, so all bytes must have arrived. */
void rig_judge(struct rig *rig, uint64_t seed, bool lossless);
/* Frees everything, and checks that no op, timer, buffer, pipe or descriptor is left. */
void rig_finish(struct rig *rig, uint64_t seed);

/* Makes a random plan for both peers. */
void rig_plan(struct rig *rig);
struct fake_faults rig_transient_faults(struct random *random);
void run_seeds(void (*run)(uint64_t seed), uint64_t first, uint64_t count);
