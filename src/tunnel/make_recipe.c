#include "tunnel/make_recipe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "crypto/keys.h"
#include "crypto/tls.h"
#include "net/proxy_handshake.h"

/* ---- TLS ---- */

/* A file's contents and `before`, hashed. A file that can't be read counts as empty:
 * tls_context_create says what is wrong with it. */
static uint64_t hash_file(const char *path, uint64_t before)
{
    unsigned char bytes[sizeof(before) + 4096];
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    ssize_t got = 0;
    size_t left = LIMIT_TLS_FILE;
    do {
        memcpy(bytes, &before, sizeof(before));
        before = keys_hash(bytes, sizeof(before) + (size_t)got);
        got = fd >= 0 && left > 0 ? read(fd, bytes + sizeof(before), 4096) : 0;
        left -= MIN(left, (size_t)MAX(got, 0));
    } while (got > 0);
    if (fd >= 0)
        (void)close(fd);
    keys_wipe(bytes, sizeof(bytes));
    return before;
}

static uint64_t fingerprint(const struct config_tls *tls, bool is_initiator)
{
    const char *const paths[] = {tls->pkcs12, tls->certificate, tls->private_key, tls->client_ca,
                                 tls->trusted_root};
    uint64_t hash = is_initiator && !tls->trust_only_file ? tls_roots_mark() : 0;
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        hash = hash_file(paths[i], hash);
    return hash;
}

/* hostname: of a server, if the configuration has none for all. */
static int make_tls(struct recipe *recipe, const struct config_peer *config, const char *hostname,
                    struct tls_context **ret, char why[static RECIPE_WHY_SIZE])
{
    const struct config_tls *tls = &config->transport.tls;
    struct tls_settings settings = {
        .is_server = !recipe->is_initiator,
        .pkcs12 = tls->pkcs12,
        .pkcs12_password = tls->pkcs12_password,
        .certificate = tls->certificate,
        .private_key = tls->private_key,
        .client_ca = tls->client_ca,
        .hostname = tls->hostname != NULL ? tls->hostname : hostname,
        .trusted_root = tls->trusted_root,
        .trusts_only_file = tls->trust_only_file,
    };
    char reason[TLS_WHY_SIZE];
    int result = tls_context_create(&settings, ret, reason, sizeof(reason));
    if (result < 0 && result != -ENOMEM) {
        (void)snprintf(why, RECIPE_WHY_SIZE, "%s.transport.tls: %s",
                       recipe->is_initiator ? "client" : "server", reason);
        result = ERR_CONFIG;
    }
    return result;
}

/* Servers of different names have a context each, which checks their certificates against the
 * name. */
static int use_tls(struct recipe *recipe, const struct config_peer *config,
                   char why[static RECIPE_WHY_SIZE])
{
    bool has_hostname = config->transport.tls.hostname != NULL;
    recipe->tls_fingerprint = fingerprint(&config->transport.tls, recipe->is_initiator);
    int result = make_tls(recipe, config, config->addr.host, &recipe->tls, why);
    for (size_t i = 1; i < recipe->server_count && result == 0 && !has_hostname; i++) {
        struct recipe_server *server = &recipe->servers[i];
        result = make_tls(recipe, config, server->addr.host, &server->tls, why);
    }
    return result;
}

/* ---- the others ---- */

static void use_noise(struct recipe *recipe, const struct config_noise *noise)
{
    recipe->has_noise = true;
    noise_keys_init(&recipe->noise, noise->pattern,
                    noise->has_local_private_key ? noise->local_private_key : NULL,
                    noise->has_remote_public_key ? noise->remote_public_key : NULL);
}

/* A server on the way to it, for recipe_server.id. */
static uint64_t server_id(const struct recipe *recipe, const struct host_port *addr)
{
    char text[2 * (ADDR_HOST_SIZE + 8) + 1] = "";
    size_t size = strlen(host_port_format(addr, text, ADDR_HOST_SIZE + 8));
    if (recipe->has_proxy) {
        text[size++] = ' ';
        (void)host_port_format(&recipe->proxy_addr, text + size, ADDR_HOST_SIZE + 8);
        size += strlen(text + size);
    }
    return keys_hash(text, size) | 1;
}

static int use_server(struct recipe *recipe, const struct config_peer *config, size_t index)
{
    const struct config_transport *transport = &config->transport;
    const struct config_proxy *proxy = &transport->proxy;
    struct recipe_server *server = &recipe->servers[index];
    server->addr = *config_server_addr(config, index);
    server->id = server_id(recipe, &server->addr);
    const struct proxy_request request = {
        .type = proxy->type == CONFIG_PROXY_HTTP ? PROXY_HTTP : PROXY_SOCKS5,
        .host = server->addr.host,
        .port = server->addr.port,
        .user = proxy->user,
        .password = proxy->password,
    };
    char host[ADDR_HOST_SIZE + 8];
    if (transport->type == CONFIG_TRANSPORT_WEBSOCKET) {
        server->host = strdup(host_port_format(&server->addr, host, sizeof(host)));
        if (server->host == NULL)
            return -ENOMEM;
    }
    return recipe->has_proxy ? proxy_request_copy(&request, &server->proxy) : 0;
}

/* What a client connects to, and what it asks a proxy for. */
static int use_servers(struct recipe *recipe, const struct config_peer *config)
{
    size_t count = 1 + config->more_addr_count;
    recipe->has_proxy = config->transport.proxy.type != CONFIG_PROXY_NONE;
    recipe->proxy_addr = config->transport.proxy.addr;
    recipe->servers = calloc(count, sizeof(*recipe->servers));
    if (recipe->servers == NULL)
        return -ENOMEM;
    recipe->server_count = count;
    int result = 0;
    for (size_t i = 0; i < count && result == 0; i++)
        result = use_server(recipe, config, i);
    return result;
}

int recipe_create(enum config_role role, const struct config_peer *config, struct recipe **ret,
                  char why[static RECIPE_WHY_SIZE])
{
    const struct config_transport *transport = &config->transport;
    struct recipe *recipe = calloc(1, sizeof(*recipe));
    if (recipe == NULL)
        return -ENOMEM;
    recipe->holders = 1;
    recipe->is_initiator = role == CONFIG_CLIENT;
    int result = role == CONFIG_CLIENT ? use_servers(recipe, config) : 0;
    if (result < 0) {
        recipe_destroy(recipe);
        return result;
    }
    switch (transport->type) {
    case CONFIG_TRANSPORT_TCP:
        break;
    case CONFIG_TRANSPORT_NOISE:
        use_noise(recipe, &transport->noise);
        break;
    case CONFIG_TRANSPORT_TLS:
        result = use_tls(recipe, config, why);
        break;
    case CONFIG_TRANSPORT_WEBSOCKET:
        recipe->is_websocket = true;
        if (transport->websocket_tls)
            result = use_tls(recipe, config, why);
        break;
    }
    if (result < 0) {
        recipe_destroy(recipe);
        return result;
    }
    *ret = recipe;
    return 0;
}

int recipe_take(enum config_role role, const struct config_peer *config, struct recipe **made,
                struct recipe **ret)
{
    char why[RECIPE_WHY_SIZE]; /* the check has told it already */
    if (made == NULL || *made == NULL)
        return recipe_create(role, config, ret, why);
    *ret = take_ptr(*made);
    return 0;
}
