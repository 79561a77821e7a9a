/* The typed configuration: one immutable object, built from one file. config_load reads the file,
 * checks it and fills in the defaults. It collects all errors, not only the first.
 *
 * The caller owns the object. It is read-only, so any thread may read it until config_destroy,
 * which wipes the secrets in it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/cidr.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/macros.h"
#include "crypto/keys.h"
#include "crypto/noise.h"

struct route_set;

/* A UDP service with PROXY headers: which of a visitor's datagrams has one. */
enum config_proxy_protocol_udp { CONFIG_HEADER_FIRST, CONFIG_HEADER_ALWAYS };
/* SOCKET_STREAM is TCP, save that its address is a unix socket and its data command another. */
enum config_service_type { CONFIG_SERVICE_TCP, CONFIG_SERVICE_UDP, CONFIG_SERVICE_SOCKET_STREAM };
enum config_transport_type {
    CONFIG_TRANSPORT_TCP,
    CONFIG_TRANSPORT_NOISE,
    CONFIG_TRANSPORT_TLS,
    CONFIG_TRANSPORT_WEBSOCKET,
};
/* When a server's service has its address: all the time, or from a client's login on until some
 * time after its session has ended. */
enum config_bind { CONFIG_BIND_ALWAYS, CONFIG_BIND_ON_LOGIN };
enum config_clients { CONFIG_CLIENTS_REPLACE, CONFIG_CLIENTS_BALANCE };
/* A client with several servers: the first that answers, or all of them at once. */
enum config_servers { CONFIG_SERVERS_FIRST, CONFIG_SERVERS_ALL };
enum config_sandbox { CONFIG_SANDBOX_OFF, CONFIG_SANDBOX_ON };
enum config_role { CONFIG_SERVER, CONFIG_CLIENT };
enum config_tristate { CONFIG_UNSET = -1, CONFIG_FALSE, CONFIG_TRUE };

/* config_load has checked that the keys are there that the pattern needs in this role, and has
 * dropped those that it does not use. */
struct config_noise {
    enum noise_pattern pattern;
    bool has_local_private_key, has_remote_public_key;
    uint8_t local_private_key[KEYS_X25519_SIZE];
    uint8_t remote_public_key[KEYS_X25519_SIZE];
};

/* For type = tls, and for type = websocket with tls = true; otherwise all of it is zero. A text is
 * NULL if it was not given. A relative path starts at the working directory. config_load has not
 * opened these files. It has checked that there is at most one certificate (pkcs12 with its
 * password, or certificate with private_key), and that a server has one. */
struct config_tls {
    char *pkcs12;
    char *pkcs12_password; /* may be empty; never NULL with pkcs12 */
    char *certificate, *private_key;
    char *client_ca;      /* server: whose certificates a client must show; NULL: it shows none */
    char *hostname;       /* client: the name in the server's certificate; NULL: the one it dials */
    char *trusted_root;   /* client */
    bool trust_only_file; /* client: the system's roots do not count, only trusted_root */
    unsigned int line;    /* of its section, or of the transport's type */
};

enum config_proxy_type { CONFIG_PROXY_NONE, CONFIG_PROXY_SOCKS5, CONFIG_PROXY_HTTP };

/* The proxy between a client and its server, with every transport.type. */
struct config_proxy {
    enum config_proxy_type type;
    struct host_port addr;
    char *user, *password; /* percent-decoded; both NULL: none; one of them may be empty */
};

struct config_transport {
    enum config_transport_type type;
    struct config_noise noise; /* with type = noise */
    struct config_tls tls;
    bool websocket_tls;        /* with type = websocket: TLS below it */
    struct config_proxy proxy; /* client */
    bool tcp_nodelay;
    uint32_t tcp_keepalive_secs;     /* TCP_KEEPIDLE; 0 = keepalive off */
    uint32_t tcp_keepalive_interval; /* TCP_KEEPINTVL, seconds */
};

/* Who may come, by address: the prefixes of allow and deny. */
struct config_access {
    const struct cidr_set *set; /* shared by all copies; NULL: everybody */
    bool has_allow;             /* then nobody else may come */
    struct cidr *prefixes;      /* during config_load only */
    size_t count, capacity;
};

