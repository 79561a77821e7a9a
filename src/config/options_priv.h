/* The table of options: one row for each key of each section, which drives the parser, the
 * defaults, the messages, the rules of a reload and the documentation. To add an option, add a row
 * (and a field in config.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/macros.h"
#include "config/config.h"
#include "config/config_diff.h"

enum option_section {
    SECTION_ROLE, /* [server] or [client] itself */
    SECTION_TRANSPORT,
    SECTION_TRANSPORT_TCP,
    SECTION_TRANSPORT_TLS,
    SECTION_TRANSPORT_NOISE,
    SECTION_TRANSPORT_WEBSOCKET,
    SECTION_SERVICES, /* [ROLE.services]: allowed, without keys */
    SECTION_SERVICE,  /* [ROLE.services.NAME] */
    SECTION_STATUS,   /* [status], of both roles */
    SECTION_COUNT,
};

enum option_roles {
    FOR_SERVER = 1 << CONFIG_SERVER,
    FOR_CLIENT = 1 << CONFIG_CLIENT,
    FOR_BOTH = 3
};

enum option_flags {
    OPTION_REQUIRED = 1 << 0,
    OPTION_SECRET = 1 << 1, /* no message quotes its value */
    OPTION_UNUSED = 1 << 2, /* of a feature that is not built in, or was removed: ignored */
    OPTION_HELD = 1 << 3,  /* ignored unless transport.type, which may come later, uses its table */
    OPTION_CLAMP = 1 << 4, /* rathole takes any number: it is clamped to min and max */
    OPTION_PATH = 1 << 5,  /* not a secret, but a path, or may be file:PATH */
    OPTION_LIST = 1 << 6,  /* values with commas between them, or an array of strings */
};

enum { OPTION_COUNT_MAX = 128 };

struct option;

/* One value for a parser, with what the parser found out about it. */
struct option_value {
    const struct option *option;
    const char *text;
    char *problem; /* out: "expected ..., got ..."; with a value that is taken, a warning */
    size_t problem_size;
    bool is_void;                  /* out: empty, so it counts as not given */
    bool is_inline_secret;         /* out */
    bool is_world_readable_secret; /* out */
};

/* 0 with *target written, and perhaps a warning in problem; ERR_CONFIG with the reason in problem;
 * or -ENOMEM. */
typedef int option_parser(struct option_value *value, void *target);

/* offset is into struct config_service for SECTION_SERVICE, into struct config_status for
 * SECTION_STATUS, else into struct config_peer. min and
 * max are in the unit of the field (ms for seconds). default_text NULL: the field stays zero, or a
 * service takes the value of its role. */
struct option {
    enum option_section section;
    unsigned int roles; /* enum option_roles */
    const char *key;
    option_parser *parse;
    size_t offset;
    int64_t min, max;
    const char *default_text;
    const char *unit;
    unsigned int flags;  /* enum option_flags */
    unsigned int change; /* enum config_change: the kind of change that another value is */
    const char *help;
};

extern const struct option options[];
extern const size_t option_count;

/* "transport.tcp", ...; "" for SECTION_ROLE, "services.NAME" for SECTION_SERVICE. */
const char *option_section_name(enum option_section section);
const char *option_role_name(enum config_role role);
/* Writes "server.transport.tcp", "status", ... Returns out. */
const char *option_section_path(enum option_section section, enum config_role role, char *out,
                                size_t out_size);
/* Row number, or -1. */
int option_find(enum option_section section, enum config_role role, const char *key);
/* The row of a key that must exist. */
size_t option_row(enum option_section section, enum config_role role, const char *key);

/* Writes "did you mean ...?" or a list of what is allowed there, cut to fit. Returns out. */
const char *option_suggest_key(enum option_section section, enum config_role role, const char *key,
                               char *out, size_t out_size);
const char *option_suggest_section(const char *name, char *out, size_t out_size);
/* The one word that text may be a typo of; NULL: none, or several. */
const char *option_nearest_word(const char *text, const char *const *words, size_t count);

/* values.c */
option_parser value_addr, value_addr_or_path, value_mode, value_owner, value_secret,
    value_default_token, value_bool, value_tristate, value_service_type, value_bind, value_clients,
    value_transport_type, value_noise_pattern, value_log_level, value_log_format, value_account,
    value_unused;
/* value_numbers.c */
option_parser value_seconds, value_seconds_fraction, value_number, value_number_or_auto,
    value_bandwidth;
/* remote_addr.c; the target of the first is the addr of a client's config_peer */
option_parser value_servers_addr, value_servers;
/* proxy_protocol.c */
option_parser value_proxy_protocol, value_enable_proxy_protocol, value_proxy_protocol_udp;
/* The target of these is a char *: a copy of the text. */
option_parser value_path, value_hostname, value_password;
option_parser value_addr_or_range; /* range.c; the target is the addr of a service */
option_parser value_host_names;    /* routes.c; the target is a char * */
option_parser value_sandbox;       /* sandbox.c */
option_parser value_proxy;         /* proxy_url.c; the target is a struct config_proxy */
/* The target of these two is a struct config_noise, because they set its has_ flag as well. */
option_parser value_local_private_key, value_remote_public_key;

/* For the parsers in other files. */

/* Writes "expected ..., got ..."; ERR_CONFIG. */
int value_refuse(struct option_value *value, const char *expected);
struct option_word {
    const char *text;
    int number;
};
/* *ret: the number of the word that the value is. ERR_CONFIG: none, and they are listed. */
MUST_CHECK int value_parse_word(struct option_value *value, const struct option_word *words,
                                size_t count, int *ret);
