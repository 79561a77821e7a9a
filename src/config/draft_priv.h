/* A configuration while it is being read: the typed object, and beside it the line of everything
 * that was given. draft.c takes what the reader sees and puts values into fields; validate.c then
 * fills in defaults and looks at what only the whole can tell. Lives during one config_parse. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "config/ini_reader.h"
#include "options_priv.h"

enum { DRAFT_PATH_SIZE = 192 }; /* "server.services.NAME.key" with a long name cut */

/* Line of each key by row of the table; 0 = not given. A key that was given and refused has its
 * line too, so that nobody calls it missing. */
struct draft_lines {
    unsigned int of_row[OPTION_COUNT_MAX];
    bool is_repeated; /* a service's section that is listed as such: nothing more is said of it */
    unsigned int dots_of; /* of a service: made by keys with dots in that table, see draft.c */
    uint32_t name_hash;   /* with dots_of */
};

struct draft_role {
    unsigned int line; /* of the role's first section */
    unsigned int section_lines[SECTION_COUNT];
    unsigned int section_dots_of[SECTION_COUNT];
    struct draft_lines lines;
    struct draft_lines *service_lines; /* beside config_peer.services */
    size_t service_capacity;
    /* Copies of OPTION_NOISE values by row of the table, until the transport's type is known. */
    char *held[OPTION_COUNT_MAX];
};

/* Whose key a message is about. */
struct draft_place {
    enum config_role role;
    enum option_section section;
    size_t service_index; /* SECTION_SERVICE only */
};

/* A table that is open. */
struct draft_table {
    struct draft_place place;
    bool is_refused; /* so its keys say nothing */
};

struct draft {
    const char *file; /* for messages */
    struct config *config;
    struct config_report *report;
    struct draft_role roles[2];
    struct draft_table tables[INI_PARTS_MAX + 1]; /* by their number of parts */
    struct draft_place at;                        /* where the entry being read belongs */
    bool is_out_of_memory;
};

struct config_peer *draft_peer(struct draft *draft, enum config_role role);
struct draft_lines *draft_lines(struct draft *draft, const struct draft_place *place);
/* 0 = not given. */
unsigned int draft_line_of(struct draft *draft, const struct draft_place *place, const char *key);
/* The field that a row describes. */
void *draft_field(struct draft *draft, const struct draft_place *place,
                  const struct option *option);
/* "server.services.ssh.bind_addr"; key NULL: without one. Returns out. */
const char *draft_path(const struct draft *draft, const struct draft_place *place, const char *key,
                       char out[static DRAFT_PATH_SIZE]);

/* The same for a service that is known by its name alone. */
const char *draft_service_path(enum config_role role, const char *name, const char *key,
                               char out[static DRAFT_PATH_SIZE]);

enum draft_message {
    DRAFT_ERROR,     /* keeps that half from running; no error for who runs the other */
    DRAFT_BAD_SHAPE, /* a key that is unknown, missing or there twice: rathole too refuses the file
                      */
    DRAFT_WARNING,
    DRAFT_NOTE, /* for config_check */
};
/* "FILE:LINE: PATH: text". False when reading on is of no use. */
bool draft_say(struct draft *draft, enum draft_message kind, unsigned int line,
               const struct draft_place *place, const char *key, const char *format, ...)
    PRINTF_FORMAT(6, 7);

/* Puts a value that was given into its field; what is refused is said. False when reading on is of
 * no use. */
bool draft_take(struct draft *draft, const struct draft_place *place, size_t row, const char *text);
/* The same for one that nothing will look at. */
void draft_pass_over(struct draft *draft, const struct draft_place *place, size_t row,
                     const char *text);
/* The default of a row, if it has one: the parsers that the file's values go through take it. */
void draft_take_default(struct draft *draft, const struct draft_place *place, size_t row);

/* Reads the text into the draft. 0, or -ECANCELED when the rest was not looked at: what is missing
 * may stand there. */
MUST_CHECK int draft_read(struct draft *draft, const char *text, size_t size);
void draft_validate(struct draft *draft);
/* validate_noise.c; after the defaults of the role. */
void draft_validate_noise(struct draft *draft, enum config_role role);
/* The config is the caller's. */
void draft_finish(struct draft *draft);
