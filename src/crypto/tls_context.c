#include <arpa/inet.h>
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "base/error.h"
#include "tls_priv.h"

enum { HOSTNAME_MAX = 255 };

#define AES_1_2    "ECDHE+AESGCM"
#define CHACHA_1_2 "ECDHE+CHACHA20"
#define AES_1_3    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#define CHACHA_1_3 "TLS_CHACHA20_POLY1305_SHA256"

/* True if this machine has instructions for AES-GCM, which is the faster one then. */
static bool has_fast_aes(void)
{
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
    unsigned long bits = getauxval(AT_HWCAP);
    return (bits & HWCAP_AES) != 0 && (bits & HWCAP_PMULL) != 0;
#else
    return false;
#endif
}

/* AEAD with forward secrecy alone: every peer that rathole runs on has them. */
static bool set_ciphers(SSL_CTX *ssl_ctx)
{
    bool aes = has_fast_aes();
    return openssl.SSL_CTX_set_cipher_list(ssl_ctx, aes ? AES_1_2 ":" CHACHA_1_2
                                                        : CHACHA_1_2 ":" AES_1_2) == 1 &&
           openssl.SSL_CTX_set_ciphersuites(ssl_ctx, aes ? AES_1_3 ":" CHACHA_1_3
                                                         : CHACHA_1_3 ":" AES_1_3) == 1;
}

static int tls_context_set_common(SSL_CTX *ssl_ctx, const struct tls_why *why)
{
    /* PRIORITIZE_CHACHA: a client that puts ChaCha20 first has no instructions for AES. */
    (void)openssl.SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                                   SSL_OP_CIPHER_SERVER_PREFERENCE |
                                                   SSL_OP_PRIORITIZE_CHACHA);
    /* An idle session has no buffers. The chain is what the file has: looking for more of it among
     * the trusted ones would cost each handshake. */
    (void)openssl.SSL_CTX_ctrl(ssl_ctx, SSL_CTRL_MODE,
                               SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN, NULL);
    if (openssl.SSL_CTX_ctrl(ssl_ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL) != 1 ||
        !set_ciphers(ssl_ctx))
        return tls_error_say(why, -ENOTSUP,
                             "this OpenSSL has no TLS 1.2 with AES-GCM or ChaCha20 "
                             "(%s): update it",
                             tls_error_last());
    return 0;
}

/* Our certificate and key, if there are any. */
static int tls_context_identify(SSL_CTX *ssl_ctx, const struct tls_settings *settings,
                                const struct tls_why *why)
{
    if (settings->pkcs12 != NULL && settings->certificate != NULL)
        return tls_error_say(why, -EINVAL, "pkcs12 and certificate are both given: leave one out");
    if ((settings->certificate == NULL) != (settings->private_key == NULL))
        return tls_error_say(why, -EINVAL,
                             "certificate and private_key go together: one is missing");
    if (settings->pkcs12 != NULL)
        return tls_files_use_pkcs12(ssl_ctx, settings->pkcs12, settings->pkcs12_password, why);
    if (settings->certificate != NULL)
        return tls_files_use_pem(ssl_ctx, settings->certificate, settings->private_key, why);
    if (settings->is_server)
        return tls_error_say(why, -EINVAL,
                             "a TLS server needs a certificate: give pkcs12, or "
                             "certificate and private_key");
    return 0;
}

/* ---- server ---- */

static int tls_context_set_server(struct tls_context *context, const struct tls_settings *settings,
                                  const struct tls_why *why)
{
    static const unsigned char id[] = "rathole-uring";
    SSL_CTX *ssl_ctx = context->ssl_ctx;
    /* Sessions are in the clients' tickets, and nowhere here. */
    (void)openssl.SSL_CTX_ctrl(ssl_ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, NULL);
    (void)openssl.SSL_CTX_set_session_ticket_cb(ssl_ctx, NULL, tls_resume_judge, NULL);
    if (settings->client_ca == NULL)
        return 0;
    /* A resumed session was checked when it was new, against the same file: tickets are of one
     * context. OpenSSL insists on an id where clients are checked. */
    if (openssl.SSL_CTX_set_session_id_context(ssl_ctx, id, sizeof(id) - 1) != 1)
        return tls_error_say(why, -ENOMEM, "out of memory");
    openssl.SSL_CTX_set_verify(ssl_ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                               tls_error_verify);
    return tls_files_trust(ssl_ctx, settings->client_ca, true, why);
}

/* ---- client ---- */

/* 4 or 16: an address of that many bytes. 0: a name. */
static size_t parse_ip(const char *text, unsigned char ret[static 16])
{
    if (inet_pton(AF_INET, text, ret) == 1)
        return 4;
    return inet_pton(AF_INET6, text, ret) == 1 ? 16 : 0;
}

/* Without the brackets of [::1], the zone of fe80::1%eth0 and the dot at the end of a.example. */
static int tls_context_trim(const char *hostname, char ret[static HOSTNAME_MAX + 1],
                            const struct tls_why *why)
{
    size_t size = strlen(hostname);
    if (size > 0 && hostname[0] == '[') {
        hostname++;
        size = strcspn(hostname, "]%");
    } else if (strchr(hostname, ':') != NULL) {
        size = strcspn(hostname, "%");
    } else if (size > 1 && hostname[size - 1] == '.') {
        size--;
    }
    if (size == 0 || size > HOSTNAME_MAX)
        return tls_error_say(why, -EINVAL, "hostname '%s' is no name that a certificate may have",
                             hostname);
    memcpy(ret, hostname, size);
    ret[size] = '\0';
    return 0;
}

