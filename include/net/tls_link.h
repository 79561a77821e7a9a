/* TLS (crypto/tls.h) as a link, and the handshake that makes it. The end of a stream is a
 * close_notify, after which the other direction goes on, as with rathole. */
#pragma once

#include "crypto/tls.h"
#include "net/handshake.h"

#ifdef HAVE_TLS

/* A handshake that makes such a link. The context may go before it. peer: as for
 * tls_session_create. -ENOMEM. */
MUST_CHECK int tls_handshake_create(struct tls_context *context, uint64_t peer,
                                    struct handshake **ret);

#else

MUST_CHECK static inline int tls_handshake_create(struct tls_context *context, uint64_t peer,
                                                  struct handshake **ret)
{
    (void)context;
    (void)peer;
    (void)ret;
    return -ENOTSUP;
}

#endif
