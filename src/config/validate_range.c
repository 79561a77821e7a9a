/* Ranges of ports and on_login: what is wrong with one alone, and with two that share names or
 * addresses. The ranges of a client are then replaced by their members. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/limits.h"
#include "config/config_copy.h"
#include "config/range.h"
#include "draft_priv.h"
#include "report_priv.h"

static const char *addr_key_of(enum config_role role)
{
    return role == CONFIG_SERVER ? "bind_addr" : "local_addr";
}

/* ---- one range ---- */

static void check_alone(struct draft *draft, const struct draft_place *place,
                        struct config_service *service)
{
    const char *key = addr_key_of(place->role);
    unsigned int line = draft_line_of(draft, place, key);
    bool has_port = config_range_is_name(service->name);
    if (service->addr.port != 0 && !config_is_range(service) && has_port)
        (void)draft_say(draft, DRAFT_ERROR, line, place, key,
                        "expected host:FIRST-LAST: {port} in the name of the service stands for "
                        "the ports of a range");
    if (!config_is_range(service))
        return;
    if (!has_port)
        (void)draft_say(draft, DRAFT_ERROR, line, place, key,
                        "a range needs {port} in the name of the service, as in "
                        "[%s.services.\"game-{port}\"]",
                        place->role == CONFIG_SERVER ? "server" : "client");
    else if (!config_range_names_are_ports(service))
        (void)draft_say(draft, DRAFT_ERROR, line, place, key,
                        "the numbers in the names of this range are no ports: 1 to 65535");
    if (place->role != CONFIG_SERVER)
        return;
    unsigned int bind_line = draft_line_of(draft, place, "bind");
    if (bind_line != 0 && service->bind == CONFIG_BIND_ALWAYS)
        (void)draft_say(draft, DRAFT_ERROR, bind_line, place, "bind",
                        "expected on_login: a range is bound port by port, when clients log in");
    service->bind = CONFIG_BIND_ON_LOGIN;
}

/* ---- two of them ---- */

/* Whether listeners on both could be in each other's way at some port. A name is compared as a
 * text: only the machine that resolves it knows more. */
static bool share_host(const struct host_port *a, const struct host_port *b)
{
    struct host_port at_port = *b;
    struct addr addr_a, addr_b;
    at_port.port = a->port;
    if (host_port_is_unix(a) || host_port_is_unix(b))
        return false;
    if (addr_from_numeric(a, &addr_a) && addr_from_numeric(&at_port, &addr_b))
        return addr_overlaps(&addr_a, &addr_b);
    return strcasecmp(a->host, b->host) == 0;
}

static bool share_port(uint16_t first, uint16_t last, const struct config_service *range)
{
    return first <= range->port_last && MAX(first, last) >= range->addr.port;
}

static void check_two(struct draft *draft, const struct draft_place *place,
                      const struct config_service *range, const struct config_service *other)
{
    char name[LIMIT_SERVICE_NAME + 1], path[DRAFT_PATH_SIZE], own[CONFIG_ADDR_SIZE],
        others[CONFIG_ADDR_SIZE];
    const char *key = addr_key_of(place->role);
    const struct draft_place other_place = {
        place->role, SECTION_SERVICE, (size_t)(other - draft_peer(draft, place->role)->services)};
    if (config_is_range(other) && other < range)
        return; /* this pair was checked */
    if (config_range_share_name(range, other, name))
        (void)draft_say(draft, DRAFT_ERROR, range->line, place, NULL,
                        "the name %s is also one of [%s] in line %u", name,
                        draft_service_path(place->role, other->name, NULL, path), other->line);
    bool is_udp = range->type == CONFIG_SERVICE_UDP;
    if (place->role == CONFIG_SERVER && (other->type == CONFIG_SERVICE_UDP) == is_udp &&
        share_host(&range->addr, &other->addr) &&
        share_port(other->addr.port, other->port_last, range))
        (void)draft_say(draft, DRAFT_ERROR, draft_line_of(draft, place, key), place, key,
                        "%.80s overlaps %.80s of %s in line %u",
                        config_addr_format(range, own, sizeof own),
                        config_addr_format(other, others, sizeof others),
                        draft_service_path(place->role, other->name, key, path),
                        draft_line_of(draft, &other_place, key));
}

