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

/* What whoever started us has addressed to PID 1 is for the child (sd_listen_fds(3),
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

/* The next child that has ended, as a zombie whose group can still be asked for, or 0. */
static pid_t next_ended(idtype_t type, pid_t id)
{
    siginfo_t info = {0};
    return waitid(type, (id_t)id, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ? -1 : info.si_pid;
}

/* Reaps whoever has ended. False: nobody of the group is left; *code is that of the last of them. A
 * successor is a child of its predecessor until that ends, and the kernel gives it to PID 1 before
 * it reports the end: so there is no moment in which the group looks empty. */
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

/* Root that has given itself away in the child can only be reached with CAP_KILL. */
static void pass_on(pid_t group, int number)
{
    if (kill(-group, number) == 0 || errno == ESRCH)
        return;
    (void)fprintf(stderr,
                  "rathole-uring: PID 1 cannot pass signal %d on: %s (a container that runs "
                  "as root without CAP_KILL needs `user` unset or its own --user)\n",
                  number, strerror(errno));
    if (number == SIGTERM || number == SIGINT)
        exit(EXIT_SIGNALLED + number); /* the kernel ends the others */
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
    /* In both, so that neither depends on the other having been faster. */
    (void)setpgid(child, child);
    if (child > 0)
        stay(child, &signals);
    process_ignore_signal(SIGTTOU); /* its log may go to a terminal whose foreground is PID 1 */
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    take_variable("LISTEN_PID");
    take_variable("WATCHDOG_PID");
}
