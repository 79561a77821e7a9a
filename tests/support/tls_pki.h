/* Certificates and keys that a test makes for itself, so that none in the repository expires. They
 * are files in a directory of the test's own. Link the program with libcrypto. */
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdbool.h>

struct pki_cert {
    X509 *cert;
    EVP_PKEY *key;
};

struct pki_order {
    const char *name;       /* the common name */
    const char *alt;        /* "DNS:a.example,IP:192.0.2.1"; NULL: none */
    const char *usage;      /* extended key usage; NULL: any */
    int from_days, to_days; /* from now; both 0: a year around now */
    bool is_ca;
    bool is_rsa;
    int rsa_bits; /* 0: 2048 */
};

enum pki_pkcs12 { PKI_AES, PKI_3DES, PKI_RC2 };

/* Makes and removes the directory. */
void pki_begin(void);
void pki_end(void);
/* issuer NULL: signed by itself. */
void pki_make(struct pki_cert *ret, const struct pki_order *order, const struct pki_cert *issuer);
void pki_free(struct pki_cert *cert);

/* The path of a file in the directory. The last eight results are valid. */
const char *pki_path(const char *file);
/* Each writes a file and returns its path. More certificates follow in the order of a chain; NULL
 * ends it. */
const char *pki_save(const char *file, const struct pki_cert *first, ...) __attribute__((sentinel));
const char *pki_save_key(const char *file, const struct pki_cert *cert, const char *password);
const char *pki_save_pkcs12(const char *file, const struct pki_cert *cert,
                            const struct pki_cert *issuer, const char *password,
                            enum pki_pkcs12 kind);
const char *pki_save_text(const char *file, const char *text);
