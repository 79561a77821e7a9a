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

static uint64_t fingerprint(const struct config_tls *tls)
{
    const char *const paths[] = {tls->pkcs12, tls->certificate, tls->private_key, tls->client_ca,
                                 tls->trusted_root};
    uint64_t hash = 0;
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        hash = hash_file(paths[i], hash);
    return hash;
}

static int use_tls(struct recipe *recipe, const struct config_peer *config,
                   char why[static RECIPE_WHY_SIZE])
{
    const struct config_tls *tls = &config->transport.tls;
    struct tls_settings settings = {
        .is_server = !recipe->is_initiator,
        .pkcs12 = tls->pkcs12,
        .pkcs12_password = tls->pkcs12_password,
        .certificate = tls->certificate,
        .private_key = tls->private_key,
        .client_ca = tls->client_ca,
        .hostname = tls->hostname != NULL ? tls->hostname : config->addr.host,
        .trusted_root = tls->trusted_root,
        .trusts_only_file = tls->trust_only_file,
    };
    char reason[TLS_WHY_SIZE];
    recipe->tls_fingerprint = fingerprint(tls);
    int result = tls_context_create(&settings, &recipe->tls, reason, sizeof(reason));
    if (result < 0 && result != -ENOMEM) {
        (void)snprintf(why, RECIPE_WHY_SIZE, "%s.transport.tls: %s",
                       recipe->is_initiator ? "client" : "server", reason);
        result = ERR_CONFIG;
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

static int use_websocket(struct recipe *recipe, const struct config_peer *config)
{
    char host[ADDR_HOST_SIZE + 8];
    recipe->is_websocket = true;
    if (!recipe->is_initiator)
        return 0;
    recipe->host = strdup(host_port_format(&config->addr, host, sizeof(host)));
    return recipe->host != NULL ? 0 : -ENOMEM;
}

/* What a client connects to, and what it asks a proxy for: the server. */
static int use_server(struct recipe *recipe, const struct config_peer *config)
{
    const struct config_proxy *proxy = &config->transport.proxy;
    const struct proxy_request request = {
        .type = proxy->type == CONFIG_PROXY_HTTP ? PROXY_HTTP : PROXY_SOCKS5,
        .host = config->addr.host,
        .port = config->addr.port,
        .user = proxy->user,
        .password = proxy->password,
    };
    recipe->dialled = config->addr;
    if (proxy->type == CONFIG_PROXY_NONE)
        return 0;
    recipe->dialled = proxy->addr;
    recipe->has_proxy = true;
    return proxy_request_copy(&request, &recipe->proxy);
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
    int result = role == CONFIG_CLIENT ? use_server(recipe, config) : 0;
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
        result = use_websocket(recipe, config);
        if (result == 0 && transport->websocket_tls)
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
