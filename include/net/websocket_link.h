/* WebSocket frames (proto/websocket.h) as a link (net/link.h), alone or over another link, which is
 * TLS; and the handshake that makes it. An idle link holds no payload, and a control frame only
 * while a part of it is missing.
 *
 * The end of a stream is a Close. A rathole client drops both directions when it comes, so towards
 * one the server's Close is held back (`holds_end`). The client of a server that is rathole, or
 * ours, need not wait. */
#pragma once

#include <stdbool.h>

#include "net/handshake.h"
#include "net/link.h"
#include "proto/websocket.h"

struct websocket_link {
    struct link link;
    struct link *inner; /* owned; NULL: the frames are what is on the wire */
    struct websocket_decoder decoder;
};

/* Takes inner over, also on failure; NULL: none. holds_end: as in struct link. NULL: no memory. */
MUST_CHECK struct link *websocket_link_create(struct link *inner, bool as_client, bool holds_end);
/* Decodes payload of the inner link, as link_open does with bytes of the wire: bytes that came
 * behind the handshake. They do not lie in the engine's buffers. */
MUST_CHECK ssize_t websocket_link_decode(struct link *link, struct link_engine *engine,
                                         const unsigned char *frames, size_t size);

/* A handshake that makes such a link. has_inner: it runs over another link. host: the Host of the
 * request, as the user wrote it, with its port; copied; NULL: we are the server. -ENOMEM. */
MUST_CHECK int websocket_handshake_create(const char *host, bool has_inner, struct handshake **ret);
