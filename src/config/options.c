#include "options_priv.h"

#include <assert.h>
#include <ctype.h>
#include <string.h>

#include "access_priv.h"
#include "base/limits.h"

/* Offsets: of a role's field, of a service's field, and of rows without a field. */
#define PEER(member)    offsetof(struct config_peer, member)
#define SERVICE(member) offsetof(struct config_service, member)
#define STATUS(member)  offsetof(struct config_status, member)
#define NOWHERE         0

enum option_bounds {
    MOMENT_MS = 100,  /* with less, a handshake or a connect fails on any real path */
    SECOND_MS = 1000, /* name servers are asked no more often */
    HOUR_MS = 3600 * 1000,
    WEEK_MS = 7 * 24 * HOUR_MS, /* more is a mistake; ms stay within 31 bits */
    KEEPALIVE_MAX = 32767,      /* the kernel's maximum for TCP_KEEPIDLE and TCP_KEEPINTVL */
    COUNT_MAX = 1 << 30,
};

/* Less than 1 kB/s is a forgotten unit. */
#define BANDWIDTH_MIN INT64_C(8000)
#define BANDWIDTH_MAX INT64_C(1000000000000)

#define REQUIRED   OPTION_REQUIRED
#define SECRET     OPTION_SECRET
#define UNUSED_KEY OPTION_UNUSED
#define HELD       OPTION_HELD
#define CLAMP      OPTION_CLAMP
#define CHANGE(of) CONFIG_CHANGE_##of

