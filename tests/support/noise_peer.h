/* The peer of an encrypted connection to a server or client on the fake loop (side.h). The test
 * writes single frames and reads plaintext; while it waits, the workers take turns. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "noise_ends.h"
#include "side.h"

enum { NOISE_PEER_HELD = 4096 };

struct noise_peer {
    int fd;
    struct side *side;
    struct link_engine *engine;
    struct link *link; /* NULL: the handshake failed */
    unsigned char held[NOISE_PEER_HELD];
    size_t held_size;
};

/* Makes the handshake over a connected socket, which it takes over. */
void noise_peer_init(struct noise_peer *peer, struct side *side, struct link_engine *engine, int fd,
                     const struct noise_keys *keys, bool initiator);
void noise_peer_hang_up(struct noise_peer *peer);
/* Sends one frame. */
void noise_peer_tell(struct noise_peer *peer, const void *bytes, size_t size);
/* Receives exactly size bytes of plaintext, in any number of frames. False: fewer came. */
bool noise_peer_hear(struct noise_peer *peer, void *out, size_t size);