static int tls_context_set_name(struct tls_context *context, const char *hostname,
                                const struct tls_why *why)
{
    char name[HOSTNAME_MAX + 1];
    unsigned char ip[16];
    int r = tls_context_trim(hostname, name, why);
    if (r < 0)
        return r;
    X509_VERIFY_PARAM *param = openssl.SSL_CTX_get0_param(context->ssl_ctx);
    openssl.X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    size_t ip_size = parse_ip(name, ip);
    context->hostname = strdup(name);
    context->sni = ip_size == 0 ? strdup(name) : NULL;
    if (context->hostname == NULL || (ip_size == 0 && context->sni == NULL) ||
        (ip_size > 0 ? openssl.X509_VERIFY_PARAM_set1_ip(param, ip, ip_size)
                     : openssl.X509_VERIFY_PARAM_set1_host(param, name, 0)) != 1)
        return tls_error_say(why, -ENOMEM, "out of memory");
    return 0;
}

static int tls_context_set_client(struct tls_context *context, const struct tls_settings *settings,
                                  const struct tls_why *why)
{
    SSL_CTX *ssl_ctx = context->ssl_ctx;
    if (settings->hostname == NULL)
        return tls_error_say(why, -EINVAL,
                             "a TLS client needs a hostname to check the server's "
                             "certificate against");
    if (settings->trusts_only_file && settings->trusted_root == NULL)
        return tls_error_say(why, -EINVAL,
                             "trusted_root is missing: the system's roots are not to "
                             "be trusted, and there are no others");
    int r = tls_context_set_name(context, settings->hostname, why);
    if (r < 0)
        return r;
    openssl.SSL_CTX_set_verify(ssl_ctx, SSL_VERIFY_PEER, tls_error_verify);
    r = settings->trusts_only_file ? 0 : tls_roots_trust(ssl_ctx, why);
    if (r < 0)
        return r;
    if (settings->trusted_root != NULL) {
        r = tls_files_trust(ssl_ctx, settings->trusted_root, false, why);
        if (r < 0)
            return r;
        context->trusts_file = true;
    }
    (void)openssl.SSL_CTX_ctrl(ssl_ctx, SSL_CTRL_SET_SESS_CACHE_MODE,
                               SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL, NULL);
    openssl.SSL_CTX_sess_set_new_cb(ssl_ctx, tls_resume_keep);
    return 0;
}

/* ---- */

static time_t expiry_of(const SSL_CTX *ssl_ctx)
{
    struct tm when = {0};
    const X509 *own = openssl.SSL_CTX_get0_certificate(ssl_ctx);
    if (own == NULL || openssl.ASN1_TIME_to_tm(openssl.X509_get0_notAfter(own), &when) != 1)
        return 0;
    return timegm(&when);
}

static int tls_context_set_up(struct tls_context *context, const struct tls_settings *settings,
                              const struct tls_why *why)
{
    context->ssl_ctx = openssl.SSL_CTX_new(settings->is_server ? openssl.TLS_server_method()
                                                               : openssl.TLS_client_method());
    if (context->ssl_ctx == NULL)
        return tls_error_say(why, -ENOMEM, "OpenSSL does not start: %s", tls_error_last());
    int r = tls_context_set_common(context->ssl_ctx, why);
    if (r == 0)
        r = tls_context_identify(context->ssl_ctx, settings, why);
    if (r == 0)
        r = settings->is_server ? tls_context_set_server(context, settings, why)
                                : tls_context_set_client(context, settings, why);
    if (r == 0)
        context->expiry = expiry_of(context->ssl_ctx);
    return r;
}

int tls_context_create(const struct tls_settings *settings, struct tls_context **ret, char *why,
                       size_t why_size)
{
    const struct tls_why words = {why, why_size};
    if (openssl_load_tls() < 0)
        return tls_error_say(
            &words, -ENOTSUP,
            "TLS needs libssl.so.3 and libcrypto.so.3 of OpenSSL 3, which can't be "
            "loaded here: install OpenSSL (Debian: libssl3, Fedora: openssl-libs)");
    struct tls_context *context = calloc(1, sizeof(*context));
    if (context == NULL)
        return tls_error_say(&words, -ENOMEM, "out of memory");
    context->users = 1;
    context->is_server = settings->is_server;
    (void)pthread_mutex_init(&context->lock, NULL); /* cannot fail without attributes */
    openssl.ERR_clear_error();
    int r = tls_context_set_up(context, settings, &words);
    openssl.ERR_clear_error();
    if (r < 0) {
        tls_context_destroy(context);
        return r;
    }
    *ret = context;
    return 0;
}

void tls_context_hold(struct tls_context *context)
{
    (void)atomic_fetch_add_explicit(&context->users, 1, memory_order_relaxed);
}

void tls_context_destroy(struct tls_context *context)
{
    if (context == NULL || atomic_fetch_sub_explicit(&context->users, 1, memory_order_acq_rel) > 1)
        return;
    tls_resume_forget(context);
    (void)pthread_mutex_destroy(&context->lock);
    openssl.SSL_CTX_free(context->ssl_ctx); /* accepts NULL */
    free(context->sni);
    free(context->hostname);
    free(context);
}

time_t tls_context_expiry(const struct tls_context *context)
{
    return context->expiry;
}

const char *tls_description(void)
{
    static char text[64];
    if (openssl_load_tls() < 0)
        return NULL;
    (void)snprintf(text, sizeof(text), "OpenSSL %s",
                   openssl.OpenSSL_version(OPENSSL_VERSION_STRING));
    return text;
}
