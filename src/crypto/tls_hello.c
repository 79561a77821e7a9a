/* A server's wait for the ClientHello. OpenSSL spends 73 KiB on a connection with its first byte,
 * so it gets none before the ClientHello is whole: a stranger who sends less costs what it has
 * sent. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tls_priv.h"

enum { LARGEST_HELD = LIMIT_TLS_HELLO + 4096 /* with the headers of its records */ };

static int hello_refuse(struct tls_session *session)
{
    session->has_failed = true;
    if (session->why == NULL)
        session->why = strdup("the ClientHello is longer than this server takes");
    return ERR_HANDSHAKE;
}

/* Adds bytes to what is held. */
static int hello_hold(struct tls_session *session, const void *bytes, size_t size)
{
    unsigned char *held = malloc(session->held_size + size);
    if (held == NULL)
        return -ENOMEM;
    if (session->held != NULL)
        memcpy(held, session->held, session->held_size);
    memcpy(held + session->held_size, bytes, size);
    free(session->held);
    session->held = held;
    session->held_size += (uint32_t)size;
    return 0;
}

int tls_hello_take(struct tls_session *session, const void **in, size_t *size)
{
    if (*size == 0)
        return CLIENT_HELLO_MORE;
    if (session->held != NULL) {
        int r = hello_hold(session, *in, *size);
        if (r < 0)
            return r;
        *in = session->held;
        *size = session->held_size;
    }
    size_t needed;
    enum client_hello state = client_hello_look(*in, *size, &needed);
    if (state == CLIENT_HELLO_TOO_LARGE || (state == CLIENT_HELLO_MORE && *size > LARGEST_HELD))
        return hello_refuse(session);
    if (state == CLIENT_HELLO_MORE && session->held == NULL) {
        int r = hello_hold(session, *in, *size);
        if (r < 0)
            return r;
    }
    return (int)state;
}

void tls_hello_drop(struct tls_session *session)
{
    free(session->held);
    session->held = NULL;
    session->held_size = 0;
}
