#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tls_priv.h"

enum {
    RECORD_HEADER = 5,
    /* AES-GCM wants a new key before 2^24.5 full records (RFC 8446, section 5.5). */
    RECORDS_PER_KEY = 1 << 24,
};

/* ---- the BIO: OpenSSL's transport is the slices of the call that is running ---- */

/* Follows the records. OpenSSL cannot tell a cut record: where its header is whole and its body yet
 * to come, nothing is pending. */
static void follow_records(struct tls_session *session, const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size;) {
        if (session->header_size < RECORD_HEADER) {
            session->header_size++;
            if (session->header_size == RECORD_HEADER - 1)
                session->length_high = bytes[i];
            else if (session->header_size == RECORD_HEADER)
                session->body_left = (uint16_t)(session->length_high << 8 | bytes[i]);
            i++;
        } else {
            size_t step = MIN(size - i, session->body_left);
            session->body_left = (uint16_t)(session->body_left - step);
            i += step;
        }
        if (session->header_size == RECORD_HEADER && session->body_left == 0)
            session->header_size = 0;
    }
}

static int slices_read(BIO *bio, char *buf, int size)
{
    struct tls_session *session = openssl.BIO_get_data(bio);
    openssl.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
    if (size <= 0)
        return 0;
    size_t taken = MIN((size_t)size, session->in_size);
    if (taken == 0) {
        openssl.BIO_set_flags(bio, BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY);
        return -1;
    }
    memcpy(buf, session->in, taken);
    follow_records(session, session->in, taken);
    session->in += taken;
    session->in_size -= taken;
    return (int)taken;
}

/* Takes all or nothing. OpenSSL gives up on the connection when it cannot write. */
static int slices_write(BIO *bio, const char *bytes, int size)
{
    struct tls_session *session = openssl.BIO_get_data(bio);
    struct tls_out *out = session->out;
    openssl.BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
    if (size <= 0)
        return 0;
    if (out == NULL || (size_t)size > out->room - out->size) {
        session->is_overfull = true;
        return -1;
    }
    memcpy(out->data + out->size, bytes, (size_t)size);
    out->size += (size_t)size;
    return size;
}

static long slices_control(BIO *bio, int command, long number, void *arg)
{
    (void)bio;
    (void)number;
    (void)arg;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static pthread_once_t slices_once = PTHREAD_ONCE_INIT;
static BIO_METHOD *slices; /* NULL: no memory for it */

static void slices_make(void)
{
    int type = openssl.BIO_get_new_index();
    if (type < 0)
        return;
    slices = openssl.BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "slices");
    if (slices == NULL)
        return;
    (void)openssl.BIO_meth_set_read(slices, slices_read);
    (void)openssl.BIO_meth_set_write(slices, slices_write);
    (void)openssl.BIO_meth_set_ctrl(slices, slices_control);
}

/* ---- */

static void tls_session_begin(struct tls_session *session, const void *in, size_t size,
                              struct tls_out *out)
{
    session->in = in;
    session->in_size = size;
    session->out = out;
    openssl.ERR_clear_error(); /* SSL_get_error looks into this thread's queue */
}

static void tls_session_return(struct tls_session *session)
{
    session->in = NULL;
    session->in_size = 0;
    session->out = NULL;
}

/* An error; the session is of no more use. */
static int tls_session_fail(struct tls_session *session)
{
    int r = tls_error_of_session(session);
    session->has_failed = true;
    tls_resume_withdraw(session);
    openssl.ERR_clear_error();
    return r;
}

