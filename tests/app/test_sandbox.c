/* The real filter and the real Landlock domain, each in a process of its own: they can't be undone. */
#include "app/sandbox.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/error.h"
#include "base/files.h"
#include "config/config.h"
#include "sandbox_priv.h"

#ifndef WITH_SANDBOX
#define SKIP_WITHOUT_SANDBOX() cr_skip_test("this build has no sandbox")
#else
#define SKIP_WITHOUT_SANDBOX() (void)0
#endif

/* What the child has found, as its exit code. */
enum { FINE = 0, CODE_FIRST = 100 };

typedef int attempt_fn(void);

/* Runs it in a child. Its exit code, or -signal. */
static int in_child(attempt_fn *attempt)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        sandbox_init();
        _exit(attempt());
    }
    cr_assert_gt(child, 0);
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* 0, or the errno of a call. */
static int error_of(long result)
{
    return result < 0 ? errno : 0;
}

/* ---- system calls ---- */

static enum sandbox_thread enter_as;
static long (*call)(void);

static int filtered(void)
{
    int last;
    sandbox_watch_calls();
    if (sandbox_restrict_calls(enter_as) != 1)
        return CODE_FIRST;
    errno = 0;
    int error = error_of(call());
    /* A refusal is counted, and nothing else is. */
    if (sandbox_refused_calls(&last) != (error == EPERM ? 1 : 0))
        return CODE_FIRST + 1;
    return error;
}

static int try_call(enum sandbox_thread thread, long (*wanted)(void))
{
    enter_as = thread;
    call = wanted;
    return in_child(filtered);
}

static long call_openat(void)
{
    return open("/etc/passwd", O_RDONLY);
}
static long call_create(void)
{
    return open("/tmp/sandbox-test", O_WRONLY | O_CREAT, 0600);
}
static long call_stat(void)
{
    struct stat about;
    return stat("/etc/passwd", &about);
}
static long call_unlink(void)
{
    return unlink("/tmp/sandbox-test");
}
static long call_packet(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0);
}
static long call_netlink(void)
{
    return socket(AF_NETLINK, SOCK_RAW, 0);
}
static long call_bind(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    return bind(3, (void *)&a, sizeof(a));
}
static long call_connect(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    return connect(-1, (void *)&a, sizeof(a));
}
static long call_kill(void)
{
    return kill(getpid(), 0);
}
static long call_tgkill(void)
{
    return syscall(SYS_tgkill, 1, 1, 0);
}
static long call_clone(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static long call_setrlimit(void)
{
    struct rlimit all = {1, 1};
    return setrlimit(RLIMIT_NOFILE, &all);
}
static long call_half_a_pointer(void)
{
    return syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0x700000000000, NULL);
}
static long call_limits_of_another(void)
{
    struct rlimit limit;
    return syscall(SYS_prlimit64, 1, RLIMIT_NOFILE, NULL, &limit);
}
static long call_owner(void)
{
    return fcntl(0, F_SETOWN, 1);
}
static long call_signal_of(void)
{
    return fcntl(0, F_SETSIG, SIGKILL);
}
static long call_mptcp(void)
{
    return socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */);
}
static long call_socket(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}
static long call_prctl(void)
{
    return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
}
static long call_sigaction(void)
{
    struct sigaction none = {.sa_handler = SIG_IGN};
    return sigaction(SIGSYS, &none, NULL);
}
static long call_ioctl(void)
{
    return ioctl(0, 0x5412 /* TIOCSTI */, "x");
}
static long call_setuid(void)
{
    return syscall(SYS_setuid, 0);
}
static long call_execve(void)
{
    return execl("/bin/true", "true", NULL);
}
static long call_ptrace(void)
{
    return ptrace(PTRACE_TRACEME, 0, 0, 0);
}
static long call_setup(void)
{
    struct io_uring_params p = {0};
    return syscall(SYS_io_uring_setup, 4, &p);
}
static long call_mmap_code(void)
{
    return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
               ? -1
               : 0;
}
static long call_mprotect_code(void)
{
    return mprotect((void *)((uintptr_t)&call_mmap_code & ~4095ul), 4096, PROT_READ | PROT_EXEC);
}
static long call_unshare(void)
{
    return unshare(CLONE_NEWUSER);
}
static long call_vm_writev(void)
{
    return syscall(SYS_process_vm_writev, getpid(), NULL, 0, NULL, 0, 0);
}
#ifdef __x86_64__
static long call_x32(void)
{
    return syscall(0x40000000 + SYS_getpid);
}
#endif

static int given_socket;

