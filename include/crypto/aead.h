/* ChaCha20-Poly1305 (RFC 8439) as Noise uses it: the nonce is a 64-bit counter, and a 16-byte tag
 * follows the ciphertext. There are two backends: libsodium and, if the build and the machine have
 * it, libcrypto, whose wide-vector code is about twice as fast on large frames. Only aead_setup
 * loads libcrypto, with dlopen(3), because it costs megabytes of resident memory.
 *
 * A `struct aead` is the working state of one thread, for any number of connections: each call
 * brings its key, and a connection stores nothing but its keys and counters. libcrypto's context
 * keeps a copy of the last key until the next call or aead_destroy; wiping it would cost as much as
 * setting it. */
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

/* Loads libcrypto if there is one, checks it against libsodium, measures both for some
 * milliseconds, and uses libcrypto for frames from the size on at which it is faster. Otherwise
 * libsodium does everything. Call it in the main thread, after keys_init, when a Noise transport is
 * configured, and before any thread uses an aead. */
void aead_setup(void);
/* What aead_setup chose, for the log: "libsodium", or "libcrypto 3.0.17 from 1024 bytes". Static
 * storage. */
const char *aead_description(void);

/* 0, -ENOMEM, or -ENOTSUP (libcrypto has no such cipher). aead_destroy accepts NULL. */
MUST_CHECK int aead_create(struct aead **ret);
/* The same with one backend for all sizes, for tests and benchmarks. -ENOTSUP: this build or this
 * machine does not have it. */
MUST_CHECK int aead_create_with(enum aead_backend backend, struct aead **ret);
void aead_destroy(struct aead *aead);

/* Encrypts. out gets plain_len + AEAD_TAG_SIZE bytes; it is plain itself or does not overlap it. A
 * nonce must not be used twice with a key. Cannot fail for messages up to 65,535 bytes. ad may be
 * NULL with ad_len 0. */
void aead_seal(struct aead *aead, const uint8_t key[static AEAD_KEY_SIZE], uint64_t nonce,
               const void *ad, size_t ad_len, const void *plain, size_t plain_len, void *out);
/* Verifies and decrypts. sealed is ciphertext and tag, so sealed_len >= AEAD_TAG_SIZE; out gets
 * sealed_len - AEAD_TAG_SIZE bytes and may be sealed itself. -EBADMSG: the tag is wrong, and out is
 * undefined, but never holds unverified plaintext. */
MUST_CHECK int aead_open(struct aead *aead, const uint8_t key[static AEAD_KEY_SIZE], uint64_t nonce,
                         const void *ad, size_t ad_len, const void *sealed, size_t sealed_len,
                         void *out);
