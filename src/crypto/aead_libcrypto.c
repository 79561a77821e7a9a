/* libcrypto >= 3.0 without linking it: the types come from its headers, the functions from
 * dlopen(3). So a tunnel without Noise does not pay for its memory, and a machine without libcrypto
 * runs the same binary. */
#include <assert.h>
#include <dlfcn.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "aead_priv.h"

#define LIBRARY "libcrypto.so.3"

/* EVP_Cipher* are EVP_Encrypt* and EVP_Decrypt* with the direction as an argument. */
#define FUNCTIONS(X)         \
    X(EVP_CIPHER_CTX_ctrl)   \
    X(EVP_CIPHER_CTX_free)   \
    X(EVP_CIPHER_CTX_new)    \
    X(EVP_CipherFinal_ex)    \
    X(EVP_CipherInit_ex)     \
    X(EVP_CipherUpdate)      \
    X(EVP_chacha20_poly1305) \
    X(OPENSSL_init_crypto)   \
    X(OpenSSL_version)

#define POINTER(name) __typeof__(name) *name;
static struct {
    FUNCTIONS(POINTER)
} lib;

#define ROW(name) {#name, (void **)&lib.name},
static const struct {
    const char *name;
    void **pointer;
} functions[] = {FUNCTIONS(ROW)};

static bool is_loaded;

enum { OPEN = 0, SEAL = 1 }; /* what EVP_CipherInit_ex calls enc */

static bool find_functions(void *library)
{
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
        *functions[i].pointer = dlsym(library, functions[i].name);
        if (*functions[i].pointer == NULL)
            return false;
    }
    return true;
}

int aead_libcrypto_load(void)
{
    if (is_loaded)
        return 0;
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return -ENOTSUP;
    if (!find_functions(library)) {
        (void)dlclose(library);
        return -ENOTSUP;
    }
    /* Without its configuration file, which may select other providers than the built-in one. An
     * initialised library cannot be unloaded, so it stays. */
    if (lib.OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
        return -ENOTSUP;
    is_loaded = true;
    return 0;
}

const char *aead_libcrypto_version(void)
{
    return lib.OpenSSL_version(OPENSSL_VERSION_STRING);
}

int aead_libcrypto_create(struct evp_cipher_ctx_st **ret)
{
    assert(is_loaded);
    EVP_CIPHER_CTX *evp = lib.EVP_CIPHER_CTX_new();
    if (evp == NULL)
        return -ENOMEM;
    /* Fetching the cipher is slow, so it happens once. The calls only set key and nonce. */
    if (lib.EVP_CipherInit_ex(evp, lib.EVP_chacha20_poly1305(), NULL, NULL, NULL, SEAL) != 1) {
        lib.EVP_CIPHER_CTX_free(evp);
        return -ENOTSUP;
    }
    *ret = evp;
    return 0;
}

void aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp)
{
    if (evp != NULL)
        lib.EVP_CIPHER_CTX_free(evp); /* wipes the last key */
}

/* Sets key and nonce, then processes the associated data and the text. */
static bool aead_libcrypto_run(EVP_CIPHER_CTX *evp, const struct aead_call *call, int direction)
{
    int len = 0; /* always the input's: it is a stream cipher */
    if (lib.EVP_CipherInit_ex(evp, NULL, NULL, call->key, call->nonce, direction) != 1)
        return false;
    if (call->ad_len > 0 && lib.EVP_CipherUpdate(evp, NULL, &len, call->ad, (int)call->ad_len) != 1)
        return false;
    return call->in_len == 0 ||
           lib.EVP_CipherUpdate(evp, call->out, &len, call->in, (int)call->in_len) == 1;
}

void aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call)
{
    uint8_t nothing[1];
    int len = 0;
    bool sealed = aead_libcrypto_run(evp, call, SEAL) &&
                  lib.EVP_CipherFinal_ex(evp, nothing, &len) == 1 &&
                  lib.EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_SIZE,
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
                  lib.EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) == 1 &&
                  lib.EVP_CipherFinal_ex(evp, nothing, &len) == 1;
    return opened ? 0 : -EBADMSG;
}
