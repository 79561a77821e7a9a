/* OpenSSL >= 3.0 without linking it: the types come from its headers, the functions from dlopen(3).
 * So a tunnel that needs neither pays nothing for its memory, and a machine without it runs the
 * same binary. A function is called as openssl.SSL_new(...); of OpenSSL's macros those that only
 * name numbers are of use, since the others call the linked functions. */
#pragma once

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/macros.h"

/* EVP_Cipher* are EVP_Encrypt* and EVP_Decrypt* with the direction as an argument. */
#define OPENSSL_AEAD_FUNCTIONS(X) \
    X(EVP_CIPHER_CTX_ctrl)        \
    X(EVP_CIPHER_CTX_free)        \
    X(EVP_CIPHER_CTX_new)         \
    X(EVP_CipherFinal_ex)         \
    X(EVP_CipherInit_ex)          \
    X(EVP_CipherUpdate)           \
    X(EVP_chacha20_poly1305)      \
    X(OPENSSL_init_crypto)        \
    X(OpenSSL_version)

#define OPENSSL_CRYPTO_FUNCTIONS(X)    \
    X(ASN1_STRING_get0_data)           \
    X(ASN1_STRING_length)              \
    X(ASN1_TIME_to_tm)                 \
    X(BIO_clear_flags)                 \
    X(BIO_free)                        \
    X(BIO_get_data)                    \
    X(BIO_get_new_index)               \
    X(BIO_meth_new)                    \
    X(BIO_meth_set_ctrl)               \
    X(BIO_meth_set_read)               \
    X(BIO_meth_set_write)              \
    X(BIO_new)                         \
    X(BIO_new_mem_buf)                 \
    X(BIO_set_data)                    \
    X(BIO_set_flags)                   \
    X(BIO_set_init)                    \
    X(ERR_clear_error)                 \
    X(ERR_peek_error)                  \
    X(ERR_peek_last_error)             \
    X(ERR_reason_error_string)         \
    X(EVP_PKEY_free)                   \
    X(GENERAL_NAMES_free)              \
    X(GENERAL_NAME_get0_value)         \
    X(OPENSSL_sk_num)                  \
    X(OPENSSL_sk_pop_free)             \
    X(OPENSSL_sk_value)                \
    X(OSSL_PROVIDER_try_load)          \
    X(OSSL_PROVIDER_unload)            \
    X(PEM_read_bio_PrivateKey)         \
    X(PEM_read_bio_X509)               \
    X(PKCS12_free)                     \
    X(PKCS12_parse)                    \
    X(X509_NAME_get_text_by_NID)       \
    X(X509_STORE_CTX_get_current_cert) \
    X(X509_STORE_CTX_get_error)        \
    X(X509_STORE_CTX_get_error_depth)  \
    X(X509_STORE_CTX_get_ex_data)      \
    X(X509_STORE_add_cert)             \
    X(X509_STORE_get1_all_certs)       \
    X(X509_STORE_load_file)            \
    X(X509_VERIFY_PARAM_set1_host)     \
    X(X509_VERIFY_PARAM_set1_ip)       \
    X(X509_VERIFY_PARAM_set_hostflags) \
    X(X509_free)                       \
    X(X509_get_default_cert_dir)       \
    X(X509_get_default_cert_dir_env)   \
    X(X509_get_default_cert_file)      \
    X(X509_get_default_cert_file_env)  \
    X(X509_get0_notAfter)              \
    X(X509_get0_notBefore)             \
    X(X509_get_ext_d2i)                \
    X(X509_get_issuer_name)            \
    X(X509_get_subject_name)           \
    X(X509_verify_cert_error_string)   \
    X(d2i_PKCS12_bio)

#define OPENSSL_SSL_FUNCTIONS(X)          \
    X(OPENSSL_init_ssl)                   \
    X(SSL_CTX_add_client_CA)              \
    X(SSL_CTX_ctrl)                       \
    X(SSL_CTX_free)                       \
    X(SSL_CTX_get0_certificate)           \
    X(SSL_CTX_get0_param)                 \
    X(SSL_CTX_get_cert_store)             \
    X(SSL_CTX_new)                        \
    X(SSL_CTX_sess_set_new_cb)            \
    X(SSL_CTX_set_cipher_list)            \
    X(SSL_CTX_set_ciphersuites)           \
    X(SSL_CTX_set_default_verify_file)    \
    X(SSL_CTX_set_options)                \
    X(SSL_CTX_set_session_id_context)     \
    X(SSL_CTX_set_session_ticket_cb)      \
    X(SSL_CTX_set_verify)                 \
    X(SSL_CTX_use_cert_and_key)           \
    X(SSL_SESSION_dup)                    \
    X(SSL_SESSION_free)                   \
    X(SSL_SESSION_get_time)               \
    X(SSL_SESSION_get_timeout)            \
    X(SSL_SESSION_is_resumable)           \
    X(SSL_ctrl)                           \
    X(SSL_do_handshake)                   \
    X(SSL_free)                           \
    X(SSL_get_error)                      \
    X(SSL_get_ex_data)                    \
    X(SSL_get_ex_data_X509_STORE_CTX_idx) \
    X(SSL_key_update)                     \
    X(SSL_new)                            \
    X(SSL_read_ex)                        \
    X(SSL_session_reused)                 \
    X(SSL_set_accept_state)               \
    X(SSL_set_bio)                        \
    X(SSL_set_connect_state)              \
    X(SSL_set_ex_data)                    \
    X(SSL_set_session)                    \
    X(SSL_set_shutdown)                   \
    X(SSL_shutdown)                       \
    X(SSL_version)                        \
    X(SSL_write_ex)                       \
    X(TLS_client_method)                  \
    X(TLS_server_method)

#define OPENSSL_POINTER(name) __typeof__(name) *name;
struct openssl {
    OPENSSL_AEAD_FUNCTIONS(OPENSSL_POINTER)
    OPENSSL_CRYPTO_FUNCTIONS(OPENSSL_POINTER)
    OPENSSL_SSL_FUNCTIONS(OPENSSL_POINTER)
};
#undef OPENSSL_POINTER

/* NULL each, until the call below that loads them has returned 0. Read-only then. */
extern struct openssl openssl;

/* Each loads its part once. -ENOTSUP: this machine does not have it, or it is not OpenSSL 3. Not
 * thread-safe: for the main thread. */
MUST_CHECK int openssl_load_crypto(void); /* the functions for aead_libcrypto.c */
MUST_CHECK int openssl_load_tls(void);    /* all of them */
