/* What the files of Noise share, and the way in for tests with fixed ephemeral keys. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/aead.h"
#include "crypto/noise.h"

/* Noise section 5.2, the SymmetricState. */
void noise_symmetric_init(struct noise_symmetric *symmetric, const char *protocol_name);
void noise_symmetric_mix_key(struct noise_symmetric *symmetric,
                             const uint8_t secret[static NOISE_KEY_SIZE]);
void noise_symmetric_mix_hash(struct noise_symmetric *symmetric, const void *data, size_t len);
/* What encryption adds to a text: a tag, once there is a key. */
size_t noise_symmetric_overhead(const struct noise_symmetric *symmetric);
/* out gets len + noise_symmetric_overhead() bytes and does not overlap plain. */
MUST_CHECK int noise_symmetric_encrypt(struct noise_symmetric *symmetric, struct aead *aead,
                                       const void *plain, size_t len, uint8_t *out);
/* size >= noise_symmetric_overhead(). out does not overlap sealed. -EBADMSG. */
MUST_CHECK int noise_symmetric_decrypt(struct noise_symmetric *symmetric, struct aead *aead,
                                       const uint8_t *sealed, size_t size, void *out);
/* For messages from the initiator and to it, in this order. */
void noise_symmetric_split(const struct noise_symmetric *symmetric,
                           struct noise_cipher *ret_from_initiator,
                           struct noise_cipher *ret_to_initiator);

/* Between init and the message that has our "e": this key instead of a random one. */
void noise_handshake_set_ephemeral(struct noise_handshake *handshake,
                                   const uint8_t private_key[static NOISE_KEY_SIZE]);
