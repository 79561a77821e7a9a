/* libcrypto's ChaCha20-Poly1305. */
#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "aead_priv.h"
#include "openssl_priv.h"

enum { OPEN = 0, SEAL = 1 }; /* what EVP_CipherInit_ex calls enc */

int aead_libcrypto_load(void)
{
    return openssl_load_crypto();
}

const char *aead_libcrypto_version(void)
{
    return openssl.OpenSSL_version(OPENSSL_VERSION_STRING);
}

int aead_libcrypto_create(struct evp_cipher_ctx_st **ret)
{
    assert(openssl.EVP_CIPHER_CTX_new != NULL);
    EVP_CIPHER_CTX *evp = openssl.EVP_CIPHER_CTX_new();
    if (evp == NULL)
        return -ENOMEM;
    /* Fetching the cipher is slow, so it happens once. The calls only set key and nonce. */
    if (openssl.EVP_CipherInit_ex(evp, openssl.EVP_chacha20_poly1305(), NULL, NULL, NULL, SEAL) !=
        1) {
        openssl.EVP_CIPHER_CTX_free(evp);
        return -ENOTSUP;
    }
    *ret = evp;
    return 0;
}

void aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp)
{
    if (evp != NULL)
        openssl.EVP_CIPHER_CTX_free(evp); /* wipes the last key */
}

/* Sets key and nonce, then processes the associated data and the text. */
static bool aead_libcrypto_run(EVP_CIPHER_CTX *evp, const struct aead_call *call, int direction)
{
    int len = 0; /* always the input's: it is a stream cipher */
    if (openssl.EVP_CipherInit_ex(evp, NULL, NULL, call->key, call->nonce, direction) != 1)
        return false;
    if (call->ad_len > 0 &&
        openssl.EVP_CipherUpdate(evp, NULL, &len, call->ad, (int)call->ad_len) != 1)
        return false;
    return call->in_len == 0 ||
           openssl.EVP_CipherUpdate(evp, call->out, &len, call->in, (int)call->in_len) == 1;
}

void aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call)
{
    uint8_t nothing[1];
    int len = 0;
    bool sealed = aead_libcrypto_run(evp, call, SEAL) &&
                  openssl.EVP_CipherFinal_ex(evp, nothing, &len) == 1 &&
                  openssl.EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE,
                                              call->out + call->in_len) == 1;
    /* A cipher that was created does not fail on any input. If it does, the buffer may still hold
     * plaintext, which must not be sent. */
    if (!sealed)
        abort();
}

int aead_libcrypto_open(struct evp_cipher_ctx_st *evp, const struct aead_call *call)
{
    uint8_t nothing[1], tag[AEAD_TAG_SIZE];
    int len = 0;
    /* A copy, because out may be in, and ctrl takes a pointer that is not const. */
    memcpy(tag, call->in + call->in_len, sizeof(tag));
    bool opened = aead_libcrypto_run(evp, call, OPEN) &&
                  openssl.EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) == 1 &&
                  openssl.EVP_CipherFinal_ex(evp, nothing, &len) == 1;
    return opened ? 0 : -EBADMSG;
}
