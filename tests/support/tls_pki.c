#include "tls_pki.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DAY_S = 86400, PATH_SIZE = 512, PATHS = 8 };

static char dir[PATH_SIZE / 2];

void pki_begin(void)
{
    const char *base = getenv("TMPDIR");
    (void)snprintf(dir, sizeof(dir), "%s/tls_pki.XXXXXX", base != NULL ? base : "/tmp");
    cr_assert_not_null(mkdtemp(dir));
}

void pki_end(void)
{
    DIR *open_dir = opendir(dir);
    for (struct dirent *entry; open_dir != NULL && (entry = readdir(open_dir)) != NULL;) {
        if (entry->d_name[0] != '.')
            (void)unlink(pki_path(entry->d_name));
    }
    if (open_dir != NULL)
        (void)closedir(open_dir);
    (void)rmdir(dir);
}

const char *pki_path(const char *file)
{
    static char paths[PATHS][PATH_SIZE];
    static size_t next;
    char *path = paths[next++ % PATHS];
    (void)snprintf(path, PATH_SIZE, "%s/%s", dir, file);
    return path;
}

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    cr_assert_not_null(extension);
    cr_assert_eq(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

void pki_make(struct pki_cert *ret, const struct pki_order *order, const struct pki_cert *issuer)
{
    static long serial = 1;
    X509 *cert = X509_new();
    EVP_PKEY *key = order->is_rsa
                        ? EVP_RSA_gen((unsigned int)(order->rsa_bits > 0 ? order->rsa_bits : 2048))
                        : EVP_EC_gen("P-256");
    cr_assert(cert != NULL && key != NULL);
    bool is_dated = order->from_days != 0 || order->to_days != 0;
    X509_NAME *name = X509_get_subject_name(cert);
    X509 *signer = issuer != NULL ? issuer->cert : cert;
    cr_assert_eq(X509_set_version(cert, X509_VERSION_3), 1);
    cr_assert_eq(ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++), 1);
    cr_assert_not_null(X509_gmtime_adj(X509_getm_notBefore(cert),
                                       (is_dated ? order->from_days : -180) * (long)DAY_S));
    cr_assert_not_null(
        X509_gmtime_adj(X509_getm_notAfter(cert), (is_dated ? order->to_days : 180) * (long)DAY_S));
    cr_assert_eq(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                                            (const unsigned char *)order->name, -1, -1, 0),
                 1);
    cr_assert_eq(X509_set_issuer_name(cert, X509_get_subject_name(signer)), 1);
    cr_assert_eq(X509_set_pubkey(cert, key), 1);
    if (order->is_ca)
        add_extension(cert, signer, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(cert, signer, NID_subject_key_identifier, "hash");
    if (order->alt != NULL)
        add_extension(cert, signer, NID_subject_alt_name, order->alt);
    if (order->usage != NULL)
        add_extension(cert, signer, NID_ext_key_usage, order->usage);
    cr_assert_gt(X509_sign(cert, issuer != NULL ? issuer->key : key, EVP_sha256()), 0);
    *ret = (struct pki_cert){cert, key};
}

void pki_free(struct pki_cert *cert)
{
    X509_free(cert->cert);
    EVP_PKEY_free(cert->key);
    *cert = (struct pki_cert){0};
}

static FILE *open_file(const char *path)
{
    FILE *file = fopen(path, "we");
    cr_assert_not_null(file);
    return file;
}

const char *pki_save(const char *file, const struct pki_cert *first, ...)
{
    const char *path = pki_path(file);
    FILE *stream = open_file(path);
    va_list args;
    va_start(args, first);
    for (const struct pki_cert *next = first; next != NULL;
         next = va_arg(args, const struct pki_cert *))
        cr_assert_eq(PEM_write_X509(stream, next->cert), 1);
    va_end(args);
    cr_assert_eq(fclose(stream), 0);
    return path;
}

const char *pki_save_key(const char *file, const struct pki_cert *cert, const char *password)
{
    const char *path = pki_path(file);
    FILE *stream = open_file(path);
    cr_assert_eq(PEM_write_PKCS8PrivateKey(stream, cert->key,
                                           password != NULL ? EVP_aes_256_cbc() : NULL, NULL, 0,
                                           NULL, (void *)(uintptr_t)password),
                 1);
    cr_assert_eq(fclose(stream), 0);
    return path;
}

const char *pki_save_pkcs12(const char *file, const struct pki_cert *cert,
                            const struct pki_cert *issuer, const char *password,
                            enum pki_pkcs12 kind)
{
    static const int key_nids[] = {NID_aes_256_cbc, NID_pbe_WithSHA1And3_Key_TripleDES_CBC,
                                   NID_pbe_WithSHA1And3_Key_TripleDES_CBC};
    static const int cert_nids[] = {NID_aes_256_cbc, NID_pbe_WithSHA1And3_Key_TripleDES_CBC,
                                    NID_pbe_WithSHA1And40BitRC2_CBC};
    const char *path = pki_path(file);
    /* Of its own, so that the program's has no legacy provider yet. */
    OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
    OSSL_PROVIDER *usual = OSSL_PROVIDER_load(library, "default");
    OSSL_PROVIDER *legacy = OSSL_PROVIDER_load(library, "legacy");
    cr_assert(usual != NULL && legacy != NULL);
    STACK_OF(X509) *chain = issuer != NULL ? sk_X509_new_null() : NULL;
    if (issuer != NULL)
        cr_assert_gt(sk_X509_push(chain, issuer->cert), 0);
    PKCS12 *bag = PKCS12_create_ex(password, "test", cert->key, cert->cert, chain, key_nids[kind],
                                   cert_nids[kind], 0, 0, 0, library, NULL);
    cr_assert_not_null(bag);
    FILE *stream = open_file(path);
    cr_assert_eq(i2d_PKCS12_fp(stream, bag), 1);
    cr_assert_eq(fclose(stream), 0);
    PKCS12_free(bag);
    sk_X509_free(chain);
    OSSL_PROVIDER_unload(legacy);
    OSSL_PROVIDER_unload(usual);
    OSSL_LIB_CTX_free(library);
    return path;
}

const char *pki_save_text(const char *file, const char *text)
{
    const char *path = pki_path(file);
    FILE *stream = open_file(path);
    cr_assert_geq(fputs(text, stream), 0);
    cr_assert_eq(fclose(stream), 0);
    return path;
}