static long call_what_is_needed(void)
{
    struct rlimit limit;
    int fds[2], unsent;
    char *memory = malloc(8 << 20);
    if (memory == NULL)
        return -1;
    memset(memory, 1, 8 << 20);
    free(memory);
    void *pages = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, 4096, PROT_READ) < 0 || munmap(pages, 1 << 16) < 0)
        return -2;
    if (ioctl(given_socket, 0x5411 /* SIOCOUTQ */, &unsent) < 0 || pipe2(fds, O_CLOEXEC) < 0 ||
        getrlimit(RLIMIT_NOFILE, &limit) < 0 || write(fds[1], "x", 1) != 1 || usleep(1) < 0)
        return -3;
    int flags = fcntl(fds[0], F_GETFL), copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
    if (flags < 0 || fcntl(fds[0], F_SETFL, flags | O_NONBLOCK) < 0 || copy < 0 ||
        fcntl(fds[1], F_SETPIPE_SZ, 8192) < 0 || fcntl(fds[1], F_GETPIPE_SZ) != 8192)
        return -4;
    return close(copy);
}

/* The call fails, the process goes on, and it is counted. */
Test(sandbox, refused_calls)
{
    SKIP_WITHOUT_SANDBOX();
    static long (*const calls[])(void) = {
        call_openat,
        call_create,
        call_stat,
        call_unlink,
        call_packet,
        call_netlink,
        call_bind,
        call_kill,
        call_tgkill,
        call_clone,
        call_setrlimit,
        call_prctl,
        call_sigaction,
        call_ioctl,
        call_setuid,
        call_half_a_pointer,
        call_limits_of_another,
        call_owner,
        call_signal_of,
        call_mptcp,
    };
    static const enum sandbox_thread threads[] = {SANDBOX_SERVER, SANDBOX_CLIENT, SANDBOX_STATUS};
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        for (size_t j = 0; j < 3; j++)
            cr_expect_eq(try_call(threads[j], calls[i]), EPERM, "call %zu of thread %zu", i, j);
    }
}

Test(sandbox, deadly_calls)
{
    SKIP_WITHOUT_SANDBOX();
    static long (*const calls[])(void) = {
        call_execve,        call_ptrace,  call_setup,     call_mmap_code,
        call_mprotect_code, call_unshare, call_vm_writev,
#ifdef __x86_64__
        call_x32,
#endif
    };
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
        cr_expect_eq(try_call(SANDBOX_CLIENT, calls[i]), -SIGSYS, "call %zu", i);
}

/* The same calls without the filter do not end the process, or the tests above would show nothing. */
static int unfiltered(void)
{
    return call() < 0 ? EPERM : FINE;
}

Test(sandbox, they_work_without)
{
    static long (*const calls[])(void) = {call_openat, call_stat,      call_execve,
                                          call_ptrace, call_mmap_code, call_mprotect_code};
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
        call = calls[i];
        cr_expect_eq(in_child(unfiltered), FINE, "call %zu", i);
    }
}

Test(sandbox, allowed_calls)
{
    SKIP_WITHOUT_SANDBOX();
    given_socket = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_geq(given_socket, 0);
    cr_expect_eq(try_call(SANDBOX_SERVER, call_what_is_needed), FINE);
    cr_expect_eq(try_call(SANDBOX_CLIENT, call_what_is_needed), FINE);
    cr_expect_eq(try_call(SANDBOX_CLIENT, call_socket), FINE);
    cr_expect_eq(try_call(SANDBOX_SERVER, call_socket), EPERM);
    cr_expect_eq(try_call(SANDBOX_STATUS, call_socket), EPERM);
    cr_expect_eq(try_call(SANDBOX_CLIENT, call_connect), EBADF);
    cr_expect_eq(try_call(SANDBOX_SERVER, call_connect), EPERM);
    cr_expect_eq(try_call(SANDBOX_STATUS, call_connect), EPERM);
}

static int aborts(void)
{
    (void)sandbox_restrict_calls(SANDBOX_SERVER);
    abort();
}

Test(sandbox, a_failed_assertion_still_shows)
{
    SKIP_WITHOUT_SANDBOX();
    cr_expect_eq(in_child(aborts), -SIGABRT);
}

/* A handler must not swallow what somebody has sent to end the process. */
static int is_sent_the_signal(void)
{
    sandbox_watch_calls();
    (void)kill(getpid(), SIGSYS);
    return CODE_FIRST;
}

Test(sandbox, the_signal_itself_ends_it)
{
    SKIP_WITHOUT_SANDBOX();
    cr_expect_eq(in_child(is_sent_the_signal), -SIGSYS);
}

