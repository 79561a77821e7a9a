/* PID 1 of a container (`docker run`, `unshare --pid`). When the first process of a PID namespace
 * ends, the kernel kills all others in it (pid_namespaces(7)). An upgrade (app/upgrade.h) ends the
 * process that it replaces, so the first process must not be the one that serves.
 *
 *     PID 1    stays: passes signals on, reaps orphans, ends with the exit code of the last server
 *       `-- serves   --SIGUSR2-->  its successor, which becomes a child of PID 1 when this one ends
 *
 * All serving processes are in one process group of their own. The group tells PID 1 which of its
 * children serve and which are other orphans (a health check, a shell of `docker exec`), and one
 * kill(2) reaches all of them. Both processes of an upgrade get each signal; the one that is
 * leaving ignores requests for a reload or an upgrade.
 *
 * To be called by main before the process has threads, open files or secrets. */
#pragma once

/* Returns at once if this process is not PID 1. PID 1 forks: the child returns and serves, the
 * parent never returns. If fork(2) fails, the process ends with an error on stderr. */
void first_process_step_aside(void);
