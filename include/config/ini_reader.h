/* The reader of configuration files, in front of inih: one grammar for INI files and for the part
 * of TOML that rathole's files use. Tables may be sections, dotted keys, or inline in braces; a key
 * has one scalar value, or an array of strings. The reader strips indentation, comments and quotes,
 * reports empty and repeated sections, and knows line numbers, which inih alone truncates or hides.
 * Other TOML (other arrays, dates) is refused by name, never misread.
 *
 * The text stays the caller's. Callbacks get strings that are valid during the call and are wiped
 * afterwards, because they may be secrets. No state outlives a call, so any thread may read. Time
 * is linear in the size of the text, memory a few KiB. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

enum { INI_PARTS_MAX = 16 }; /* parts of a table's name, separated by dots or braces */

enum ini_form {
    INI_SECTION, /* [a.b] */
    INI_INLINE,  /* b = { ... } in [a] */
    INI_DOTTED,  /* b.key = value in [a] */
};

/* [a.b."c d"] has the parts a, b and "c d". A part is never NULL, but may be "". */
struct ini_table {
    enum ini_form form;
    unsigned int line;
    unsigned int id;    /* of the section or braces; a dotted table has that of the table around */
    size_t outer_count; /* parts of the table around it; 0: the top level of the file */
    size_t part_count;
    const char *parts[INI_PARTS_MAX];
};

struct ini_entry {
    const struct ini_table *table;
    unsigned int line; /* of the key */
    const char *key;
    char *value;   /* the callback may shorten it in place */
    bool is_bare;  /* without quotes: a '#' in it may start a comment */
    bool is_array; /* the value is its strings, with commas between them */
};

/* A callback that returns false stops the reader. All strings are valid UTF-8, but escapes may have
 * put any control byte except NUL into names and values. */
struct ini_reader_ops {
    /* A section, or the opening brace of a table. Dotted tables are reported with their entries
     * only. */
    bool (*on_table)(void *owner, const struct ini_table *table);
    /* Keys below a section line with an error are not reported. */
    bool (*on_entry)(void *owner, const struct ini_entry *entry);
    /* The rest of the line is skipped. problem is a constant that quotes nothing from the file. */
    bool (*on_error)(void *owner, unsigned int line, const char *problem);
};

/* 0 at the end of the text; -ECANCELED if a callback or an unterminated string has stopped it
 * earlier. */
MUST_CHECK int ini_read(const char *text, size_t size, const struct ini_reader_ops *ops,
                        void *owner);
