/* The typed configuration: one immutable object built from one file. Load reads, checks and fills
 * in the defaults; errors are collected, all of them, never just the first.
 *
 * The object is owned by whoever loaded it and is read-only from then on, so any thread may read it
 * until config_destroy. Secrets in it are wiped on destroy. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/macros.h"
#include "crypto/keys.h"
#include "crypto/noise.h"

enum config_service_type { CONFIG_SERVICE_TCP, CONFIG_SERVICE_UDP };
enum config_transport_type {
    CONFIG_TRANSPORT_TCP,
    CONFIG_TRANSPORT_NOISE,
    CONFIG_TRANSPORT_TLS,
    CONFIG_TRANSPORT_WEBSOCKET,
};
enum config_role { CONFIG_SERVER, CONFIG_CLIENT };
enum config_tristate { CONFIG_UNSET = -1, CONFIG_FALSE, CONFIG_TRUE };

/* Checked at load: the keys that the pattern needs of this role are there. One that the pattern has
 * no use for in this role is not kept. */
struct config_noise {
    enum noise_pattern pattern;
    bool has_local_private_key, has_remote_public_key;
    uint8_t local_private_key[KEYS_X25519_SIZE];
    uint8_t remote_public_key[KEYS_X25519_SIZE];
};

struct config_transport {
    enum config_transport_type type;
    struct config_noise noise; /* with type = noise */
    bool tcp_nodelay;
    uint32_t tcp_keepalive_secs;     /* TCP_KEEPIDLE; 0 = keepalive off */
    uint32_t tcp_keepalive_interval; /* TCP_KEEPINTVL, seconds */
};

struct config_service {
    char *name;
    enum config_service_type type;
    struct host_port addr; /* server: bind_addr; client: local_addr */
    char *token;           /* the service's own, else default_token; never NULL once loaded */
    enum config_tristate nodelay;
    bool prefer_ipv6;           /* client */
    uint32_t retry_interval_ms; /* client */
    uint32_t idle_timeout_ms;   /* 0 = off */
    uint32_t max_connections;   /* server; 0 = no limit, as below */
    uint32_t max_connections_per_ip;
    uint32_t udp_timeout_ms;    /* UDP services only, from here */
    uint32_t max_udp_visitors;  /* server */
    uint32_t udp_data_channels; /* server; 0 = auto */
    unsigned int line;          /* of its section */
    unsigned int addr_line;     /* of its address */
};

/* One role's half of the file. Fields that the other role alone has are left zero. */
struct config_peer {
    struct host_port addr;  /* server: bind_addr; client: remote_addr */
    unsigned int addr_line; /* of it in the file */
    char *default_token;    /* NULL when there is none; services that needed it have a copy */
    struct config_transport transport;
    struct config_service *services;
    size_t service_count;
    uint32_t threads; /* 0 = auto */
    uint32_t drain_timeout_ms;
    enum log_level log_level;
    enum log_format log_format;
    char user[LIMIT_ACCOUNT_NAME + 1]; /* whom to become; "" = nobody else, as below */
    char group[LIMIT_ACCOUNT_NAME + 1];

    uint32_t heartbeat_interval_ms; /* server; 0 = never */
    uint32_t handshake_timeout_ms;  /* server */
    uint32_t max_pending_handshakes;
    uint32_t max_pending_handshakes_per_ip;
    uint32_t per_ip_prefix_v4, per_ip_prefix_v6; /* server; see config_prefixes */

    uint32_t heartbeat_timeout_ms; /* client; 0 = off */
    uint32_t retry_interval_ms;    /* client; services have it too, their own or this one */
    uint32_t connect_timeout_ms;   /* client */
    uint32_t udp_descriptors;      /* client; percent */
    bool prefer_ipv6;              /* client; as for retry_interval_ms */
};

/* What all limits for one address take for one. */
static inline struct addr_prefixes config_prefixes(const struct config_peer *server)
{
    return (struct addr_prefixes){.v4 = (uint8_t)server->per_ip_prefix_v4,
                                  .v6 = (uint8_t)server->per_ip_prefix_v6};
}

/* What load and check have to say, in the order of the lines. text is "FILE:LINE: key: ...". No
 * token or key value is ever in it, and what it repeats of the file has its control bytes escaped.
 */
struct config_message {
    bool is_error;         /* else a warning */
    bool is_of_half;       /* an error that keeps this half from running and not the other */
    enum config_role half; /* with is_of_half */
    unsigned int line;
    char *text;
};

/* A list that ends early, after a hundred errors or for want of memory, still counts its errors. */
struct config_report {
    struct config_message *messages;
    size_t count;
    size_t error_count;
};

struct config {
    bool has_server, has_client;
    struct config_peer server, client;
    bool is_cut_off;            /* its last line has no end: perhaps there is more to come */
    bool has_inline_secrets;    /* a token or a private key stands in the file itself */
    struct config_report notes; /* what config_check adds; collected by load, which has the lines */
};

/* Reads and validates FILE. On success *ret is a new object (config_destroy). ERR_CONFIG: errors
 * are in the report; -errno: the file could not be read, the report has the line; -ENOMEM: the
 * report may be without it. report is initialised here in every case and may hold warnings on
 * success; config_report_finish frees it. A relative file:PATH begins at the working directory. */
MUST_CHECK int config_load(const char *path, struct config **ret, struct config_report *report);
/* The same for who runs that half alone: what keeps the other from running, such as a transport
 * that is not built in or a secret that is on the other machine, is a warning; *ret is then without
 * the other. */
MUST_CHECK int config_load_half(const char *path, enum config_role half, struct config **ret,
                                struct config_report *report);
/* config_load for text in memory; `name` stands for FILE in messages. For tests and fuzzers too. */
MUST_CHECK int config_parse(const char *name, const char *text, size_t size, struct config **ret,
                            struct config_report *report);
/* What the file has for that half; NULL: it has no such section. */
const struct config_peer *config_half(const struct config *config, enum config_role half);
/* What --check adds: world-readable secrets, a public control port without encryption, keys that
 * are accepted and unused. Appends warnings. */
void config_check(const char *path, const struct config *config, struct config_report *report);
/* Accepts NULL. */
void config_destroy(struct config *config);
void config_report_finish(struct config_report *report);

/* The table of options as Markdown, from the rows that drive the parser. */
void config_print_options(FILE *out);
