#include "app/usage.h"

#include <errno.h>
#include <stdio.h>

int usage_refuse(char problem[static CLI_PROBLEM_SIZE], const char *before, const char *text,
                 const char *after)
{
    /* argv may hold control characters, and a message has to stay one line. */
    char echo[80];
    (void)snprintf(echo, sizeof echo, "%s", text);
    for (char *at = echo; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    (void)snprintf(problem, CLI_PROBLEM_SIZE, "%s%s%s", before, echo, after);
    return -EINVAL;
}
