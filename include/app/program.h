/* The program file that this process runs, and starting it again for an upgrade: whatever file is
 * at its path by then, with this process's arguments and environment.
 *
 * The path is argv[0] made absolute, with symbolic links left in it. A package replaces the file,
 * others point a link to another file, and an upgrade has to find the new program in both cases.
 * /proc/self/exe would name the old file for ever. For the main thread. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/macros.h"

struct program {
    char *path; /* absolute; NULL: unknown, every upgrade fails */
    char *const *argv;
    struct stat running; /* the file as it was when the process started */
};

/* Finds the path, which is NULL if that fails. argv is main's, and borrowed. To be called before
 * the process changes its directory or its user. */
void program_init(struct program *program, char *const argv[]);
void program_finish(struct program *program); /* accepts a zeroed one */
/* Whether the file at the path is another one than at the start. False if there is none. */
bool program_has_changed(const struct program *program);
/* 0: there is a file at the path that this user may execute; else -errno. */
MUST_CHECK int program_check(const struct program *program);

/* The descriptors for the new process, which gets no others but 0, 1 and 2. */
struct program_fds {
    const int *sockets; /* become 3, 4, ... (LISTEN_FDS, sd_listen_fds(3)) */
    const char *const *names;
    size_t count;
    size_t shared_count; /* so many of the first are a service manager's too (io/inherit.h) */
    int channel;         /* gets the number after them: to the predecessor (app/upgrade.h) */
};

#define PROGRAM_CHANNEL_VARIABLE "RATHOLE_URING_UPGRADE" /* "channel,shared_count" */

/* Starts the program in a child process, with no signal blocked. Waits for up to half a second for
 * its exec; 0 also if that takes longer. -errno: it could not be started, and there is no child.
 * docs/decisions.md, "LISTEN_FDS carries the sockets of an upgrade". */
MUST_CHECK int program_spawn(const struct program *program, const struct program_fds *fds,
                             pid_t *ret);
/* Whether program_take_channel would find one. */
bool program_has_channel(void);
/* Reads what program_spawn has told this process, and removes it from the environment. True: this
 * process is a successor; the caller owns the descriptor, which is close-on-exec. */
bool program_take_channel(int *ret_channel, int *ret_shared_count);
