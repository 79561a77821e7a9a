/* Checks that need the whole file: missing keys, inherited values, and settings that contradict
 * each other. */
#include <assert.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "access_priv.h"
#include "base/error.h"
#include "draft_priv.h"
#include "options_priv.h"
#include "report_priv.h"

static void fill_row(struct draft *draft, const struct draft_place *place, unsigned int place_line,
                     size_t row)
{
    const struct option *option = &options[row];
    if (draft_lines(draft, place)->of_row[row] != 0)
        return;
    if ((option->flags & OPTION_REQUIRED) != 0)
        (void)draft_say(draft, DRAFT_BAD_SHAPE, place_line, place, option->key,
                        "missing, expected %s", option->unit);
    else
        draft_take_default(draft, place, row);
}

static void fill_section(struct draft *draft, const struct draft_place *place,
                         unsigned int place_line)
{
    for (size_t row = 0; row < option_count; row++)
        if (options[row].section == place->section && (options[row].roles & (1u << place->role)))
            fill_row(draft, place, place_line, row);
}

static void check_retry_interval(struct draft *draft, const struct draft_place *place,
                                 uint32_t *interval_ms)
{
    if (*interval_ms != 0)
        return;
    *interval_ms = 1000;
    (void)draft_say(draft, DRAFT_WARNING, draft_line_of(draft, place, "retry_interval"), place,
                    "retry_interval", "0 is read as 1");
}

static void fill_token(struct draft *draft, const struct draft_place *place,
                       struct config_service *service)
{
    const struct config_peer *peer = draft_peer(draft, place->role);
    const struct draft_place role_place = {place->role, SECTION_ROLE, 0};
    if (draft_line_of(draft, place, "token") != 0)
        return;
    if (draft_line_of(draft, &role_place, "default_token") == 0) {
        (void)draft_say(draft, DRAFT_BAD_SHAPE, service->line, place, "token",
                        "missing, and there is no %s.default_token", option_role_name(place->role));
        return;
    }
    if (peer->default_token == NULL)
        return; /* it was refused, and that is in the report */
    service->token = strdup(peer->default_token);
    if (service->token == NULL)
        draft->is_out_of_memory = true;
}

/* Reports a key of a service that the file has and that means nothing there. */
static void note_unused(struct draft *draft, const struct draft_place *place, const char *key,
                        const char *why)
{
    unsigned int line = draft_line_of(draft, place, key);
    if (line != 0)
        (void)draft_say(draft, DRAFT_WARNING, line, place, key, "has no effect: %s", why);
}

static void settle_access(struct draft *draft, struct config_access *access)
{
    draft->is_out_of_memory |= config_access_settle(access) < 0;
}

static void check_service_addr(struct draft *draft, const struct draft_place *place,
                               const struct config_service *service)
{
    const char *key = place->role == CONFIG_SERVER ? "bind_addr" : "local_addr";
    unsigned int line = draft_line_of(draft, place, key);
    bool is_unix = host_port_is_unix(&service->addr);
    if (service->addr.host[0] == '\0')
        return; /* missing or refused, which was reported */
    if (is_unix && service->type == CONFIG_SERVICE_UDP)
        (void)draft_say(draft, DRAFT_ERROR, line, place, key,
                        "expected host:port: type = udp has no unix sockets");
    if (!is_unix && service->type == CONFIG_SERVICE_SOCKET_STREAM)
        (void)draft_say(draft, DRAFT_ERROR, line, place, key,
                        "expected /path: type = socket_stream is for unix sockets");
    if (place->role == CONFIG_CLIENT)
        return;
    static const char *const by_address[] = {"max_connections_per_ip", "max_new_per_second_per_ip",
                                             "allow", "deny"};
    for (size_t i = 0; is_unix && i < ARRAY_SIZE(by_address); i++)
        note_unused(draft, place, by_address[i], "visitors of a unix socket have no address");
    if (service->addr.host[0] != '/') {
        note_unused(draft, place, "socket_mode", "bind_addr has no file");
        note_unused(draft, place, "socket_owner", "bind_addr has no file");
    }
}

