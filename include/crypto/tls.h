/* TLS 1.2 and 1.3 by OpenSSL 3, which is loaded when the first context is made (docs/decisions.md,
 * "TLS by a loaded OpenSSL"). Bytes in, bytes out: no sockets, no clock of our own. A build without
 * OpenSSL's headers has nothing but tls_context_create, which says so.
 *
 *     tls_context_create     per configuration: certificates, keys, trusted roots
 *     tls_session_create     per connection
 *     tls_session_handshake  until it returns 1
 *     tls_session_seal/open  in any order; tls_session_end once
 *
 * A session belongs to one thread at a time. A context may be used by all threads, and lives as
 * long as the last of its sessions. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/macros.h"

enum tls_sizes {
    TLS_RECORD_PLAIN = 16384, /* as much as a record of ours holds */
    /* Header, explicit nonce and tag of TLS 1.2; header, type and tag are less in 1.3. */
    TLS_RECORD_OVERHEAD = 29,
    /* A client may ask for records that are no larger (RFC 6066, section 4). */
    TLS_FRAGMENT_MIN = 512,
    TLS_KEY_UPDATE_SIZE = 64, /* a record with one, and some more */
    TLS_WHY_SIZE = 512,       /* the longest text of tls_context_create and tls_session_why */
};

/* The most that tls_session_seal makes of size bytes, and tls_session_end of none. */
#define TLS_SEALED_MAX(size) \
    ((size) + ((size) / TLS_FRAGMENT_MIN + 1) * (size_t)TLS_RECORD_OVERHEAD + TLS_KEY_UPDATE_SIZE)

struct tls_context;
struct tls_session;

/* Paths and texts; NULL: not given. They are not kept. */
struct tls_settings {
    bool is_server;
    /* Our certificate, its chain and its key: a PKCS#12 file, or two PEM files. A server needs one,
     * a client may have one. */
    const char *pkcs12, *pkcs12_password;
    const char *certificate, *private_key;
    /* Server: clients must have a certificate that one of this file's has signed. */
    const char *client_ca;
    /* Client: who the server has to be. A name goes into SNI; an address (with or without brackets)
     * does not, and is compared with the addresses in the certificate. */
    const char *hostname;
    /* Client: all certificates of this PEM file are trusted, and those of the system, too, unless
     * trusts_only_file. (rathole takes the file's first one alone.) */
    const char *trusted_root;
    bool trusts_only_file;
};

/* Where bytes are appended that have to be sent. */
struct tls_out {
    unsigned char *data;
    size_t room, size;
};

/* Loads OpenSSL and reads the files, so it is for the main thread. On an error `why` says in words
 * what is wrong and what to do. -ENOTSUP: no TLS in this program or on this machine; -EINVAL: the
 * settings or what the files hold; -errno or ERR_NOT_A_FILE: a file cannot be read; -ENOMEM. */
MUST_CHECK int tls_context_create(const struct tls_settings *settings, struct tls_context **ret,
                                  char *why, size_t why_size);

#ifdef HAVE_TLS

/* Accepts NULL. Sessions go on. */
void tls_context_destroy(struct tls_context *context);
/* When our own certificate expires; 0: we have none. */
time_t tls_context_expiry(const struct tls_context *context);
/* Another number once the file or a directory of the system's roots has changed; by their times, so
 * what is written into a file of a directory, in its place, is not seen. Main thread. */
uint64_t tls_roots_mark(void);
/* "OpenSSL 3.0.17". Loads it if need be, so it is for the main thread. NULL: this machine has
 * none. */
const char *tls_description(void);

/* peer: a client's name for the server, any number: an earlier session with this server is taken
 * up. 0 on a server. -ENOMEM. */
MUST_CHECK int tls_session_create(struct tls_context *context, uint64_t peer,
                                  struct tls_session **ret);
/* Accepts NULL. Wipes the keys, sends nothing. */
void tls_session_destroy(struct tls_session *session);

/* Server: asked once, when a ClientHello has come whole and nothing was computed for it. False: the
 * handshake ends with ERR_LIMIT. */
void tls_session_set_gate(struct tls_session *session, bool (*may_begin)(void *arg), void *arg);
/* Takes received bytes (none: the first call of a client), and appends the answer to out, which
 * needs room for all messages of one flight (64 KiB: certificates). *ret_used: how many it took,
 * fewer than size only when done. Returns 0: more is needed; 1: done, and the peer's Finished has
 * come; ERR_HANDSHAKE, ERR_LIMIT (the gate), -ENOBUFS (out is full), -ENOMEM. After an error out
 * may hold an alert, which is worth sending. */
MUST_CHECK int tls_session_handshake(struct tls_session *session, const void *in, size_t size,
                                     size_t *ret_used, struct tls_out *out);

/* After the handshake. Takes all of coded and returns how much plaintext it had; an incomplete
 * record is kept. The room for it is size + TLS_RECORD_PLAIN. What the peer has to be told at once
 * (a key update's answer, an alert) goes to reply. -EBADMSG: damaged, forged, or against the
 * protocol; ERR_ALERT: the peer has sent an alert that ends it all; -ENOBUFS: reply is full;
 * -ENOMEM. */
MUST_CHECK ssize_t tls_session_open(struct tls_session *session, const void *coded, size_t size,
                                    void *plain, size_t room, struct tls_out *reply);
/* True when the peer's close_notify has come. What came behind it was ignored. We may go on. */
bool tls_session_has_ended(const struct tls_session *session);
/* Appends size bytes (at least 1) to out, which has room for TLS_SEALED_MAX of them. -ENOBUFS,
 * -EIO, -ENOMEM: the session is of no more use. */
MUST_CHECK int tls_session_seal(struct tls_session *session, const void *plain, size_t size,
                                struct tls_out *out);
/* Appends our close_notify; nothing if it was sent already, or if the handshake is not over. We may
 * still receive. */
MUST_CHECK int tls_session_end(struct tls_session *session, struct tls_out *out);
/* True if the bytes so far end inside a record, so that the end of the connection would cut it. */
bool tls_session_is_inside_record(const struct tls_session *session);
/* Both after the handshake. True if it took up an earlier session, without certificates. */
bool tls_session_was_resumed(const struct tls_session *session);
/* 0x0303: TLS 1.2, 0x0304: TLS 1.3. */
int tls_session_version(const struct tls_session *session);
/* After an error: in words what is wrong and what to do; "" if there is nothing to say beyond the
 * error. It may quote the peer, so it is for the log, which escapes it. */
const char *tls_session_why(const struct tls_session *session);

#else

static inline void tls_context_destroy(struct tls_context *context)
{
    (void)context;
}

static inline time_t tls_context_expiry(const struct tls_context *context)
{
    (void)context;
    return 0;
}

static inline uint64_t tls_roots_mark(void)
{
    return 0;
}

static inline const char *tls_description(void)
{
    return NULL;
}

#endif
