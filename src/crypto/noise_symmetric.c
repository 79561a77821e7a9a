/* Noise sections 4.3, 5.1 and 5.2: HKDF, CipherState and SymmetricState. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "crypto/blake2s.h"
#include "crypto/keys.h"
#include "noise_priv.h"

static_assert(NOISE_HASH_SIZE == (int)BLAKE2S_HASH_SIZE, "HASHLEN is BLAKE2s's (section 12.6)");
static_assert(NOISE_KEY_SIZE == (int)AEAD_KEY_SIZE, "a cipher's key needs no truncation");
static_assert(NOISE_KEY_SIZE == (int)KEYS_X25519_SIZE, "DHLEN is X25519's (section 12.1)");

/* Section 5.1: this value is reserved. */
#define NONCE_RESERVED UINT64_MAX

/* Section 4.3, HKDF() with two outputs (the third is for PSKs). An output may be the chaining
 * key. */
static void hkdf(const uint8_t chaining_key[static NOISE_HASH_SIZE], const void *input,
                 size_t input_len, uint8_t ret_first[static NOISE_HASH_SIZE],
                 uint8_t ret_second[static NOISE_HASH_SIZE])
{
    uint8_t temp_key[NOISE_HASH_SIZE];
    uint8_t text[NOISE_HASH_SIZE + 1]; /* the previous output, and a counter */
    blake2s_hmac(chaining_key, NOISE_HASH_SIZE, input, input_len, temp_key);
    text[NOISE_HASH_SIZE] = 1;
    blake2s_hmac(temp_key, sizeof(temp_key), text + NOISE_HASH_SIZE, 1, text);
    memcpy(ret_first, text, NOISE_HASH_SIZE);
    text[NOISE_HASH_SIZE] = 2;
    blake2s_hmac(temp_key, sizeof(temp_key), text, sizeof(text), ret_second);
    keys_wipe(temp_key, sizeof(temp_key));
    keys_wipe(text, sizeof(text));
}

/* Section 5.1, EncryptWithAd(). */
static int encrypt_with_ad(struct noise_cipher *cipher, struct aead *aead, const uint8_t *ad,
                           size_t ad_len, const void *plain, size_t plain_len, void *out)
{
    if (cipher->nonce == NONCE_RESERVED)
        return -EOVERFLOW;
    aead_seal(aead, cipher->key, cipher->nonce, ad, ad_len, plain, plain_len, out);
    cipher->nonce++;
    return 0;
}

/* Section 5.1, DecryptWithAd(): the nonce is not incremented if the tag is wrong. */
static int decrypt_with_ad(struct noise_cipher *cipher, struct aead *aead, const uint8_t *ad,
                           size_t ad_len, const void *sealed, size_t size, void *out)
{
    if (cipher->nonce == NONCE_RESERVED)
        return -EOVERFLOW;
    int r = aead_open(aead, cipher->key, cipher->nonce, ad, ad_len, sealed, size, out);
    if (r == 0)
        cipher->nonce++;
    return r;
}

int noise_encrypt(struct noise_cipher *cipher, struct aead *aead, const void *plain,
                  size_t plain_len, void *out)
{
    assert(plain_len <= NOISE_PAYLOAD_MAX);
    return encrypt_with_ad(cipher, aead, NULL, 0, plain, plain_len, out);
}

int noise_decrypt(struct noise_cipher *cipher, struct aead *aead, const void *message, size_t size,
                  void *out)
{
    if (size < NOISE_TAG_SIZE || size > NOISE_MESSAGE_MAX)
        return -EBADMSG;
    return decrypt_with_ad(cipher, aead, NULL, 0, message, size, out);
}

void noise_cipher_wipe(struct noise_cipher *cipher)
{
    keys_wipe(cipher, sizeof(*cipher));
}

/* InitializeSymmetric(). */
void noise_symmetric_init(struct noise_symmetric *symmetric, const char *protocol_name)
{
    size_t len = strlen(protocol_name);
    assert(len > NOISE_HASH_SIZE); /* of all our patterns; shorter names would be padded instead */
    *symmetric = (struct noise_symmetric){.has_key = false};
    blake2s_hash(protocol_name, len, NULL, 0, symmetric->hash);
    memcpy(symmetric->chaining_key, symmetric->hash, NOISE_HASH_SIZE);
}

/* MixKey(). */
void noise_symmetric_mix_key(struct noise_symmetric *symmetric,
                             const uint8_t secret[static NOISE_KEY_SIZE])
{
    hkdf(symmetric->chaining_key, secret, NOISE_KEY_SIZE, symmetric->chaining_key,
         symmetric->cipher.key);
    symmetric->cipher.nonce = 0;
    symmetric->has_key = true;
}

/* MixHash(). */
void noise_symmetric_mix_hash(struct noise_symmetric *symmetric, const void *data, size_t len)
{
    blake2s_hash(symmetric->hash, NOISE_HASH_SIZE, data, len, symmetric->hash);
}

size_t noise_symmetric_overhead(const struct noise_symmetric *symmetric)
{
    return symmetric->has_key ? NOISE_TAG_SIZE : 0;
}

/* EncryptAndHash(). */
int noise_symmetric_encrypt(struct noise_symmetric *symmetric, struct aead *aead, const void *plain,
                            size_t len, uint8_t *out)
{
    int r = 0;
    if (symmetric->has_key)
        r = encrypt_with_ad(&symmetric->cipher, aead, symmetric->hash, NOISE_HASH_SIZE, plain, len,
                            out);
    else if (len > 0)
        memcpy(out, plain, len);
    noise_symmetric_mix_hash(symmetric, out, len + noise_symmetric_overhead(symmetric));
    return r;
}

/* DecryptAndHash(). */
int noise_symmetric_decrypt(struct noise_symmetric *symmetric, struct aead *aead,
                            const uint8_t *sealed, size_t size, void *out)
{
    int r = 0;
    assert(size >= noise_symmetric_overhead(symmetric));
    if (symmetric->has_key)
        r = decrypt_with_ad(&symmetric->cipher, aead, symmetric->hash, NOISE_HASH_SIZE, sealed,
                            size, out);
    else if (size > 0)
        memcpy(out, sealed, size);
    noise_symmetric_mix_hash(symmetric, sealed, size);
    return r;
}

/* Split(). */
void noise_symmetric_split(const struct noise_symmetric *symmetric,
                           struct noise_cipher *ret_from_initiator,
                           struct noise_cipher *ret_to_initiator)
{
    hkdf(symmetric->chaining_key, NULL, 0, ret_from_initiator->key, ret_to_initiator->key);
    ret_from_initiator->nonce = 0;
    ret_to_initiator->nonce = 0;
}
