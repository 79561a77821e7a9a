/* A relay on the fake loop between two peers (rig.h), plain or with one encrypted end, on one
 * worker or moving between two; and the promise that it is held to. */
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
    struct noise_engine *noise[3]; /* of the workers, of the peers; NULL: plain */
    struct metrics metrics;
    struct peer peers[2];
    struct random random;
    struct relay_options options;
    size_t fds_before;
    unsigned int detaches;
    bool closed, moves;
};

void rig_init(struct rig *rig, uint64_t seed, int buffer_size);
void rig_use_prefix(struct rig *rig);
/* The relay moves to another loop and engine, and back, instead of to its own. */
void rig_use_second_worker(struct rig *rig);
/* Encrypts the connection to this end's peer. */
void rig_encrypt(struct rig *rig, unsigned int end);
/* The peer's first bytes have come with its handshake's last message, and `partial` bytes of the
 * frame after them. Its plan (total) is made before. */
void rig_come_early(struct rig *rig, unsigned int end, size_t size, size_t partial);
void rig_set_faults(struct rig *rig, const struct fake_faults *faults);
void rig_turn(struct rig *rig);
void rig_turns(struct rig *rig, int turns);
/* Until the relay and its peers are over. */
bool rig_run(struct rig *rig);
/* The promise. lossless: nothing deadly happened, so all must have come. */
void rig_judge(struct rig *rig, uint64_t seed, bool lossless);
/* Nothing may be left: ops, timers, buffers, pipes, descriptors. */
void rig_finish(struct rig *rig, uint64_t seed);

/* A random plan for both peers. */
void rig_plan(struct rig *rig);
struct fake_faults rig_transient_faults(struct random *random);
void run_seeds(void (*run)(uint64_t seed), uint64_t first, uint64_t count);
