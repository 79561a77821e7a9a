/* What went wrong, in words that name the remedy. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tls_priv.h"

enum {
    NAMES_MAX = 8, /* of a certificate, in a text */
    NAMES_SIZE = 256,
    NAME_SIZE = 65, /* a common name's limit is 64 */
    DATE_SIZE = sizeof("2030-01-31 23:59:59 UTC"),
};

int tls_error_say(const struct tls_why *why, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why->text, why->size, format, args);
    va_end(args);
    return error;
}

const char *tls_error_last(void)
{
    const char *text = openssl.ERR_reason_error_string(openssl.ERR_peek_last_error());
    return text != NULL ? text : "unknown error";
}

bool tls_error_is_memory(void)
{
    return ERR_GET_REASON(openssl.ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE ||
           ERR_GET_REASON(openssl.ERR_peek_error()) == ERR_R_MALLOC_FAILURE;
}

/* Only the first reason of a session counts: it is the cause of the others. Without memory for it
 * there is none. */
static void tls_error_keep(struct tls_session *session, const char *text)
{
    if (session->why == NULL)
        session->why = strdup(text);
}

/* ---- certificates ---- */

/* "a.example, 192.0.2.1": whom the certificate is for. */
struct name_list {
    char text[NAMES_SIZE];
    size_t size;
    int count;
};

static void name_list_add(struct name_list *list, const unsigned char *name, size_t size)
{
    size_t room = sizeof(list->text) - list->size - sizeof(", ...");
    if (list->count == NAMES_MAX || size + 2 > room) {
        if (list->count <= NAMES_MAX)
            (void)snprintf(list->text + list->size, sizeof(list->text) - list->size, ", ...");
        list->count = NAMES_MAX + 1;
        return;
    }
    if (list->count > NAMES_MAX)
        return;
    if (list->count++ > 0) {
        list->text[list->size++] = ',';
        list->text[list->size++] = ' ';
    }
    for (size_t i = 0; i < size; i++)
        list->text[list->size++] = isgraph(name[i]) ? (char)name[i] : '?';
    list->text[list->size] = '\0';
}

static void name_list_add_general(struct name_list *list, const GENERAL_NAME *name)
{
    int type = 0;
    char ip[INET6_ADDRSTRLEN];
    const ASN1_STRING *value = openssl.GENERAL_NAME_get0_value(name, &type);
    if (type != GEN_DNS && type != GEN_IPADD)
        return;
    const unsigned char *data = openssl.ASN1_STRING_get0_data(value);
    size_t size = (size_t)openssl.ASN1_STRING_length(value);
    if (type == GEN_DNS)
        name_list_add(list, data, size);
    else if ((size == 4 || size == 16) &&
             inet_ntop(size == 4 ? AF_INET : AF_INET6, data, ip, sizeof(ip)) != NULL)
        name_list_add(list, (const unsigned char *)ip, strlen(ip));
}

static void common_name(const X509_NAME *name, char ret[static NAME_SIZE])
{
    /* OpenSSL 3's prototype has no const. */
    int size = openssl.X509_NAME_get_text_by_NID((X509_NAME *)(uintptr_t)name, NID_commonName, ret,
                                                 NAME_SIZE);
    if (size <= 0)
        (void)snprintf(ret, NAME_SIZE, "(no name)");
}

static void name_list_fill(struct name_list *list, const X509 *leaf)
{
    char name[NAME_SIZE];
    GENERAL_NAMES *names = openssl.X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
    const OPENSSL_STACK *stack = (const OPENSSL_STACK *)names;
    int count = names == NULL ? 0 : openssl.OPENSSL_sk_num(stack);
    for (int i = 0; i < count; i++)
        name_list_add_general(list, openssl.OPENSSL_sk_value(stack, i));
    openssl.GENERAL_NAMES_free(names);
    if (list->count > 0)
        return;
    common_name(openssl.X509_get_subject_name(leaf), name);
    name_list_add(list, (const unsigned char *)name, strlen(name));
}

static void date_of(const ASN1_TIME *time, char ret[static DATE_SIZE])
{
    struct tm when = {0};
    if (openssl.ASN1_TIME_to_tm(time, &when) != 1 ||
        strftime(ret, DATE_SIZE, "%Y-%m-%d %H:%M:%S UTC", &when) == 0)
        (void)snprintf(ret, DATE_SIZE, "(no date)");
}

static void say_expired(const struct tls_why *why, const X509 *refused, const char *whose)
{
    char name[NAME_SIZE], date[DATE_SIZE];
    common_name(openssl.X509_get_subject_name(refused), name);
    date_of(openssl.X509_get0_notAfter(refused), date);
    (void)tls_error_say(why, 0,
                        "%s certificate '%s' has expired on %s: renew it (if this date is yet "
                        "to come, this machine's clock is wrong)",
                        whose, name, date);
}

static void say_not_yet_valid(const struct tls_why *why, const X509 *refused, const char *whose)
{
    char name[NAME_SIZE], date[DATE_SIZE];
    common_name(openssl.X509_get_subject_name(refused), name);
    date_of(openssl.X509_get0_notBefore(refused), date);
    (void)tls_error_say(why, 0,
                        "%s certificate '%s' is valid from %s on: is this machine's clock "
                        "right?",
                        whose, name, date);
}

static void say_wrong_name(const struct tls_why *why, const X509 *refused,
                           const struct tls_session *session)
{
    struct name_list list = {0};
    name_list_fill(&list, refused);
    (void)tls_error_say(why, 0,
                        "the server's certificate is for %s, not for %s: set tls.hostname to a "
                        "name it has, or make a certificate for %s",
                        list.text, session->context->hostname, session->context->hostname);
}

static void say_unknown_issuer(const struct tls_why *why, const X509 *refused,
                               const struct tls_session *session, bool is_self_signed)
{
    char issuer[NAME_SIZE];
    common_name(openssl.X509_get_issuer_name(refused), issuer);
    if (!session->context->is_server)
        (void)tls_error_say(why, 0,
                            "the server's certificate is %s '%s', %s: %s the file with that "
                            "one's certificate in trusted_root%s",
                            is_self_signed ? "signed by itself or its own root," : "issued by",
                            issuer, "which is not trusted here",
                            session->context->trusts_file ? "give" : "name",
                            session->context->trusts_file
                                ? " (the file there has others), and the server its whole chain"
                                : ", unless the server leaves out a part of its chain");
    else
        (void)tls_error_say(why, 0,
                            "the client's certificate is issued by '%s', which is not in "
                            "client_ca",
                            issuer);
}

/* certificate: the one in the chain that was refused. */
static void say_refused(const struct tls_why *why, struct tls_session *session, int error,
                        int depth, const X509 *refused)
{
    const char *whose = session->context->is_server
                            ? depth == 0 ? "the client's" : "the client's CA"
                        : depth == 0 ? "the server's"
                                     : "the server's CA";
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        say_expired(why, refused, whose);
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        say_not_yet_valid(why, refused, whose);
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        say_wrong_name(why, refused, session);
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        say_unknown_issuer(why, refused, session, true);
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        say_unknown_issuer(why, refused, session, false);
        break;
    case X509_V_ERR_CERT_REVOKED:
        (void)tls_error_say(why, 0, "%s certificate was revoked: get a new one", whose);
        break;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
        (void)tls_error_say(why, 0,
                            "%s certificate is too weak (%s): it needs a key of EC, or RSA with "
                            "2048 bits, and SHA-256",
                            whose, openssl.X509_verify_cert_error_string(error));
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        (void)tls_error_say(why, 0,
                            "%s certificate may not be used for this end of TLS: its extended key "
                            "usage needs %s",
                            whose, session->context->is_server ? "clientAuth" : "serverAuth");
        break;
    case X509_V_ERR_OUT_OF_MEM:
        (void)tls_error_say(why, 0, "out of memory");
        break;
    default:
        (void)tls_error_say(why, 0, "%s certificate is refused: %s", whose,
                            openssl.X509_verify_cert_error_string(error));
        break;
    }
}

