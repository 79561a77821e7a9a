#include "config/config_diff.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "access_priv.h"
#include "config/routes.h"
#include "options_priv.h"

/* ---- one value ---- */

/* Seconds, numbers and enums all have this size. */
typedef uint32_t plain_value;
static_assert(sizeof(enum config_tristate) == sizeof(plain_value) &&
                  sizeof(enum log_level) == sizeof(plain_value) &&
                  sizeof(enum config_bind) == sizeof(plain_value) &&
                  sizeof(enum config_servers) == sizeof(plain_value),
              "words are compared as numbers");

static bool same_text(const char *a, const char *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    return strcmp(a, b) == 0;
}

static bool same_addr(const struct host_port *a, const struct host_port *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* a and b are the addr of a service; the last port of a range is beside it. */
static bool same_range(const void *a, const void *b)
{
    const struct config_service *service_a = container_of(a, struct config_service, addr);
    const struct config_service *service_b = container_of(b, struct config_service, addr);
    return same_addr(a, b) && service_a->port_last == service_b->port_last;
}

/* a and b are the addr of a client; the others of the list are beside it. */
static bool same_servers(const void *a, const void *b)
{
    const struct config_peer *client_a = container_of(a, struct config_peer, addr);
    const struct config_peer *client_b = container_of(b, struct config_peer, addr);
    bool same = client_a->more_addr_count == client_b->more_addr_count;
    for (size_t i = 0; same && i <= client_a->more_addr_count; i++)
        same = same_addr(config_server_addr(client_a, i), config_server_addr(client_b, i));
    return same;
}

static bool same_key(bool has_a, const uint8_t *a, bool has_b, const uint8_t *b)
{
    return has_a == has_b && (!has_a || keys_equal(a, b, KEYS_X25519_SIZE));
}

static bool same_proxy(const struct config_proxy *a, const struct config_proxy *b)
{
    return a->type == b->type && same_addr(&a->addr, &b->addr) && same_text(a->user, b->user) &&
           same_text(a->password, b->password);
}

static bool same_value(const struct option *option, const void *a, const void *b)
{
    const struct config_noise *noise_a = a, *noise_b = b;
    if (option->parse == value_addr)
        return same_addr(a, b);
    if (option->parse == value_servers_addr)
        return same_servers(a, b);
    if (option->parse == value_addr_or_range)
        return same_range(a, b);
    if (option->parse == value_secret || option->parse == value_password ||
        option->parse == value_path || option->parse == value_hostname ||
        option->parse == value_host_names)
        return same_text(*(char *const *)a, *(char *const *)b);
    if (option->parse == value_allow || option->parse == value_deny)
        return cidr_set_equal(((const struct config_access *)a)->set,
                              ((const struct config_access *)b)->set);
    if (option->parse == value_proxy)
        return same_proxy(a, b);
    if (option->parse == value_account || option->parse == value_owner)
        return same_text(a, b);
    if (option->parse == value_bool)
        return *(const bool *)a == *(const bool *)b;
    if (option->parse == value_bandwidth)
        return *(const uint64_t *)a == *(const uint64_t *)b;
    if (option->parse == value_local_private_key)
        return same_key(noise_a->has_local_private_key, noise_a->local_private_key,
                        noise_b->has_local_private_key, noise_b->local_private_key);
    if (option->parse == value_remote_public_key)
        return same_key(noise_a->has_remote_public_key, noise_a->remote_public_key,
                        noise_b->has_remote_public_key, noise_b->remote_public_key);
    return *(const plain_value *)a == *(const plain_value *)b;
}

/* Compares the rows of a service, or those of the role's own settings. */
static unsigned int changes_between(enum config_role role, bool of_service, const void *a,
                                    const void *b)
{
    unsigned int changes = 0;
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        if ((option->roles & (1u << role)) == 0 || option->change == CONFIG_CHANGE_NONE ||
            (option->section == SECTION_SERVICE) != of_service ||
            option->section == SECTION_STATUS) /* not the role's: app/status compares it */
            continue;
        if (!same_value(option, (const char *)a + option->offset, (const char *)b + option->offset))
            changes |= option->change;
    }
    return changes;
}

