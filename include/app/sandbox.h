/* What this process can't do any more, even if somebody has made it do what he wants (`sandbox` in
 * the configuration; docs/operations.md says it to the operator, docs/decisions.md why):
 *
 *     every thread          no_new_privs
 *     workers, the status   seccomp: the system calls that they need, and no others; Landlock: no
 *                           file at all, no TCP port to bind, and to connect to for the client's
 *                           workers alone, no signal to another process. Both hold for the ring as
 *                           well, as far as they apply: it has its own list of operations
 *                           (io/loop_setup.c)
 *     the main thread, and  Landlock: reads in the directories that it had files in at its start,
 *     all that it makes     and in the system's; executes the program; makes and removes sockets
 *                           where the file has some
 *
 * It is a hurdle for what a bug does by itself. Threads share their memory, so it is no wall for
 * who runs code here: he can have the main thread do what a worker may not (docs/decisions.md).
 *
 * What the kernel lacks is left out, and the log says so. Nothing of it can be taken back, and a
 * thread inherits it: a successor has its predecessor's layer of the main thread, and adds none. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "config/config.h"

enum sandbox_thread {
    SANDBOX_SERVER = 1, /* a worker */
    SANDBOX_CLIENT = 2,
    SANDBOX_STATUS = 4,
};

enum sandbox_part {
    SANDBOX_NO_NEW_PRIVS,
    SANDBOX_SECCOMP,
    SANDBOX_LANDLOCK, /* of the threads */
    SANDBOX_FILES,    /* Landlock of the main thread */
    SANDBOX_PARTS,
};

struct sandbox_facts {
    bool is_on;
    /* 1: in force; SANDBOX_IN_PART; 0: not; -errno: why not, although it is wanted */
    int parts[SANDBOX_PARTS];
    unsigned int refusals; /* system calls of a thread */
};

enum {
    SANDBOX_IN_PART = 2, /* Landlock of a kernel before 6.7: without ports */
    SANDBOX_TEXT_SIZE = 240,
};

/* First of all: no_new_privs, and whether a predecessor has confined this process. */
void sandbox_init(void);
/* The main thread's part, before it makes a thread. program: its path, or NULL. */
void sandbox_start(enum config_role role, const struct config_peer *peer, const char *program);
/* The calling thread's part, when it has made and opened all that it needs. */
void sandbox_enter(enum sandbox_thread thread);

/* Any thread. */
struct sandbox_facts sandbox_facts(void);
/* "seccomp", ... */
const char *sandbox_part_name(enum sandbox_part part);
/* Logs what is in force. To be called once all threads have begun. */
void sandbox_log(void);
/* Logs new refusals. */
void sandbox_log_refusals(void);
/* What this build can do on this machine. */
const char *sandbox_describe(char text[static SANDBOX_TEXT_SIZE]);
