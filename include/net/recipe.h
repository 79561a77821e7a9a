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

/* What differs between the servers of a client. */
struct recipe_server {
    uint64_t id; /* of the name, and of the proxy on the way; not 0. Another recipe has the same */
    struct host_port addr;      /* as configured */
    struct tls_context *tls;    /* owned; NULL: that of the recipe */
    char *host;                 /* owned; of the request for WebSocket; NULL: no WebSocket */
    struct proxy_request proxy; /* owned; it names the server */
};

struct recipe {
    unsigned int holders;
    bool is_initiator; /* of the connection: the client */
    bool has_noise;
    struct noise_keys noise;
    struct tls_context *tls;  /* owned; NULL: no TLS */
    uint64_t tls_fingerprint; /* of the files that tls was made from: a reload compares it */
    bool is_websocket;
    bool has_proxy;                /* client */
    struct host_port proxy_addr;   /* with has_proxy */
    struct recipe_server *servers; /* owned; client: in the order of the configuration */
    size_t server_count;
};

/* Makes the handshakes of one connection. server: the one of recipe->servers that it leads to, and
 * peer: the address that was dialled, which tells apart servers with one name; both NULL on a
 * server. *ret: the first of them, for stream_begin; NULL: there is none, and the connection
 * is plain. -ENOMEM. */
MUST_CHECK int recipe_begin(const struct recipe *recipe, const struct recipe_server *server,
                            const struct addr *peer, struct handshake **ret);
/* The server with this id; NULL: it is none of this recipe's. */
const struct recipe_server *recipe_find(const struct recipe *recipe, uint64_t id);
/* What is dialled to reach the server: itself, or the proxy. */
static inline const struct host_port *recipe_dialled(const struct recipe *recipe,
                                                     const struct recipe_server *server)
{
    return recipe->has_proxy ? &recipe->proxy_addr : &server->addr;
}
/* Whether connections begin with handshakes, so that the worker needs a link engine. */
bool recipe_has_handshakes(const struct recipe *recipe);
/* One more holder, each of whom calls recipe_destroy. */
void recipe_hold(struct recipe *recipe);
/* Wipes and frees it for the last holder. Accepts NULL. */
void recipe_destroy(struct recipe *recipe);
