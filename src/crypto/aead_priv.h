/* libcrypto as a backend of aead.c. aead_libcrypto_load returns -ENOTSUP in a build without
 * OpenSSL's headers, and on a machine without libcrypto.so.3. */
#pragma once

#include <errno.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/aead.h"

enum { AEAD_NONCE_SIZE = 12 };

/* The arguments of aead_seal or aead_open. */
struct aead_call {
    const uint8_t *key;
    uint8_t nonce[AEAD_NONCE_SIZE];
    const void *ad;
    size_t ad_len;
    const uint8_t *in;
    size_t in_len; /* without the tag */
    uint8_t *out;
};

struct evp_cipher_ctx_st; /* EVP_CIPHER_CTX, without OpenSSL's headers */

#ifdef HAVE_LIBCRYPTO

/* The first call loads the library. Not thread-safe. */
MUST_CHECK int aead_libcrypto_load(void);
/* "3.0.17"; after a successful load. */
const char *aead_libcrypto_version(void);
/* After a successful load. 0, -ENOMEM or -ENOTSUP. */
MUST_CHECK int aead_libcrypto_create(struct evp_cipher_ctx_st **ret);
void aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp);
/* Writes ciphertext and tag. Aborts the process if libcrypto fails. */
void aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call);
/* 0 or -EBADMSG, and then out holds unverified plaintext: the caller wipes it. */
MUST_CHECK int aead_libcrypto_open(struct evp_cipher_ctx_st *evp, const struct aead_call *call);

#else

MUST_CHECK static inline int aead_libcrypto_load(void)
{
    return -ENOTSUP;
}

static inline const char *aead_libcrypto_version(void)
{
    return "";
}

MUST_CHECK static inline int aead_libcrypto_create(struct evp_cipher_ctx_st **ret)
{
    (void)ret;
    return -ENOTSUP;
}

static inline void aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp)
{
    (void)evp;
}

static inline void aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call)
{
    (void)evp;
    (void)call;
}

MUST_CHECK static inline int aead_libcrypto_open(struct evp_cipher_ctx_st *evp,
                                                 const struct aead_call *call)
{
    (void)evp;
    (void)call;
    return -ENOTSUP;
}

#endif