struct config_service {
    char *name;
    enum config_service_type type;
    struct host_port addr; /* server: bind_addr; client: local_addr */
    uint16_t port_last;    /* of a range (config/range.h), which begins at addr; 0: it is none */
    char *token;           /* the service's own, else default_token; never NULL once loaded */
    enum config_tristate nodelay;
    bool prefer_ipv6;           /* client */
    uint32_t retry_interval_ms; /* client */
    uint32_t idle_timeout_ms;   /* 0 = off */
    uint32_t max_connections;   /* server; 0 = no limit, as below */
    uint32_t max_connections_per_ip, max_new_per_second_per_ip;
    enum config_bind bind; /* server; ON_LOGIN for every range */
    /* server, by name (config/routes.h): patterns in their one form with commas in between, NULL:
     * none; who has none of the names of bind_addr; it has one of these, so its front has the
     * address. A front alone has `routes`. */
    char *sni, *host;
    bool is_default, is_routed;
    const struct route_set *routes;
    enum config_clients clients; /* server */
    struct config_access access; /* server */
    /* server: the version of the PROXY header that the service gets; 0 = none */
    uint32_t proxy_protocol;
    enum config_proxy_protocol_udp proxy_protocol_udp;
    struct config_access balancers; /* server: who sends PROXY headers to us; no set: nobody */
    uint64_t bandwidth, connection_bandwidth;      /* server; bits per second, each direction */
    uint32_t socket_mode;                          /* server, unix sockets: permission bits */
    char socket_owner[2 * LIMIT_ACCOUNT_NAME + 2]; /* "user", "user:group", ":group"; "" = none */
    uint32_t udp_timeout_ms;                       /* UDP services only, from here */
    uint32_t max_udp_visitors;                     /* server */
    uint32_t udp_data_channels;                    /* server; 0 = auto */
    unsigned int line;                             /* of its section */
    unsigned int addr_line;                        /* of its address */
};

/* Whether visitors and data channels are streams of bytes, not datagrams. */
static inline bool config_service_is_stream(const struct config_service *service)
{
    return service->type != CONFIG_SERVICE_UDP;
}

/* [status]: where the process that runs tells how it is. */
struct config_status {
    struct host_port addr; /* an IP address or "localhost", or a unix socket; host "": off */
    char *token;           /* NULL: none */
    uint32_t socket_mode;  /* unix sockets: permission bits */
};

/* One role's half of the file. The fields of the other role are zero. */
struct config_peer {
    struct host_port addr;  /* server: bind_addr; client: the first of remote_addr */
    unsigned int addr_line; /* of addr, in the file */
    char *default_token;    /* NULL: none; a service without its own token has a copy */
    struct config_transport transport;
    struct config_service *services;
    size_t service_count;
    const struct config_status *status; /* the file's, for either role; copies have none */
    uint32_t threads;                   /* 0 = auto */
    uint32_t drain_delay_ms;            /* server */
    uint32_t drain_timeout_ms;
    enum log_level log_level;
    enum log_format log_format;
    char user[LIMIT_ACCOUNT_NAME + 1]; /* to become, if started by root; "" = not given */
    char group[LIMIT_ACCOUNT_NAME + 1];
    enum config_sandbox sandbox;

    uint32_t heartbeat_interval_ms; /* server; 0 = never */
    uint32_t handshake_timeout_ms;  /* server */
    uint32_t half_close_timeout_ms; /* server */
    uint32_t max_pending_handshakes;
    uint32_t max_pending_handshakes_per_ip;
    uint32_t per_ip_prefix_v4, per_ip_prefix_v6; /* server; see config_prefixes */
    struct config_access access;                 /* server: to the control port */

    uint32_t heartbeat_timeout_ms; /* client; 0 = off */
    uint32_t retry_interval_ms;    /* client; the default of its services */
    uint32_t connect_timeout_ms;   /* client */
    uint32_t udp_descriptors;      /* client; percent */
    bool prefer_ipv6;              /* client; the default of its services */

