/* remote_addr, which is a list, and how a client uses it. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "options_priv.h"

static bool has_addr(const struct config_peer *client, size_t count, const struct host_port *addr)
{
    for (size_t i = 0; i < count; i++) {
        const struct host_port *other = config_server_addr(client, i);
        if (other->port == addr->port && strcasecmp(other->host, addr->host) == 0)
            return true;
    }
    return false;
}

static int take_addr(struct option_value *value, struct config_peer *client, size_t count,
                     char *text)
{
    struct option_value item = *value;
    while (isspace((unsigned char)*text))
        text++;
    size_t size = strlen(text);
    while (size > 0 && isspace((unsigned char)text[size - 1]))
        text[--size] = '\0';
    item.text = text;
    struct host_port addr;
    int result = value_addr(&item, &addr);
    if (result < 0)
        return result;
    if (count == LIMIT_SERVER_NAMES || has_addr(client, count, &addr)) {
        (void)snprintf(value->problem, value->problem_size,
                       count == LIMIT_SERVER_NAMES ? "expected at most 16 servers"
                                                   : "expected each server once");
        return ERR_CONFIG;
    }
    if (count == 0)
        client->addr = addr;
    else
        client->more_addrs[count - 1] = addr;
    client->more_addr_count = (uint32_t)count;
    return 0;
}

int value_servers_addr(struct option_value *value, void *target)
{
    struct config_peer *client = container_of(target, struct config_peer, addr);
    char text[LIMIT_CONFIG_TEXT + 1], *at = text;
    size_t count = 0;
    int result;
    (void)snprintf(text, sizeof text, "%s", value->text);
    do {
        char *comma = strchr(at, ',');
        if (comma != NULL)
            *comma = '\0';
        result = take_addr(value, client, count++, at);
        at = comma != NULL ? comma + 1 : NULL;
    } while (at != NULL && result == 0);
    return result;
}

int value_servers(struct option_value *value, void *target)
{
    static const struct option_word words[] = {
        {"first", CONFIG_SERVERS_FIRST},
        {"all", CONFIG_SERVERS_ALL},
    };
    int number;
    int result = value_parse_word(value, words, ARRAY_SIZE(words), &number);
    if (result == 0)
        *(enum config_servers *)target = (enum config_servers)number;
    return result;
}

const char *config_addrs_format(const struct config_peer *peer, char *out, size_t out_size)
{
    char addr[ADDR_HOST_SIZE + 8];
    size_t used = 0;
    for (size_t i = 0; i <= peer->more_addr_count && used < out_size; i++)
        used += (size_t)snprintf(out + used, out_size - used, "%s%s", i > 0 ? ", " : "",
                                 host_port_format(config_server_addr(peer, i), addr, sizeof(addr)));
    return out;
}
