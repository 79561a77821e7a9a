/* A server's wait for the ClientHello. OpenSSL spends 73 KiB on a connection with its first byte,
 * so it gets none before the ClientHello is whole: a stranger who sends less costs what it has
 * sent. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "tls_priv.h"

enum {
    RECORD_HEADER_SIZE = 5,
    MESSAGE_HEADER_SIZE = 4,
    LARGEST_HELD = LIMIT_TLS_HELLO + 4096, /* with the headers of its records */
};

/* The ClientHello may be spread over several records. */
static enum tls_hello hello_of(const unsigned char *bytes, size_t size)
{
    unsigned char header[MESSAGE_HEADER_SIZE];
    size_t have = 0, at = 0;
    while (size - at >= RECORD_HEADER_SIZE) {
        size_t length = (size_t)bytes[at + 3] << 8 | bytes[at + 4];
        if (bytes[at] != SSL3_RT_HANDSHAKE || length == 0 || length > TLS_RECORD_PLAIN)
            return TLS_HELLO_NONE;
        at += RECORD_HEADER_SIZE;
        size_t there = MIN(length, size - at);
        for (size_t i = 0; i < there && have + i < MESSAGE_HEADER_SIZE; i++)
            header[have + i] = bytes[at + i];
        have += there;
        at += there;
        if (have >= MESSAGE_HEADER_SIZE) {
            size_t needed = (size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3];
            if (header[0] != SSL3_MT_CLIENT_HELLO)
                return TLS_HELLO_NONE;
            if (needed > LIMIT_TLS_HELLO)
                return TLS_HELLO_TOO_LARGE;
            if (have >= MESSAGE_HEADER_SIZE + needed)
                return TLS_HELLO_WHOLE;
        }
        if (there < length)
            break;
    }
    return TLS_HELLO_MORE;
}

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
        return TLS_HELLO_MORE;
    if (session->held != NULL) {
        int r = hello_hold(session, *in, *size);
        if (r < 0)
            return r;
        *in = session->held;
        *size = session->held_size;
    }
    enum tls_hello state = hello_of(*in, *size);
    if (state == TLS_HELLO_TOO_LARGE || (state == TLS_HELLO_MORE && *size > LARGEST_HELD))
        return hello_refuse(session);
    if (state == TLS_HELLO_MORE && session->held == NULL) {
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