/* ---- files and ports: by a call, and by a ring that was made before ---- */

static int ring_result(struct io_uring *ring)
{
    struct io_uring_cqe *cqe;
    if (io_uring_submit_and_wait(ring, 1) < 0 || io_uring_peek_cqe(ring, &cqe) < 0)
        return -EIO;
    int result = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    return result;
}

static int ring_open(struct io_uring *ring, const char *path, int flags)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (sqe == NULL)
        return -EIO;
    io_uring_prep_openat(sqe, AT_FDCWD, path, flags, 0600);
    return ring_result(ring);
}

enum { OP_BIND = 56 }; /* IORING_OP_BIND, since Linux 6.11; liburing may be older */

static int ring_bind(struct io_uring *ring, int fd, const struct sockaddr_in *addr)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    if (sqe == NULL)
        return -EIO;
    io_uring_prep_rw(OP_BIND, sqe, fd, addr, 0, sizeof(*addr));
    return ring_result(ring);
}

static int forbidden_files(void)
{
    struct io_uring ring;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(45791)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (io_uring_queue_init(4, &ring, 0) < 0)
        return FINE; /* forbidden on this machine: nothing to show */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    /* They work before. */
    if (ring_open(&ring, "/etc/passwd", O_RDONLY) < 0)
        return CODE_FIRST;
    if (sandbox_forbid_files(SANDBOX_SERVER) != 1)
        return CODE_FIRST + 1;
    if (error_of(open("/etc/shadow", O_RDONLY)) != EACCES ||
        error_of(open("/tmp/sandbox-test", O_WRONLY | O_CREAT, 0600)) != EACCES)
        return CODE_FIRST + 2;
    if (ring_open(&ring, "/etc/shadow", O_RDONLY) != -EACCES ||
        ring_open(&ring, "/etc/passwd", O_RDONLY) != -EACCES ||
        ring_open(&ring, "/tmp/sandbox-test", O_WRONLY | O_CREAT) != -EACCES)
        return CODE_FIRST + 3;
    if (error_of(execl("/bin/true", "true", NULL)) != EACCES)
        return CODE_FIRST + 4;
    if (sandbox_landlock_version() < 4)
        return FINE;
    if (error_of(bind(fd, (const struct sockaddr *)&addr, sizeof(addr))) != EACCES)
        return CODE_FIRST + 5;
    int result = ring_bind(&ring, fd, &addr);
    if (result != -EACCES && result != -EINVAL) /* EINVAL: there is no such operation yet */
        return CODE_FIRST + 6;
    if (error_of(connect(fd, (const struct sockaddr *)&addr, sizeof(addr))) != EACCES)
        return CODE_FIRST + 7;
    return FINE;
}

static int client_may_connect(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(1)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (sandbox_forbid_files(SANDBOX_CLIENT) != 1)
        return CODE_FIRST;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return error_of(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)));
}

Test(sandbox, no_files_and_no_ports)
{
    SKIP_WITHOUT_SANDBOX();
    if (sandbox_landlock_version() < 0)
        cr_skip_test("no Landlock here");
    cr_expect_eq(in_child(forbidden_files), FINE);
    cr_expect_eq(in_child(client_may_connect), ECONNREFUSED);
}

/* landlock_create_ruleset(2), as the kernels before 6.7 answer it: the question for the version is
 * trapped. */
static void answer_3(int number, siginfo_t *info, void *arg)
{
    ucontext_t *context = arg;
#ifdef __x86_64__
    context->uc_mcontext.gregs[REG_RAX] = 3;
#elif defined(__aarch64__)
    context->uc_mcontext.regs[0] = 3;
#endif
}

static int without_ports(void)
{
    struct sigaction action = {.sa_sigaction = answer_3, .sa_flags = SA_SIGINFO};
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 444, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    struct sockaddr_in addr = {.sin_family = AF_INET};
    (void)sigaction(SIGSYS, &action, NULL);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return CODE_FIRST;
    if (sandbox_forbid_files(SANDBOX_SERVER) != SANDBOX_IN_PART)
        return CODE_FIRST + 1;
    if (error_of(open("/etc/passwd", O_RDONLY)) != EACCES)
        return CODE_FIRST + 2;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return error_of(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)));
}

Test(sandbox, a_kernel_without_rules_of_ports)
{
    SKIP_WITHOUT_SANDBOX();
    if (sandbox_landlock_version() < 3)
        cr_skip_test("too old a Landlock here");
    cr_expect_eq(in_child(without_ports), FINE);
}

