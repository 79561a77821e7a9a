/* Giving up root. Binding a port below 1024, or reading a secret that only root may read, takes a
 * start as root. But the process that talks to strangers should have no privileges. The option
 * `user` gives them up in two steps (docs/decisions.md, "Root is given away in two steps"):
 *
 *     root ──privileges_change──> the user, with CAP_NET_BIND_SERVICE and nothing else
 *               ports are bound
 *          ──privileges_drop────> the user, without any capability and without a way back
 *
 * The ports are bound as the user because all sockets of a SO_REUSEPORT group must belong to one
 * user (socket(7)), and a reload may add sockets later. Both steps run in the main thread before
 * the workers exist: capabilities belong to a thread (capabilities(7)), and new threads, with their
 * rings, inherit what is left. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/macros.h"

struct account {
    uid_t uid;
    gid_t gid;
};

enum { PRIVILEGES_PROBLEM_SIZE = 160 };

/* Looks up names, or parses numbers; group "": the user's primary group. Refuses root's user and
 * group, because becoming them gives up nothing. ERR_CONFIG, with the reason in problem. */
MUST_CHECK int privileges_find(const char *user, const char *group, struct account *ret,
                               char problem[static PRIVILEGES_PROBLEM_SIZE]);

/* With user "" both steps do nothing. Without root, the process must already run as that user.
 * Errors are logged; after -errno or ERR_CONFIG the process must end. */
/* gives_files: until the second step it may give unix sockets to other users (CAP_CHOWN). */
MUST_CHECK int privileges_change(const char *user, const char *group, bool gives_files);
/* Gives up what is left, then verifies that it can't be regained. */
MUST_CHECK int privileges_drop(const char *user);
/* For a thread that was started between the two steps, as its first call: gives up for this thread
 * what privileges_drop gives up for the main thread. */
void privileges_drop_in_thread(void);

/* Protects tokens and keys in memory: no core dumps, and no debugger without privileges
 * (PR_SET_DUMPABLE, prctl(2)). The kernel resets this when the user changes, so privileges_change
 * calls it again. */
void privileges_protect_memory(void);