/* Unformatted, so that a row reads as a row. */
/* clang-format off */
/* section, roles, key, parser, field, min, max, default, unit, flags, kind of change, help */
const struct option options[] = {
    {SECTION_ROLE, FOR_SERVER, "bind_addr", value_addr, PEER(addr), 0, 0, NULL, "host:port",
     REQUIRED, CHANGE(ADDRESS), "where control and data channels arrive"},
    {SECTION_ROLE, FOR_CLIENT, "remote_addr", value_servers_addr, PEER(addr), 0, 0, NULL,
     "host:port", REQUIRED | OPTION_LIST, CHANGE(ADDRESS),
     "the server, or up to 16 in a list: a:2333, b:2333"},
    {SECTION_ROLE, FOR_CLIENT, "servers", value_servers, PEER(servers), 0, 0, "first", "word", 0,
     CHANGE(ADDRESS), "first: the first that answers, looked up at each attempt; "
     "all: a control channel for each service to each address of each name"},
    {SECTION_ROLE, FOR_CLIENT, "resolve_interval", value_seconds_fraction,
     PEER(resolve_interval_ms), SECOND_MS, WEEK_MS, "30", "s", 0, CHANGE(LIMITS),
     "servers = all: between two look-ups of a name, whose changes are followed"},
    {SECTION_ROLE, FOR_BOTH, "default_token", value_default_token, PEER(default_token), 0, 0,
     NULL, "secret", SECRET, CHANGE(NONE), "for services without a token of their own"},
    {SECTION_ROLE, FOR_SERVER, "heartbeat_interval", value_seconds, PEER(heartbeat_interval_ms),
     0, WEEK_MS, "30", "s", CLAMP, CHANGE(HEARTBEAT),
     "between two heartbeats on a quiet control channel; 0 = never"},
    {SECTION_ROLE, FOR_CLIENT, "heartbeat_timeout", value_seconds, PEER(heartbeat_timeout_ms),
     0, WEEK_MS, "40", "s", CLAMP, CHANGE(HEARTBEAT),
     "reconnect after no message for this long; above heartbeat_interval; 0 = off"},
    {SECTION_ROLE, FOR_CLIENT, "retry_interval", value_seconds, PEER(retry_interval_ms),
     0, WEEK_MS, "1", "s", CLAMP, CHANGE(LIMITS),
     "longest wait between two attempts to connect; 0 is read as 1"},
    {SECTION_ROLE, FOR_CLIENT, "prefer_ipv6", value_bool, PEER(prefer_ipv6), 0, 0, "false", "bool",
     0, CHANGE(LIMITS), "try the IPv6 addresses of a name first"},
    {SECTION_ROLE, FOR_SERVER, "handshake_timeout", value_seconds_fraction,
     PEER(handshake_timeout_ms), MOMENT_MS, HOUR_MS, "5", "s", 0, CHANGE(LIMITS),
     "one deadline, from accept until the client is authenticated"},
    {SECTION_ROLE, FOR_SERVER, "half_close_timeout", value_seconds_fraction,
     PEER(half_close_timeout_ms), 0, HOUR_MS, "5", "s", 0, CHANGE(LIMITS),
     "WebSocket, rathole's client: time for the service's answer after a visitor's end of stream"},
    {SECTION_ROLE, FOR_SERVER, "max_pending_handshakes", value_number,
     PEER(max_pending_handshakes), 1, 65536, "256", "connections", 0, CHANGE(LIMITS),
     "unauthenticated connections in total; at most an eighth of the descriptors. More wait in a "
     "lobby while clients log in, in up to a quarter of them"},
    {SECTION_ROLE, FOR_SERVER, "max_pending_handshakes_per_ip", value_number,
     PEER(max_pending_handshakes_per_ip), 1, 65536, "64", "connections", 0, CHANGE(LIMITS),
     "unauthenticated connections from one address; beyond it nobody waits"},
    {SECTION_ROLE, FOR_SERVER, "per_ip_prefix_v4", value_number, PEER(per_ip_prefix_v4), 1, 32,
     "32", "bits", 0, CHANGE(LIMITS),
     "IPv4 addresses that share so many leading bits are one in limits per address"},
    {SECTION_ROLE, FOR_SERVER, "per_ip_prefix_v6", value_number, PEER(per_ip_prefix_v6), 1, 128,
     "64", "bits", 0, CHANGE(LIMITS),
     "the same for IPv6, where one customer usually holds a /64"},
    {SECTION_ROLE, FOR_SERVER, "allow", value_allow, PEER(access), 0, 0, NULL, "CIDR list",
     OPTION_LIST | OPTION_PATH, CHANGE(ACCESS),
     "who may connect to bind_addr, as of a service's allow; give your clients' addresses"},
    {SECTION_ROLE, FOR_SERVER, "deny", value_deny, PEER(access), 0, 0, NULL, "CIDR list",
     OPTION_LIST | OPTION_PATH, CHANGE(ACCESS), "who may not, as of a service's deny"},
    {SECTION_ROLE, FOR_CLIENT, "connect_timeout", value_seconds_fraction, PEER(connect_timeout_ms),
     MOMENT_MS, HOUR_MS, "10", "s", 0, CHANGE(LIMITS),
     "to the server or to the local service; for all addresses of a name together"},
    {SECTION_ROLE, FOR_CLIENT, "udp_descriptors", value_number, PEER(udp_descriptors), 1, 100, "50",
     "%", 0, CHANGE(LIMITS),
     "share of the descriptors for UDP visitors; beyond it a new one replaces the longest silent"},
    {SECTION_ROLE, FOR_SERVER, "drain_delay", value_seconds_fraction, PEER(drain_delay_ms), 0,
     HOUR_MS, "0", "s", 0, CHANGE(LIMITS),
     "after SIGTERM: /readyz fails, but visitors are still taken, until a balancer has seen it"},
    {SECTION_ROLE, FOR_BOTH, "drain_timeout", value_seconds_fraction, PEER(drain_timeout_ms),
     0, WEEK_MS, "30", "s", 0, CHANGE(LIMITS),
     "time for open relays to finish, after SIGTERM or when their service is removed"},
    {SECTION_ROLE, FOR_BOTH, "threads", value_number_or_auto, PEER(threads), 1, LIMIT_WORKERS,
     "auto", "workers", 0, CHANGE(RESTART), "auto = one for each core"},
    {SECTION_ROLE, FOR_BOTH, "log_level", value_log_level, PEER(log_level), 0, 0, "info", "word",
     0, CHANGE(LOG), "error, warn, info, debug or trace"},
    {SECTION_ROLE, FOR_BOTH, "log_format", value_log_format, PEER(log_format), 0, 0, "text", "word",
     0, CHANGE(LOG), "text or json"},
    {SECTION_ROLE, FOR_BOTH, "user", value_account, PEER(user), 1, LIMIT_ACCOUNT_NAME, NULL,
     "name", 0, CHANGE(RESTART),
     "if started as root: the user to change to, as a name or a number"},
    {SECTION_ROLE, FOR_BOTH, "group", value_account, PEER(group), 1, LIMIT_ACCOUNT_NAME, NULL,
     "name", 0, CHANGE(RESTART), "the group to change to; default: the user's own group"},
    {SECTION_ROLE, FOR_BOTH, "sandbox", value_sandbox, PEER(sandbox), 0, 0, "on", "word", 0,
     CHANGE(RESTART), "on: the process gives up the system calls and files that it does not need; "
     "off: only no_new_privs"},

    {SECTION_TRANSPORT, FOR_BOTH, "type", value_transport_type, PEER(transport.type), 0, 0, "tcp",
     "word", 0, CHANGE(TRANSPORT), "tcp, noise, tls or websocket"},
    {SECTION_TRANSPORT_TCP, FOR_BOTH, "nodelay", value_bool, PEER(transport.tcp_nodelay), 0, 0,
     "true", "bool", 0, CHANGE(SOCKETS), "TCP_NODELAY on channels, visitors and local connections"},
    {SECTION_TRANSPORT_TCP, FOR_BOTH, "keepalive_secs", value_number,
     PEER(transport.tcp_keepalive_secs), 0, KEEPALIVE_MAX, "20", "s", CLAMP, CHANGE(SOCKETS),
     "quiet time before the first TCP keepalive probe, on control channels 8 at most; 0 = no "
     "probes"},
    {SECTION_TRANSPORT_TCP, FOR_BOTH, "keepalive_interval", value_number,
     PEER(transport.tcp_keepalive_interval), 1, KEEPALIVE_MAX, "8", "s", CLAMP, CHANGE(SOCKETS),
     "between two TCP keepalive probes, on control channels 2 at most"},
    {SECTION_TRANSPORT_TCP, FOR_CLIENT, "proxy", value_proxy, PEER(transport.proxy), 0, 0, NULL,
     "URL", SECRET, CHANGE(TRANSPORT),
     "to the server through it: socks5:// or http://, then [user:password@]host:port"},
    {SECTION_TRANSPORT_TCP, FOR_SERVER, "proxy", value_unused, NOWHERE, 0, 0, NULL, "URL",
     SECRET | UNUSED_KEY, CHANGE(NONE), "a server has no use for it"},

    {SECTION_TRANSPORT_TLS, FOR_CLIENT, "hostname", value_hostname, PEER(transport.tls.hostname),
     0, 0, NULL, "name", HELD, CHANGE(TRANSPORT),
     "the name or IP address in the server's certificate; default: the host of remote_addr"},
    {SECTION_TRANSPORT_TLS, FOR_SERVER, "hostname", value_unused, NOWHERE, 0, 0, NULL, "name",
     UNUSED_KEY, CHANGE(NONE), "a server has no use for it"},
    {SECTION_TRANSPORT_TLS, FOR_CLIENT, "trusted_root", value_path,
     PEER(transport.tls.trusted_root), 0, 0, NULL, "path", HELD | OPTION_PATH, CHANGE(TRANSPORT),
     "PEM file with a root certificate that counts beside the system's own"},
    {SECTION_TRANSPORT_TLS, FOR_SERVER, "trusted_root", value_unused, NOWHERE, 0, 0, NULL, "path",
     UNUSED_KEY, CHANGE(NONE), "a server has no use for it; see client_ca"},
    {SECTION_TRANSPORT_TLS, FOR_CLIENT, "trust_only_file", value_bool,
     PEER(transport.tls.trust_only_file), 0, 0, "false", "bool", HELD, CHANGE(TRANSPORT),
     "trusted_root alone counts, not the system's root certificates"},
    {SECTION_TRANSPORT_TLS, FOR_SERVER, "trust_only_file", value_unused, NOWHERE, 0, 0, NULL,
     "bool", UNUSED_KEY, CHANGE(NONE), "a server has no use for it"},
    {SECTION_TRANSPORT_TLS, FOR_BOTH, "pkcs12", value_path, PEER(transport.tls.pkcs12), 0, 0, NULL,
     "path", HELD | OPTION_PATH, CHANGE(TRANSPORT),
     "certificate and private key in one file; a server needs this or certificate"},
    {SECTION_TRANSPORT_TLS, FOR_BOTH, "pkcs12_password", value_password,
     PEER(transport.tls.pkcs12_password), 0, 0, NULL, "secret", SECRET | HELD, CHANGE(TRANSPORT),
     "of that file; may be empty"},
    {SECTION_TRANSPORT_TLS, FOR_BOTH, "certificate", value_path, PEER(transport.tls.certificate),
     1, LIMIT_CONFIG_TEXT, NULL, "path", HELD | OPTION_PATH, CHANGE(TRANSPORT),
     "PEM file: the certificate, then those up to the root; in place of pkcs12"},
    {SECTION_TRANSPORT_TLS, FOR_BOTH, "private_key", value_path, PEER(transport.tls.private_key),
     1, LIMIT_CONFIG_TEXT, NULL, "path", HELD | OPTION_PATH, CHANGE(TRANSPORT),
     "PEM file with the private key of certificate"},
    {SECTION_TRANSPORT_TLS, FOR_SERVER, "client_ca", value_path, PEER(transport.tls.client_ca),
     1, LIMIT_CONFIG_TEXT, NULL, "path", HELD | OPTION_PATH, CHANGE(TRANSPORT),
     "PEM file: clients need a certificate that one of these has signed; default: they need none"},
    {SECTION_TRANSPORT_TLS, FOR_CLIENT, "client_ca", value_unused, NOWHERE, 0, 0, NULL, "path",
     UNUSED_KEY, CHANGE(NONE), "a client has no use for it; see trusted_root"},
    {SECTION_TRANSPORT_NOISE, FOR_BOTH, "pattern", value_noise_pattern,
     PEER(transport.noise.pattern), 0, 0, "Noise_NK_25519_ChaChaPoly_BLAKE2s", "word",
     HELD, CHANGE(TRANSPORT), "the same on both sides; NK proves the server, KK both, "
     "XX a side whose public key the other side has"},
    {SECTION_TRANSPORT_NOISE, FOR_BOTH, "local_private_key", value_local_private_key,
     PEER(transport.noise), 0, 0, NULL, "secret", SECRET | HELD, CHANGE(TRANSPORT),
     "from --genkey, base64; needed by the server with NK, by both with KK"},
    {SECTION_TRANSPORT_NOISE, FOR_BOTH, "remote_public_key", value_remote_public_key,
     PEER(transport.noise), 0, 0, NULL, "base64", HELD | OPTION_PATH, CHANGE(TRANSPORT),
     "the other side's; needed by the client with NK, by both with KK"},
    {SECTION_TRANSPORT_NOISE, FOR_BOTH, "zerocopy_send", value_unused, NOWHERE, 0, 0, NULL,
     "word", UNUSED_KEY, CHANGE(NONE), "removed: no gain was ever measured"},
    {SECTION_TRANSPORT_WEBSOCKET, FOR_BOTH, "tls", value_bool, PEER(transport.websocket_tls), 0, 0,
     NULL, "bool", HELD, CHANGE(TRANSPORT),
     "TLS below the WebSocket, with transport.tls; needed with type = websocket"},

    {SECTION_SERVICE, FOR_BOTH, "type", value_service_type, SERVICE(type), 0, 0, "tcp", "word",
     0, CHANGE(TYPE), "tcp or udp; socket_stream, as in rathole 0.6: tcp with a path as address"},
    {SECTION_SERVICE, FOR_SERVER, "bind_addr", value_addr_or_range, SERVICE(addr), 0, 0, NULL,
     "host:port", REQUIRED, CHANGE(ADDRESS),
     "where visitors arrive; host:FIRST-LAST with {port} in the name: a service for each port; "
     "unix:/path for a unix socket, unix:@name for an abstract one"},
    {SECTION_SERVICE, FOR_SERVER, "bind", value_bind, SERVICE(bind), 0, 0, "always", "word",
     0, CHANGE(LIMITS), "always, or on_login: only while a client serves it; ranges are on_login"},
    {SECTION_SERVICE, FOR_SERVER, "sni", value_host_names, SERVICE(sni), 0, 0, NULL, "names",
     OPTION_LIST, CHANGE(LIMITS), "TLS, by its server name: services may share a bind_addr, each "
     "with names of its own; *.example.com stands for all below"},
    {SECTION_SERVICE, FOR_SERVER, "host", value_host_names, SERVICE(host), 0, 0, NULL, "names",
     OPTION_LIST, CHANGE(LIMITS), "the same for HTTP/1, by the host of the first request"},
    {SECTION_SERVICE, FOR_SERVER, "default", value_bool, SERVICE(is_default), 0, 0, "false",
     "bool", 0, CHANGE(LIMITS), "of a shared bind_addr: whoever has none of the names"},
    {SECTION_SERVICE, FOR_SERVER, "clients", value_clients, SERVICE(clients), 0, 0, "replace",
     "word", 0, CHANGE(LIMITS),
     "replace: the newest login takes over; balance: all clients, fewest open connections first"},
    {SECTION_SERVICE, FOR_CLIENT, "local_addr", value_addr_or_range, SERVICE(addr), 0, 0, NULL,
     "host:port", REQUIRED, CHANGE(ADDRESS),
     "the local service that visitors reach; host:FIRST-LAST with {port} in the name: one for each "
     "port; unix:/path or unix:@name for a unix socket"},
    {SECTION_SERVICE, FOR_SERVER, "socket_mode", value_mode, SERVICE(socket_mode), 0, 0777, "0660",
     "octal", 0, CHANGE(SOCKETS), "who may connect to the unix socket of bind_addr"},
    {SECTION_SERVICE, FOR_SERVER, "socket_owner", value_owner, SERVICE(socket_owner), 0, 0, NULL,
     "name", 0, CHANGE(SOCKETS),
     "user, user:group or :group of that socket; default: those of the server"},
    {SECTION_SERVICE, FOR_BOTH, "token", value_secret, SERVICE(token), 0, 0, NULL, "secret",
     SECRET, CHANGE(TOKEN), "the same on both sides; default: default_token"},
    {SECTION_SERVICE, FOR_BOTH, "nodelay", value_tristate, SERVICE(nodelay), 0, 0, NULL, "bool",
     0, CHANGE(SOCKETS), "TCP_NODELAY for this service; default: transport.tcp.nodelay"},
    {SECTION_SERVICE, FOR_CLIENT, "prefer_ipv6", value_bool, SERVICE(prefer_ipv6), 0, 0, NULL,
     "bool", 0, CHANGE(LIMITS), "for this service; default: client.prefer_ipv6"},
    {SECTION_SERVICE, FOR_CLIENT, "retry_interval", value_seconds, SERVICE(retry_interval_ms),
     0, WEEK_MS, NULL, "s", CLAMP, CHANGE(LIMITS),
     "for this service; default: client.retry_interval"},
    {SECTION_SERVICE, FOR_BOTH, "idle_timeout", value_seconds_fraction, SERVICE(idle_timeout_ms),
     0, WEEK_MS, "0", "s", 0, CHANGE(LIMITS),
     "close a connection that is silent in both directions; 0 = never"},
    {SECTION_SERVICE, FOR_SERVER, "max_connections", value_number, SERVICE(max_connections),
     0, COUNT_MAX, "0", "visitors", 0, CHANGE(LIMITS), "at a time; 0 = no limit"},
    {SECTION_SERVICE, FOR_SERVER, "max_connections_per_ip", value_number,
     SERVICE(max_connections_per_ip), 0, COUNT_MAX, "0", "visitors", 0, CHANGE(LIMITS),
     "at a time from one address (server.per_ip_prefix_v4, _v6); 0 = no limit"},
    {SECTION_SERVICE, FOR_SERVER, "max_new_per_second_per_ip", value_number,
     SERVICE(max_new_per_second_per_ip), 0, COUNT_MAX, "0", "visitors", 0, CHANGE(LIMITS),
     "that come from one address within a second; 0 = no limit"},
    {SECTION_SERVICE, FOR_SERVER, "allow", value_allow, SERVICE(access), 0, 0, NULL, "CIDR list",
     OPTION_LIST | OPTION_PATH, CHANGE(ACCESS),
     "visitors that may come, and no others: addresses, prefixes, file:PATH with one a line"},
    {SECTION_SERVICE, FOR_SERVER, "deny", value_deny, SERVICE(access), 0, 0, NULL, "CIDR list",
     OPTION_LIST | OPTION_PATH, CHANGE(ACCESS),
     "visitors that may not; with allow the longest prefix decides, of the same one deny"},
    {SECTION_SERVICE, FOR_SERVER, "proxy_protocol", value_proxy_protocol, SERVICE(proxy_protocol),
     0, 0, "off", "word", 0, CHANGE(LIMITS),
     "v1 or v2: the service gets a PROXY header with the visitor's address; UDP: v2 alone"},
    {SECTION_SERVICE, FOR_SERVER, "enable_proxy_protocol", value_enable_proxy_protocol,
     SERVICE(proxy_protocol), 0, 0, NULL, "bool", 0, CHANGE(LIMITS),
     "true: the same as proxy_protocol = v1"},
    {SECTION_SERVICE, FOR_SERVER, "proxy_protocol_udp", value_proxy_protocol_udp,
     SERVICE(proxy_protocol_udp), 0, 0, "first", "word", 0, CHANGE(LIMITS),
     "UDP: the header is in a visitor's first datagram on each data channel, or in each (always)"},
    {SECTION_SERVICE, FOR_SERVER, "accept_proxy_protocol", value_allow, SERVICE(balancers),
     0, 0, NULL, "CIDR list", OPTION_LIST | OPTION_PATH, CHANGE(LIMITS),
     "balancers whose connections begin with a PROXY header, v1 or v2, within handshake_timeout"},
    {SECTION_SERVICE, FOR_SERVER, "bandwidth", value_bandwidth, SERVICE(bandwidth),
     BANDWIDTH_MIN, BANDWIDTH_MAX, "0", "bit/s", 0, CHANGE(LIMITS),
     "of all visitors together, in each direction: 500k, 100M, 1G; 0 = no limit"},
    {SECTION_SERVICE, FOR_SERVER, "connection_bandwidth", value_bandwidth,
     SERVICE(connection_bandwidth), BANDWIDTH_MIN, BANDWIDTH_MAX, "0", "bit/s", 0, CHANGE(LIMITS),
     "of one connection, or of one UDP visitor, in each direction; 0 = no limit"},
    {SECTION_SERVICE, FOR_SERVER, "udp_data_channels", value_number_or_auto,
     SERVICE(udp_data_channels), 1, LIMIT_UDP_LANES, "auto", "channels", 0, CHANGE(LANES),
     "of a UDP service, which share its visitors; auto = one for each worker, at least 2"},
    {SECTION_SERVICE, FOR_BOTH, "udp_timeout", value_seconds_fraction, SERVICE(udp_timeout_ms),
     MOMENT_MS, WEEK_MS, "60", "s", 0, CHANGE(LIMITS),
     "forget a UDP visitor that is silent for this long"},
    {SECTION_SERVICE, FOR_SERVER, "max_udp_visitors", value_number, SERVICE(max_udp_visitors),
     1, COUNT_MAX, "65536", "visitors", 0, CHANGE(LIMITS),
     "UDP: at a time; a new one replaces the one silent for longest"},

    {SECTION_STATUS, FOR_BOTH, "bind_addr", value_addr_or_path, STATUS(addr), 0, 0, NULL,
     "host:port", REQUIRED, CHANGE(STATUS),
     "where HTTP serves /metrics, /status, /healthz, /readyz and a page; or unix:/path"},
    {SECTION_STATUS, FOR_BOTH, "token", value_secret, STATUS(token), 0, 0, NULL, "secret", SECRET,
     CHANGE(STATUS), "needed there as Authorization: Bearer TOKEN; default: none is needed"},
    {SECTION_STATUS, FOR_BOTH, "socket_mode", value_mode, STATUS(socket_mode), 0, 0777, "0660",
     "octal", 0, CHANGE(STATUS), "who may connect to the unix socket of bind_addr"},
};
/* clang-format on */
const size_t option_count = ARRAY_SIZE(options);
static_assert(ARRAY_SIZE(options) <= OPTION_COUNT_MAX, "tables of lines have one place per row");

