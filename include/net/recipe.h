/* How a connection to the other side is prepared: which handshakes it runs, with which keys. A role
 * has one recipe at a time. It is read-only once made, so all workers share it; the role gives it
 * up when all workers have the next one. Handshakes that began with it may still run, and keep
 * nothing of it. The main thread alone makes, holds and destroys recipes. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "crypto/noise.h"
#include "net/handshake.h"
#include "proto/proxy.h"

struct tls_context;

struct recipe {
    unsigned int holders;
    bool is_initiator; /* of the connection: the client */
    bool has_noise;
    struct noise_keys noise;
    struct tls_context *tls;  /* owned; NULL: no TLS */
    uint64_t tls_fingerprint; /* of the files that tls was made from: a reload compares it */
    bool is_websocket;
    char *host;                 /* owned; of the request for WebSocket; NULL: a server */
    struct host_port dialled;   /* client: the server, or the proxy on the way to it */
    bool has_proxy;             /* client */
    struct proxy_request proxy; /* owned; it names the server */
};

/* Makes the handshakes of one connection. *ret: the first of them, for stream_begin; NULL: there is
 * none, and the connection is plain. -ENOMEM. */
MUST_CHECK int recipe_begin(const struct recipe *recipe, struct handshake **ret);
/* Whether connections begin with handshakes, so that the worker needs a link engine. */
bool recipe_has_handshakes(const struct recipe *recipe);
/* One more holder, each of whom calls recipe_destroy. */
void recipe_hold(struct recipe *recipe);
/* Wipes and frees it for the last holder. Accepts NULL. */
void recipe_destroy(struct recipe *recipe);