    enum config_servers servers; /* client */
    uint32_t resolve_interval_ms;
    uint32_t more_addr_count; /* client: the others of remote_addr; see config_server_addr */
    struct host_port more_addrs[LIMIT_SERVER_NAMES - 1];
};

/* Whether two addresses are written alike: services with such ones share it (config/routes.h). */
bool config_is_same_addr(const struct host_port *a, const struct host_port *b);

/* Without the fronts, which nobody has written. */
static inline size_t config_count_services(const struct config_peer *peer)
{
    size_t count = 0;
    for (size_t i = 0; i < peer->service_count; i++)
        count += peer->services[i].routes == NULL;
    return count;
}

/* A client's servers as they were written: index 0 to more_addr_count. */
static inline const struct host_port *config_server_addr(const struct config_peer *client,
                                                         size_t index)
{
    return index == 0 ? &client->addr : &client->more_addrs[index - 1];
}
/* Writes the address of a server, or those of a client's servers with ", " in between, cut to fit
 * and terminated. Returns out. */
const char *config_addrs_format(const struct config_peer *peer, char *out, size_t out_size);

/* What the limits per address (max_connections_per_ip, ...) count as one address. */
static inline struct addr_prefixes config_prefixes(const struct config_peer *server)
{
    return (struct addr_prefixes){.v4 = (uint8_t)server->per_ip_prefix_v4,
                                  .v6 = (uint8_t)server->per_ip_prefix_v6};
}

/* True if connections are made with the keys of transport.tls. */
static inline bool config_has_tls(const struct config_transport *transport)
{
    return transport->type == CONFIG_TRANSPORT_TLS ||
           (transport->type == CONFIG_TRANSPORT_WEBSOCKET && transport->websocket_tls);
}

/* One message of load or check. text is "FILE:LINE: key: ..."; it never holds a token or a key, and
 * control bytes that it quotes from the file are escaped. */
struct config_message {
    bool is_error;         /* else a warning */
    bool is_of_half;       /* an error for one role only: the other could run */
    enum config_role half; /* with is_of_half */
    unsigned int line;
    char *text;
};

/* Messages in the order of their lines. The list is cut after a hundred errors or when memory is
 * short; error_count counts on. */
struct config_report {
    struct config_message *messages;
    size_t count;
    size_t error_count;
};

struct config {
    bool has_server, has_client;
    struct config_peer server, client;
    struct config_status status;
    bool is_cut_off;            /* the last line has no newline: the file may be half written */
    bool has_inline_secrets;    /* the file itself holds a token or a private key */
    struct config_report notes; /* for config_check; collected by load, which knows the lines */
};

/* Reads and validates the file. On success *ret is a new object, which the caller destroys.
 * ERR_CONFIG: the report lists the errors. -errno: the file cannot be read, and the report says so
 * (save perhaps for -ENOMEM). The report is initialised in every case, may hold warnings on
 * success, and is freed by config_report_finish. A relative file:PATH starts at the working
 * directory. */
MUST_CHECK int config_load(const char *path, struct config **ret, struct config_report *report);
/* The same for a process that runs one role. Errors of the other half, such as a transport that is
 * not built in or a secret that is on another machine, are warnings, and *ret lacks that half. */
MUST_CHECK int config_load_half(const char *path, enum config_role half, struct config **ret,
                                struct config_report *report);
/* config_load for text in memory; `name` stands for FILE in messages. */
MUST_CHECK int config_parse(const char *name, const char *text, size_t size, struct config **ret,
                            struct config_report *report);
/* The half of the file for that role; NULL: the file has no such section. */
const struct config_peer *config_half(const struct config *config, enum config_role half);
/* Appends the warnings that only --check gives: world-readable secrets, a public control port
 * without encryption, keys that have no effect. */
void config_check(const char *path, const struct config *config, struct config_report *report);
/* Accepts NULL. */
void config_destroy(struct config *config);
void config_report_finish(struct config_report *report);

/* Prints the table of options as Markdown, from the rows that drive the parser. */
void config_print_options(FILE *out);
