/* Certificates and keys from files. They are read here and not by OpenSSL, so that the reasons are
 * the system's, no FIFO blocks, and no copy of a key is left. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/files.h"
#include "crypto/keys.h"
#include "tls_priv.h"

struct tls_file {
    unsigned char *data;
    size_t size;
    BIO *bio; /* over the data */
};

static void tls_file_close(struct tls_file *file)
{
    (void)openssl.BIO_free(file->bio);
    keys_wipe(file->data, file->size);
    free(file->data);
    *file = (struct tls_file){0};
}

static int tls_file_read_fd(int fd, struct tls_file *file)
{
    struct stat about;
    if (fstat(fd, &about) < 0)
        return -errno;
    if (!S_ISREG(about.st_mode))
        return ERR_NOT_A_FILE;
    if (about.st_size > LIMIT_TLS_FILE)
        return -EFBIG;
    size_t room = (size_t)about.st_size;
    file->data = malloc(room + 1);
    if (file->data == NULL)
        return -ENOMEM;
    while (file->size < room) {
        ssize_t got = read(fd, file->data + file->size, room - file->size);
        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == 0)
            break;
        file->size += got > 0 ? (size_t)got : 0;
    }
    return 0;
}

/* what: the option that names the file. */
static int tls_file_open(struct tls_file *file, const char *what, const char *path,
                         const struct tls_why *why)
{
    *file = (struct tls_file){0};
    CLEANUP_FD int fd = files_open(path);
    int r = fd < 0 ? fd : tls_file_read_fd(fd, file);
    if (r == 0) {
        file->bio = openssl.BIO_new_mem_buf(file->data, (int)file->size);
        r = file->bio == NULL ? -ENOMEM : 0;
    }
    if (r == 0)
        return 0;
    tls_file_close(file);
    return tls_error_say(why, r, "%s '%s': %s%s", what, path, error_text(r),
                         r == -EACCES ? " (the program's user has to be able to read it)" : "");
}

static void free_chain(STACK_OF(X509) * chain)
{
    openssl.OPENSSL_sk_pop_free((OPENSSL_STACK *)chain, (OPENSSL_sk_freefunc)openssl.X509_free);
}

static int tls_files_memory_or(int otherwise)
{
    return tls_error_is_memory() ? -ENOMEM : otherwise;
}

/* ---- PKCS#12 ---- */

static bool is_last_error(int lib, int reason)
{
    unsigned long code = openssl.ERR_peek_last_error();
    return ERR_GET_LIB(code) == lib && ERR_GET_REASON(code) == reason;
}

static bool has_unsupported_cipher(void)
{
    unsigned long first = openssl.ERR_peek_error();
    return ERR_GET_REASON(first) == ERR_R_UNSUPPORTED ||
           ERR_GET_REASON(first) == EVP_R_UNSUPPORTED_ALGORITHM;
}

struct tls_identity {
    EVP_PKEY *key;
    X509 *leaf;
    STACK_OF(X509) * chain;
};

static void tls_identity_free(struct tls_identity *identity)
{
    openssl.EVP_PKEY_free(identity->key);
    openssl.X509_free(identity->leaf);
    free_chain(identity->chain);
    *identity = (struct tls_identity){0};
}

static bool tls_identity_parse(struct tls_identity *identity, PKCS12 *bag, const char *password)
{
    openssl.ERR_clear_error();
    return openssl.PKCS12_parse(bag, password, &identity->key, &identity->leaf, &identity->chain) ==
           1;
}

/* Old files have RC2, which is in OpenSSL's legacy provider. It is there for this file alone. */
static bool tls_identity_parse_legacy(struct tls_identity *identity, PKCS12 *bag,
                                      const char *password)
{
    OSSL_PROVIDER *legacy = openssl.OSSL_PROVIDER_try_load(NULL, "legacy", 1);
    if (legacy == NULL)
        return false;
    bool parsed = tls_identity_parse(identity, bag, password);
    (void)openssl.OSSL_PROVIDER_unload(legacy);
    return parsed;
}