int tls_error_verify(int is_fine, X509_STORE_CTX *store)
{
    if (is_fine == 1)
        return 1;
    char text[TLS_WHY_SIZE];
    const struct tls_why why = {text, sizeof(text)};
    SSL *ssl =
        openssl.X509_STORE_CTX_get_ex_data(store, openssl.SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_session *session = openssl.SSL_get_ex_data(ssl, 0);
    const X509 *refused = openssl.X509_STORE_CTX_get_current_cert(store);
    int error = openssl.X509_STORE_CTX_get_error(store);
    if (refused == NULL)
        (void)tls_error_say(&why, 0, "the certificate is refused: %s",
                            openssl.X509_verify_cert_error_string(error));
    else
        say_refused(&why, session, error, openssl.X509_STORE_CTX_get_error_depth(store), refused);
    tls_error_keep(session, text);
    return 0;
}

/* ---- handshakes and records ---- */

/* OpenSSL's reason for an alert of the peer is this number and the alert's. */
enum { ALERT_REASONS = 1000, ALERT_MAX = 255 };

static const char *alert_words(int alert)
{
    switch (alert) {
    case SSL_AD_HANDSHAKE_FAILURE:
        return "it has no cipher in common with us, or wants a client certificate (pkcs12, or "
               "certificate and private_key)";
    case SSL_AD_PROTOCOL_VERSION:
        return "it has no TLS version in common with us (we have 1.2 and 1.3)";
    case SSL_AD_UNKNOWN_CA:
        return "it does not trust the issuer of our certificate: it needs that one's certificate "
               "(a client in trusted_root, a server in client_ca)";
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
        return "it does not accept our certificate: its log may say why (name, issuer, usage)";
    case SSL_AD_CERTIFICATE_REVOKED:
        return "our certificate was revoked";
    case SSL_AD_CERTIFICATE_EXPIRED:
        return "our certificate has expired, or its clock is wrong";
    case TLS13_AD_CERTIFICATE_REQUIRED:
        return "it wants a client certificate: give pkcs12, or certificate and private_key";
    case SSL_AD_USER_CANCELLED:
        return "it does not take the connection at this time: too many of them";
    case SSL_AD_UNRECOGNIZED_NAME:
        return "it does not serve this name: is tls.hostname right?";
    default:
        return "its log may say why";
    }
}

/* NULL: OpenSSL's own words are as good. */
static const char *reason_words(const struct tls_session *session, int reason)
{
    switch (reason) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        return "the peer sent an HTTP request without TLS: it has to use https or wss";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_RECORD_LENGTH_MISMATCH:
    case SSL_R_ENCRYPTED_LENGTH_TOO_LONG:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_BAD_RECORD_TYPE:
    case SSL_R_UNEXPECTED_RECORD:
        return session->is_open ? NULL
                                : "the peer does not speak TLS: is transport.type the same on both "
                                  "sides, and the port right?";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
        return "no TLS version in common with the peer (we have 1.2 and 1.3)";
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_CIPHERS_AVAILABLE:
    case SSL_R_WRONG_CIPHER_RETURNED:
        return "no cipher in common with the peer (ours are AES-GCM and ChaCha20-Poly1305, by "
               "ECDHE)";
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return "the client has no certificate, and client_ca demands one";
    default:
        return NULL;
    }
}

