/* libcrypto as a backend of aead.c. All of it answers -ENOTSUP in a build without OpenSSL's
 * headers, and on a machine without libcrypto.so.3. */
#pragma once

#include <errno.h>
#include <stdint.h>

#include "base/macros.h"
#include "crypto/aead.h"

enum { AEAD_NONCE_SIZE = 12 };

/* One message: what aead_seal and aead_open were called with. */
struct aead_call {
    const uint8_t *key;
    uint8_t nonce[AEAD_NONCE_SIZE];
    const void *ad;
    size_t ad_len;
    const uint8_t *in;
    size_t in_len; /* without the tag */
    uint8_t *out;
};

struct evp_cipher_ctx_st; /* EVP_CIPHER_CTX, for those who do not know OpenSSL's headers */

#ifdef HAVE_LIBCRYPTO

/* The first call loads the library: not in two threads at once. */
MUST_CHECK int aead_libcrypto_load(void);
/* "3.0.17", once loaded. */
const char *aead_libcrypto_version(void);
/* After a successful load. -ENOMEM, -ENOTSUP. */
MUST_CHECK int aead_libcrypto_create(struct evp_cipher_ctx_st **ret);
void aead_libcrypto_destroy(struct evp_cipher_ctx_st *evp);
/* The tag stands behind the ciphertext. */
void aead_libcrypto_seal(struct evp_cipher_ctx_st *evp, const struct aead_call *call);
/* -EBADMSG; out holds plaintext that nobody has vouched for then. */
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
