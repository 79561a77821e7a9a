#include "crypto/x25519.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>

#include "crypto/keys.h"

static_assert(X25519_SIZE == crypto_scalarmult_BYTES &&
                  X25519_SIZE == crypto_scalarmult_SCALARBYTES &&
                  X25519_SIZE == (int)KEYS_X25519_SIZE,
              "sizes are those of RFC 7748");

void x25519_public(const uint8_t private_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    int r = crypto_scalarmult_base(ret, private_key);
    assert(r == 0); /* a multiple of the base point is never zero after clamping */
    (void)r;
}

int x25519_shared(const uint8_t private_key[static X25519_SIZE],
                  const uint8_t public_key[static X25519_SIZE], uint8_t ret[static X25519_SIZE])
{
    /* It fails only for an all-zero result, which it may not have written to ret. */
    if (crypto_scalarmult(ret, private_key, public_key) == 0)
        return 0;
    keys_wipe(ret, X25519_SIZE);
    return -EPROTO;
}