int tls_error_of_session(struct tls_session *session)
{
    char text[TLS_WHY_SIZE];
    const struct tls_why why = {text, sizeof(text)};
    unsigned long code = openssl.ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    if (session->is_overfull)
        return -ENOBUFS;
    if (tls_error_is_memory())
        return -ENOMEM;
    int error = session->is_open ? -EBADMSG : ERR_HANDSHAKE;
    bool is_ssl = ERR_GET_LIB(code) == ERR_LIB_SSL;
    const char *words = is_ssl ? reason_words(session, reason) : NULL;
    if (is_ssl && reason >= ALERT_REASONS && reason <= ALERT_REASONS + ALERT_MAX) {
        const char *name = openssl.ERR_reason_error_string(code);
        error = session->is_open ? ERR_ALERT : ERR_HANDSHAKE;
        (void)tls_error_say(&why, 0, "the peer refuses (%s): %s", name != NULL ? name : "alert",
                            alert_words(reason - ALERT_REASONS));
    } else if (words != NULL) {
        (void)tls_error_say(&why, 0, "%s", words);
    } else {
        const char *own = openssl.ERR_reason_error_string(code);
        (void)tls_error_say(&why, 0, "OpenSSL: %s", own != NULL ? own : "unknown error");
    }
    tls_error_keep(session, text);
    return error;
}
