#include "net/recipe.h"

#include <stdlib.h>

#include "crypto/keys.h"
#include "net/noise_link.h"
#include "net/proxy_handshake.h"
#include "net/tls_link.h"
#include "net/websocket_link.h"

/* Appends a handshake to the chain. */
static struct handshake **add_handshake(struct handshake **at, int result)
{
    return result == 0 ? &(*at)->next : at;
}

/* For tls_handshake_create. Each server has keys of its own for tickets, also of servers with one
 * name. Behind a proxy all have the proxy's address, and differ in their names. */
static uint64_t tls_peer(const struct recipe_server *server, const struct addr *peer)
{
    struct {
        struct addr_key addr;
        uint64_t id, port;
    } of = {.id = server != NULL ? server->id : 0};
    if (peer == NULL)
        return of.id;
    of.addr = addr_key(peer, (struct addr_prefixes){.v4 = 32, .v6 = 128});
    of.port = addr_port(peer);
    return keys_hash(&of, sizeof(of));
}

int recipe_begin(const struct recipe *recipe, const struct recipe_server *server,
                 const struct addr *peer, struct handshake **ret)
{
    struct tls_context *tls = server != NULL && server->tls != NULL ? server->tls : recipe->tls;
    struct handshake *first = NULL, **at = &first;
    int result = 0;
    if (recipe->has_proxy) {
        result = proxy_handshake_create(&server->proxy, at);
        at = add_handshake(at, result);
    }
    if (result == 0 && recipe->has_noise) {
        result = noise_handshake_create(&recipe->noise, recipe->is_initiator, at);
        at = add_handshake(at, result);
    }
    if (result == 0 && tls != NULL) {
        result = tls_handshake_create(tls, tls_peer(server, peer), at);
        at = add_handshake(at, result);
    }
    if (result == 0 && recipe->is_websocket)
        result = websocket_handshake_create(server != NULL ? server->host : NULL, tls != NULL, at);
    if (result < 0) {
        handshake_free(first);
        return result;
    }
    *ret = first;
    return 0;
}

bool recipe_has_handshakes(const struct recipe *recipe)
{
    return recipe->has_proxy || recipe->has_noise || recipe->tls != NULL || recipe->is_websocket;
}

const struct recipe_server *recipe_find(const struct recipe *recipe, uint64_t id)
{
    for (size_t i = 0; i < recipe->server_count; i++)
        if (recipe->servers[i].id == id)
            return &recipe->servers[i];
    return NULL;
}

void recipe_hold(struct recipe *recipe)
{
    recipe->holders++;
}

void recipe_destroy(struct recipe *recipe)
{
    if (recipe == NULL || --recipe->holders > 0)
        return;
    noise_keys_wipe(&recipe->noise);
    tls_context_destroy(recipe->tls);
    for (size_t i = 0; i < recipe->server_count; i++) {
        struct recipe_server *server = &recipe->servers[i];
        tls_context_destroy(server->tls);
        free(server->host);
        proxy_request_finish(&server->proxy);
    }
    free(recipe->servers);
    free(recipe);
}