static unsigned int service_changes(enum config_role role, const struct config_service *old,
                                    const struct config_service *new)
{
    unsigned int changes = changes_between(role, true, old, new);
    /* A TCP service has no lanes. */
    if (new->type != CONFIG_SERVICE_UDP)
        changes &= ~(unsigned int)CONFIG_CHANGE_LANES;
    if (!route_set_equal(old->routes, new->routes))
        changes |= CONFIG_CHANGE_LIMITS;
    /* It gets sockets, or loses them; or it has the name of an address, and becomes its front. */
    if (old->is_routed != new->is_routed || (old->routes == NULL) != (new->routes == NULL))
        changes |= CONFIG_CHANGE_TYPE;
    else if (new->is_routed && (changes & CONFIG_CHANGE_ADDRESS) != 0)
        changes = (changes & ~(unsigned int)CONFIG_CHANGE_ADDRESS) |
                  CONFIG_CHANGE_LIMITS; /* the front's matter */
    return changes;
}

/* ---- the list of services ---- */

static int by_name(const void *a, const void *b)
{
    const struct config_service *const *service_a = a, *const *service_b = b;
    return strcmp((*service_a)->name, (*service_b)->name);
}

static const struct config_service **sorted(const struct config_peer *peer)
{
    const struct config_service **list = calloc(peer->service_count + 1, sizeof(*list));
    for (size_t i = 0; list != NULL && i < peer->service_count; i++)
        list[i] = &peer->services[i];
    if (list != NULL)
        qsort(list, peer->service_count, sizeof(*list), by_name);
    return list;
}

/* Both lists are sorted by name and end with NULL. */
static size_t merge(enum config_role role, const struct config_service **old,
                    const struct config_service **new, struct config_service_diff *out)
{
    size_t count = 0;
    while (*old != NULL || *new != NULL) {
        int order = *old == NULL ? 1 : *new == NULL ? -1 : by_name(old, new);
        if (order < 0) {
            out[count++] =
                (struct config_service_diff){.fate = CONFIG_SERVICE_REMOVED, .old = *old++};
        } else if (order > 0) {
            out[count++] =
                (struct config_service_diff){.fate = CONFIG_SERVICE_ADDED, .new = *new ++};
        } else {
            unsigned int changes = service_changes(role, *old, *new);
            if (changes != 0)
                out[count++] = (struct config_service_diff){
                    .fate = CONFIG_SERVICE_CHANGED, .changes = changes, .old = *old, .new = *new};
            old++;
            new ++;
        }
    }
    return count;
}

unsigned int config_peer_changes(enum config_role role, const struct config_peer *old,
                                 const struct config_peer *new)
{
    return changes_between(role, false, old, new);
}

int config_diff(enum config_role role, const struct config_peer *old, const struct config_peer *new,
                struct config_diff *ret)
{
    const struct config_service **old_sorted = sorted(old), **new_sorted = sorted(new);
    struct config_service_diff *services =
        calloc(old->service_count + new->service_count + 1, sizeof(*services));
    int result = -ENOMEM;
    if (old_sorted != NULL && new_sorted != NULL && services != NULL) {
        ret->changes = config_peer_changes(role, old, new);
        ret->services = services;
        ret->service_count = merge(role, old_sorted, new_sorted, services);
        services = NULL;
        result = 0;
    }
    free(services);
    free(old_sorted);
    free(new_sorted);
    return result;
}

void config_diff_finish(struct config_diff *diff)
{
    free(diff->services);
    *diff = (struct config_diff){0};
}

bool config_lacks_last(const struct config_peer *old, const struct config_peer *new)
{
    const struct config_service *last = NULL;
    for (size_t i = 0; i < old->service_count; i++)
        if (old->services[i].routes == NULL) /* no file has a front */
            last = &old->services[i];
    if (last == NULL)
        return false;
    for (size_t i = 0; i < new->service_count; i++) {
        if (strcmp(new->services[i].name, last->name) == 0)
            return false;
    }
    return true;
}

/* ---- in words ---- */

const char *config_changes_format(unsigned int changes, char *out, size_t out_size)
{
    static const char *const words[] = {
        "address",   "transport",        "token", "type",    "lanes",        "TCP options",
        "heartbeat", "limits and times", "log",   "threads", "certificates", "access lists",
        "status"};
    size_t used = 0;
    assert(out_size > 0);
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(words) && used < out_size; i++) {
        if ((changes & (1u << i)) != 0)
            used += (size_t)snprintf(out + used, out_size - used, "%s%s", used > 0 ? ", " : "",
                                     words[i]);
    }
    return out;
}
