#include <time.h>

#include "tls_priv.h"

/* ---- client ---- */

/* Puts a session, or NULL, in the place of the one that is kept. Under the lock. */
static void replace_kept(struct tls_context *context, SSL_SESSION *session)
{
    openssl.SSL_SESSION_free(context->kept); /* accepts NULL */
    context->kept = session;
}

int tls_resume_keep(SSL *ssl, SSL_SESSION *given)
{
    struct tls_session *session = openssl.SSL_get_ex_data(ssl, 0);
    struct tls_context *context = session->context;
    SSL_SESSION *copy =
        openssl.SSL_SESSION_is_resumable(given) == 1 ? openssl.SSL_SESSION_dup(given) : NULL;
    if (copy == NULL)
        return 0;
    (void)pthread_mutex_lock(&context->lock);
    replace_kept(context, copy);
    session->kept = copy;
    (void)pthread_mutex_unlock(&context->lock);
    return 0; /* `given` stays OpenSSL's */
}

SSL_SESSION *tls_resume_take(struct tls_session *session)
{
    struct tls_context *context = session->context;
    SSL_SESSION *copy = NULL;
    (void)pthread_mutex_lock(&context->lock);
    if (context->kept != NULL)
        copy = openssl.SSL_SESSION_dup(context->kept);
    session->kept = context->kept;
    (void)pthread_mutex_unlock(&context->lock);
    return copy;
}

void tls_resume_withdraw(struct tls_session *session)
{
    struct tls_context *context = session->context;
    (void)pthread_mutex_lock(&context->lock);
    if (session->kept != NULL && session->kept == context->kept)
        replace_kept(context, NULL);
    (void)pthread_mutex_unlock(&context->lock);
}

void tls_resume_forget(struct tls_context *context)
{
    (void)pthread_mutex_lock(&context->lock);
    replace_kept(context, NULL);
    (void)pthread_mutex_unlock(&context->lock);
}

/* ---- server ---- */

static bool has_expired(const SSL_SESSION *session)
{
    return (long)time(NULL) - openssl.SSL_SESSION_get_time(session) >=
           openssl.SSL_SESSION_get_timeout(session);
}

SSL_TICKET_RETURN tls_resume_judge(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
                                   size_t name_size, SSL_TICKET_STATUS status, void *arg)
{
    (void)ssl, (void)name, (void)name_size, (void)arg;
    switch (status) {
    case SSL_TICKET_SUCCESS:
    case SSL_TICKET_SUCCESS_RENEW:
        return has_expired(session) ? SSL_TICKET_RETURN_IGNORE_RENEW : SSL_TICKET_RETURN_USE;
    case SSL_TICKET_EMPTY:
    case SSL_TICKET_NO_DECRYPT:
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    default:
        return SSL_TICKET_RETURN_IGNORE;
    }
}