/* Makes OpenSSL's part. */
static int tls_session_start(struct tls_session *session)
{
    const struct tls_context *context = session->context;
    (void)pthread_once(&slices_once, slices_make);
    session->ssl = openssl.SSL_new(context->ssl_ctx);
    BIO *bio = slices == NULL ? NULL : openssl.BIO_new(slices);
    if (session->ssl == NULL || bio == NULL ||
        openssl.SSL_set_ex_data(session->ssl, 0, session) != 1) {
        (void)openssl.BIO_free(bio);
        return -ENOMEM;
    }
    openssl.BIO_set_data(bio, session);
    openssl.BIO_set_init(bio, 1);
    openssl.SSL_set_bio(session->ssl, bio, bio);
    if (context->is_server) {
        openssl.SSL_set_accept_state(session->ssl);
        return 0;
    }
    openssl.SSL_set_connect_state(session->ssl);
    bool is_named =
        context->sni == NULL || openssl.SSL_ctrl(session->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME,
                                                 TLSEXT_NAMETYPE_host_name, context->sni) == 1;
    return is_named ? 0 : -ENOMEM;
}

int tls_session_create(struct tls_context *context, uint64_t peer, struct tls_session **ret)
{
    struct tls_session *session = calloc(1, sizeof(*session));
    if (session == NULL)
        return -ENOMEM;
    session->context = context;
    session->peer = peer;
    tls_context_hold(context);
    int r = context->is_server ? 0 : tls_session_start(session);
    if (r < 0) {
        tls_session_destroy(session);
        return r;
    }
    SSL_SESSION *kept = context->is_server ? NULL : tls_resume_take(session);
    if (kept != NULL) {
        (void)openssl.SSL_set_session(session->ssl, kept); /* otherwise a full handshake */
        openssl.SSL_SESSION_free(kept);
    }
    *ret = session;
    return 0;
}

