/* X25519 by ourselves, as a backend of x25519.c: in portable C, which compilers make better use of
 * than libsodium's code for AVX does of today's processors. No branch and no address depends on a
 * secret. */
#pragma once

#include <stdint.h>

#include "crypto/x25519.h"

/* Any point, those of small order and values from p upwards included: the result may be all zero.
 */
void curve25519_shared(const uint8_t scalar[static X25519_SIZE],
                       const uint8_t point[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
/* The scalar times the base point, through libsodium's tables for Ed25519, which is the same curve
 * in other coordinates. */
void curve25519_public(const uint8_t scalar[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
