/* The lexer in front of inih: one grammar for INI files and for the TOML that rathole reads: tables
 * as sections, as dotted keys or inline in braces, and keys with one scalar value. It strips
 * indentation, comments and quotes, sees empty and repeated sections and knows line numbers, all of
 * which inih alone cuts or hides silently. What is TOML beyond that (arrays, dates) is refused by
 * name, never misread.
 *
 * The text stays the caller's and is not changed. What the callbacks get is valid during the call
 * only and is wiped at the end: it may be a secret. No state outlives a call, so any thread may
 * read. Time is linear in the size of the text, memory is a few KiB. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

enum { INI_PARTS_MAX = 16 }; /* of a table's name, between its dots and braces */

enum ini_form {
    INI_SECTION, /* [a.b] */
    INI_INLINE,  /* b = { ... } in [a] */
    INI_DOTTED,  /* b.key = value in [a] */
};

/* [a.b."c d"] has the parts a, b and "c d". A part is never NULL; "" is one that a file may have.
 */
struct ini_table {
    enum ini_form form;
    unsigned int line;
    unsigned int id;    /* of the section or the braces; dots share the one of what they stand in */
    size_t outer_count; /* parts of the table that it stands in; 0: the top of the file */
    size_t part_count;
    const char *parts[INI_PARTS_MAX];
};

struct ini_entry {
    const struct ini_table *table;
    unsigned int line; /* of the key */
    const char *key;
    char *value;  /* may be cut short */
    bool is_bare; /* no quotes: a '#' in it may have been meant as a comment */
};

/* A callback that returns false ends the reading. All texts are valid UTF-8, but decoded escapes
 * may have put any control byte save NUL into names and values. */
struct ini_reader_ops {
    /* A section or the opening brace of a table. Tables of dots are seen with their entries alone.
     */
    bool (*on_table)(void *owner, const struct ini_table *table);
    /* Keys that follow a broken section line are not shown. */
    bool (*on_entry)(void *owner, const struct ini_entry *entry);
    /* What is refused, to the end of its line. problem holds nothing of the file and is valid for
     * ever. */
    bool (*on_error)(void *owner, unsigned int line, const char *problem);
};

/* 0 at the end of the text, -ECANCELED when the rest was not looked at. */
MUST_CHECK int ini_read(const char *text, size_t size, const struct ini_reader_ops *ops,
                        void *owner);