static const char *const section_names[] = {
    [SECTION_ROLE] = "",
    [SECTION_TRANSPORT] = "transport",
    [SECTION_TRANSPORT_TCP] = "transport.tcp",
    [SECTION_TRANSPORT_TLS] = "transport.tls",
    [SECTION_TRANSPORT_NOISE] = "transport.noise",
    [SECTION_TRANSPORT_WEBSOCKET] = "transport.websocket",
    [SECTION_SERVICES] = "services",
    [SECTION_SERVICE] = "services.NAME",
    [SECTION_STATUS] = "status",
};
static_assert(ARRAY_SIZE(section_names) == SECTION_COUNT, "a name for each section");

const char *option_section_name(enum option_section section)
{
    assert(section < SECTION_COUNT);
    return section_names[section];
}

const char *option_section_path(enum option_section section, enum config_role role, char *out,
                                size_t out_size)
{
    const char *name = section_names[section];
    if (section == SECTION_STATUS)
        (void)snprintf(out, out_size, "%s", name);
    else
        (void)snprintf(out, out_size, "%s%s%s", option_role_name(role), *name == '\0' ? "" : ".",
                       name);
    return out;
}

const char *option_role_name(enum config_role role)
{
    return role == CONFIG_SERVER ? "server" : "client";
}

