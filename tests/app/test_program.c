#include "app/program.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64];

static void enter_directory(void)
{
    (void)snprintf(directory, sizeof(directory), "/tmp/rathole-uring-program.XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void remove_directory(void)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf %s", directory);
    cr_assert_eq(system(command), 0);
}

TestSuite(program, .init = enter_directory, .fini = remove_directory);

static const char *in_directory(const char *name)
{
    static char paths[4][128];
    static unsigned int next;
    char *path = paths[next++ % ARRAY_SIZE(paths)];
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
    return path;
}

/* Installs a program under this name by rename(2): a copy of this test or of /bin/sh. */
static void install(const char *name, const char *from)
{
    char command[PATH_MAX + 256];
    (void)snprintf(command, sizeof(command), "cp %s %s.new && mv %s.new %s", from,
                   in_directory(name), in_directory(name), in_directory(name));
    cr_assert_eq(system(command), 0);
}

static const char *own_file(void)
{
    static char path[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - 1);
    cr_assert_gt(len, 0);
    path[len] = '\0';
    return path;
}

/* ---- the path ---- */

static void expect_path(const char *argv0, const char *expected)
{
    char name[PATH_MAX];
    char *const argv[] = {name, NULL};
    struct program program;
    (void)snprintf(name, sizeof(name), "%s", argv0);
    program_init(&program, argv);
    cr_assert_not_null(program.path, "%s", argv0);
    cr_assert_str_eq(program.path, expected, "%s: %s", argv0, program.path);
    cr_assert_not(program_has_changed(&program));
    cr_assert_eq(program_check(&program), 0);
    program_finish(&program);
    program_finish(&program);
}

Test(program, path_as_it_was_called)
{
    char cwd[PATH_MAX], link_path[128], relative[160];
    const char *own = own_file();
    (void)snprintf(link_path, sizeof(link_path), "%s", in_directory("linked"));
    cr_assert_eq(symlink(own, link_path), 0);
    expect_path(own, own);
    expect_path(link_path, link_path); /* the link itself, because it may point elsewhere later */
    cr_assert_eq(chdir(directory), 0);
    cr_assert_not_null(getcwd(cwd, sizeof(cwd)));
    (void)snprintf(relative, sizeof(relative), "%s/./linked", directory);
    expect_path("./linked", relative);
    cr_assert_eq(setenv("PATH", "/nowhere::/usr/bin", 1), 0);
    expect_path("linked", link_path); /* an empty entry of PATH is the current directory */
    (void)snprintf(relative, sizeof(relative), "/nowhere:%s", directory);
    cr_assert_eq(setenv("PATH", relative, 1), 0);
    expect_path("linked", link_path);
    expect_path("some-other-name", own); /* an argv[0] that names no file */
    expect_path("/bin/sh", own);
    cr_assert_eq(unsetenv("PATH"), 0);
    expect_path("linked", own);
}

Test(program, another_file_is_a_change)
{
    char link_path[128];
    char *const argv[] = {link_path, NULL};
    struct program program;
    (void)snprintf(link_path, sizeof(link_path), "%s", in_directory("linked"));
    cr_assert_eq(symlink(own_file(), link_path), 0);
    program_init(&program, argv);
    cr_assert_not(program_has_changed(&program));
    cr_assert_eq(unlink(link_path), 0);
    cr_assert_not(program_has_changed(&program), "a missing one is none");
    cr_assert_eq(program_check(&program), -ENOENT);
    install("linked", own_file()); /* the same bytes in another file */
    cr_assert(program_has_changed(&program));
    cr_assert_eq(program_check(&program), 0);
    cr_assert_eq(chmod(link_path, 0600), 0);
    cr_assert_eq(program_check(&program), -EACCES);
    program_finish(&program);
}

Test(program, without_a_path_there_is_none)
{
    struct program program = {0};
    struct program_fds fds = {.channel = 0};
    pid_t pid;
    cr_assert_not(program_has_changed(&program));
    cr_assert_eq(program_spawn(&program, &fds, &pid), -ENOENT);
    program_finish(&program);
}