static void check_control_port(struct draft *draft, const struct draft_place *place,
                               const struct config_service *range)
{
    const struct config_peer *peer = draft_peer(draft, place->role);
    const struct draft_place role_place = {place->role, SECTION_ROLE, 0};
    char own[CONFIG_ADDR_SIZE], control[CONFIG_ADDR_SIZE];
    if (range->type == CONFIG_SERVICE_UDP || !share_host(&range->addr, &peer->addr) ||
        !share_port(peer->addr.port, 0, range))
        return;
    (void)draft_say(draft, DRAFT_ERROR, draft_line_of(draft, place, "bind_addr"), place,
                    "bind_addr", "%.80s overlaps %.80s of server.bind_addr in line %u",
                    config_addr_format(range, own, sizeof own),
                    host_port_format(&peer->addr, control, sizeof control),
                    draft_line_of(draft, &role_place, "bind_addr"));
}

/* ---- all of a role ---- */

/* A server has tables with each member, and a client's members are services like others. */
static void check_total(struct draft *draft, const struct draft_place *place)
{
    const struct config_peer *peer = draft_peer(draft, place->role);
    size_t in_ranges = 0, last = 0;
    for (size_t i = 0; i < peer->service_count; i++) {
        in_ranges +=
            config_is_range(&peer->services[i]) ? config_range_count(&peer->services[i]) : 0;
        last = config_is_range(&peer->services[i]) ? i : last;
    }
    bool is_server = place->role == CONFIG_SERVER;
    size_t max = is_server ? (size_t)LIMIT_RANGE_PORTS : (size_t)LIMIT_SERVICES;
    const struct draft_place at = {place->role, SECTION_SERVICE, last};
    if (in_ranges > 0 && in_ranges + (is_server ? 0 : peer->service_count) > max)
        (void)draft_say(draft, DRAFT_ERROR, draft_line_of(draft, &at, addr_key_of(place->role)),
                        &at, addr_key_of(place->role),
                        "too many ports: all ranges have %zu together, and a %s has at most %zu%s",
                        in_ranges, is_server ? "server" : "client", max,
                        is_server ? "" : " services");
}

void draft_validate_ranges(struct draft *draft, enum config_role role)
{
    struct config_peer *peer = draft_peer(draft, role);
    struct draft_place place = {role, SECTION_SERVICE, 0};
    size_t errors = draft->report->error_count;
    for (; place.service_index < peer->service_count; place.service_index++)
        check_alone(draft, &place, &peer->services[place.service_index]);
    place.service_index = 0;
    check_total(draft, &place);
    if (draft->report->error_count > errors)
        return; /* pairs of wrong ranges would give errors that mean nothing */
    for (; place.service_index < peer->service_count; place.service_index++) {
        const struct config_service *range = &peer->services[place.service_index];
        if (!config_is_range(range))
            continue;
        if (role == CONFIG_SERVER)
            check_control_port(draft, &place, range);
        for (size_t i = 0; i < peer->service_count; i++) {
            if (&peer->services[i] != range)
                check_two(draft, &place, range, &peer->services[i]);
        }
    }
}

/* ---- a client's members ---- */

/* Appends the members of a range, or a service as it is, which then has moved. */
static int expand_one(struct config_service *service, struct config_service *out, size_t *count)
{
    char name[LIMIT_SERVICE_NAME + 1];
    if (!config_is_range(service)) {
        out[(*count)++] = *service;
        return 0;
    }
    for (unsigned int port = service->addr.port; port <= service->port_last; port++) {
        struct config_service member = *service;
        config_range_name(service, (uint16_t)port, name);
        member.name = name;
        member.addr.port = (uint16_t)port;
        member.port_last = 0;
        int result = config_service_copy_to(&member, &out[*count]);
        if (result < 0)
            return result;
        (*count)++;
    }
    config_service_finish(service);
    return 0;
}

void draft_expand_ranges(struct draft *draft)
{
    struct config_peer *peer = &draft->config->client;
    size_t room = 0, count = 0;
    for (size_t i = 0; i < peer->service_count; i++)
        room += config_range_count(&peer->services[i]);
    if (room == peer->service_count)
        return;
    struct config_service *services = calloc(room, sizeof *services);
    if (services == NULL) {
        draft->is_out_of_memory = true;
        return;
    }
    int result = 0;
    for (size_t i = 0; i < peer->service_count; i++) {
        if (result == 0)
            result = expand_one(&peer->services[i], services, &count);
        if (result < 0) /* the rest is not in the new list */
            config_service_finish(&peer->services[i]);
    }
    draft->is_out_of_memory |= result < 0;
    free(peer->services);
    peer->services = services;
    peer->service_count = count;
}
