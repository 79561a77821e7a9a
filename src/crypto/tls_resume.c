#include <string.h>

#include "tls_priv.h"

static void tls_resume_drop(struct tls_context *context, size_t index)
{
    openssl.SSL_SESSION_free(context->kept[index]);
    context->kept_count--;
    memmove(&context->kept[index], &context->kept[index + 1],
            (context->kept_count - index) * sizeof(context->kept[0]));
}

int tls_resume_keep(SSL *ssl, SSL_SESSION *kept)
{
    struct tls_session *session = openssl.SSL_get_ex_data(ssl, 0);
    struct tls_context *context = session->context;
    if (openssl.SSL_SESSION_is_resumable(kept) != 1)
        return 0; /* OpenSSL frees it */
    (void)pthread_mutex_lock(&context->lock);
    /* A newer one of TLS 1.2 replaces the older one. */
    if (openssl.SSL_SESSION_get_protocol_version(kept) < TLS1_3_VERSION) {
        while (context->kept_count > 0)
            tls_resume_drop(context, 0);
    }
    if (context->kept_count == LIMIT_TLS_SESSIONS)
        tls_resume_drop(context, 0);
    context->kept[context->kept_count++] = kept;
    (void)pthread_mutex_unlock(&context->lock);
    return 1;
}

SSL_SESSION *tls_resume_take(struct tls_context *context)
{
    SSL_SESSION *taken = NULL;
    (void)pthread_mutex_lock(&context->lock);
    while (taken == NULL && context->kept_count > 0) {
        SSL_SESSION *newest = context->kept[context->kept_count - 1];
        bool is_reused = openssl.SSL_SESSION_get_protocol_version(newest) < TLS1_3_VERSION;
        if (openssl.SSL_SESSION_is_resumable(newest) != 1) {
            tls_resume_drop(context, context->kept_count - 1); /* its connection has failed */
        } else if (!is_reused) {
            taken = newest;
            context->kept_count--;
        } else if (openssl.SSL_SESSION_up_ref(newest) == 1) {
            taken = newest;
        } else {
            break;
        }
    }
    (void)pthread_mutex_unlock(&context->lock);
    return taken;
}

void tls_resume_forget(struct tls_context *context)
{
    while (context->kept_count > 0)
        tls_resume_drop(context, context->kept_count - 1);
}
