/* Noise transport messages on a byte stream, without the socket: plaintext in, frames out, and
 * back. A frame is a little-endian 16-bit length and that many bytes of ciphertext with their tag.
 *
 *     handshake --noise_link_create--> link     lives as long as the connection and goes with it
 *                                               from worker to worker; idle it is two keys
 *
 * An engine is what one worker's encrypted connections share: the AEAD's working state and two hot
 * buffers, so that neither a connection at rest nor one that the socket keeps up with holds any.
 * Only the beginning of a frame whose end has not come yet is kept, in the link. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"
#include "crypto/noise.h"

enum noise_link_sizes {
    NOISE_FRAME_HEADER = 2,
    NOISE_FRAME_OVERHEAD = NOISE_FRAME_HEADER + NOISE_TAG_SIZE,
    /* Plaintext in one of our frames, and frames that are sealed, sent and received at a time.
     * Measured (Gbit/s, 8 saturated streams, libcrypto): 4 frames of 16 KiB 7.7, 8 of them 8.7, 4
     * of 32 KiB 9.2, 1 of 65,519 8.7. */
    NOISE_FRAME_PAYLOAD = 32768,
    NOISE_BATCH_FRAMES = 4,
    NOISE_BATCH_PLAIN = NOISE_BATCH_FRAMES * NOISE_FRAME_PAYLOAD,
    NOISE_BATCH_SEALED = NOISE_BATCH_FRAMES * (NOISE_FRAME_PAYLOAD + NOISE_FRAME_OVERHEAD),
};

struct noise_engine {
    struct aead *aead;
    unsigned char *sealed; /* NOISE_BATCH_SEALED bytes */
    unsigned char *plain;  /* what a batch behind the rest of a large frame can open to */
};

struct noise_link {
    struct noise_cipher send, receive;
    /* Plaintext that was received and not asked for yet; malloc'ed, NULL: none. */
    unsigned char *early;
    uint32_t early_begin, early_end;
    /* The frame that has begun; malloc'ed once its length is known, which may take two reads. */
    unsigned char *partial;
    uint32_t partial_size, partial_have; /* both with the header */
    unsigned char header;                /* its first byte while there is no more: have is 1 then */
};

/* -ENOMEM leaves *ret NULL. The buffers are resident only once used. */
MUST_CHECK int noise_engine_create(struct noise_engine **ret);
void noise_engine_destroy(struct noise_engine *engine); /* accepts NULL */

/* From a finished handshake, which is wiped. NULL: no memory (the handshake is wiped all the same).
 */
MUST_CHECK struct noise_link *noise_link_create(struct noise_handshake *handshake);
/* Wipes and frees; accepts NULL. */
void noise_link_free(struct noise_link *link);

/* Seals size bytes, 1 to NOISE_BATCH_PLAIN, into frames in out, which has NOISE_BATCH_SEALED bytes.
 * Returns the bytes in out, or -EOVERFLOW: this connection's counters are used up. */
MUST_CHECK ssize_t noise_link_seal(struct noise_link *link, struct noise_engine *engine,
                                   const void *plain, size_t size, void *out);
/* Opens what was received, at most NOISE_BATCH_SEALED bytes, into engine->plain: returns the size
 * of the plaintext there, 0 if no frame is whole yet. -EBADMSG: a frame was forged, damaged, empty
 * or too short, and the connection is over; -ENOMEM. */
MUST_CHECK ssize_t noise_link_open(struct noise_link *link, struct noise_engine *engine,
                                   const unsigned char *sealed, size_t size);
/* A frame has begun and not ended: an end of stream here is a truncation. */
bool noise_link_is_inside_frame(const struct noise_link *link);
/* Keeps plaintext for the next reader; there must be none. -ENOMEM. */
MUST_CHECK int noise_link_keep_early(struct noise_link *link, const void *plain, size_t size);
/* Moves up to size bytes of it to out; returns how many. */
size_t noise_link_take_early(struct noise_link *link, void *out, size_t size);
