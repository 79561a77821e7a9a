#include "app/convert.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"

int convert_exec(char *const words[])
{
    char program[PATH_MAX];
    const char *directory = getenv("RATHOLE_URING_LIBEXEC");
    (void)snprintf(program, sizeof program, "%s/rathole-uring-convert",
                   directory != NULL ? directory : LIBEXEC_DIR);
    (void)execv(program, words); /* of a script the kernel replaces words[0] */
    int result = -errno;
    (void)fprintf(stderr, "rathole-uring: %s needs python3 and %s: %s\n", words[1], program,
                  error_text(result));
    return result;
}
