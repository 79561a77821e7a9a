/* Noise transport messages (noiseprotocol.org, revision 34) as a link (net/link.h), and the
 * handshake that makes it. A frame is a little-endian 16-bit length and that many bytes of
 * ciphertext with their tag, as rathole sends them. An idle link is two keys. */
#pragma once

#include <stdint.h>

#include "crypto/noise.h"
#include "net/handshake.h"
#include "net/link.h"

enum noise_link_sizes {
    NOISE_FRAME_HEADER = 2,
    NOISE_FRAME_OVERHEAD = NOISE_FRAME_HEADER + NOISE_TAG_SIZE,
    /* Plaintext bytes in one frame that we send, and the number of frames that are sealed, sent or
     * received at a time: docs/decisions.md, "Noise frames of 32 KiB, four at a time". Measured in
     * Gbit/s with 8 saturated streams and libcrypto: 4 frames of 16 KiB 7.7, 8 of 16 KiB 8.7, 4 of
     * 32 KiB 9.2, 1 of 65,519 bytes 8.7. */
    NOISE_FRAME_PAYLOAD = 32768,
    NOISE_BATCH_FRAMES = 4,
    NOISE_BATCH_CODED = NOISE_BATCH_FRAMES * (NOISE_FRAME_PAYLOAD + NOISE_FRAME_OVERHEAD),
};

struct noise_link {
    struct link link;
    struct noise_cipher send, receive;
    /* A frame that is incomplete; malloc'ed when its length is known, which may take two reads. */
    unsigned char *partial;
    uint32_t partial_size, partial_have; /* both with the header */
    unsigned char header;                /* the frame's first byte, while partial_have is 1 */
};

/* Takes the keys of a finished handshake and wipes the handshake, also on failure. NULL: no memory.
 */
MUST_CHECK struct link *noise_link_create(struct noise_handshake *handshake);

/* A handshake that makes such a link. keys are copied. -ENOMEM. */
MUST_CHECK int noise_handshake_create(const struct noise_keys *keys, bool is_initiator,
                                      struct handshake **ret);
