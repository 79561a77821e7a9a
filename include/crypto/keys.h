/* Digests, randomness, comparison and wiping: all that the rest of the program may know about
 * cryptography besides Noise. Nothing here allocates or keeps a secret; the key of keys_hash is the
 * only state, made once by keys_init and read-only from then on, so any thread may call. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum keys_sizes {
    KEYS_DIGEST_SIZE = 32, /* SHA-256 */
    KEYS_NONCE_SIZE = 32,  /* what a server puts into its Hello */
    KEYS_X25519_SIZE = 32, /* a private or a public key, raw */
    KEYS_TEXT_SIZE = 45,   /* such a key in base64, with its final NUL */
    KEYS_AUTH_SIZE = 104,  /* libsodium's state of a SHA-256 */
};

/* Before anything else here, in main and in each test program; calling it again does no harm. -EIO:
 * the system has no randomness, the program must not start. */
MUST_CHECK int keys_init(void);

/* How a service is called on the wire: SHA-256(name). */
void keys_service_digest(const char *name, size_t name_len, uint8_t ret[static KEYS_DIGEST_SIZE]);
/* What proves the token and is the session key from then on: SHA-256(token || nonce). A secret:
 * the caller wipes it. */
void keys_auth_digest(const char *token, size_t token_len,
                      const uint8_t nonce[static KEYS_NONCE_SIZE],
                      uint8_t ret[static KEYS_DIGEST_SIZE]);

/* The same in two steps, for a nonce that comes later: what the token has become in between is here
 * by value, so that whoever lent the token may free it. A secret, as the token is (the end of it
 * stands in here as it was): wiped by keys_auth_end, or by the caller with keys_wipe. */
struct keys_auth {
    uint8_t state[KEYS_AUTH_SIZE];
};
void keys_auth_begin(struct keys_auth *auth, const char *token, size_t token_len);
void keys_auth_end(struct keys_auth *auth, const uint8_t nonce[static KEYS_NONCE_SIZE],
                   uint8_t ret[static KEYS_DIGEST_SIZE]);

/* Unpredictable bytes, from the kernel. Cannot fail after keys_init. */
void keys_random(void *out, size_t size);
/* In a time that depends on size alone. */
MUST_CHECK bool keys_equal(const void *a, const void *b, size_t size);
/* Overwrites a secret; never optimised away. NULL with size 0 is allowed. */
void keys_wipe(void *secret, size_t size);
/* For hash tables whose keys strangers choose: without the key, new in every process, they cannot
 * make collisions. Not a digest, never leaves the process. */
uint64_t keys_hash(const void *data, size_t size);

/* X25519 keys (RFC 7748), as Noise uses them and as files hold them: 32 bytes in standard base64
 * with padding. The caller wipes private keys and their texts. */
void keys_pair_generate(uint8_t ret_private[static KEYS_X25519_SIZE],
                        uint8_t ret_public[static KEYS_X25519_SIZE]);
void keys_pair_public(const uint8_t private_key[static KEYS_X25519_SIZE],
                      uint8_t ret_public[static KEYS_X25519_SIZE]);
/* -EINVAL: not base64 of exactly 32 bytes; ret is wiped then. */
MUST_CHECK int keys_from_text(const char *text, size_t text_len,
                              uint8_t ret[static KEYS_X25519_SIZE]);
void keys_to_text(const uint8_t key[static KEYS_X25519_SIZE], char ret[static KEYS_TEXT_SIZE]);
