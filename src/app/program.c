#include "app/program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/files.h"
#include "base/numbers.h"

enum {
    FIRST_FD = 3,
    NUMBER_SIZE = 24,
    EXEC_WAIT_MS = 500,
    NAMES_SIZE_MAX = 64 << 10, /* a variable may have 128 KiB (execve(2), MAX_ARG_STRLEN) */
};

/* ---- where the program is ---- */

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Uses the path if it leads to the running file. argv[0] is up to the caller of exec, so it may be
 * wrong. */
static bool try_path(struct program *program, const char *directory, const char *name)
{
    char cwd[PATH_MAX] = "";
    struct stat found;
    if (directory[0] != '/' && name[0] != '/' && getcwd(cwd, sizeof(cwd)) == NULL)
        return false;
    char *path;
    if (asprintf(&path, "%s%s%s%s%s", cwd, cwd[0] != '\0' ? "/" : "", directory,
                 directory[0] != '\0' ? "/" : "", name) < 0)
        return false;
    if (stat(path, &found) < 0 || !is_same_file(&found, &program->running)) {
        free(path);
        return false;
    }
    program->path = path;
    return true;
}

static void search_path(struct program *program, const char *name)
{
    const char *path = getenv("PATH");
    char *copy = strdup(path != NULL ? path : "/usr/local/bin:/usr/bin:/bin");
    char *rest = copy, *directory;
    while (copy != NULL && (directory = strsep(&rest, ":")) != NULL) {
        if (try_path(program, directory, name))
            break;
    }
    free(copy);
}

/* The last resort: the path without symbolic links, as the kernel knows it. */
static void use_resolved_path(struct program *program)
{
    char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (len <= 0)
        return;
    path[len] = '\0';
    (void)try_path(program, "", path);
}

void program_init(struct program *program, char *const argv[])
{
    *program = (struct program){.argv = argv};
    if (stat("/proc/self/exe", &program->running) < 0)
        return;
    if (argv[0] != NULL && strchr(argv[0], '/') != NULL)
        (void)try_path(program, "", argv[0]);
    else if (argv[0] != NULL)
        search_path(program, argv[0]);
    if (program->path == NULL)
        use_resolved_path(program);
}

void program_finish(struct program *program)
{
    free(take_ptr(program->path));
}

bool program_has_changed(const struct program *program)
{
    struct stat found;
    return program->path != NULL && stat(program->path, &found) == 0 &&
           !is_same_file(&found, &program->running);
}