static int signals_nobody(void)
{
    if (sandbox_landlock_version() < 6)
        return FINE;
    if (sandbox_forbid_files(SANDBOX_CLIENT) != 1)
        return CODE_FIRST;
    return kill(getpid(), 0) == 0 && error_of(kill(getppid(), 0)) == EPERM ? FINE : CODE_FIRST + 1;
}

Test(sandbox, no_signals_to_others)
{
    SKIP_WITHOUT_SANDBOX();
    cr_expect_eq(in_child(signals_nobody), FINE);
}

/* ---- the main thread's directories ---- */

static char directory[64];

static const char *path_of(const char *name)
{
    static char path[100];
    (void)snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static void write_file(const char *name)
{
    FILE *file = fopen(path_of(name), "we");
    cr_assert_not_null(file);
    (void)fputs("text", file);
    (void)fclose(file);
}

static int opens(const char *name)
{
    int fd = files_open(path_of(name));
    return fd < 0 ? fd : close(fd);
}

static int bind_unix(const char *name)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path_of(name));
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    return error_of(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)));
}

static struct config_service services[1];
static struct config_peer peer = {.services = services, .service_count = 1};

static int run(const char *path)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        (void)execl(path, "run", NULL);
        _exit(errno);
    }
    return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Somebody outside, who waits for a byte. */
static pid_t start_outside(const char *script, int *ret_go)
{
    int fds[2];
    char byte, command[300];
    (void)snprintf(command, sizeof(command), "cd %s && %s", directory, script);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -1;
    pid_t child = fork();
    if (child == 0)
        _exit(read(fds[0], &byte, 1) == 1 && system(command) == 0 ? FINE : CODE_FIRST);
    *ret_go = fds[1];
    return child;
}

static int confined(void)
{
    int go = -1, status;
    pid_t outside =
        start_outside("mv config/in config/old && mkdir config/in && echo > config/in/a "
                      "&& mv program/in program/old && cp -r program/old program/in",
                      &go);
    char two[250];
    (void)snprintf(two, sizeof(two), "%s/sockets:%s/more", directory, directory);
    (void)setenv("RUNTIME_DIRECTORY", two, 1);
    (void)snprintf(services[0].addr.host, sizeof(services[0].addr.host), "%s",
                   path_of("named/a.sock"));
    if (opens("config/in/a") != 0 || opens("config/in/b") != 0 || chdir(directory) < 0)
        return CODE_FIRST;
    int fd = files_open("links/current/deep/c");
    if (fd < 0 || sandbox_confine_files(CONFIG_SERVER, &peer, path_of("program/in/run")) != 1)
        return CODE_FIRST + 1;
    files_confine();
    /* Files of the same directory, also a new one, and one behind a link that has been changed. */
    if (opens("config/in/new") != 0 || opens("links/2/deep/c") != 0)
        return CODE_FIRST + 2;
    if (opens("other/in/d") != ERR_SANDBOX || opens("other/in/missing") != -ENOENT)
        return CODE_FIRST + 3;
    if (bind_unix("named/a.sock") != 0 || unlink(path_of("named/a.sock")) != 0 ||
        bind_unix("sockets/a") != 0 || bind_unix("more/a") != 0 ||
        bind_unix("other/in/a") != EACCES)
        return CODE_FIRST + 4;
    if (error_of(open(path_of("config/in/a"), O_WRONLY)) != EACCES ||
        error_of(unlink(path_of("config/in/a"))) != EACCES)
        return CODE_FIRST + 5;
    /* What a look-up of a name reads, and what is executed by an upgrade. */
    if (open("/etc/hosts", O_RDONLY) < 0 || open("/dev/null", O_RDWR) < 0 ||
        open("/run", O_RDONLY | O_DIRECTORY) < 0)
        return CODE_FIRST + 6;
    if (run(path_of("program/in/run")) != 0 || run("/bin/true") != EACCES)
        return CODE_FIRST + 7;
    /* Directories of the same names. */
    if (write(go, "x", 1) != 1 || waitpid(outside, &status, 0) != outside || status != 0)
        return CODE_FIRST + 8;
    if (opens("config/in/a") != 0 || run(path_of("program/in/run")) != 0)
        return CODE_FIRST + 9;
    return FINE;
}

/* A client connects to its services' addresses, and binds none. */
static int confined_client(void)
{
    (void)snprintf(services[0].addr.host, sizeof(services[0].addr.host), "%s",
                   path_of("named/a.sock"));
    if (sandbox_confine_files(CONFIG_CLIENT, &peer, NULL) != 1)
        return CODE_FIRST;
    return bind_unix("named/a.sock") == EACCES ? FINE : CODE_FIRST + 1;
}

