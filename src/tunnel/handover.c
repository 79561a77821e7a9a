#include "tunnel/handover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

int handover_sockets_add(struct handover_sockets *sockets, int fd, const char *kind,
                         const char *name)
{
    if (sockets->count == sockets->capacity) {
        size_t capacity = sockets->capacity * 2 + 16;
        int *fds = realloc(sockets->fds, capacity * sizeof(*fds));
        if (fds != NULL)
            sockets->fds = fds;
        char **names = realloc(sockets->names, capacity * sizeof(*names));
        if (names != NULL)
            sockets->names = names;
        if (fds == NULL || names == NULL)
            return -ENOMEM;
        sockets->capacity = capacity;
    }
    char *text;
    if (asprintf(&text, "%s%s%s", kind, name != NULL ? "-" : "", name != NULL ? name : "") < 0)
        return -ENOMEM;
    sockets->fds[sockets->count] = fd;
    sockets->names[sockets->count++] = text;
    return 0;
}

void handover_sockets_finish(struct handover_sockets *sockets)
{
    for (size_t i = 0; i < sockets->count; i++)
        free(sockets->names[i]);
    free(sockets->names);
    free(sockets->fds);
    *sockets = (struct handover_sockets){0};
}
