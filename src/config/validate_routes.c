/* Services that share a bind_addr (config/routes.h): what is wrong with one alone and with all of
 * an address, and their fronts. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_copy.h"
#include "config/range.h"
#include "config/routes.h"
#include "draft_priv.h"
#include "report_priv.h"
#include "routes_priv.h"

static unsigned int routed_line_of(struct draft *draft, const struct config_service *service,
                                   const char *key)
{
    const struct draft_place place = {CONFIG_SERVER, SECTION_SERVICE,
                                      (size_t)(service - draft->config->server.services)};
    unsigned int line = draft_line_of(draft, &place, key);
    return line != 0 ? line : service->line;
}

static void PRINTF_FORMAT(4, 5) say(struct draft *draft, const struct config_service *service,
                                    const char *key, const char *format, ...)
{
    const struct draft_place place = {CONFIG_SERVER, SECTION_SERVICE,
                                      (size_t)(service - draft->config->server.services)};
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)draft_say(draft, DRAFT_ERROR, routed_line_of(draft, service, key), &place, key, "%s",
                    text);
}

/* ---- one alone ---- */

static const char *first_key(const struct config_service *service)
{
    return service->sni != NULL ? "sni" : service->host != NULL ? "host" : "default";
}

static void check_routed(struct draft *draft, const struct config_service *service)
{
    const char *key = first_key(service);
    if (service->type != CONFIG_SERVICE_TCP)
        say(draft, service, key, "is for type = tcp");
    else if (host_port_is_unix(&service->addr))
        say(draft, service, key, "is for a bind_addr with a port, not for a unix socket");
    else if (config_is_range(service))
        say(draft, service, key, "is not for a range of ports");
    else if (service->bind == CONFIG_BIND_ON_LOGIN)
        say(draft, service, key, "is not for bind = on_login: several services have the address");
}

/* ---- two of one address ---- */

/* What is read before the name is known, or set on the listener, is the same for all. */
static const char *shared_key_that_differs(const struct config_service *a,
                                           const struct config_service *b)
{
    if (!cidr_set_equal(a->balancers.set, b->balancers.set))
        return "accept_proxy_protocol";
    return a->nodelay != b->nodelay ? "nodelay" : NULL;
}

static void check_shared_pair(struct draft *draft, const struct config_service *service,
                              const struct config_service *first)
{
    char path[DRAFT_PATH_SIZE];
    (void)draft_service_path(CONFIG_SERVER, first->name, NULL, path);
    if (!first->is_routed || !service->is_routed) {
        const struct config_service *plain = first->is_routed ? service : first;
        say(draft, plain, "bind_addr",
            "others of this address have sni, host or default: give it one of these too");
        return;
    }
    const char *key = shared_key_that_differs(service, first);
    if (key != NULL)
        say(draft, service, key, "expected the same as of [%s] in line %u, which shares bind_addr",
            path, first->line);
    if (service->is_default && first->is_default)
        say(draft, service, "default", "[%s] in line %u is the default of this address already",
            path, first->line);
}

/* ---- patterns that two services have ---- */

struct claim {
    const struct config_service *service;
    const char *key;
    char pattern[ROUTE_PATTERN_SIZE];
};

static int by_claim(const void *a, const void *b)
{
    const struct claim *left = a, *right = b;
    int order = strcasecmp(left->service->addr.host, right->service->addr.host);
    if (order == 0)
        order = (int)left->service->addr.port - (int)right->service->addr.port;
    if (order == 0)
        order = strcmp(left->key, right->key);
    if (order == 0)
        order = strcmp(left->pattern, right->pattern);
    return order != 0 ? order : (left->service > right->service) - (left->service < right->service);
}

static size_t claim_all(const struct config_service *service, const char *key, const char *list,
                        struct claim *out)
{
    struct claim claim = {.service = service, .key = key};
    size_t count = 0;
    while (route_next_pattern(&list, claim.pattern) != NULL) {
        if (out != NULL)
            out[count] = claim;
        count++;
    }
    return count;
}

static size_t claims_of(const struct config_peer *peer, struct claim *out)
{
    size_t count = 0;
    for (size_t i = 0; i < peer->service_count; i++) {
        const struct config_service *service = &peer->services[i];
        count += claim_all(service, "sni", service->sni, out != NULL ? out + count : NULL);
        count += claim_all(service, "host", service->host, out != NULL ? out + count : NULL);
    }
    return count;
}

static void check_claims(struct draft *draft)
{
    const struct config_peer *peer = &draft->config->server;
    size_t count = claims_of(peer, NULL);
    CLEANUP_FREE struct claim *claims = calloc(count + 1, sizeof *claims);
    if (claims == NULL) {
        draft->is_out_of_memory = true;
        return;
    }
    (void)claims_of(peer, claims);
    qsort(claims, count, sizeof *claims, by_claim);
    for (size_t i = 1; i < count; i++) {
        const struct claim *first = &claims[i - 1], *second = &claims[i];
        char path[DRAFT_PATH_SIZE];
        if (!config_is_same_addr(&first->service->addr, &second->service->addr) ||
            first->key != second->key || strcmp(first->pattern, second->pattern) != 0)
            continue;
        say(draft, second->service, second->key, "%s is a name of [%s] in line %u already",
            second->pattern, draft_service_path(CONFIG_SERVER, first->service->name, NULL, path),
            first->service->line);
    }
}

