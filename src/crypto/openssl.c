#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>

#include "openssl_priv.h"

#define CRYPTO_LIBRARY "libcrypto.so.3"
#define SSL_LIBRARY    "libssl.so.3"

struct openssl openssl;

struct openssl_row {
    const char *name;
    void **pointer;
};

#define ROW(name) {#name, (void **)&openssl.name},
static const struct openssl_row aead_rows[] = {OPENSSL_AEAD_FUNCTIONS(ROW)};
static const struct openssl_row crypto_rows[] = {OPENSSL_CRYPTO_FUNCTIONS(ROW)};
static const struct openssl_row ssl_rows[] = {OPENSSL_SSL_FUNCTIONS(ROW)};

static bool has_crypto, has_tls;

static bool find_functions(void *library, const struct openssl_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        *rows[i].pointer = dlsym(library, rows[i].name);
        if (*rows[i].pointer == NULL)
            return false;
    }
    return true;
}

int openssl_load_crypto(void)
{
    if (has_crypto)
        return 0;
    void *library = dlopen(CRYPTO_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return -ENOTSUP;
    if (!find_functions(library, aead_rows, ARRAY_SIZE(aead_rows))) {
        (void)dlclose(library);
        return -ENOTSUP;
    }
    /* Without its configuration file, which may select other providers than the built-in one. An
     * initialised library cannot be unloaded, so it stays. */
    if (openssl.OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
        return -ENOTSUP;
    has_crypto = true;
    return 0;
}

int openssl_load_tls(void)
{
    if (has_tls)
        return 0;
    int r = openssl_load_crypto();
    if (r < 0)
        return r;
    /* Its own dependency is the libcrypto that is there already. */
    void *crypto = dlopen(CRYPTO_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *ssl = dlopen(SSL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (crypto == NULL || ssl == NULL ||
        !find_functions(crypto, crypto_rows, ARRAY_SIZE(crypto_rows)) ||
        !find_functions(ssl, ssl_rows, ARRAY_SIZE(ssl_rows)) ||
        openssl.OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
        return -ENOTSUP; /* what was loaded stays: the next attempt would have the same result */
    has_tls = true;
    return 0;
}
