/* A configuration while it is being read: the typed object, and the line of every key that was
 * given. draft.c takes tables and keys from the reader and puts values into fields; validate.c then
 * fills in defaults and checks what only the whole file can tell. Lives during one config_parse. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "config/ini_reader.h"
#include "options_priv.h"

enum { DRAFT_PATH_SIZE = 192 }; /* "server.services.NAME.key" with a long name cut */

/* The line of each key, by its row in the table of options; 0 = not given. A key with a refused
 * value has a line too, so that it is not reported as missing. */
struct draft_lines {
    unsigned int of_row[OPTION_COUNT_MAX];
    bool is_repeated;     /* a service that was reported as defined twice, and is not checked */
    unsigned int dots_of; /* a service made by dotted keys: of which table (see enter in draft.c) */
    uint32_t name_hash;   /* with dots_of */
};

struct draft_role {
    unsigned int line; /* of the role's first section */
    unsigned int section_lines[SECTION_COUNT];
    unsigned int section_dots_of[SECTION_COUNT];
    struct draft_lines lines;
    struct draft_lines *service_lines; /* parallel to config_peer.services */
    size_t service_capacity;
    /* Copies of OPTION_HELD values by row, until the transport's type is known. */
    char *held[OPTION_COUNT_MAX];
    bool is_held_refused[OPTION_COUNT_MAX]; /* after draft_take_held */
};

/* A section, and the service in it: where a key belongs. */
struct draft_place {
    enum config_role role;
    enum option_section section;
    size_t service_index; /* SECTION_SERVICE only */
};

/* A table that is open. */
struct draft_table {
    struct draft_place place;
    bool is_refused; /* its keys are skipped */
};

struct draft {
    const char *file; /* for messages */
    struct config *config;
    struct config_report *report;
    struct draft_role roles[2];
    struct draft_table tables[INI_PARTS_MAX + 1]; /* the open ones, by their number of parts */
    struct draft_place at;                        /* of the entry being read */
    bool is_out_of_memory;
};

struct config_peer *draft_peer(struct draft *draft, enum config_role role);
struct draft_lines *draft_lines(struct draft *draft, const struct draft_place *place);
/* The line of a key; 0 = not given. */
unsigned int draft_line_of(struct draft *draft, const struct draft_place *place, const char *key);
/* The field that a row describes. */
void *draft_field(struct draft *draft, const struct draft_place *place,
                  const struct option *option);
/* Writes "server.services.ssh.bind_addr"; key NULL: the section alone. Returns out. */
const char *draft_path(const struct draft *draft, const struct draft_place *place, const char *key,
                       char out[static DRAFT_PATH_SIZE]);

/* The same for a service by its name. */
const char *draft_service_path(enum config_role role, const char *name, const char *key,
                               char out[static DRAFT_PATH_SIZE]);

enum draft_message {
    DRAFT_ERROR,     /* of one half: a warning for a process that runs the other role */
    DRAFT_BAD_SHAPE, /* a key that is unknown, missing or given twice: rathole refuses it as well */
    DRAFT_WARNING,
    DRAFT_NOTE, /* for config_check */
};
/* Reports "FILE:LINE: PATH: text". False: stop reading. */
bool draft_say(struct draft *draft, enum draft_message kind, unsigned int line,
               const struct draft_place *place, const char *key, const char *format, ...)
    PRINTF_FORMAT(6, 7);

/* Parses a value into its field, or reports why not. False: stop reading. */
bool draft_take(struct draft *draft, const struct draft_place *place, size_t row, const char *text);
/* Reports a value that has no effect. */
void draft_pass_over(struct draft *draft, const struct draft_place *place, size_t row,
                     const char *text);
/* Sets the default of a row, if it has one, through the parser that the file's values take. */
void draft_take_default(struct draft *draft, const struct draft_place *place, size_t row);

/* Reads the text into the draft. 0, or -ECANCELED if the reader stopped early: then missing keys
 * prove nothing. */
MUST_CHECK int draft_read(struct draft *draft, const char *text, size_t size);
void draft_validate(struct draft *draft);
/* Parses the OPTION_HELD values of a table, or passes them over. */
void draft_take_held(struct draft *draft, const struct draft_place *place, bool is_used);
/* In validate_noise.c and validate_tls.c; after the defaults of the role are set. */
void draft_validate_noise(struct draft *draft, enum config_role role);
void draft_validate_tls(struct draft *draft, enum config_role role);
/* In validate_range.c; after the services of the role are read. The second is for a configuration
 * without errors, and the last: it replaces the ranges of a client by their members, which have no
 * draft_lines. */
void draft_validate_ranges(struct draft *draft, enum config_role role);
void draft_expand_ranges(struct draft *draft);
/* In validate_routes.c, of a server, likewise: the second appends the fronts. */
void draft_validate_routes(struct draft *draft);
void draft_add_fronts(struct draft *draft);
/* Frees all but draft->config, which is the caller's. */
void draft_finish(struct draft *draft);
