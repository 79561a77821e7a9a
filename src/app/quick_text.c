/* The text of a configuration, made of the words of the command line. */
#include <stdio.h>
#include <string.h>

#include "app/quick.h"
#include "base/limits.h"
#include "crypto/keys.h"

enum { QUICK_NAME_SIZE = LIMIT_SERVICE_NAME + 1, QUICK_ADDR_SIZE = ADDR_HOST_SIZE + 24 };

/* size: at most so much of it */
static void quick_put_quoted(struct text *text, const char *value, size_t size)
{
    text_put(text, "\"", 1);
    for (; *value != '\0' && size > 0; value++, size--) {
        if (*value == '"' || *value == '\\')
            text_put(text, "\\", 1);
        text_put(text, value, 1);
    }
    text_put(text, "\"", 1);
}

static const char *quick_role_name(const struct quick *quick)
{
    return quick->role == CONFIG_SERVER ? "server" : "client";
}

static bool quick_is_range(const struct quick_service *service)
{
    return service->first != service->last;
}

/* Two sections can't have one name, so a second range of the kind is {port+0}, a third {port+00}:
 * all of them stand for the port. */
static void quick_name_ports(const struct quick *quick, const struct quick_service *service,
                             char ret[static QUICK_NAME_SIZE])
{
    const char *type = service->is_udp ? "udp" : "tcp";
    int before = 0;
    for (const struct quick_service *other = quick->services; other < service; other++)
        before += quick_is_range(other) && other->is_udp == service->is_udp;
    if (!quick_is_range(service))
        (void)snprintf(ret, QUICK_NAME_SIZE, "%s-%u", type, service->first);
    else if (before == 0)
        (void)snprintf(ret, QUICK_NAME_SIZE, "%s-{port}", type);
    else
        (void)snprintf(ret, QUICK_NAME_SIZE, "%s-{port+%0*d}", type, before, 0);
}

static void quick_write_service(const struct quick *quick, const struct quick_service *service,
                                struct text *text)
{
    char name[QUICK_NAME_SIZE], addr[QUICK_ADDR_SIZE];
    struct host_port at = service->addr;
    bool is_server = quick->role == CONFIG_SERVER;
    quick_name_ports(quick, service, name);
    if (is_server && service->name == NULL) {
        at = quick->addr;
        at.port = service->first;
    }
    (void)host_port_format(&at, addr, sizeof addr);
    text_printf(text, "\n[%s.services.", quick_role_name(quick));
    quick_put_quoted(text, service->name != NULL ? service->name : name,
                     service->name != NULL ? service->name_size : sizeof name);
    text_printf(text, "]\n%s%s = ", service->is_udp ? "type = udp\n" : "",
                is_server ? "bind_addr" : "local_addr");
    if (quick_is_range(service))
        text_printf(text, "\"%s-%u\"", addr, service->last);
    else
        quick_put_quoted(text, addr, sizeof addr);
    text_puts(text, is_server && service->name == NULL && !quick_is_range(service)
                        ? "\nbind = on_login\n" /* as a range is */
                        : "\n");
}

void quick_write(const struct quick *quick, struct text *text)
{
    char addr[QUICK_ADDR_SIZE];
    const char *role = quick_role_name(quick);
    bool is_server = quick->role == CONFIG_SERVER;
    text_printf(text, "[%s]\n%s_addr = \"%s\"\ndefault_token = ", role,
                is_server ? "# Clients connect here.\nbind" : "# The server.\nremote",
                host_port_format(&quick->addr, addr, sizeof addr));
    quick_put_quoted(text, quick->token, sizeof quick->token);
    if (quick->has_noise || quick->server_key != NULL) {
        text_printf(text, "\n\n[%s.transport]\ntype = noise\n\n[%s.transport.noise]\n%s = ", role,
                    role,
                    is_server ? "# rathole-uring --pubkey makes the client's key of it.\n"
                                "local_private_key"
                              : "remote_public_key");
        quick_put_quoted(text, is_server ? quick->private_key : quick->server_key,
                         QUICK_SECRET_SIZE);
    }
    text_puts(text, "\n");
    for (size_t i = 0; i < quick->service_count; i++)
        quick_write_service(quick, &quick->services[i], text);
}

void quick_write_welcome(const struct quick *quick, const struct config_peer *server,
                         struct text *text)
{
    uint8_t key[KEYS_X25519_SIZE];
    char addr[QUICK_ADDR_SIZE], key_text[KEYS_TEXT_SIZE] = "";
    struct host_port host = quick->addr;
    const struct quick_service *first = &quick->services[0];
    bool is_new = quick->is_token_new;
    if (strcmp(host.host, "::") == 0 || strcmp(host.host, "0.0.0.0") == 0)
        memcpy(host.host, "HOST", sizeof "HOST");
    if (quick->has_noise) {
        keys_pair_public(server->transport.noise.local_private_key, key);
        keys_to_text(key, key_text);
    }
    if (quick->is_token_kept)
        text_printf(text, "The token is in %s\n", quick->token + sizeof "file:" - 1);
    text_printf(text, "On the other side:\n\n    %s%s%srathole-uring client %s%s%s%s %u%s=ADDR\n\n",
                is_new ? QUICK_TOKEN_VARIABLE "=" : "", is_new ? server->default_token : "",
                is_new ? " " : "", host_port_format(&host, addr, sizeof addr),
                is_new ? "" : " --token-file FILE", quick->has_noise ? " --server-key " : "",
                key_text, first->first, first->is_udp ? "/udp" : "");
}