/* ---- starting it ---- */

/* Spawns a shell script as the new process, and returns what it writes to the channel. */
static const char *output_of(const char *script, const int *sockets, const char *const *names,
                             size_t count, int *ret_status)
{
    static char text[4096];
    static char word0[] = "sh", word1[] = "-c";
    char word2[512], path[] = "/bin/sh";
    char *const argv[] = {word0, word1, word2, NULL};
    struct program program = {.path = path, .argv = argv};
    int channel[2];
    size_t size = 0;
    ssize_t got;
    pid_t pid = -1;
    (void)snprintf(word2, sizeof(word2), "%s", script);
    cr_assert_eq(pipe2(channel, O_CLOEXEC), 0);
    struct program_fds fds = {sockets, names, count, count > 0 ? 1 : 0, channel[1]};
    cr_assert_eq(program_spawn(&program, &fds, &pid), 0);
    cr_assert_gt(pid, 0);
    (void)close(channel[1]);
    while ((got = read(channel[0], text + size, sizeof(text) - 1 - size)) > 0)
        size += (size_t)got;
    text[size] = '\0';
    (void)close(channel[0]);
    cr_assert_eq(waitpid(pid, ret_status, 0), pid);
    return text;
}

enum { PASSED = 3 };

static void open_sockets(int sockets[static PASSED])
{
    /* One descriptor has its target number already, one has another's target number, one has a high
     * number. */
    for (int i = 0; i < PASSED; i++)
        cr_assert_geq(sockets[i] = open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
    int far = fcntl(sockets[0], F_DUPFD_CLOEXEC, 200);
    (void)close(sockets[0]);
    sockets[0] = far;
}

Test(program, what_the_new_process_gets)
{
    static const char *const names[PASSED] = {"control", "service:a#0", "udp b\n"};
    int sockets[PASSED], status;
    open_sockets(sockets);
    cr_assert_eq(setenv("LISTEN_FDS", "99", 1), 0);
    cr_assert_eq(setenv("LISTEN_PID", "1", 1), 0);
    cr_assert_eq(setenv("WATCHDOG_PID", "1", 1), 0);
    cr_assert_eq(setenv("KEPT", "as it is", 1), 0);
    const char *text = output_of("[ $LISTEN_PID = $$ ] && [ $WATCHDOG_PID = $$ ] && "
                                 "echo $LISTEN_FDS $LISTEN_FDNAMES $RATHOLE_URING_UPGRADE \"$KEPT\""
                                 " $(env | grep -c LISTEN_FDS=) >&6",
                                 sockets, names, PASSED, &status);
    cr_assert_str_eq(text, "3 control:service_a#0:udp_b_ 6,1 as it is 1\n");
    cr_assert_eq(status, 0);
}

Test(program, no_descriptor_goes_along)
{
    static const char *const names[PASSED] = {"a", "b", "c"};
    int sockets[PASSED], status;
    /* Descriptors that are not close-on-exec, below, between and above those that are passed. */
    int before = open("/dev/null", O_RDONLY);
    open_sockets(sockets);
    cr_assert_eq(fcntl(before, F_DUPFD, 300), 300);
    const char *text =
        output_of("cd /proc/$$/fd && echo [0-9]* >&6", sockets, names, PASSED, &status);
    /* The shell itself opens 10 or 255. */
    cr_assert(strncmp(text, "0 1 2 3 4 5 6", 13) == 0 && strstr(text, "300") == NULL &&
                  strstr(text, "200") == NULL,
              "%s", text);
    cr_assert_eq(status, 0);
}

Test(program, none_are_passed)
{
    int status;
    const char *text =
        output_of("echo $LISTEN_FDS,$LISTEN_FDNAMES,$RATHOLE_URING_UPGRADE,$WATCHDOG_PID >&3", NULL,
                  NULL, 0, &status);
    cr_assert_str_eq(text, "0,,3,0,\n");
}

Test(program, signals_are_not_blocked)
{
    int status;
    sigset_t all;
    (void)sigfillset(&all);
    cr_assert_eq(sigprocmask(SIG_BLOCK, &all, NULL), 0);
    const char *text = output_of("exec grep SigBlk /proc/self/status >&3", NULL, NULL, 0, &status);
    cr_assert_str_eq(text, "SigBlk:\t0000000000000000\n");
}

Test(program, many_descriptors_with_few_left)
{
    enum { MANY = 200 };
    static int sockets[MANY];
    static const char *names[MANY];
    struct rlimit limit;
    int status;
    for (int i = 0; i < MANY; i++) {
        cr_assert_geq(sockets[i] = open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
        names[i] = "s";
    }
    for (int i = 0; i < 2 * MANY; i++)
        cr_assert_geq(open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
    int highest = dup(0);
    (void)close(highest);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = (rlim_t)highest + 6; /* room for two pipes, and hardly more */
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    const char *text = output_of("echo $LISTEN_FDS $RATHOLE_URING_UPGRADE >/proc/$$/fd/203",
                                 sockets, names, MANY, &status);
    cr_assert_str_eq(text, "200 203,1\n");
}

Test(program, names_without_end_are_left_out)
{
    enum { MANY = 400 };
    static int sockets[MANY];
    static const char *names[MANY];
    static char name[256];
    int status;
    memset(name, 'n', sizeof(name) - 1);
    for (int i = 0; i < MANY; i++) {
        cr_assert_geq(sockets[i] = open("/dev/null", O_RDONLY | O_CLOEXEC), 0);
        names[i] = name;
    }
    const char *text = output_of("echo $LISTEN_FDS $LISTEN_FDNAMES. >/proc/$$/fd/403", sockets,
                                 names, MANY, &status);
    cr_assert_str_eq(text, "400 .\n");
}

Test(program, what_is_no_program_is_an_error)
{
    char path[128];
    char *const argv[] = {path, NULL};
    struct program program = {.path = path, .argv = argv};
    struct program_fds fds = {.channel = 0};
    pid_t pid = -1;
    (void)snprintf(path, sizeof(path), "%s", in_directory("broken"));
    cr_assert_eq(program_spawn(&program, &fds, &pid), -ENOENT);
    FILE *file = fopen(path, "we");
    cr_assert_not_null(file);
    (void)fputs("no program\n", file);
    (void)fclose(file);
    cr_assert_eq(program_spawn(&program, &fds, &pid), -EACCES);
    cr_assert_eq(chmod(path, 0700), 0);
    cr_assert_eq(program_spawn(&program, &fds, &pid), -ENOEXEC);
    cr_assert_eq(pid, -1);
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "no child is left");
}

/* ---- what the new process reads ---- */

Test(program, the_channel_is_taken_once)
{
    char text[48];
    int channel = -1, shared = -1;
    int fd = open("/dev/null", O_RDONLY);
    cr_assert_geq(fd, 3);
    cr_assert_not(program_take_channel(&channel, &shared), "unset");
    (void)snprintf(text, sizeof(text), "%d,2", fd);
    cr_assert_eq(setenv(PROGRAM_CHANNEL_VARIABLE, text, 1), 0);
    cr_assert(program_has_channel());
    cr_assert(program_take_channel(&channel, &shared));
    cr_assert_eq(channel, fd);
    cr_assert_eq(shared, 2);
    cr_assert((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    cr_assert_null(getenv(PROGRAM_CHANNEL_VARIABLE));
    cr_assert_not(program_take_channel(&channel, &shared), "once");
}

Test(program, a_bad_channel_is_none)
{
    static const char *const texts[] = {"",     "x",        "3",    "3,",   "3,x", "2,0",
                                        "-1,0", "999999,0", "3,-1", "3,0,", "3,0x"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        int channel, shared;
        cr_assert_eq(setenv(PROGRAM_CHANNEL_VARIABLE, texts[i], 1), 0);
        cr_assert_not(program_has_channel(), "%s", texts[i]);
        cr_assert_not(program_take_channel(&channel, &shared), "%s", texts[i]);
        cr_assert_null(getenv(PROGRAM_CHANNEL_VARIABLE));
    }
}
