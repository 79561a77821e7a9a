/* X25519 (RFC 7748) by libsodium: a third of the CPU time of a new connection over Noise
 * (docs/decisions.md, "Removed: X25519 of our own"). Private keys are clamped on use. Any
 * thread. */
#pragma once

#include <stdint.h>

#include "base/macros.h"

enum { X25519_SIZE = 32 };

/* The public key of a private key. ret must not overlap an argument, here and below. */
void x25519_public(const uint8_t private_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
/* The shared secret, which the caller wipes. -EPROTO: the public key has small order, so the secret
 * would be all zero and known to everybody (RFC 7748, section 6.1); ret is all zero. */
MUST_CHECK int x25519_shared(const uint8_t private_key[static X25519_SIZE],
                             const uint8_t public_key[static X25519_SIZE],
                             uint8_t ret[static X25519_SIZE]);
