/* ChaCha20-Poly1305 (RFC 8439) as Noise uses it: a 64-bit counter for a nonce, a 16-byte tag behind
 * the ciphertext. Two backends, libsodium and, where the build and the machine have it, libcrypto,
 * whose code for wide vectors is about twice as fast on large frames. libcrypto is loaded with
 * dlopen and only by aead_setup, because it costs megabytes of resident memory.
 *
 * A `struct aead` is one thread's working state for any number of connections: each call brings its
 * key. (libcrypto keeps a copy of the last one until the next call or aead_destroy: wiping it would
 * cost as much as setting it.) A connection keeps its 32-byte keys and its counters and nothing
 * else. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

enum aead_sizes {
    AEAD_KEY_SIZE = 32,
    AEAD_TAG_SIZE = 16,
};

enum aead_backend { AEAD_SODIUM, AEAD_LIBCRYPTO };

struct aead;

/* Once, in main, after keys_init, before any worker and only when a Noise transport is configured:
 * loads libcrypto if there is one, checks it against libsodium, measures both for some
 * milliseconds, and keeps the faster one for frames of at least the size from which it wins.
 * Without it libsodium does all. */
void aead_setup(void);
/* What aead_setup chose, for the start's log line: "libsodium", or "libcrypto 3.0.17 from 1024
 * bytes". Static storage. */
const char *aead_description(void);

/* -ENOMEM. A thread's own; aead_destroy accepts NULL. */
MUST_CHECK int aead_create(struct aead **ret);
/* With one backend for all sizes, for tests and benches. -ENOTSUP: not in this build or not on this
 * machine. */
MUST_CHECK int aead_create_with(enum aead_backend backend, struct aead **ret);
void aead_destroy(struct aead *aead);

/* out: plain_len + AEAD_TAG_SIZE bytes; may be plain itself, else must not overlap. Cannot fail for
 * messages up to 65,535 bytes. ad may be NULL with ad_len 0. */
void aead_seal(struct aead *aead, const uint8_t key[static AEAD_KEY_SIZE], uint64_t nonce,
               const void *ad, size_t ad_len, const void *plain, size_t plain_len, void *out);
/* sealed: ciphertext and tag, sealed_len >= AEAD_TAG_SIZE. out: sealed_len - AEAD_TAG_SIZE bytes;
 * may be sealed itself. -EBADMSG: the tag is wrong; out's content is undefined then (never
 * plaintext that the caller could mistake for verified). */
MUST_CHECK int aead_open(struct aead *aead, const uint8_t key[static AEAD_KEY_SIZE], uint64_t nonce,
                         const void *ad, size_t ad_len, const void *sealed, size_t sealed_len,
                         void *out);