Test(sandbox, the_directories_of_the_start)
{
    SKIP_WITHOUT_SANDBOX();
    static const char *const files[] = {"config/in/a", "config/in/b",    "config/in/new",
                                        "other/in/d",  "links/1/deep/c", "links/2/deep/c"};
    char command[300];
    if (sandbox_landlock_version() < 0)
        cr_skip_test("no Landlock here");
    (void)snprintf(directory, sizeof(directory), "/tmp/sandbox.XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    (void)snprintf(
        command, sizeof(command),
        "cd %s && mkdir -p config/in other/in sockets more named links/1/deep "
        "links/2/deep program/in && ln -s 1 links/current && cp /bin/true program/in/run",
        directory);
    cr_assert_eq(system(command), 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        write_file(files[i]);
    cr_expect_eq(in_child(confined), FINE);
    cr_expect_eq(in_child(confined_client), FINE);
    (void)snprintf(command, sizeof(command), "rm -r %s", directory);
    cr_assert_eq(system(command), 0);
}

/* ---- parts that are missing ---- */

static int denied_number, denied_option; /* a system call, and its first argument or -1 */

/* As an outer filter would. */
static void deny(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)denied_number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)denied_option, 0,
                 (uint8_t)(denied_option < 0 ? 0 : 1)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    (void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int with_a_part_missing(void)
{
    deny();
    peer.sandbox = CONFIG_SANDBOX_ON;
    sandbox_start(CONFIG_SERVER, &peer, NULL);
    sandbox_enter(SANDBOX_SERVER);
    const struct sandbox_facts facts = sandbox_facts();
    int bits = 0;
    for (int i = 0; i < SANDBOX_PARTS; i++)
        bits |= (facts.parts[i] == 1) << i;
    bits |= (facts.parts[SANDBOX_SECCOMP] == -ENOSYS) << 5;
    bits |= (facts.parts[SANDBOX_LANDLOCK] == -ENOSYS) << 6;
    return bits;
}

Test(sandbox, the_rest_is_used)
{
    SKIP_WITHOUT_SANDBOX();
    enum {
        PRIVS = 1 << SANDBOX_NO_NEW_PRIVS,
        CALLS = 1 << SANDBOX_SECCOMP,
        LANDLOCK = 1 << SANDBOX_LANDLOCK,
        FILES = 1 << SANDBOX_FILES
    };
    peer.service_count = 0;
    int landlock = sandbox_landlock_version() < 0 ? 0 : LANDLOCK | FILES;
    denied_number = SYS_prctl;
    denied_option = PR_SET_SECCOMP;
    cr_expect_eq(in_child(with_a_part_missing), PRIVS | landlock | 1 << 5);
    denied_option = -1;
    static const int calls[] = {444, 445, 446}; /* landlock_* */
    for (size_t i = 0; i < 3; i++) {
        denied_number = calls[i];
        int result = in_child(with_a_part_missing);
        cr_expect_eq(result & (PRIVS | CALLS | FILES), PRIVS | CALLS, "call %d: %x", calls[i],
                     (unsigned int)result);
        if (calls[i] != 445) /* a thread's domain has no rule */
            cr_expect_eq(result & (LANDLOCK | 1 << 6), 1 << 6, "call %d", calls[i]);
    }
}

static int off(void)
{
    peer.sandbox = CONFIG_SANDBOX_OFF;
    sandbox_start(CONFIG_SERVER, &peer, NULL);
    sandbox_enter(SANDBOX_SERVER);
    const struct sandbox_facts facts = sandbox_facts();
    bool is_bare = !facts.is_on && facts.parts[SANDBOX_SECCOMP] == 0 &&
                   facts.parts[SANDBOX_LANDLOCK] == 0 && facts.parts[SANDBOX_FILES] == 0;
    int fd = open("/etc/passwd", O_RDONLY);
    return is_bare && fd >= 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? FINE : CODE_FIRST;
}

Test(sandbox, off_leaves_no_new_privs)
{
    cr_expect_eq(in_child(off), FINE);
}

/* Only a predecessor, at the other end of a channel that is there, can have confined this process. */
static int told_by_nobody(void)
{
    (void)setenv("RATHOLE_URING_CONFINED", "1", 1);
    (void)setenv("RATHOLE_URING_UPGRADE", "99999,0", 1);
    sandbox_init();
    return sandbox_facts().parts[SANDBOX_FILES] == 0 && getenv("RATHOLE_URING_CONFINED") == NULL
               ? FINE
               : CODE_FIRST;
}

Test(sandbox, a_variable_alone_is_no_layer)
{
    cr_expect_eq(in_child(told_by_nobody), FINE);
}
