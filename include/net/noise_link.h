/* Noise transport messages (noiseprotocol.org, revision 34) on a byte stream, without the socket:
 * plaintext in, frames out, and back. A frame is a little-endian 16-bit length and that many bytes
 * of ciphertext with their tag, as rathole sends them.
 *
 *     handshake --noise_link_create--> link     lives as long as the connection and goes with it
 *                                               from worker to worker; idle it is two keys
 *
 * The encrypted connections of one worker share an engine: the AEAD's working state and two hot
 * buffers, which are valid within one callback. So a connection needs a buffer of its own only for
 * the beginning of a frame whose end has not come yet; the link keeps that.
 *
 * A link belongs to the owner of its connection and is used by that worker's thread alone. */
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
    /* Plaintext bytes in one frame that we send, and the number of frames that are sealed, sent or
     * received at a time: docs/decisions.md, "Noise frames of 32 KiB, four at a time". Measured in
     * Gbit/s with 8 saturated streams and libcrypto: 4 frames of 16 KiB 7.7, 8 of 16 KiB 8.7, 4 of
     * 32 KiB 9.2, 1 of 65,519 bytes 8.7. */
    NOISE_FRAME_PAYLOAD = 32768,
    NOISE_BATCH_FRAMES = 4,
    NOISE_BATCH_PLAIN = NOISE_BATCH_FRAMES * NOISE_FRAME_PAYLOAD,
    NOISE_BATCH_SEALED = NOISE_BATCH_FRAMES * (NOISE_FRAME_PAYLOAD + NOISE_FRAME_OVERHEAD),
};

struct noise_engine {
    struct aead *aead;
    unsigned char *sealed; /* NOISE_BATCH_SEALED bytes */
    unsigned char *plain;  /* room for the rest of a large frame and a batch behind it, opened */
};

struct noise_link {
    struct noise_cipher send, receive;
    /* Plaintext that was received before a reader asked for it; malloc'ed, NULL: none. */
    unsigned char *early;
    uint32_t early_begin, early_end;
    /* A frame that is incomplete; malloc'ed when its length is known, which may take two reads. */
    unsigned char *partial;
    uint32_t partial_size, partial_have; /* both with the header */
    unsigned char header;                /* the frame's first byte, while partial_have is 1 */
};

/* -ENOMEM. The buffers are resident only once they are used. */
MUST_CHECK int noise_engine_create(struct noise_engine **ret);
void noise_engine_destroy(struct noise_engine *engine); /* accepts NULL */

/* Takes the keys of a finished handshake and wipes the handshake, also on failure. NULL: no memory.
 */
MUST_CHECK struct noise_link *noise_link_create(struct noise_handshake *handshake);
/* Wipes and frees; accepts NULL. */
void noise_link_free(struct noise_link *link);

/* Encrypts size bytes, 1 to NOISE_BATCH_PLAIN, into frames in out, which has NOISE_BATCH_SEALED
 * bytes. Returns the number of bytes in out. -EOVERFLOW: the connection's nonces are used up. */
MUST_CHECK ssize_t noise_link_seal(struct noise_link *link, struct noise_engine *engine,
                                   const void *plain, size_t size, void *out);
/* Decrypts received bytes, at most NOISE_BATCH_SEALED, into engine->plain. Returns the size of the
 * plaintext; 0: no frame is complete yet. -EBADMSG: a frame was forged, damaged, empty or too
 * short, so the connection must end. -ENOMEM. */
MUST_CHECK ssize_t noise_link_open(struct noise_link *link, struct noise_engine *engine,
                                   const unsigned char *sealed, size_t size);
/* Whether a frame is incomplete: an end of stream now would be a truncation. */
bool noise_link_is_inside_frame(const struct noise_link *link);
/* Keeps a copy of plaintext for the next reader. There must be none kept already. -ENOMEM. */
MUST_CHECK int noise_link_keep_early(struct noise_link *link, const void *plain, size_t size);
/* Moves up to size bytes of that plaintext to out. Returns their number. */
size_t noise_link_take_early(struct noise_link *link, void *out, size_t size);
