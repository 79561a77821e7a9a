#include "app/limits_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/limits.h"
#include "base/macros.h"
#include "tunnel/descriptors.h"

enum {
    FIRST_FD = 3,
    LOOKED_AT_MAX = 4096, /* numbers; below a higher limit a few foreign ones do not matter */
};

static unsigned int foreign_count; /* set once, before the second thread */

static rlim_t limit_of(int resource)
{
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

/* Sockets from a predecessor or a service manager are not foreign: the program would open them
 * itself. */
static int handed_over(void)
{
    const char *text = getenv("LISTEN_FDS");
    char *end;
    long count = text != NULL ? strtol(text, &end, 10) : 0;
    return count > 0 && count <= LIMIT_INHERITED ? (int)count : 0;
}

void limits_note_foreign(void)
{
    rlim_t limit = MIN(limit_of(RLIMIT_NOFILE), (rlim_t)LOOKED_AT_MAX);
    foreign_count = 0;
    for (int fd = FIRST_FD + handed_over(); fd < (int)limit; fd++)
        foreign_count += fcntl(fd, F_GETFD) >= 0;
}

bool limits_allow(enum config_role role, const struct config_peer *peer, unsigned int workers,
                  char out[static LIMITS_TEXT_SIZE])
{
    unsigned int needed = descriptors_needed(role, peer, workers) + foreign_count;
    rlim_t limit = limit_of(RLIMIT_NOFILE);
    if (limit >= needed)
        return true;
    (void)snprintf(out, LIMITS_TEXT_SIZE,
                   "too few file descriptors: the limit is %llu, and this configuration needs at "
                   "least %u (for %u workers, %zu services and their control channels, and %u in "
                   "reserve); raise it (ulimit -n, or LimitNOFILE= in the unit)",
                   (unsigned long long)limit, needed, workers, config_count_services(peer),
                   (unsigned int)LIMIT_FDS_RESERVED);
    return false;
}

bool limits_are_tight(enum config_role role, const struct config_peer *peer, unsigned int workers,
                      char out[static LIMITS_TEXT_SIZE])
{
    unsigned int wanted = descriptors_wanted(role, peer, workers) + foreign_count;
    rlim_t limit = limit_of(RLIMIT_NOFILE);
    if (limit >= wanted)
        return false;
    (void)snprintf(out, LIMITS_TEXT_SIZE,
                   "few file descriptors: the limit is %llu; with fewer than %u, visitors of one "
                   "service wait for those of another (ulimit -n, or LimitNOFILE= in the unit)",
                   (unsigned long long)limit, wanted);
    return true;
}

const char *limits_hint(int error, char out[static LIMITS_TEXT_SIZE])
{
    bool is_thread = error == -EAGAIN, is_memory = error == -ENOMEM;
    /* pthread_create(3) reports a stack that can't be mapped as EAGAIN. */
    bool is_space = is_thread || is_memory;
    const char *space = is_space && limit_of(RLIMIT_AS) != RLIM_INFINITY
                            ? "the address space is limited: ulimit -v, or LimitAS= in the unit"
                            : "";
    const char *data = is_space && limit_of(RLIMIT_DATA) != RLIM_INFINITY
                           ? "the data segment is limited: ulimit -d, or LimitDATA= in the unit"
                           : "";
    const char *threads = is_thread ? "too few threads are allowed: ulimit -u, LimitNPROC= or "
                                      "TasksMax= in the unit, pids.max of the control group"
                                    : "";
    const char *files = error == -EMFILE ? "ulimit -n, or LimitNOFILE= in the unit" : "";
    const char *const parts[] = {space, data, threads, files};
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        if (parts[i][0] != '\0')
            used += (size_t)snprintf(out + used, LIMITS_TEXT_SIZE - used, "%s%s",
                                     used == 0 ? " (" : "; ", parts[i]);
    }
    if (used > 0)
        (void)snprintf(out + used, LIMITS_TEXT_SIZE - used, ")");
    return out;
}
