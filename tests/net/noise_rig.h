/* Encrypted streams on the fake loop: two of ours that talk to each other, or one of ours and a
 * peer played by the test, which can send what no stream would. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "fake_loop.h"
#include "net/stream.h"
#include "noise_ends.h"

/* One end: what it has to read and to write, in pieces of random size, and how that ended. Driven
 * by its own callbacks when `random` is set, else by the test. */
struct end {
    struct stream stream;
    struct random *random;
    unsigned char *in;
    const unsigned char *out;
    size_t in_size, in_have, out_size, out_sent, piece_max, piece;
    int read_result, write_result;
    unsigned int reads, writes, closes;
};

struct noise_rig {
    struct loop *loop;
    struct metrics metrics;
    struct random random;
    struct noise_engine *engines[2];
    struct noise_keys keys[2]; /* of the initiator, of the responder */
    struct end ends[2];
    int fds[2]; /* not taken by a stream: the test's */
    size_t fds_before;
};

/* Counts memory from here on. buffer_size as in tcp_pair. */
void noise_rig_init(struct noise_rig *rig, uint64_t seed, enum noise_pattern pattern,
                    int buffer_size);
/* Makes the socket of this end a stream; end 0 initiates. Returns stream_secure's result. */
int noise_rig_stream(struct noise_rig *rig, unsigned int end);
/* Terminates what lives. Nothing may be left. */
void noise_rig_finish(struct noise_rig *rig);
void noise_rig_turns(struct noise_rig *rig, int turns);
/* Starts to read size bytes and to write as many as out has; either may be 0. */
void end_begin(struct end *end, struct random *random);
bool end_is_through(const struct end *end);
bool end_has_failed(const struct end *end);

/* The test in an end's place: its handshake and its link. */
struct raw {
    struct noise_rig *rig;
    struct noise_handshake handshake;
    struct noise_link *link;
    unsigned int end;
    unsigned char last[NOISE_FRAME_HEADER + NOISE_HANDSHAKE_MESSAGE_MAX]; /* a message held back */
    size_t last_size;
};

void raw_init(struct raw *raw, struct noise_rig *rig, unsigned int end);
/* Until all is through, but for a last message of ours, which waits in `last`. */
void raw_handshake(struct raw *raw);
/* The next message of ours, with its header, in `last`. */
void raw_write_message(struct raw *raw);
void raw_send(struct raw *raw, const void *bytes, size_t size);
/* Whatever `last` holds and a frame for each size, from plain, in one segment. */
void raw_send_frames(struct raw *raw, const unsigned char *plain, const size_t *sizes,
                     size_t count);
void raw_finish(struct raw *raw);