static bool is_row_of(const struct option *option, enum option_section section,
                      enum config_role role)
{
    return option->section == section && (option->roles & (1u << role)) != 0;
}

int option_find(enum option_section section, enum config_role role, const char *key)
{
    for (size_t i = 0; i < option_count; i++)
        if (is_row_of(&options[i], section, role) && strcmp(options[i].key, key) == 0)
            return (int)i;
    return -1;
}

size_t option_row(enum option_section section, enum config_role role, const char *key)
{
    int row = option_find(section, role, key);
    assert(row >= 0);
    return (size_t)row;
}

/* The Levenshtein distance, ignoring case; SIZE_MAX for words that are too long to be a typo of a
 * known one. */
static size_t distance(const char *a, const char *b)
{
    enum { WORD_MAX = 63 };
    size_t a_size = strlen(a), b_size = strlen(b), row[WORD_MAX + 1];
    if (a_size > WORD_MAX || b_size > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b_size; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_size; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_size; j++) {
            size_t replaced =
                diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            diagonal = row[j];
            row[j] = MIN(replaced, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[b_size];
}

/* Beyond this distance, "did you mean" would be a guess. */
static bool is_near(size_t edits, const char *word)
{
    return edits <= MAX(strlen(word) / 3, 1);
}

const char *option_nearest_word(const char *text, const char *const *words, size_t count)
{
    const char *nearest = NULL;
    size_t nearest_edits = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        size_t edits = distance(text, words[i]);
        if (edits <= nearest_edits)
            nearest = edits < nearest_edits ? words[i] : NULL;
        nearest_edits = MIN(edits, nearest_edits);
    }
    return nearest != NULL && is_near(nearest_edits, nearest) ? nearest : NULL;
}

static void list_keys(enum option_section section, enum config_role role, char *out,
                      size_t out_size)
{
    size_t used = 0;
    for (size_t i = 0; i < option_count && used < out_size; i++)
        if (is_row_of(&options[i], section, role))
            used += (size_t)snprintf(out + used, out_size - used, "%s%s",
                                     used == 0 ? "the keys here are " : ", ", options[i].key);
    if (used == 0)
        (void)snprintf(out, out_size, "there are no keys here, only [%s.services.NAME]",
                       option_role_name(role));
}

/* The nearest key in that section, or outside of it; NULL: none is near. */
static const struct option *find_near(enum option_section section, bool is_inside,
                                      enum config_role role, const char *key)
{
    const struct option *nearest = NULL;
    size_t nearest_edits = SIZE_MAX;
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        if ((option->roles & (1u << role)) == 0 || (option->section == section) != is_inside ||
            (!is_inside && option->section == SECTION_STATUS)) /* the place for no role's key */
            continue;
        size_t edits = distance(key, option->key);
        if (edits < nearest_edits) {
            nearest = option;
            nearest_edits = edits;
        }
    }
    return nearest != NULL && is_near(nearest_edits, nearest->key) ? nearest : NULL;
}

