/* SHA-1 (RFC 3174), for nothing but the answer to a WebSocket client (RFC 6455 section 4.2.2),
 * which proves that the server speaks WebSocket and protects nothing: SHA-1 is broken as a digest.
 * Forty lines of our own, since libsodium has no SHA-1, and libcrypto is not in every build. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { SHA1_DIGEST_SIZE = 20 };

void sha1_digest(const void *data, size_t size, uint8_t ret[static SHA1_DIGEST_SIZE]);
