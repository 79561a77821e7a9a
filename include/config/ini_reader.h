/* The lexer in front of inih: one grammar for INI files and for the TOML that rathole's files use
 * (tables, and keys with one scalar value). It strips indentation, comments and quotes, sees empty
 * and repeated sections and knows line numbers, all of which inih alone cuts or hides silently.
 * What is TOML beyond that is refused by name, never misread.
 *
 * The text stays the caller's and is not changed. What the callbacks get is valid during the call
 * only and is wiped at the end: it may be a secret. No state outlives a call, so any thread may
 * read. Time and memory are linear in the size of the text, memory is one line. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

enum { INI_PARTS_MAX = 16 }; /* of a section's name, between its dots */

/* [a.b."c d"] has the parts a, b and "c d". A part is never NULL; "" is one that a file may have.
 */
struct ini_section {
    unsigned int line;
    size_t part_count;
    const char *parts[INI_PARTS_MAX];
};

/* A callback that returns false ends the reading. All texts are valid UTF-8, but decoded escapes
 * may have put any control byte save NUL into names and values. */
struct ini_reader_ops {
    bool (*on_section)(void *owner, const struct ini_section *section);
    /* Belongs to the last section; keys that follow a broken section line are not shown. */
    bool (*on_entry)(void *owner, unsigned int line, const char *key, const char *value);
    /* A line that is refused. problem holds nothing of the line and is valid for ever. */
    bool (*on_error)(void *owner, unsigned int line, const char *problem);
};

/* 0 at the end of the text, -ECANCELED when a callback ended it. */
MUST_CHECK int ini_read(const char *text, size_t size, const struct ini_reader_ops *ops,
                        void *owner);