int program_check(const struct program *program)
{
    if (program->path == NULL)
        return -ENOENT;
    return faccessat(AT_FDCWD, program->path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* ---- the new process's environment ---- */

/* All that the child needs, made before the fork: after the fork of a process with threads only
 * async-signal-safe functions may be called, and no allocation (fork(2)). */
struct plan {
    const char *path;
    char *const *argv;
    char **environment;
    char *own[5]; /* the variables made here, to be freed */
    size_t own_count;
    char *listen_pid, *watchdog_pid; /* where the child appends its pid, or NULL */
    const struct program_fds *fds;
    int *sources; /* sockets, channel, error_fd */
    int *sorted;
    size_t source_count;
    int error_fd; /* the child writes the -errno of a failed exec to it */
};

static bool is_variable(const char *entry, const char *name)
{
    size_t len = strlen(name);
    return strncmp(entry, name, len) == 0 && entry[len] == '=';
}

static bool is_replaced(const char *entry)
{
    static const char *const names[] = {"LISTEN_PID",     "LISTEN_FDS",   "LISTEN_FDNAMES",
                                        "LISTEN_PIDFDID", "WATCHDOG_PID", PROGRAM_CHANNEL_VARIABLE};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (is_variable(entry, names[i]))
            return true;
    }
    return false;
}

/* text may be NULL after a failed allocation; plan_environment checks that at its end. */
static char *add_variable(struct plan *plan, size_t *at, char *text)
{
    plan->own[plan->own_count++] = text;
    plan->environment[(*at)++] = text;
    return text;
}

static char *format_variable(const char *name, const char *value)
{
    char *text;
    return asprintf(&text, "%s=%s", name, value) < 0 ? NULL : text;
}

/* "NAME=" with room for a number. */
static char *numbered_variable(const char *name)
{
    char *text = calloc(1, strlen(name) + 1 + NUMBER_SIZE);
    if (text != NULL)
        (void)snprintf(text, strlen(name) + 2, "%s=", name);
    return text;
}

/* A colon separates the names, which have to be printable ASCII (sd_listen_fds(3)). Names are a
 * convenience, so too long a list is left out. */
static char *names_variable(const struct program_fds *fds)
{
    size_t size = sizeof("LISTEN_FDNAMES=");
    for (size_t i = 0; i < fds->count; i++)
        size += strlen(fds->names[i]) + 1;
    if (size > NAMES_SIZE_MAX)
        return strdup("LISTEN_FDNAMES=");
    char *text = calloc(1, size), *at = text;
    if (text == NULL)
        return NULL;
    at += snprintf(at, size, "LISTEN_FDNAMES=");
    for (size_t i = 0; i < fds->count; i++) {
        if (i > 0)
            *at++ = ':';
        for (const char *from = fds->names[i]; *from != '\0'; from++)
            *at++ = *from > 0x20 && *from < 0x7f && *from != ':' ? *from : '_';
    }
    return text;
}

static int plan_environment(struct plan *plan)
{
    size_t count = 0, at = 0;
    while (environ[count] != NULL)
        count++;
    plan->environment = calloc(count + ARRAY_SIZE(plan->own) + 1, sizeof(char *));
    if (plan->environment == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (!is_replaced(environ[i]))
            plan->environment[at++] = environ[i];
    }
    char number[2 * NUMBER_SIZE];
    (void)snprintf(number, sizeof(number), "%zu", plan->fds->count);
    (void)add_variable(plan, &at, format_variable("LISTEN_FDS", number));
    (void)add_variable(plan, &at, names_variable(plan->fds));
    (void)snprintf(number, sizeof(number), "%zu,%zu", FIRST_FD + plan->fds->count,
                   plan->fds->shared_count);
    (void)add_variable(plan, &at, format_variable(PROGRAM_CHANNEL_VARIABLE, number));
    plan->listen_pid = add_variable(plan, &at, numbered_variable("LISTEN_PID"));
    /* systemd expects WATCHDOG from the main process, which the child will be. */
    if (getenv("WATCHDOG_PID") != NULL)
        plan->watchdog_pid = add_variable(plan, &at, numbered_variable("WATCHDOG_PID"));
    for (size_t i = 0; i < plan->own_count; i++) {
        if (plan->own[i] == NULL)
            return -ENOMEM;
    }
    return 0;
}

/* ---- the new process's descriptors ---- */

static int compare_ints(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static int plan_fds(struct plan *plan)
{
    size_t count = plan->fds->count;
    plan->source_count = count + 2;
    plan->sources = calloc(plan->source_count, sizeof(int));
    plan->sorted = calloc(plan->source_count, sizeof(int));
    if (plan->sources == NULL || plan->sorted == NULL)
        return -ENOMEM;
    if (count > 0)
        memcpy(plan->sources, plan->fds->sockets, count * sizeof(int));
    plan->sources[count] = plan->fds->channel;
    plan->sources[count + 1] = plan->error_fd;
    memcpy(plan->sorted, plan->sources, plan->source_count * sizeof(int));
    qsort(plan->sorted, plan->source_count, sizeof(int), compare_ints);
    return 0;
}

static void plan_finish(struct plan *plan)
{
    for (size_t i = 0; i < plan->own_count; i++)
        free(plan->own[i]);
    free(plan->environment);
    free(plan->sources);
    free(plan->sorted);
}

/* ---- in the child: nothing but system calls until exec ---- */

static void close_between(int first, int last)
{
    if (first <= last)
        (void)syscall(SYS_close_range, (unsigned int)first, (unsigned int)last, 0u);
}

/* Unneeded descriptors are closed first, so that moving the others can't exceed the limit. */
static void close_others(const struct plan *plan)
{
    int next = FIRST_FD;
    for (size_t i = 0; i < plan->source_count; i++) {
        close_between(next, plan->sorted[i] - 1);
        next = MAX(next, plan->sorted[i] + 1);
    }
    close_between(next, INT_MAX);
}

/* First all sources move to numbers above their targets, so that no dup2(2) overwrites one; then
 * each goes to its target, and dup2 clears close-on-exec. */
static int arrange_fds(struct plan *plan)
{
    size_t passed = plan->source_count - 1;
    close_others(plan);
    for (size_t i = 0; i < plan->source_count; i++) {
        int moved = fcntl(plan->sources[i], F_DUPFD_CLOEXEC, FIRST_FD + (int)passed);
        if (moved < 0)
            return -errno;
        plan->sources[i] = moved;
    }
    plan->error_fd = plan->sources[passed];
    for (size_t i = 0; i < passed; i++) {
        if (dup2(plan->sources[i], FIRST_FD + (int)i) < 0)
            return -errno;
    }
    return 0;
}

static void append_number(char *variable, pid_t number)
{
    char digits[NUMBER_SIZE];
    size_t count = 0;
    if (variable == NULL)
        return;
    while (*variable != '\0')
        variable++;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    while (count > 0)
        *variable++ = digits[--count];
    *variable = '\0';
}

static _Noreturn void child_exec(struct plan *plan)
{
    sigset_t none;
    int result = arrange_fds(plan);
    append_number(plan->listen_pid, getpid());
    append_number(plan->watchdog_pid, getpid());
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (result == 0) {
        (void)execve(plan->path, plan->argv, plan->environment);
        result = -errno;
    }
    ssize_t written = write(plan->error_fd, &result, sizeof(result));
    (void)written;
    _exit(127);
}

/* ---- in the parent ---- */

/* Waits until exec has closed the child's end of the pipe, or the child has written why exec
 * failed. The wait is bounded, so that a program file on a slow disk does not keep the main thread
 * from its signals. A later failure shows as the end of the child. */
static int wait_for_exec(int fd)
{
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    int result = 0;
    ssize_t got;
    if (poll(&readable, 1, EXEC_WAIT_MS) == 0)
        return 0;
    do {
        got = read(fd, &result, sizeof(result));
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)sizeof(result) ? result : 0;
}

static int spawn_planned(struct plan *plan, pid_t *ret)
{
    int error_fds[2];
    if (pipe2(error_fds, O_CLOEXEC) < 0)
        return -errno;
    plan->error_fd = error_fds[1];
    int result = plan_fds(plan);
    pid_t pid = -1;
    if (result == 0) {
        pid = fork();
        if (pid == 0)
            child_exec(plan);
        result = pid < 0 ? -errno : 0;
    }
    (void)close(error_fds[1]);
    if (result == 0)
        result = wait_for_exec(error_fds[0]);
    (void)close(error_fds[0]);
    if (result < 0 && pid > 0)
        (void)waitpid(pid, NULL, 0);
    if (result == 0)
        *ret = pid;
    return result;
}

int program_spawn(const struct program *program, const struct program_fds *fds, pid_t *ret)
{
    int result = program_check(program);
    if (result < 0)
        return result;
    struct plan plan = {.path = program->path, .argv = program->argv, .fds = fds};
    result = plan_environment(&plan);
    if (result == 0)
        result = spawn_planned(&plan, ret);
    if (result == -EACCES) {
        errno = EACCES; /* program_check has found nothing wrong with the file's permissions */
        result = files_error(program->path, X_OK);
    }
    plan_finish(&plan);
    return result;
}

/* ---- in the new process ---- */

static bool read_channel(int *ret_channel, int *ret_shared_count)
{
    const char *text = getenv(PROGRAM_CHANNEL_VARIABLE);
    uint64_t numbers[2]; /* the channel, the number of shared sockets */
    const char *end;
    if (text == NULL || numbers_parse(text, numbers, 2, &end) != 2 || *end != '\0' ||
        numbers[0] < FIRST_FD || numbers[0] > INT_MAX || numbers[1] > INT_MAX ||
        fcntl((int)numbers[0], F_SETFD, FD_CLOEXEC) < 0)
        return false;
    *ret_channel = (int)numbers[0];
    *ret_shared_count = (int)numbers[1];
    return true;
}

bool program_has_channel(void)
{
    int channel, shared_count;
    return read_channel(&channel, &shared_count);
}

bool program_take_channel(int *ret_channel, int *ret_shared_count)
{
    bool found = read_channel(ret_channel, ret_shared_count);
    (void)unsetenv(PROGRAM_CHANNEL_VARIABLE);
    return found;
}