const char *option_suggest_key(enum option_section section, enum config_role role, const char *key,
                               char *out, size_t out_size)
{
    char path[64];
    const struct option *inside = find_near(section, true, role, key);
    const struct option *outside = find_near(section, false, role, key);
    if (inside != NULL)
        (void)snprintf(out, out_size, "did you mean %s?", inside->key);
    else if (outside != NULL)
        (void)snprintf(out, out_size, "did you mean %s in [%s]?", outside->key,
                       option_section_path(outside->section, role, path, sizeof path));
    else
        list_keys(section, role, out, out_size);
    return out;
}

/* Compares with all sections of both roles. In a service's section the service name is ignored. */
const char *option_suggest_section(const char *name, char *out, size_t out_size)
{
    char nearest[64] = "";
    size_t nearest_edits = SIZE_MAX;
    for (size_t i = 0; i < 2 * (size_t)SECTION_COUNT; i++) {
        char known[64], head[64];
        (void)option_section_path((enum option_section)(i / 2), (enum config_role)(i % 2), known,
                                  sizeof known);
        (void)snprintf(head, sizeof head, "%s", name);
        if (i / 2 == SECTION_SERVICE) {
            char *dot = strchr(head, '.');
            dot = dot != NULL ? strchr(dot + 1, '.') : NULL;
            if (dot == NULL)
                continue;
            (void)snprintf(dot, sizeof head - (size_t)(dot - head), ".NAME");
        }
        size_t edits = distance(head, known);
        if (edits < nearest_edits) {
            nearest_edits = edits;
            (void)snprintf(nearest, sizeof nearest, "%s", known);
        }
    }
    if (is_near(nearest_edits, nearest))
        (void)snprintf(out, out_size, "did you mean [%s]?", nearest);
    else
        (void)snprintf(out, out_size, "sections begin with server or client");
    return out;
}

static const char *role_text(unsigned int roles)
{
    return roles == FOR_BOTH ? "*" : roles == FOR_SERVER ? "server" : "client";
}

void config_print_options(FILE *out)
{
    (void)fputs("| key | unit | default | meaning |\n|---|---|---|---|\n", out);
    for (size_t i = 0; i < option_count; i++) {
        const struct option *option = &options[i];
        const char *section = section_names[option->section];
        bool is_of_role = option->section != SECTION_STATUS;
        const char *fallback = option->default_text != NULL             ? option->default_text
                               : (option->flags & OPTION_REQUIRED) != 0 ? "required"
                                                                        : "";
        (void)fprintf(out, "| `%s%s%s.%s` | %s | %s | %s |\n",
                      is_of_role ? role_text(option->roles) : "",
                      *section == '\0' || !is_of_role ? "" : ".", section, option->key,
                      option->unit, fallback, option->help);
    }
}
