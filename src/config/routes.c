#include "config/routes.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/host_name.h"
#include "options_priv.h"
#include "report_priv.h"
#include "routes_priv.h"
#include "text_priv.h"

struct route {
    enum route_kind kind;
    char *pattern;
    uint8_t digest[KEYS_DIGEST_SIZE];
};

struct route_set {
    _Atomic unsigned int users;
    bool has_default;
    uint8_t default_digest[KEYS_DIGEST_SIZE];
    size_t count;
    struct route routes[]; /* sorted */
};

/* ---- the keys sni and host ---- */

/* Appends the one form of a pattern to the list. */
static int take_pattern(struct option_value *value, const char *text, size_t size, char *list,
                        size_t room)
{
    char name[HOST_NAME_SIZE], echo[REPORT_ECHO_SIZE];
    bool is_wild = size > 2 && text[0] == '*' && text[1] == '.';
    size_t from = is_wild ? 2 : 0;
    if (host_name_canonical(text + from, size - from, name) < 0) {
        CLEANUP_FREE char *copy = strndup(text, MIN(size, (size_t)REPORT_ECHO_SIZE));
        if (copy == NULL)
            return -ENOMEM;
        (void)snprintf(value->problem, value->problem_size,
                       "expected names such as a.example.com or *.example.com, got \"%s\"",
                       text_escape(copy, echo, sizeof echo));
        return ERR_CONFIG;
    }
    size_t used = strlen(list);
    (void)snprintf(list + used, room - used, "%s%s%s", used > 0 ? "," : "", is_wild ? "*." : "",
                   name);
    return 0;
}

int value_host_names(struct option_value *value, void *target)
{
    size_t size = strlen(value->text);
    CLEANUP_FREE char *list = calloc(1, size + 1); /* the one form is never longer */
    if (list == NULL)
        return -ENOMEM;
    const char *at = value->text;
    for (;;) {
        const char *item = at + strspn(at, " \t");
        size_t piece = strcspn(at, ","), length = piece - MIN(piece, (size_t)(item - at));
        while (length > 0 && (item[length - 1] == ' ' || item[length - 1] == '\t'))
            length--;
        int result = take_pattern(value, item, length, list, size + 1);
        if (result < 0)
            return result;
        if (at[piece] == '\0')
            break;
        at += piece + 1;
    }
    *(char **)target = list;
    list = NULL;
    return 0;
}

const char *route_next_pattern(const char **list, char out[static ROUTE_PATTERN_SIZE])
{
    if (*list == NULL || **list == '\0')
        return NULL;
    size_t size = strcspn(*list, ",");
    memcpy(out, *list, size);
    out[size] = '\0';
    *list += size + ((*list)[size] == ',' ? 1 : 0);
    return out;
}

/* ---- making a set ---- */

/* Digests of names are no secrets. */
static bool is_same_digest(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, KEYS_DIGEST_SIZE) == 0; /* style: public */
}

static int by_pattern(const void *a, const void *b)
{
    const struct route *left = a, *right = b;
    if (left->kind != right->kind)
        return left->kind < right->kind ? -1 : 1;
    return strcmp(left->pattern, right->pattern);
}

static size_t count_patterns(const struct config_service *service)
{
    char pattern[ROUTE_PATTERN_SIZE];
    const char *sni = service->sni, *host = service->host;
    size_t count = 0;
    while (route_next_pattern(&sni, pattern) != NULL || route_next_pattern(&host, pattern) != NULL)
        count++;
    return count;
}

static bool add_patterns(struct route_set *set, const struct config_service *service,
                         enum route_kind kind)
{
    char pattern[ROUTE_PATTERN_SIZE];
    const char *list = kind == ROUTE_SNI ? service->sni : service->host;
    while (route_next_pattern(&list, pattern) != NULL) {
        struct route *route = &set->routes[set->count];
        route->kind = kind;
        route->pattern = strdup(pattern);
        if (route->pattern == NULL)
            return false;
        keys_service_digest(service->name, strlen(service->name), route->digest);
        set->count++;
    }
    return true;
}

int route_set_create(const struct config_peer *server, size_t service_index,
                     const struct route_set **ret)
{
    const struct host_port *addr = &server->services[service_index].addr;
    size_t room = 0;
    for (size_t i = 0; i < server->service_count; i++)
        room += count_patterns(&server->services[i]);
    struct route_set *set = calloc(1, sizeof(*set) + room * sizeof(set->routes[0]));
    if (set == NULL)
        return -ENOMEM;
    atomic_store(&set->users, 1);
    for (size_t i = service_index; i < server->service_count; i++) {
        const struct config_service *service = &server->services[i];
        if (!service->is_routed || !config_is_same_addr(&service->addr, addr))
            continue;
        if (!add_patterns(set, service, ROUTE_SNI) || !add_patterns(set, service, ROUTE_HOST)) {
            route_set_drop(set);
            return -ENOMEM;
        }
        if (service->is_default) {
            set->has_default = true;
            keys_service_digest(service->name, strlen(service->name), set->default_digest);
        }
    }
    qsort(set->routes, set->count, sizeof(set->routes[0]), by_pattern);
    *ret = set;
    return 0;
}

const struct route_set *route_set_use(const struct route_set *set)
{
    if (set != NULL)
        (void)atomic_fetch_add(&((struct route_set *)(uintptr_t)set)->users, 1);
    return set;
}

void route_set_drop(const struct route_set *set)
{
    struct route_set *own = (struct route_set *)(uintptr_t)set;
    if (own == NULL || atomic_fetch_sub(&own->users, 1) > 1)
        return;
    for (size_t i = 0; i < own->count; i++)
        free(own->routes[i].pattern);
    free(own);
}

bool route_set_equal(const struct route_set *a, const struct route_set *b)
{
    if (a == NULL || b == NULL)
        return a == b;
    bool is_equal = a->count == b->count && a->has_default == b->has_default &&
                    is_same_digest(a->default_digest, b->default_digest);
    for (size_t i = 0; i < a->count && is_equal; i++)
        is_equal = by_pattern(&a->routes[i], &b->routes[i]) == 0 &&
                   is_same_digest(a->routes[i].digest, b->routes[i].digest);
    return is_equal;
}

/* ---- looking up ---- */

static const uint8_t *find_pattern(const struct route_set *set, enum route_kind kind,
                                   const char *pattern)
{
    const struct route wanted = {.kind = kind, .pattern = (char *)(uintptr_t)pattern};
    const struct route *found =
        bsearch(&wanted, set->routes, set->count, sizeof(set->routes[0]), by_pattern);
    return found != NULL ? found->digest : NULL;
}

const uint8_t *route_set_find(const struct route_set *set, enum route_kind kind, const char *name)
{
    char pattern[ROUTE_PATTERN_SIZE];
    const uint8_t *found = name != NULL ? find_pattern(set, kind, name) : NULL;
    const char *dot = found == NULL && name != NULL ? strchr(name, '.') : NULL;
    /* The longest first: what is behind the first dot, then behind the second, ... */
    for (; dot != NULL && found == NULL; dot = strchr(dot + 1, '.')) {
        (void)snprintf(pattern, sizeof pattern, "*%s", dot);
        found = find_pattern(set, kind, pattern);
    }
    if (found == NULL && set->has_default)
        found = set->default_digest;
    return found;
}
