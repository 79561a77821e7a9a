/* The program file that this process runs, and starting it again: for an upgrade the file that
 * stands there by then, with the arguments and the environment of this process.
 *
 * The path is what the process was called by, made absolute, symbolic links left in it: a package
 * replaces the file, others point a link elsewhere, and both is a new program. /proc/self/exe would
 * name the old file for ever. For the main thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/macros.h"

struct program {
    char *path; /* absolute; NULL: it could not be found out, there are no upgrades */
    char *const *argv;
    struct stat running; /* the file as it was when the process started */
};

/* argv is main's, and borrowed. Remembers the path; to be called before anything changes the
 * directory or the user. */
void program_init(struct program *program, char *const argv[]);
void program_finish(struct program *program); /* accepts a zeroed one */
/* Whether another file stands at the path. A missing one is no other. */
bool program_has_changed(const struct program *program);
/* 0 = there is a file that this user may execute, or -errno. */
MUST_CHECK int program_check(const struct program *program);

/* Descriptors for the new process; all others but 0, 1 and 2 are closed there. */
struct program_fds {
    const int *sockets; /* become 3, 4, ..., as LISTEN_FDS says */
    const char *const *names;
    size_t count;
    size_t shared_count; /* the first so many are a service manager's too (io/inherit.h) */
    int channel;         /* the number after them: to its predecessor (app/upgrade.h) */
};

#define PROGRAM_CHANNEL_VARIABLE "RATHOLE_URING_UPGRADE" /* "channel,shared_count" */

/* Starts it; it runs when this returns 0. Its signals are not blocked. -errno: why it could not be
 * started; then there is no child. */
MUST_CHECK int program_spawn(const struct program *program, const struct program_fds *fds,
                             pid_t *ret);
/* What spawning tells the new process, read and removed from its environment. True: this process is
 * a successor; the descriptor is the caller's, close-on-exec. */
bool program_take_channel(int *ret_channel, int *ret_shared_count);
