/* Digests, random bytes, comparison and wiping of secrets, X25519 keys: all the cryptography that
 * the rest of the program uses, besides Noise. Nothing here allocates. The only state is the key of
 * keys_hash, which keys_init makes once, so any thread may call. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum keys_sizes {
    KEYS_DIGEST_SIZE = 32, /* SHA-256 */
    KEYS_NONCE_SIZE = 32,  /* in a server's Hello */
    KEYS_X25519_SIZE = 32, /* a private or public key, raw */
    KEYS_TEXT_SIZE = 45,   /* such a key in base64, with its NUL */
    KEYS_AUTH_SIZE = 104,  /* libsodium's SHA-256 state */
};

/* Call it before anything else here, in main and in each test program. Idempotent. Negative: the
 * system has no random numbers, or none yet (-EAGAIN: process_wait_random), so the program must not
 * start. Commands that make no keys may do without: then keys_hash has a key that everybody
 * knows. */
MUST_CHECK int keys_init(void);

/* The name of a service on the wire: SHA-256(name). */
void keys_service_digest(const char *name, size_t name_len, uint8_t ret[static KEYS_DIGEST_SIZE]);
/* SHA-256(token || nonce), which proves the token to the server and is then the session key. A
 * secret: the caller wipes it. */
void keys_auth_digest(const char *token, size_t token_len,
                      const uint8_t nonce[static KEYS_NONCE_SIZE],
                      uint8_t ret[static KEYS_DIGEST_SIZE]);

/* The same in two steps, for a nonce that comes later. In between, the struct holds the hash state
 * by value, so the token may be freed. The state is a secret (it contains the end of the token):
 * keys_auth_end wipes it, or the caller does with keys_wipe. */
struct keys_auth {
    uint8_t state[KEYS_AUTH_SIZE];
};
void keys_auth_begin(struct keys_auth *auth, const char *token, size_t token_len);
void keys_auth_end(struct keys_auth *auth, const uint8_t nonce[static KEYS_NONCE_SIZE],
                   uint8_t ret[static KEYS_DIGEST_SIZE]);

/* Cryptographically secure bytes from the kernel. Cannot fail after keys_init. */
void keys_random(void *out, size_t size);
/* Compares in constant time: the time depends only on size (docs/decisions.md, "Constant time is
 * checked by valgrind"). */
MUST_CHECK bool keys_equal(const void *a, const void *b, size_t size);
/* Overwrites a secret; compilers cannot optimise it away. NULL is allowed with size 0. */
void keys_wipe(void *secret, size_t size);
/* SipHash-2-4 for hash tables whose keys strangers choose: they cannot produce collisions without
 * the secret key, which is new in each process. Not a digest: the result never leaves the
 * process. */
uint64_t keys_hash(const void *data, size_t size);

/* X25519 key pairs (RFC 7748) for Noise. As text a key is its 32 bytes in standard base64 with
 * padding. The caller wipes private keys and their texts. */
void keys_pair_generate(uint8_t ret_private[static KEYS_X25519_SIZE],
                        uint8_t ret_public[static KEYS_X25519_SIZE]);
void keys_pair_public(const uint8_t private_key[static KEYS_X25519_SIZE],
                      uint8_t ret_public[static KEYS_X25519_SIZE]);
/* -EINVAL: not base64 of exactly 32 bytes; ret is zeroed. */
MUST_CHECK int keys_from_text(const char *text, size_t text_len,
                              uint8_t ret[static KEYS_X25519_SIZE]);
void keys_to_text(const uint8_t key[static KEYS_X25519_SIZE], char ret[static KEYS_TEXT_SIZE]);

/* Standard base64 with padding, and a NUL; out has room for 4 characters of each 3 bytes, rounded
 * up, and the NUL. */
void keys_base64(const void *bytes, size_t size, char *out, size_t room);
