#include "crypto/x25519.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/macros.h"
#include "crypto/keys.h"
#include "curve25519_priv.h"
#include "x25519_priv.h"

static_assert(X25519_SIZE == crypto_scalarmult_BYTES &&
                  X25519_SIZE == crypto_scalarmult_SCALARBYTES &&
                  X25519_SIZE == (int)KEYS_X25519_SIZE,
              "sizes are those of RFC 7748");

enum {
    AGREE_ROUNDS = 8,
    MEASURE_ROUNDS = 24,
    /* Ours must win by this much, else chance would decide. */
    WIN_PERCENT = 5,
};

static void sodium_public(const uint8_t private_key[static X25519_SIZE],
                          uint8_t ret[static X25519_SIZE])
{
    int r = crypto_scalarmult_base(ret, private_key);
    assert(r == 0); /* a multiple of the base point is never zero after clamping */
    (void)r;
}

static void sodium_shared(const uint8_t private_key[static X25519_SIZE],
                          const uint8_t public_key[static X25519_SIZE],
                          uint8_t ret[static X25519_SIZE])
{
    /* Its result says what x25519_shared finds out for all backends, but ret may be unset then. */
    if (crypto_scalarmult(ret, private_key, public_key) != 0)
        sodium_memzero(ret, X25519_SIZE);
}

static const struct {
    void (*public)(const uint8_t private_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
    void (*shared)(const uint8_t private_key[static X25519_SIZE],
                   const uint8_t public_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE]);
} backends[] = {
    [X25519_SODIUM] = {sodium_public, sodium_shared},
    [X25519_OWN] = {curve25519_public, curve25519_shared},
};
static_assert(ARRAY_SIZE(backends) == X25519_BACKEND_COUNT, "a row for each backend");

/* Written by x25519_choose only, before there are threads. */
static enum x25519_backend public_by = X25519_SODIUM, shared_by = X25519_SODIUM;

void x25519_choose(enum x25519_backend for_public, enum x25519_backend for_shared)
{
    public_by = for_public;
    shared_by = for_shared;
}

void x25519_public(const uint8_t private_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    backends[public_by].public(private_key, ret);
}

int x25519_shared(const uint8_t private_key[static X25519_SIZE],
                  const uint8_t public_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    backends[shared_by].shared(private_key, public_key, ret);
    return sodium_is_zero(ret, X25519_SIZE) ? -EPROTO : 0;
}

/* Random keys, and with each a random point: half of those lie on the curve's twist, which any
 * backend has to take too. */
static bool x25519_backends_agree(void)
{
    bool same = true;
    for (int i = 0; same && i < AGREE_ROUNDS; i++) {
        uint8_t private_key[X25519_SIZE], point[X25519_SIZE];
        uint8_t key[X25519_BACKEND_COUNT][X25519_SIZE], secret[X25519_BACKEND_COUNT][X25519_SIZE];
        keys_random(private_key, sizeof(private_key));
        keys_random(point, sizeof(point));
        for (size_t j = 0; j < X25519_BACKEND_COUNT; j++) {
            backends[j].public(private_key, key[j]);
            backends[j].shared(private_key, point, secret[j]);
        }
        same = keys_equal(key[X25519_SODIUM], key[X25519_OWN], X25519_SIZE) &&
               keys_equal(secret[X25519_SODIUM], secret[X25519_OWN], X25519_SIZE);
    }
    return same;
}

static enum x25519_backend faster_of(const uint64_t ns[static X25519_BACKEND_COUNT])
{
    bool clearly = ns[X25519_OWN] * 100 < ns[X25519_SODIUM] * (100 - WIN_PERCENT);
    return clearly ? X25519_OWN : X25519_SODIUM;
}

/* They take turns, and the least time of each counts: whatever else ran only made it longer. */
static void x25519_measure(void)
{
    uint64_t for_public[] = {UINT64_MAX, UINT64_MAX}, for_shared[] = {UINT64_MAX, UINT64_MAX};
    uint8_t private_key[X25519_SIZE], point[X25519_SIZE], out[X25519_SIZE];
    keys_random(private_key, sizeof(private_key));
    keys_random(point, sizeof(point));
    for (int round = 0; round < MEASURE_ROUNDS; round++) {
        for (size_t i = 0; i < X25519_BACKEND_COUNT; i++) {
            uint64_t start = clock_monotonic_ns();
            backends[i].public(private_key, out);
            uint64_t between = clock_monotonic_ns();
            backends[i].shared(private_key, point, out);
            uint64_t end = clock_monotonic_ns();
            for_public[i] = MIN(for_public[i], between - start);
            for_shared[i] = MIN(for_shared[i], end - between);
        }
    }
    x25519_choose(faster_of(for_public), faster_of(for_shared));
}

void x25519_setup(void)
{
    x25519_choose(X25519_SODIUM, X25519_SODIUM);
    if (x25519_backends_agree())
        x25519_measure();
}

const char *x25519_description(void)
{
    if (public_by == shared_by)
        return public_by == X25519_SODIUM ? "libsodium" : "our own code";
    return public_by == X25519_SODIUM ? "our own code, public keys by libsodium"
                                      : "libsodium, public keys by our own code";
}
