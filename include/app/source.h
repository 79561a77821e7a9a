/* Where the configuration comes from: a file, or the command line, of which app/quick.h makes the
 * text of a file. */
#pragma once

#include <stddef.h>
#include <sys/stat.h>

#include "base/macros.h"
#include "config/config.h"

struct text;

struct source {
    const char *path; /* for messages, and of the file */
    const char *text; /* NULL: a file */
    size_t text_size;
    const struct text *welcome; /* for standard output, when the process serves; NULL: none */
    /* stat(2) just before the file was read, so that a change since then is noticed. Of a text all
     * zero, as of a file that is not there. */
    struct stat seen;
};

/* config_load, or config_load_half if half is not NULL. */
MUST_CHECK int source_load(const struct source *source, const enum config_role *half,
                           struct config **ret, struct config_report *report);
/* The file to watch; of a text one that is never there. */
const char *source_watched_path(const struct source *source);
/* Prints the welcome, unless standard output would keep the main thread from its signals. */
void source_welcome(const struct source *source);
