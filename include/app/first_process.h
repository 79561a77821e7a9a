/* PID 1 of a container (`docker run`, `unshare --pid`): the kernel ends everything in a PID
 * namespace with its first process. An upgrade (app/upgrade.h) ends the process that it replaces,
 * so the first process must not be the one that serves.
 *
 *     PID 1    stays: passes signals on, reaps orphans, ends with the exit code of the last server
 *       `-- serves   --SIGUSR2-->  its successor, which becomes a child of PID 1 when this one ends
 *
 * All that serve are in one process group of their own; that is how PID 1 knows them from other
 * orphans (a health check, a shell of `docker exec`) and reaches them all with one kill(2). A
 * process that is on its way out ignores what is not for it.
 *
 * For main, before it has threads, open files or secrets. */
#pragma once

/* Returns at once in any process but PID 1. In PID 1 it forks: the child returns and serves; the
 * parent never does. */
void first_process_step_aside(void);