void tls_session_destroy(struct tls_session *session)
{
    if (session == NULL)
        return;
    /* OpenSSL takes a connection without close_notify for failed, and no later one could take it
     * up. The end of ours is the stream's to judge. After an error OpenSSL has withdrawn the
     * session itself. */
    if (session->is_open && !session->has_failed)
        openssl.SSL_set_shutdown(session->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    openssl.SSL_free(session->ssl); /* accepts NULL; wipes the keys */
    tls_context_destroy(session->context);
    tls_hello_drop(session);
    free(session->why);
    free(session);
}

void tls_session_set_gate(struct tls_session *session, bool (*may_begin)(void *arg), void *arg)
{
    session->may_begin = may_begin;
    session->gate_arg = arg;
}

static int tls_session_step(struct tls_session *session, const void *in, size_t size,
                            struct tls_out *out)
{
    tls_session_begin(session, in, size, out);
    int result = openssl.SSL_do_handshake(session->ssl);
    if (result != 1 && openssl.SSL_get_error(session->ssl, result) != SSL_ERROR_WANT_READ)
        return tls_session_fail(session);
    session->is_open = result == 1;
    return session->is_open ? 1 : 0;
}

/* Before anything is spent on the ClientHello. */
static int tls_session_refuse(struct tls_session *session, struct tls_out *out)
{
    static const unsigned char alert[] = {
        SSL3_RT_ALERT, TLS1_2_VERSION_MAJOR, TLS1_2_VERSION_MINOR, 0, 2,
        SSL3_AL_FATAL, SSL_AD_USER_CANCELLED};
    session->has_failed = true;
    if (out->room - out->size >= sizeof(alert)) {
        memcpy(out->data + out->size, alert, sizeof(alert));
        out->size += sizeof(alert);
    }
    return ERR_LIMIT;
}

/* The first step of a server. OpenSSL also gets what is no ClientHello, for its reason. */
static int tls_session_begin_server(struct tls_session *session, const void *in, size_t size,
                                    struct tls_out *out)
{
    int hello = tls_hello_take(session, &in, &size);
    if (hello < 0 || hello == CLIENT_HELLO_MORE)
        return hello;
    if (hello == CLIENT_HELLO_WHOLE && session->may_begin != NULL &&
        !session->may_begin(session->gate_arg))
        return tls_session_refuse(session, out);
    int r = tls_session_start(session);
    if (r == 0)
        r = tls_session_step(session, in, size, out);
    if (r == 0 && hello == CLIENT_HELLO_NONE) { /* such as SSL 2's, of which it waits for more */
        session->has_failed = true;
        session->why = strdup("the peer does not speak TLS 1.2 or 1.3");
        r = ERR_HANDSHAKE;
    }
    tls_session_return(session);
    tls_hello_drop(session);
    return r;
}

int tls_session_handshake(struct tls_session *session, const void *in, size_t size,
                          size_t *ret_used, struct tls_out *out)
{
    assert(!session->is_open && !session->has_failed);
    if (session->ssl == NULL) {
        *ret_used = size; /* a ClientHello alone never ends a handshake */
        return tls_session_begin_server(session, in, size, out);
    }
    int r = tls_session_step(session, in, size, out);
    *ret_used = size - session->in_size;
    tls_session_return(session);
    return r;
}

/* The end of what has come: its close_notify, or that more is to come. */
static int tls_session_after_read(struct tls_session *session, int result)
{
    int error = openssl.SSL_get_error(session->ssl, result);
    if (error == SSL_ERROR_ZERO_RETURN) {
        session->has_ended = true;
        session->header_size = 0; /* what follows is nobody's */
        session->body_left = 0;
        return 0;
    }
    return error == SSL_ERROR_WANT_READ ? 0 : tls_session_fail(session);
}

ssize_t tls_session_open(struct tls_session *session, const void *coded, size_t size, void *plain,
                         size_t room, struct tls_out *reply)
{
    assert(session->is_open);
    size_t opened = 0;
    if (session->has_failed)
        return -EBADMSG;
    if (session->has_ended)
        return 0;
    tls_session_begin(session, coded, size, reply);
    int r = 0;
    for (;;) {
        unsigned char *at = (unsigned char *)plain + opened;
        size_t got = 0;
        int result = openssl.SSL_read_ex(session->ssl, at, room - opened, &got);
        if (result != 1) {
            r = tls_session_after_read(session, result);
            break;
        }
        opened += got;
        if (opened == room) { /* never, if the room is what it has to be */
            session->is_overfull = true;
            r = tls_session_fail(session);
            break;
        }
    }
    tls_session_return(session);
    return r < 0 ? r : (ssize_t)opened;
}

bool tls_session_has_ended(const struct tls_session *session)
{
    return session->has_ended;
}

/* Only TLS 1.3 can change its keys. */
static bool tls_session_renew_key(struct tls_session *session, size_t size)
{
    session->sealed_records += (uint32_t)(size / TLS_RECORD_PLAIN + 1);
    if (session->sealed_records < RECORDS_PER_KEY ||
        openssl.SSL_version(session->ssl) != TLS1_3_VERSION)
        return true;
    session->sealed_records = 0;
    return openssl.SSL_key_update(session->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
}

int tls_session_seal(struct tls_session *session, const void *plain, size_t size,
                     struct tls_out *out)
{
    size_t written = 0;
    assert(session->is_open && !session->has_sent_end && size > 0);
    if (session->has_failed)
        return -EIO;
    tls_session_begin(session, NULL, 0, out);
    bool sealed = tls_session_renew_key(session, size) &&
                  openssl.SSL_write_ex(session->ssl, plain, size, &written) == 1;
    int r = sealed ? 0 : tls_session_fail(session);
    tls_session_return(session);
    return r == -EBADMSG ? -EIO : r;
}

int tls_session_end(struct tls_session *session, struct tls_out *out)
{
    if (!session->is_open || session->has_sent_end || session->has_failed)
        return 0;
    session->has_sent_end = true;
    tls_session_begin(session, NULL, 0, out);
    int r = openssl.SSL_shutdown(session->ssl) >= 0 ? 0 : tls_session_fail(session);
    tls_session_return(session);
    return r == -EBADMSG ? -EIO : r;
}

bool tls_session_is_inside_record(const struct tls_session *session)
{
    return session->header_size > 0;
}

bool tls_session_was_resumed(const struct tls_session *session)
{
    return openssl.SSL_session_reused(session->ssl) == 1;
}

int tls_session_version(const struct tls_session *session)
{
    return openssl.SSL_version(session->ssl);
}

const char *tls_session_why(const struct tls_session *session)
{
    return session->why != NULL ? session->why : "";
}