static void check_proxy_protocol(struct draft *draft, const struct draft_place *place,
                                 const struct config_service *service)
{
    unsigned int own_line = draft_line_of(draft, place, "proxy_protocol");
    unsigned int alias_line = draft_line_of(draft, place, "enable_proxy_protocol");
    if (own_line != 0 && alias_line != 0)
        (void)draft_say(draft, DRAFT_ERROR, alias_line, place, "enable_proxy_protocol",
                        "there is proxy_protocol as well, in line %u", own_line);
    if (service->type == CONFIG_SERVICE_UDP) {
        if (service->proxy_protocol == 1)
            (void)draft_say(draft, DRAFT_ERROR, MAX(own_line, alias_line), place, "proxy_protocol",
                            "expected v2: v1 has no header for datagrams");
        note_unused(draft, place, "accept_proxy_protocol", "type = udp has no connections");
    } else {
        note_unused(draft, place, "proxy_protocol_udp", "it is for type = udp");
    }
    if (host_port_is_unix(&service->addr))
        note_unused(draft, place, "accept_proxy_protocol",
                    "who connects to a unix socket has no address");
}

static void fill_service(struct draft *draft, const struct draft_place *place)
{
    const struct config_peer *peer = draft_peer(draft, place->role);
    struct config_service *service = &peer->services[place->service_index];
    fill_section(draft, place, service->line);
    fill_token(draft, place, service);
    settle_access(draft, &service->access);
    settle_access(draft, &service->balancers);
    check_service_addr(draft, place, service);
    if (place->role != CONFIG_CLIENT) {
        service->addr_line = draft_line_of(draft, place, "bind_addr");
        check_proxy_protocol(draft, place, service);
        return;
    }
    if (draft_line_of(draft, place, "prefer_ipv6") == 0)
        service->prefer_ipv6 = peer->prefer_ipv6;
    if (draft_line_of(draft, place, "retry_interval") == 0)
        service->retry_interval_ms = peer->retry_interval_ms;
    check_retry_interval(draft, place, &service->retry_interval_ms);
}

static int compare_services(const void *a, const void *b)
{
    const struct config_service *left = *(struct config_service *const *)a;
    const struct config_service *right = *(struct config_service *const *)b;
    int order = strcmp(left->name, right->name);
    return order != 0 ? order : (left->line > right->line) - (left->line < right->line);
}

static void check_service_names(struct draft *draft, enum config_role role)
{
    struct config_peer *peer = draft_peer(draft, role);
    if (peer->service_count < 2)
        return;
    CLEANUP_FREE struct config_service **sorted = calloc(peer->service_count, sizeof *sorted);
    if (sorted == NULL) {
        draft->is_out_of_memory = true;
        return;
    }
    for (size_t i = 0; i < peer->service_count; i++)
        sorted[i] = &peer->services[i];
    qsort(sorted, peer->service_count, sizeof *sorted, compare_services);
    for (size_t i = 1; i < peer->service_count; i++) {
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) != 0)
            continue;
        const struct draft_place place = {role, SECTION_SERVICE,
                                          (size_t)(sorted[i] - peer->services)};
        char path[DRAFT_PATH_SIZE];
        draft_lines(draft, &place)->is_repeated = true;
        (void)report_add(draft->report, draft->file, true, sorted[i]->line,
                         "[%s]: defined twice, first in line %u",
                         draft_path(draft, &place, NULL, path), sorted[i - 1]->line);
    }
}

static void check_server(struct draft *draft)
{
    struct config_peer *peer = &draft->config->server;
    const struct draft_place place = {CONFIG_SERVER, SECTION_ROLE, 0};
    struct addr addr;
    unsigned int line = draft_line_of(draft, &place, "heartbeat_interval");
    if (peer->heartbeat_interval_ms == 0 && line != 0)
        (void)draft_say(draft, DRAFT_WARNING, line, &place, "heartbeat_interval",
                        "0 means no heartbeats: clients need heartbeat_timeout = 0 too");
    peer->addr_line = draft_line_of(draft, &place, "bind_addr");
    bool is_local = addr_from_numeric(&peer->addr, &addr)
                        ? addr_is_loopback(&addr)
                        : strcasecmp(peer->addr.host, "localhost") == 0;
    bool is_clear =
        !config_has_tls(&peer->transport) && peer->transport.type != CONFIG_TRANSPORT_NOISE;
    if (peer->addr.port != 0 && is_clear && !is_local)
        (void)draft_say(draft, DRAFT_NOTE, peer->addr_line, &place, "bind_addr",
                        "other machines can reach it, and transport.type = %s does not encrypt",
                        peer->transport.type == CONFIG_TRANSPORT_TCP
                            ? "tcp"
                            : "websocket with tls = false");
}

