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
    SECTION_SERVICES, /* allowed, has no keys */
    SECTION_SERVICE,  /* [ROLE.services.NAME] */
    SECTION_COUNT,
};

enum option_roles {
    FOR_SERVER = 1 << CONFIG_SERVER,
    FOR_CLIENT = 1 << CONFIG_CLIENT,
    FOR_BOTH = 3
};

enum option_flags {
    OPTION_REQUIRED = 1 << 0,
    OPTION_SECRET = 1 << 1, /* its value is repeated nowhere */
    OPTION_UNUSED = 1 << 2, /* of what is not built, or no longer; taken and not looked at */
    OPTION_NOISE = 1 << 3,  /* the same unless transport.type = noise, which may stand below */
    OPTION_CLAMP = 1 << 4,  /* rathole takes any number: beyond min and max these two are taken */
    OPTION_PATH = 1 << 5,   /* no secret, but may be file:PATH */
};

enum { OPTION_COUNT_MAX = 64 };

struct option;

/* One value on its way into the typed object. */
struct option_value {
    const struct option *option;
    const char *text;
    char
        *problem; /* out: "expected ..., got ..."; of a value that is taken: what is odd about it */
    size_t problem_size;
    bool is_void;                  /* out: an empty text that counts as not given */
    bool is_inline_secret;         /* out */
    bool is_world_readable_secret; /* out */
};

/* Writes *target on success only. ERR_CONFIG: problem is filled in; 0: it is left alone or has a
 * warning. */
typedef int option_parser(struct option_value *value, void *target);

/* Offsets are into struct config_service for SECTION_SERVICE, into struct config_peer for all else.
 * min and max are in the unit that the field has (ms for seconds). default_text NULL: the field
 * stays zero, or takes its role's value (services). */
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
    unsigned int change; /* enum config_change: what it is when its value changes */
    const char *help;
};

extern const struct option options[];
extern const size_t option_count;

/* "transport.tcp"; "" for SECTION_ROLE and "services.NAME" for SECTION_SERVICE. */
const char *option_section_name(enum option_section section);
const char *option_role_name(enum config_role role);
/* Row number, or -1. */
int option_find(enum option_section section, enum config_role role, const char *key);
/* The row that stands for a field that validation knows by name; must exist. */
size_t option_row(enum option_section section, enum config_role role, const char *key);

/* "did you mean ...?" or a list of what is allowed there. Always terminated; returns out. */
const char *option_suggest_key(enum option_section section, enum config_role role, const char *key,
                               char *out, size_t out_size);
const char *option_suggest_section(const char *name, char *out, size_t out_size);
/* The word that text may be a slip of; NULL when there is none or more than one. */
const char *option_nearest_word(const char *text, const char *const *words, size_t count);

/* values.c */
option_parser value_addr, value_secret, value_default_token, value_bool, value_tristate,
    value_seconds, value_seconds_fraction, value_number, value_number_or_auto, value_service_type,
    value_transport_type, value_noise_pattern, value_log_level, value_log_format, value_account,
    value_no_proxy, value_unused;
/* These two set their has_ flag as well: their target is a whole struct config_noise. */
option_parser value_local_private_key, value_remote_public_key;
