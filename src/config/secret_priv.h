/* Reads files for this layer, the configuration itself and the secrets that it names, by the same
 * rules. A UTF-8 byte order mark is skipped, and UTF-16 is refused: editors of other systems write
 * both. What was read may be secret, so it is wiped before it is freed. */
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
    bool is_stripped;       /* it ended in more white space than the newline of a file */
};

/* Reads a whole file; secret_file_finish frees it. -errno, and: -EFBIG for more than size_max
 * bytes, -EILSEQ for UTF-16, ERR_NOT_A_FILE for a FIFO, a device or a socket, which could block for
 * ever. A pipe named /dev/fd/N is read; -ETIMEDOUT if a piece of it takes more than half a
 * second. */
MUST_CHECK int secret_file_read(const char *path, size_t size_max, struct secret_file *ret);
void secret_file_finish(struct secret_file *file);

/* Copies a path and expands ${CREDENTIALS_DIRECTORY}, where systemd puts credentials. -ENOMEM, or
 * ERR_CONFIG with the reason in problem. */
MUST_CHECK int secret_path_copy(const char *path, char **ret, char *problem, size_t problem_size);

/* True if a value is the secret itself, neither file:PATH nor env:NAME. */
bool secret_is_inline(const char *value);
/* Fetches the secret that a value stands for. -ENOMEM, or ERR_CONFIG with the reason in problem,
 * which quotes the path or the name of the variable, never a secret. */
MUST_CHECK int secret_resolve(const char *value, struct secret *ret, char *problem,
                              size_t problem_size);

/* Wipes and frees a text; accepts NULL. */
void secret_free(char *text);
