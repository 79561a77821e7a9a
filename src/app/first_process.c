#include "app/first_process.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/process.h"
#include "base/macros.h"

enum { NUMBER_SIZE = 24, EXIT_SIGNALLED = 128, EXIT_NO_CHILD = 1 };

static void fill_signals(sigset_t *set)
{
    static const int passed_on[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
    (void)sigemptyset(set);
    for (size_t i = 0; i < ARRAY_SIZE(passed_on); i++)
        (void)sigaddset(set, passed_on[i]);
}

/* Variables that name PID 1 mean this program, and so the child (sd_listen_fds(3),
 * sd_watchdog_enabled(3)). */
static void take_variable(const char *name)
{
    char number[NUMBER_SIZE];
    const char *value = getenv(name);
    if (value == NULL || strcmp(value, "1") != 0)
        return;
    (void)snprintf(number, sizeof(number), "%ld", (long)getpid());
    (void)setenv(name, number, 1);
}

static int exit_code_of(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_SIGNALLED + WTERMSIG(status);
}

/* The next child that has ended, or 0; -1: there are no such children. It is not reaped, so that
 * its process group can still be asked for. */
static pid_t next_ended(idtype_t type, pid_t id)
{
    siginfo_t info = {0};
    return waitid(type, (id_t)id, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ? -1 : info.si_pid;
}

/* Reaps all children that have ended. False: the group is empty; *code is the exit code of its last
 * process. The group never looks empty during an upgrade: a successor is its predecessor's child,
 * and the kernel makes it a child of PID 1 before it reports the predecessor's end. */
static bool first_process_reap(pid_t group, int *code)
{
    pid_t ended;
    while ((ended = next_ended(P_ALL, 0)) > 0) {
        int status;
        bool is_ours = getpgid(ended) == group;
        if (waitpid(ended, &status, 0) == ended && is_ours)
            *code = exit_code_of(status);
    }
    return next_ended(P_PGID, group) >= 0;
}

/* If the child has given up root, PID 1 needs CAP_KILL to signal it (kill(2)). */
static void pass_on(pid_t group, int number)
{
    if (kill(-group, number) == 0 || errno == ESRCH)
        return;
    (void)fprintf(stderr,
                  "rathole-uring: PID 1 cannot pass signal %d on: %s (a container that runs "
                  "as root without CAP_KILL needs `user` unset or its own --user)\n",
                  number, strerror(errno));
    if (number == SIGTERM || number == SIGINT)
        exit(EXIT_SIGNALLED + number); /* the kernel kills the others */
}

static _Noreturn void stay(pid_t group, const sigset_t *signals)
{
    int code = EXIT_SUCCESS;
    while (first_process_reap(group, &code)) {
        int number = sigwaitinfo(signals, NULL);
        if (number > 0 && number != SIGCHLD)
            pass_on(group, number);
    }
    exit(code);
}

void first_process_step_aside(void)
{
    sigset_t signals, before;
    if (getpid() != 1)
        return;
    fill_signals(&signals);
    (void)sigprocmask(SIG_BLOCK, &signals, &before);
    pid_t child = fork();
    if (child < 0) {
        (void)fprintf(stderr, "rathole-uring: PID 1 cannot fork: %s\n", strerror(errno));
        exit(EXIT_NO_CHILD);
    }
    /* Both processes call it, so that the group exists whichever of them runs first. */
    (void)setpgid(child, child);
    if (child > 0)
        stay(child, &signals);
    /* A log line to a terminal whose foreground group is PID 1's would stop the process. */
    process_ignore_signal(SIGTTOU);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    take_variable("LISTEN_PID");
    take_variable("WATCHDOG_PID");
}