static int tls_identity_from_bag(struct tls_identity *identity, PKCS12 *bag, const char *path,
                                 const char *password, const struct tls_why *why)
{
    if (!tls_identity_parse(identity, bag, password)) {
        bool is_unsupported = has_unsupported_cipher();
        bool parsed = is_unsupported && tls_identity_parse_legacy(identity, bag, password);
        if (!parsed && is_last_error(ERR_LIB_PKCS12, PKCS12_R_MAC_VERIFY_FAILURE))
            return tls_error_say(why, -EINVAL, "pkcs12 '%s': pkcs12_password is %s", path,
                                 password == NULL ? "missing" : "wrong, or the file is damaged");
        if (!parsed && is_unsupported)
            return tls_error_say(
                why, -EINVAL,
                "pkcs12 '%s' is encrypted with an old cipher, which needs OpenSSL's "
                "legacy provider: install it, or make the file anew with openssl "
                "pkcs12 -export",
                path);
        if (!parsed)
            return tls_error_say(why, tls_files_memory_or(-EINVAL), "pkcs12 '%s': %s", path,
                                 tls_error_last());
    }
    if (identity->key == NULL || identity->leaf == NULL)
        return tls_error_say(why, -EINVAL,
                             "pkcs12 '%s' has no %s: it needs a certificate with its key", path,
                             identity->leaf == NULL ? "certificate" : "key");
    return 0;
}

static int tls_identity_use(const struct tls_identity *identity, SSL_CTX *ssl_ctx, const char *what,
                            const char *path, const struct tls_why *why)
{
    openssl.ERR_clear_error();
    if (openssl.SSL_CTX_use_cert_and_key(ssl_ctx, identity->leaf, identity->key, identity->chain,
                                         1) == 1)
        return 0;
    unsigned long code = openssl.ERR_peek_last_error();
    int reason = ERR_GET_REASON(code);
    if ((ERR_GET_LIB(code) == ERR_LIB_SSL && reason == SSL_R_PRIVATE_KEY_MISMATCH) ||
        (ERR_GET_LIB(code) == ERR_LIB_X509 &&
         (reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH)))
        return tls_error_say(why, -EINVAL, "%s '%s': the private key is not the certificate's",
                             what, path);
    if (ERR_GET_LIB(code) == ERR_LIB_SSL &&
        (reason == SSL_R_EE_KEY_TOO_SMALL || reason == SSL_R_CA_KEY_TOO_SMALL ||
         reason == SSL_R_CA_MD_TOO_WEAK))
        return tls_error_say(why, -EINVAL,
                             "%s '%s': %s: make a certificate with a longer key (EC, or "
                             "RSA of 2048 bits) and SHA-256",
                             what, path, tls_error_last());
    return tls_error_say(why, tls_files_memory_or(-EINVAL), "%s '%s': %s", what, path,
                         tls_error_last());
}

int tls_files_use_pkcs12(SSL_CTX *ssl_ctx, const char *path, const char *password,
                         const struct tls_why *why)
{
    struct tls_file file;
    struct tls_identity identity = {0};
    int r = tls_file_open(&file, "pkcs12", path, why);
    if (r < 0)
        return r;
    PKCS12 *bag = openssl.d2i_PKCS12_bio(file.bio, NULL);
    if (bag == NULL)
        r = tls_error_say(why, tls_files_memory_or(-EINVAL),
                          "pkcs12 '%s' is no PKCS#12 file: for PEM files there are certificate and "
                          "private_key",
                          path);
    else
        r = tls_identity_from_bag(&identity, bag, path, password, why);
    openssl.PKCS12_free(bag);
    tls_file_close(&file);
    if (r == 0)
        r = tls_identity_use(&identity, ssl_ctx, "pkcs12", path, why);
    tls_identity_free(&identity);
    return r;
}

/* ---- PEM ---- */

/* OpenSSL's own would ask at the terminal. */
static int give_no_password(char *buf, int size, int rwflag, void *arg)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    *(bool *)arg = true;
    return -1;
}

/* The next certificate of a file. 1, or 0 at its end. */
static int tls_files_next(BIO *bio, const char *what, const char *path, X509 **ret,
                          const struct tls_why *why)
{
    bool asked = false;
    openssl.ERR_clear_error();
    *ret = openssl.PEM_read_bio_X509(bio, NULL, give_no_password, &asked);
    if (*ret != NULL)
        return 1;
    if (is_last_error(ERR_LIB_PEM, PEM_R_NO_START_LINE))
        return 0;
    return tls_error_say(why, tls_files_memory_or(-EINVAL), "%s '%s': a certificate is damaged: %s",
                         what, path, tls_error_last());
}

