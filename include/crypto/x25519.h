/* X25519 (RFC 7748) by libsodium: most of what a new connection over Noise costs. All threads may
 * call at once. Private keys are clamped on use. */
#pragma once

#include <stdint.h>

#include "base/macros.h"

enum { X25519_SIZE = 32 };

/* ret is neither of the arguments, here and below. */
void x25519_public(const uint8_t private_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
/* -EPROTO: the public key is one of small order, so that the secret is all zero and known to all
 * the world (RFC 7748 section 6.1). ret is all zero then. The caller wipes it. */
MUST_CHECK int x25519_shared(const uint8_t private_key[static X25519_SIZE],
                             const uint8_t public_key[static X25519_SIZE],
                             uint8_t ret[static X25519_SIZE]);
