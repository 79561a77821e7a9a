/* Encrypted streams on the fake loop: two streams that talk to each other, or one stream and a peer
 * that the test plays, which can also send what a stream never would. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "fake_loop.h"
#include "net/stream.h"
#include "noise_ends.h"

/* One stream, with what it has to read and to write, and the results. If `random` is set, its own
 * callbacks go on in pieces of random size; otherwise the test drives it. */
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
    struct link_engine *engines[2];
    struct noise_keys keys[2]; /* the initiator's, the responder's */
    struct end ends[2];        /* the initiator, the responder */
    int fds[2];                /* the test's, until a stream takes it; then -1 */
    size_t fds_before;
};

/* Begins to count allocations. buffer_size: as for tcp_pair. */
void noise_rig_init(struct noise_rig *rig, uint64_t seed, enum noise_pattern pattern,
                    int buffer_size);
/* Makes a stream of fds[end]; ends[0] is the initiator. Returns the result of stream_secure. */
int noise_rig_stream(struct noise_rig *rig, unsigned int end);
/* Terminates the streams, and checks that no memory, op or descriptor is left. */
void noise_rig_finish(struct noise_rig *rig);
void noise_rig_turns(struct noise_rig *rig, int turns);
/* Starts to read in_size bytes and to write out_size bytes; either may be 0. */
void end_begin(struct end *end, struct random *random);
bool end_is_through(const struct end *end);
bool end_has_failed(const struct end *end);

/* A peer that the test plays: its handshake and its link. */
struct raw {
    struct noise_rig *rig;
    struct noise_handshake handshake;
    struct link *link;
    unsigned int end;
    unsigned char last[NOISE_FRAME_HEADER + NOISE_HANDSHAKE_MESSAGE_MAX]; /* a message not sent */
    size_t last_size;
};

void raw_init(struct raw *raw, struct noise_rig *rig, unsigned int end);
/* Runs the handshake. If its last message is the peer's, that message stays in `last`. */
void raw_handshake(struct raw *raw);
/* Makes the peer's next handshake message, with its header, in `last`. */
void raw_write_message(struct raw *raw);
void raw_send(struct raw *raw, const void *bytes, size_t size);
/* Sends `last` and, behind it, a frame of plain for each size, all in one segment. */
void raw_send_frames(struct raw *raw, const unsigned char *plain, const size_t *sizes,
                     size_t count);
void raw_finish(struct raw *raw);
