/* The other end of an encrypted connection to a server or a client on the fake loop: frames made by
 * hand, one per tell. Whatever waits lets the side's workers take turns. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "noise_ends.h"
#include "side.h"

enum { NOISE_PEER_HELD = 4096 };

struct noise_peer {
    int fd;
    struct side *side;
    struct noise_engine *engine;
    struct noise_link *link; /* NULL: the handshake failed */
    unsigned char held[NOISE_PEER_HELD];
    size_t held_size;
};

/* Over a connected socket, as initiator or responder; takes fd over. */
void noise_peer_init(struct noise_peer *peer, struct side *side, struct noise_engine *engine,
                     int fd, const struct noise_keys *keys, bool initiator);
void noise_peer_hang_up(struct noise_peer *peer);
/* One frame. */
void noise_peer_tell(struct noise_peer *peer, const void *bytes, size_t size);
/* Plaintext, from as many frames as it takes. False: there is less. */
bool noise_peer_hear(struct noise_peer *peer, void *out, size_t size);
