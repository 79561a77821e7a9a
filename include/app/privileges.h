/* Giving root away. Who is to bind a port below 1024 or to read root's secrets begins as root;
 * whatever strangers talk to should be nobody. `user =` does it in two steps:
 *
 *   root ──privileges_change──> the user, with CAP_NET_BIND_SERVICE and nothing else
 *             ports are bound
 *        ──privileges_drop────> the user, without any capability and without a way back
 *
 * Ports are bound as the user because a socket that joins one later (SO_REUSEPORT) must belong to
 * whom the first belongs to. Both steps are the main thread's, while there is no other: the kernel
 * keeps capabilities per thread, and new threads, their rings too, inherit what is left. */
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

/* Names or numbers to numbers; group "" is the user's own one. The names must not be root's: that
 * would give nothing away. ERR_CONFIG, with the reason in problem. */
MUST_CHECK int privileges_find(const char *user, const char *group, struct account *ret,
                               char problem[static PRIVILEGES_PROBLEM_SIZE]);

/* user "" changes nothing, in both. Not as root: the process must be that user already. They log
 * what fails; -errno or ERR_CONFIG, and then the process must end. */
MUST_CHECK int privileges_change(const char *user, const char *group);
/* Gives away what is left and then tries to get it back. */
MUST_CHECK int privileges_drop(const char *user);
/* In a thread that was made between the two steps, first of all: it gives away what
 * privileges_drop gives away of the main thread. */
void privileges_drop_in_thread(void);

/* Memory holds tokens and keys: no core dumps, no debugger without privileges. Changing the user
 * undoes it, so privileges_change does it again. */
void privileges_protect_memory(void);
