#include <time.h>

#include "tls_priv.h"

/* ---- client ---- */

/* All under the lock. */

/* NULL: no session of this peer is kept. */
static struct tls_kept *find_kept(struct tls_context *context, uint64_t peer)
{
    for (size_t i = 0; i < ARRAY_SIZE(context->kept); i++)
        if (context->kept[i].session != NULL && context->kept[i].peer == peer)
            return &context->kept[i];
    return NULL;
}

static struct tls_kept *take_place(struct tls_context *context)
{
    for (size_t i = 0; i < ARRAY_SIZE(context->kept); i++)
        if (context->kept[i].session == NULL)
            return &context->kept[i];
    return &context->kept[context->next_kept++ % ARRAY_SIZE(context->kept)];
}

static void free_kept(struct tls_kept *kept)
{
    openssl.SSL_SESSION_free(kept->session); /* accepts NULL */
    kept->session = NULL;
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
    struct tls_kept *kept = find_kept(context, session->peer);
    if (kept == NULL)
        kept = take_place(context);
    free_kept(kept);
    *kept = (struct tls_kept){.peer = session->peer, .session = copy};
    session->kept = copy;
    (void)pthread_mutex_unlock(&context->lock);
    return 0; /* `given` stays OpenSSL's */
}

SSL_SESSION *tls_resume_take(struct tls_session *session)
{
    struct tls_context *context = session->context;
    SSL_SESSION *copy = NULL;
    (void)pthread_mutex_lock(&context->lock);
    const struct tls_kept *kept = find_kept(context, session->peer);
    if (kept != NULL) {
        copy = openssl.SSL_SESSION_dup(kept->session);
        session->kept = kept->session;
    }
    (void)pthread_mutex_unlock(&context->lock);
    return copy;
}

void tls_resume_withdraw(struct tls_session *session)
{
    struct tls_context *context = session->context;
    (void)pthread_mutex_lock(&context->lock);
    struct tls_kept *kept = find_kept(context, session->peer);
    if (kept != NULL && kept->session == session->kept)
        free_kept(kept);
    (void)pthread_mutex_unlock(&context->lock);
}

void tls_resume_forget(struct tls_context *context)
{
    (void)pthread_mutex_lock(&context->lock);
    for (size_t i = 0; i < ARRAY_SIZE(context->kept); i++)
        free_kept(&context->kept[i]);
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
