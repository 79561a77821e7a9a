/* What the files of the sandbox share:
 *
 *     sandbox.c         what is in force, and who has which part
 *     sandbox_calls.c   seccomp: the list of system calls
 *     sandbox_files.c   Landlock: files, and TCP ports */
#pragma once

#include "app/sandbox.h"
#include "config/config.h"

/* Each returns 1, or -errno: it is not in force. -ENOSYS: this build does not have it. */

/* Of the calling thread, for good. */
int sandbox_restrict_calls(enum sandbox_thread thread);
/* Has refused calls counted. */
void sandbox_watch_calls(void);
/* The number of refused calls so far, and the last one. */
unsigned int sandbox_refused_calls(int *ret_last);

/* The version of the kernel's Landlock, or -errno. */
int sandbox_landlock_version(void);
/* SANDBOX_IN_PART: the kernel has no rules of ports. */
int sandbox_forbid_files(enum sandbox_thread thread);
int sandbox_confine_files(enum config_role role, const struct config_peer *peer,
                          const char *program);
