/* What the files of TLS share. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "crypto/client_hello.h"
#include "crypto/tls.h"
#include "openssl_priv.h"

/* A session of one of a client's servers. */
struct tls_kept {
    uint64_t peer;
    SSL_SESSION *session; /* NULL: a free place */
};

struct tls_context {
    _Atomic unsigned int users; /* the owner and the sessions */
    SSL_CTX *ssl_ctx;
    bool is_server;
    bool trusts_file; /* a trusted_root was given; for words alone */
    char *sni;        /* NULL: none */
    char *hostname;   /* client: as it was given, for words */
    time_t expiry;
    /* Client: the sessions that connections take up. Under the lock; each connection has a copy,
     * because OpenSSL withdraws a session of TLS 1.3 with its first use. */
    pthread_mutex_t lock;
    struct tls_kept kept[LIMIT_TLS_KEPT];
    unsigned int next_kept; /* the place that is used anew when all are taken */
};

void tls_context_hold(struct tls_context *context);

struct tls_session {
    struct tls_context *context;
    uint64_t peer;       /* client: whose session it takes up */
    SSL *ssl;            /* server: NULL until the ClientHello is whole */
    unsigned char *held; /* what has come of it */
    uint32_t held_size;
    /* During a call. */
    const unsigned char *in;
    size_t in_size;
    struct tls_out *out;
    bool (*may_begin)(void *arg);
    void *gate_arg;
    char *why;               /* NULL: nothing to say */
    const SSL_SESSION *kept; /* client: the one that it took up or made; only to be compared */
    uint32_t sealed_records; /* with this key */
    /* Where in a record the bytes so far end: so much of its header has come, or of its body is yet
     * to come. */
    uint16_t body_left;
    uint8_t header_size, length_high;
    bool is_overfull; /* out had no room */
    bool is_open;     /* the handshake is over */
    bool has_failed, has_sent_end, has_ended;
};

/* ---- tls_hello.c: a server's first message ---- */

/* Looks at received bytes. CLIENT_HELLO_MORE: it has taken them; WHOLE: *in is the ClientHello with
 * all that was held; NONE: *in is something else. ERR_HANDSHAKE: it is too large. -ENOMEM. */
MUST_CHECK int tls_hello_take(struct tls_session *session, const void **in, size_t *size);
void tls_hello_drop(struct tls_session *session);

/* ---- tls_resume.c: sessions that are taken up ---- */

/* SSL_CTX_sess_set_new_cb: keeps a copy of a client's newest session with this peer. */
int tls_resume_keep(SSL *ssl, SSL_SESSION *given);
/* A copy of the peer's session that is kept, which the caller frees; NULL: a full handshake. */
SSL_SESSION *tls_resume_take(struct tls_session *session);
/* The connection has failed: no other one takes its session up. */
void tls_resume_withdraw(struct tls_session *session);
void tls_resume_forget(struct tls_context *context);
/* SSL_CTX_set_session_ticket_cb: a ticket is good until it expires, and brings no other one. Then a
 * full handshake follows, which checks the certificates again. */
SSL_TICKET_RETURN tls_resume_judge(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
                                   size_t name_size, SSL_TICKET_STATUS status, void *arg);

/* ---- tls_files.c: what is in files ---- */

struct tls_why {
    char *text;
    size_t size;
};

/* Each: 0, or a code of tls_context_create with its reason in why. */
MUST_CHECK int tls_files_use_pkcs12(SSL_CTX *ssl_ctx, const char *path, const char *password,
                                    const struct tls_why *why);
MUST_CHECK int tls_files_use_pem(SSL_CTX *ssl_ctx, const char *certificate, const char *private_key,
                                 const struct tls_why *why);
/* All certificates of the file become roots. asks_for_them: a server names them to its clients. */
MUST_CHECK int tls_files_trust(SSL_CTX *ssl_ctx, const char *path, bool asks_for_them,
                               const struct tls_why *why);

/* ---- tls_roots.c: the system's ---- */

/* They become roots of this context. */
MUST_CHECK int tls_roots_trust(SSL_CTX *ssl_ctx, const struct tls_why *why);

/* ---- tls_error.c: words ---- */

/* Writes the reason and returns error. */
int tls_error_say(const struct tls_why *why, int error, const char *format, ...)
    PRINTF_FORMAT(3, 4);
/* What OpenSSL reported last in this thread: its own words. */
const char *tls_error_last(void);
/* True if OpenSSL's last error is want of memory. */
bool tls_error_is_memory(void);
/* SSL_CTX_set_verify: keeps in the session why a certificate was refused. */
int tls_error_verify(int is_fine, X509_STORE_CTX *store);
/* Keeps in the session what OpenSSL has reported, unless the reason is known. Returns
 * ERR_HANDSHAKE, or a code that says more. */
int tls_error_of_session(struct tls_session *session);
