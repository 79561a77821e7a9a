#include "crypto/keys.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <sys/random.h>

#include "crypto/x25519.h"

static_assert(KEYS_DIGEST_SIZE == crypto_hash_sha256_BYTES, "digests are SHA-256");
static_assert(KEYS_X25519_SIZE == (int)X25519_SIZE, "keys are X25519's");
static_assert(KEYS_TEXT_SIZE ==
                  sodium_base64_ENCODED_LEN(KEYS_X25519_SIZE, sodium_base64_VARIANT_ORIGINAL),
              "standard base64 with padding");
static_assert((size_t)KEYS_AUTH_SIZE == sizeof(crypto_hash_sha256_state), "kept by value");
static_assert(sizeof(uint64_t) == crypto_shorthash_BYTES, "a short hash is a number");

static uint8_t hash_key[crypto_shorthash_KEYBYTES];

int keys_init(void)
{
    /* libsodium would end the process later, in the middle of a login, or wait here for ever. */
    uint8_t byte;
    if (getrandom(&byte, sizeof(byte), GRND_NONBLOCK) < 0)
        return -errno;
    int r = sodium_init();
    if (r < 0)
        return -EIO;
    /* 1: already initialised. A new key would invalidate tables that use the first one. */
    if (r == 0)
        crypto_shorthash_keygen(hash_key);
    return 0;
}

static void keys_absorb(crypto_hash_sha256_state *state, const void *bytes, size_t len)
{
    int r = crypto_hash_sha256_update(state, bytes, len);
    assert(r == 0); /* SHA-256 cannot fail */
    (void)r;
}

void keys_service_digest(const char *name, size_t name_len, uint8_t ret[static KEYS_DIGEST_SIZE])
{
    crypto_hash_sha256_state state;
    (void)crypto_hash_sha256_init(&state);
    keys_absorb(&state, name, name_len);
    (void)crypto_hash_sha256_final(&state, ret);
}

void keys_auth_begin(struct keys_auth *auth, const char *token, size_t token_len)
{
    crypto_hash_sha256_state state;
    (void)crypto_hash_sha256_init(&state);
    keys_absorb(&state, token, token_len);
    memcpy(auth->state, &state, sizeof(state));
    sodium_memzero(&state, sizeof(state)); /* it holds the end of the token */
}

void keys_auth_end(struct keys_auth *auth, const uint8_t nonce[static KEYS_NONCE_SIZE],
                   uint8_t ret[static KEYS_DIGEST_SIZE])
{
    crypto_hash_sha256_state state;
    memcpy(&state, auth->state, sizeof(state));
    keys_absorb(&state, nonce, KEYS_NONCE_SIZE);
    (void)crypto_hash_sha256_final(&state, ret);
    sodium_memzero(&state, sizeof(state));
    sodium_memzero(auth, sizeof(*auth));
}

void keys_auth_digest(const char *token, size_t token_len,
                      const uint8_t nonce[static KEYS_NONCE_SIZE],
                      uint8_t ret[static KEYS_DIGEST_SIZE])
{
    struct keys_auth auth;
    keys_auth_begin(&auth, token, token_len);
    keys_auth_end(&auth, nonce, ret);
}

void keys_random(void *out, size_t size)
{
    randombytes_buf(out, size);
}

bool keys_equal(const void *a, const void *b, size_t size)
{
    return sodium_memcmp(a, b, size) == 0;
}

void keys_wipe(void *secret, size_t size)
{
    if (size > 0)
        sodium_memzero(secret, size);
}

uint64_t keys_hash(const void *data, size_t size)
{
    uint64_t hash;
    (void)crypto_shorthash((unsigned char *)&hash, data, size, hash_key);
    return hash;
}

void keys_pair_generate(uint8_t ret_private[static KEYS_X25519_SIZE],
                        uint8_t ret_public[static KEYS_X25519_SIZE])
{
    randombytes_buf(ret_private, KEYS_X25519_SIZE);
    keys_pair_public(ret_private, ret_public);
}

void keys_pair_public(const uint8_t private_key[static KEYS_X25519_SIZE],
                      uint8_t ret_public[static KEYS_X25519_SIZE])
{
    x25519_public(private_key, ret_public);
}

int keys_from_text(const char *text, size_t text_len, uint8_t ret[static KEYS_X25519_SIZE])
{
    size_t size = 0;
    const char *end = NULL;
    if (sodium_base642bin(ret, KEYS_X25519_SIZE, text, text_len, NULL, &size, &end,
                          sodium_base64_VARIANT_ORIGINAL) == 0 &&
        size == KEYS_X25519_SIZE && end == text + text_len)
        return 0;
    sodium_memzero(ret, KEYS_X25519_SIZE);
    return -EINVAL;
}

void keys_to_text(const uint8_t key[static KEYS_X25519_SIZE], char ret[static KEYS_TEXT_SIZE])
{
    keys_base64(key, KEYS_X25519_SIZE, ret, KEYS_TEXT_SIZE);
}

void keys_base64(const void *bytes, size_t size, char *out, size_t room)
{
    assert(room >= sodium_base64_ENCODED_LEN(size, sodium_base64_VARIANT_ORIGINAL));
    (void)sodium_bin2base64(out, room, bytes, size, sodium_base64_VARIANT_ORIGINAL);
}
