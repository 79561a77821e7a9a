/* The one place of this layer that opens files, and one rule for all of them: the configuration
 * itself and the secrets that it names. A byte order mark of UTF-8 is no part of a file, and one in
 * UTF-16 is refused: editors of other systems write both. Whatever is read may be secret, so it is
 * wiped before it is freed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/macros.h"

/* A whole file in memory. */
struct secret_file {
    char *text; /* size bytes and a NUL */
    size_t size;
    mode_t mode;
};

enum secret_origin {
    SECRET_INLINE, /* the value itself */
    SECRET_FILE,   /* file:PATH */
    SECRET_ENV,    /* env:NAME */
};

struct secret {
    char *text; /* the caller's: secret_free */
    enum secret_origin origin;
    bool is_world_readable; /* SECRET_FILE only */
    bool is_stripped;       /* of white space at its end, beyond the newline of a file */
};

/* -EFBIG: more than size_max bytes; -EILSEQ: UTF-16. ERR_NOT_A_FILE: a FIFO, a device or a socket,
 * whose open or read could wait for ever; a pipe by the name of /dev/fd/N is read, with a limit of
 * half a second for each piece (-ETIMEDOUT). */
MUST_CHECK int secret_file_read(const char *path, size_t size_max, struct secret_file *ret);
void secret_file_finish(struct secret_file *file);

/* Whether a value is the secret itself: neither file:PATH nor env:NAME. */
bool secret_is_inline(const char *value);
/* Fetches what a token or key value stands for. ERR_CONFIG: problem says why; it repeats the path
 * or the name of the variable, never a secret. */
MUST_CHECK int secret_resolve(const char *value, struct secret *ret, char *problem,
                              size_t problem_size);

/* Wipes and frees a text; accepts NULL. */
void secret_free(char *text);
