/* Peers for tests of a relay: one at each outer end of its two sockets. A peer has a plan (how much
 * it sends, when it stalls, whether it ends with an end of stream or a reset) and checks every byte
 * that it receives. Its connection may be coded, with frames of any size. Works with the fake and
 * with the real loop. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/metrics.h"
#include "noise_ends.h"
#include "relay/relay.h"

struct peer {
    int fd;
    uint8_t pattern; /* byte n is n * 31 + pattern, so that a lost byte shows */
    size_t total;    /* to send */
    size_t sent;
    size_t got;
    size_t skip;                /* prefix bytes before the other peer's pattern */
    uint8_t expected;           /* the other peer's pattern */
    size_t reset_at;            /* resets after sending this many bytes; SIZE_MAX: never */
    unsigned int stalled_turns; /* turns before it reads */
    size_t chunk_max;           /* the largest read or write */
    bool fin_sent, got_fin, got_reset, has_reset, corrupt;
    /* With a link: */
    struct link *link; /* NULL: plain */
    struct link_engine *engine;
    /* link_ends_seal; NULL: the link is Noise's. */
    size_t (*seal)(struct link *link, struct link_engine *engine, const unsigned char *plain,
                   size_t size, unsigned char *out);
    unsigned char *wire; /* frames that are being sent */
    size_t wire_size, wire_sent;
    size_t cut;        /* bytes that are missing at the end of the last frame */
    bool omits_end;    /* sends a FIN where the end of stream has to be a message */
    bool drops_at_end; /* as rathole's WebSocket client: the other side's end ends ours */
    bool has_dropped;  /* and it was not over */
    size_t bad_at;     /* the frame with this byte is damaged; SIZE_MAX: none */
    size_t sent_before_bad;
};

void peer_init(struct peer *peer, int fd, uint8_t pattern, uint8_t expected, size_t total);
/* Takes the link over. All peers share the engine. */
void peer_encrypt(struct peer *peer, struct link *link, struct link_engine *engine);
/* Writes the next `size` bytes of the pattern to out, and counts them as sent. */
void peer_take(struct peer *peer, unsigned char *out, size_t size);
/* Seals the next `size` bytes, at most NOISE_PAYLOAD_MAX, into peer->wire. */
void peer_seal(struct peer *peer, size_t size);
/* Reads and writes a little. random: 64 fresh bits. */
void peer_step(struct peer *peer, uint64_t random);
bool peer_is_over(const struct peer *peer);
void peer_close(struct peer *peer);
/* Reads the rest, up to the end of stream. */
void peer_drain(struct peer *peer);
