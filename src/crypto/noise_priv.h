/* Shared by noise.c and noise_symmetric.c; and for tests, handshakes with a fixed ephemeral key. */
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
/* The bytes that encryption adds: a tag, once there is a key. */
size_t noise_symmetric_overhead(const struct noise_symmetric *symmetric);
/* EncryptAndHash(). out gets len + noise_symmetric_overhead() bytes and must not overlap plain.
 * -EOVERFLOW as noise_encrypt. */
MUST_CHECK int noise_symmetric_encrypt(struct noise_symmetric *symmetric, struct aead *aead,
                                       const void *plain, size_t len, uint8_t *out);
/* DecryptAndHash(). size >= noise_symmetric_overhead(); out must not overlap sealed. -EBADMSG: the
 * tag is wrong; -EOVERFLOW as above. */
MUST_CHECK int noise_symmetric_decrypt(struct noise_symmetric *symmetric, struct aead *aead,
                                       const uint8_t *sealed, size_t size, void *out);
/* Split(): the ciphers for messages from the initiator, and to it. */
void noise_symmetric_split(const struct noise_symmetric *symmetric,
                           struct noise_cipher *ret_from_initiator,
                           struct noise_cipher *ret_to_initiator);

/* Uses this ephemeral key instead of a random one. Between init and the message with our "e". */
void noise_handshake_set_ephemeral(struct noise_handshake *handshake,
                                   const uint8_t private_key[static NOISE_KEY_SIZE]);