static void check_client(struct draft *draft)
{
    struct config_peer *peer = &draft->config->client;
    const struct config_peer *server = &draft->config->server;
    const struct draft_place place = {CONFIG_CLIENT, SECTION_ROLE, 0};
    unsigned int line = draft_line_of(draft, &place, "heartbeat_timeout");
    if (draft->config->has_server && peer->heartbeat_timeout_ms != 0 &&
        peer->heartbeat_timeout_ms <= server->heartbeat_interval_ms)
        (void)draft_say(draft, DRAFT_WARNING, line != 0 ? line : draft->roles[CONFIG_CLIENT].line,
                        &place, "heartbeat_timeout",
                        "should be more than server.heartbeat_interval");
    if (peer->servers == CONFIG_SERVERS_FIRST)
        note_unused(draft, &place, "resolve_interval",
                    "with servers = first a name is looked up at each attempt");
}

static void validate_account(struct draft *draft, const struct draft_place *place)
{
    const struct config_peer *peer = draft_peer(draft, place->role);
    unsigned int line = draft_line_of(draft, place, "group");
    if (line != 0 && draft_line_of(draft, place, "user") == 0 && *peer->group != '\0')
        (void)draft_say(draft, DRAFT_ERROR, line, place, "group", "needs user as well");
}

static void validate_role(struct draft *draft, enum config_role role)
{
    struct config_peer *peer = draft_peer(draft, role);
    unsigned int line = draft->roles[role].line;
    struct draft_place place = {role, SECTION_ROLE, 0};
    for (enum option_section section = SECTION_ROLE; section < SECTION_SERVICE; section++) {
        place.section = section;
        fill_section(draft, &place, line);
    }
    draft_validate_noise(draft, role);
    draft_validate_tls(draft, role);
    place.section = SECTION_ROLE;
    validate_account(draft, &place);
    settle_access(draft, &peer->access);
    /* First, because services inherit it. */
    if (role == CONFIG_CLIENT)
        check_retry_interval(draft, &place, &peer->retry_interval_ms);
    if (peer->service_count == 0 && draft->report->error_count == 0)
        (void)draft_say(draft, DRAFT_WARNING, line, &place, NULL,
                        "no services: nothing will be tunnelled");
    check_service_names(draft, role);
    place.section = SECTION_SERVICE;
    for (; place.service_index < peer->service_count; place.service_index++)
        if (!draft_lines(draft, &place)->is_repeated)
            fill_service(draft, &place);
    draft_validate_ranges(draft, role);
    if (role == CONFIG_SERVER)
        draft_validate_routes(draft);
    if (role == CONFIG_SERVER)
        check_server(draft);
    else
        check_client(draft);
}

static void validate_status(struct draft *draft)
{
    struct config_status *status = &draft->config->status;
    const struct draft_place place = {CONFIG_SERVER, SECTION_STATUS, 0};
    unsigned int section_line = draft->roles[CONFIG_SERVER].section_lines[SECTION_STATUS];
    if (section_line == 0)
        return;
    fill_section(draft, &place, section_line);
    unsigned int line = draft_line_of(draft, &place, "bind_addr");
    struct addr addr;
    bool is_unix = host_port_is_unix(&status->addr);
    bool is_localhost = strcasecmp(status->addr.host, "localhost") == 0;
    if (status->addr.host[0] == '\0')
        return;       /* missing or refused, which was reported */
    if (is_localhost) /* the one name that needs no resolver */
        (void)snprintf(status->addr.host, sizeof status->addr.host, "127.0.0.1");
    if (!is_unix && !addr_from_numeric(&status->addr, &addr))
        (void)draft_say(draft, DRAFT_ERROR, line, &place, "bind_addr",
                        "expected an IP address with a port, or unix:/path: names are not looked "
                        "up here");
    else if (!is_unix && !addr_is_loopback(&addr) && status->token == NULL)
        (void)draft_say(draft, DRAFT_NOTE, line, &place, "bind_addr",
                        "other machines can reach it, and there is no status.token");
    unsigned int mode_line = draft_line_of(draft, &place, "socket_mode");
    if (mode_line != 0 && status->addr.host[0] != '/')
        (void)draft_say(draft, DRAFT_WARNING, mode_line, &place, "socket_mode",
                        "has no effect: bind_addr has no file");
}

void draft_validate(struct draft *draft)
{
    validate_status(draft);
    draft->config->server.status = draft->config->client.status = &draft->config->status;

    if (!draft->config->has_server && !draft->config->has_client)
        (void)report_add(draft->report, draft->file, true, REPORT_WHOLE_FILE,
                         "expected a [server] or a [client] section");
    if (draft->config->has_server)
        validate_role(draft, CONFIG_SERVER);
    if (draft->config->has_client)
        validate_role(draft, CONFIG_CLIENT);
}
