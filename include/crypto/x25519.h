/* X25519 (RFC 7748): two thirds of what a new connection over Noise costs. Two backends, libsodium
 * and our own in C (curve25519.c), of which x25519_setup keeps the faster one, for public keys and
 * for shared secrets each. Measured on a Xeon of 2023: public keys 32 and 16 us, secrets 34 and 28.
 * (libcrypto 3.0 is no third: 33 us for a public key, and 30 to 33 for a secret with its objects,
 * for all that its arithmetic takes 26.)
 *
 * Nothing here keeps a secret; all threads may call at once. Private keys are clamped on use. */
#pragma once

#include <stdint.h>

#include "base/macros.h"

enum { X25519_SIZE = 32 };

/* Once, in main, after keys_init, before any worker and only when a Noise transport is configured:
 * checks our own backend against libsodium and measures both, for some 5 ms. Without it libsodium
 * does all. */
void x25519_setup(void);
/* What x25519_setup chose, for the start's log line: "libsodium", "our own code", or one of them
 * with public keys by the other. Static storage. */
const char *x25519_description(void);

/* ret is neither of the arguments, here and below. */
void x25519_public(const uint8_t private_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
/* -EPROTO: the public key is one of small order, so that the secret is all zero and known to all
 * the world (RFC 7748 section 6.1). ret is all zero then. The caller wipes it. */
MUST_CHECK int x25519_shared(const uint8_t private_key[static X25519_SIZE],
                             const uint8_t public_key[static X25519_SIZE],
                             uint8_t ret[static X25519_SIZE]);