/* ---- all of a server ---- */

static int by_addr(const void *a, const void *b)
{
    const struct config_service *left = *(struct config_service *const *)a;
    const struct config_service *right = *(struct config_service *const *)b;
    int order = strcasecmp(left->addr.host, right->addr.host);
    if (order == 0)
        order = (int)left->addr.port - (int)right->addr.port;
    return order != 0 ? order : (left > right) - (left < right);
}

/* The services in the order of their addresses. The caller frees it. NULL: no memory. */
static struct config_service **sort_by_addr(struct draft *draft)
{
    const struct config_peer *peer = &draft->config->server;
    struct config_service **sorted = calloc(peer->service_count + 1, sizeof(*sorted));
    for (size_t i = 0; sorted != NULL && i < peer->service_count; i++)
        sorted[i] = &peer->services[i];
    if (sorted != NULL)
        qsort(sorted, peer->service_count, sizeof(*sorted), by_addr);
    draft->is_out_of_memory |= sorted == NULL;
    return sorted;
}

/* The front of an address has its text as its name. */
static void check_name(struct draft *draft, const struct config_service *service)
{
    const struct config_peer *peer = &draft->config->server;
    char name[ADDR_HOST_SIZE + 16];
    bool is_taken = false;
    for (size_t i = 0; strchr(service->name, ':') != NULL && i < peer->service_count; i++)
        is_taken |= peer->services[i].is_routed &&
                    strcmp(host_port_format(&peer->services[i].addr, name, sizeof name),
                           service->name) == 0;
    if (is_taken)
        say(draft, service, "bind_addr", "expected another name: services share the address %s",
            service->name);
}

void draft_validate_routes(struct draft *draft)
{
    struct config_peer *peer = &draft->config->server;
    bool has_any = false;
    for (size_t i = 0; i < peer->service_count; i++) {
        struct config_service *service = &peer->services[i];
        service->is_routed = service->sni != NULL || service->host != NULL || service->is_default;
        has_any |= service->is_routed;
        if (service->is_routed)
            check_routed(draft, service);
    }
    if (!has_any)
        return;
    for (size_t i = 0; i < peer->service_count; i++)
        check_name(draft, &peer->services[i]);
    CLEANUP_FREE struct config_service **sorted = sort_by_addr(draft);
    const struct config_service *first = NULL; /* of the address */
    for (size_t i = 0; sorted != NULL && i < peer->service_count; i++) {
        if (sorted[i]->type == CONFIG_SERVICE_UDP)
            continue;
        if (first == NULL || !config_is_same_addr(&sorted[i]->addr, &first->addr))
            first = sorted[i];
        else if (sorted[i]->is_routed || first->is_routed)
            check_shared_pair(draft, sorted[i], first);
    }
    check_claims(draft);
}

/* ---- the fronts ---- */

/* The front of the routed services with the address of one of them. */
static int make_front(const struct config_peer *peer, size_t index, struct config_service *ret)
{
    const struct config_service *member = &peer->services[index];
    char name[ADDR_HOST_SIZE + 16], no_token[] = "";
    struct config_service front = {
        .name = (char *)(uintptr_t)host_port_format(&member->addr, name, sizeof name),
        .token = no_token,
        .addr = member->addr,
        .nodelay = member->nodelay,
        .balancers = member->balancers,
        .socket_mode = member->socket_mode,
        .line = member->line,
        .addr_line = member->addr_line,
    };
    int result = route_set_create(peer, index, &front.routes);
    if (result == 0)
        result = config_service_copy_to(&front, ret);
    route_set_drop(front.routes); /* the copy has it */
    return result;
}

static bool has_front(const struct config_peer *peer, size_t from, const struct host_port *addr)
{
    for (size_t i = from; i < peer->service_count; i++)
        if (config_is_same_addr(&peer->services[i].addr, addr))
            return true;
    return false;
}

void draft_add_fronts(struct draft *draft)
{
    struct config_peer *peer = &draft->config->server;
    size_t count = peer->service_count, routed = 0;
    for (size_t i = 0; i < count; i++)
        routed += peer->services[i].is_routed;
    if (routed == 0)
        return;
    struct config_service *services = realloc(peer->services, (count + routed) * sizeof *services);
    if (services == NULL) {
        draft->is_out_of_memory = true;
        return;
    }
    peer->services = services;
    for (size_t i = 0; i < count; i++) {
        if (!services[i].is_routed || has_front(peer, count, &services[i].addr))
            continue;
        if (make_front(peer, i, &services[peer->service_count]) < 0) {
            draft->is_out_of_memory = true;
            return;
        }
        peer->service_count++;
    }
}