static int tls_files_has_none(const char *what, const char *path, const struct tls_why *why)
{
    return tls_error_say(why, -EINVAL,
                         "%s '%s' has no certificate in PEM (-----BEGIN CERTIFICATE-----)", what,
                         path);
}

static int tls_files_read_key(const char *path, EVP_PKEY **ret, const struct tls_why *why)
{
    struct tls_file file;
    bool is_encrypted = false;
    int r = tls_file_open(&file, "private_key", path, why);
    if (r < 0)
        return r;
    openssl.ERR_clear_error();
    *ret = openssl.PEM_read_bio_PrivateKey(file.bio, NULL, give_no_password, &is_encrypted);
    if (*ret == NULL && is_encrypted)
        r = tls_error_say(why, -EINVAL,
                          "private_key '%s' is encrypted: decrypt it with openssl pkey, "
                          "or give a PKCS#12 file and its password",
                          path);
    else if (*ret == NULL)
        r = tls_error_say(why, tls_files_memory_or(-EINVAL),
                          "private_key '%s' has no private key in PEM: %s", path, tls_error_last());
    tls_file_close(&file);
    return r;
}

/* The certificates behind the first one. SSL_CTX_use_cert_and_key would take a stack of them, but
 * one by one they need no stack here. */
static int tls_files_add_chain(SSL_CTX *ssl_ctx, BIO *bio, const char *path,
                               const struct tls_why *why)
{
    X509 *next = NULL;
    int r;
    while ((r = tls_files_next(bio, "certificate", path, &next, why)) > 0) {
        /* 0: takes over the certificate. */
        if (openssl.SSL_CTX_ctrl(ssl_ctx, SSL_CTRL_CHAIN_CERT, 0, next) != 1) {
            openssl.X509_free(next);
            return tls_error_say(why, tls_files_memory_or(-EINVAL), "certificate '%s': %s", path,
                                 tls_error_last());
        }
    }
    return r;
}

int tls_files_use_pem(SSL_CTX *ssl_ctx, const char *certificate, const char *private_key,
                      const struct tls_why *why)
{
    struct tls_file file;
    struct tls_identity identity = {0};
    int r = tls_file_open(&file, "certificate", certificate, why);
    if (r < 0)
        return r;
    r = tls_files_next(file.bio, "certificate", certificate, &identity.leaf, why);
    if (r == 0)
        r = tls_files_has_none("certificate", certificate, why);
    if (r > 0)
        r = tls_files_read_key(private_key, &identity.key, why);
    if (r == 0)
        r = tls_identity_use(&identity, ssl_ctx, "certificate", certificate, why);
    if (r == 0)
        r = tls_files_add_chain(ssl_ctx, file.bio, certificate, why);
    tls_identity_free(&identity);
    tls_file_close(&file);
    return r;
}

int tls_files_trust(SSL_CTX *ssl_ctx, const char *path, bool asks_for_them,
                    const struct tls_why *why)
{
    const char *what = asks_for_them ? "client_ca" : "trusted_root";
    X509_STORE *store = openssl.SSL_CTX_get_cert_store(ssl_ctx);
    struct tls_file file;
    X509 *root = NULL;
    size_t count = 0;
    int r = tls_file_open(&file, what, path, why);
    if (r < 0)
        return r;
    while ((r = tls_files_next(file.bio, what, path, &root, why)) > 0) {
        bool added = openssl.X509_STORE_add_cert(store, root) == 1 &&
                     (!asks_for_them || openssl.SSL_CTX_add_client_CA(ssl_ctx, root) == 1);
        openssl.X509_free(root);
        if (!added) {
            r = tls_error_say(why, -ENOMEM, "%s '%s': %s", what, path, tls_error_last());
            break;
        }
        count++;
    }
    tls_file_close(&file);
    return r == 0 && count == 0 ? tls_files_has_none(what, path, why) : r;
}
