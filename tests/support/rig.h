/* A relay between two sockets whose other ends are played by the test: each peer has a plan (how
 * much it sends, when it stalls, whether it ends with an end of stream or a reset) and checks every
 * byte that it gets. Its connection may be encrypted, with frames of any size. Works on either
 * loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "relay/relay.h"

struct peer {
    int fd;
    uint8_t pattern; /* its bytes are (position * 31 + pattern), so a lost one shows */
    size_t total;    /* to send */
    size_t sent;
    size_t got;
    size_t skip;                /* prefix bytes before the other's pattern */
    uint8_t expected;           /* the other's pattern */
    size_t reset_at;            /* resets after so many bytes sent; SIZE_MAX: never */
    unsigned int stalled_turns; /* does not read before */
    size_t chunk_max;           /* of its reads and writes */
    bool fin_sent, got_fin, got_reset, has_reset, corrupt;
    /* With encryption: */
    struct noise_link *noise; /* NULL: plain */
    struct noise_engine *engine;
    unsigned char *wire; /* a frame on its way */
    size_t wire_size, wire_sent;
    size_t cut;    /* so many bytes of the last frame are missing before the end */
    size_t bad_at; /* the frame with this byte is changed; SIZE_MAX: none */
    size_t sent_before_bad;
};

void peer_init(struct peer *peer, int fd, uint8_t pattern, uint8_t expected, size_t total);
/* Takes the link over; the engine is shared by all peers. */
void peer_encrypt(struct peer *peer, struct noise_link *link, struct noise_engine *engine);
/* The next `size` bytes of its pattern, which count as sent. */
void peer_take(struct peer *peer, unsigned char *out, size_t size);
/* Seals the next bytes, at most NOISE_PAYLOAD_MAX, into peer->wire. */
void peer_seal(struct peer *peer, size_t size);
/* One step: some reading and writing. random: 64 fresh bits. */
void peer_step(struct peer *peer, uint64_t random);
bool peer_is_over(const struct peer *peer);
void peer_close(struct peer *peer);
/* Reads what is left, up to the end. */
void peer_drain(struct peer *peer);
