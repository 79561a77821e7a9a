#include <errno.h>

#include "sandbox_priv.h"

#if defined(WITH_SANDBOX) && (defined(__x86_64__) || defined(__aarch64__))

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/macros.h"

#ifdef __x86_64__
#define ARCHITECTURE AUDIT_ARCH_X86_64
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

enum {
    WORKERS = SANDBOX_SERVER | SANDBOX_CLIENT,
    ALL = WORKERS | SANDBOX_STATUS,
    X32_CALLS = 0x40000000, /* the numbers of another interface of x86_64 begin here */
};

struct call {
    uint16_t number;
    uint8_t threads; /* enum sandbox_thread */
};

/* Without a look at the arguments, so that the kernel need not run the program: it keeps a bitmap
 * of such calls. */
static const struct call allowed[] = {
    {__NR_io_uring_enter, WORKERS},
    {__NR_io_uring_register, WORKERS}, /* buffers are given back; the ring restricts the rest */
    {__NR_splice, WORKERS},
    {__NR_recvfrom, ALL},
    {__NR_sendto, ALL},
    {__NR_recvmsg, WORKERS},
    {__NR_sendmsg, WORKERS},
    {__NR_recvmmsg, WORKERS},
    {__NR_sendmmsg, WORKERS},
    {__NR_read, ALL},
    {__NR_write, ALL},
    {__NR_writev, ALL},
    {__NR_pread64, WORKERS},
    {__NR_close, ALL},
    {__NR_futex, ALL},
    {__NR_ppoll, ALL},
    {__NR_epoll_create1, WORKERS},
    {__NR_epoll_ctl, WORKERS},
    {__NR_epoll_pwait, WORKERS},
#ifdef __x86_64__
    {__NR_poll, ALL},
    {__NR_epoll_wait, WORKERS},
    {__NR_time, ALL},
#endif
    {__NR_getsockopt, ALL},
    {__NR_setsockopt, ALL},
    {__NR_getsockname, ALL},
    {__NR_getpeername, ALL},
    {__NR_shutdown, ALL},
    {__NR_accept4, SANDBOX_SERVER | SANDBOX_STATUS},
    {__NR_listen, SANDBOX_SERVER},
    {__NR_connect, SANDBOX_CLIENT},
    {__NR_dup3, WORKERS},
    {__NR_pipe2, WORKERS},
    {__NR_eventfd2, WORKERS},
    {__NR_munmap, ALL},
    {__NR_mremap, ALL},
    {__NR_madvise, ALL},
    {__NR_brk, ALL},
    {__NR_getrandom, ALL},
    {__NR_clock_gettime, ALL},
    {__NR_gettimeofday, ALL},
    {__NR_clock_nanosleep, ALL},
    {__NR_nanosleep, ALL},
    {__NR_restart_syscall, ALL},
    {__NR_rt_sigreturn, ALL},
    {__NR_rt_sigprocmask, ALL},
    {__NR_sched_getaffinity, ALL}, /* malloc(3) counts the cores */
    {__NR_sysinfo, ALL},           /* qsort(3) asks how much memory there is */
    {__NR_sched_yield, ALL},
    {__NR_getpid, ALL},
    {__NR_gettid, ALL},
    {__NR_exit, ALL},
    {__NR_exit_group, ALL},
};

/* What neither this program nor a library does here, and what would be the aim of an exploit. All
 * other calls fail, because a library may try them and go on. */
static const uint16_t deadly[] = {
    __NR_execve,
    __NR_execveat,
    __NR_ptrace,
    __NR_process_vm_readv,
    __NR_process_vm_writev,
    __NR_io_uring_setup,
    __NR_bpf,
    __NR_unshare,
    __NR_setns,
    __NR_mount,
    __NR_init_module,
    __NR_finit_module,
    __NR_userfaultfd,
    __NR_perf_event_open,
};

/* ---- the program ---- */

struct filter {
    unsigned short count;
    struct sock_filter code[ARRAY_SIZE(allowed) * 2 + ARRAY_SIZE(deadly) * 2 + 100];
};

static void filter_put(struct filter *filter, uint16_t code, uint32_t value, uint8_t if_so,
                       uint8_t if_not)
{
    filter->code[filter->count++] = (struct sock_filter){code, if_so, if_not, value};
}

static void put_return(struct filter *filter, uint32_t what)
{
    filter_put(filter, BPF_RET | BPF_K, what, 0, 0);
}

static void put_load(struct filter *filter, size_t offset)
{
    filter_put(filter, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

/* If the value that was loaded last is this one. */
static void put_return_if(struct filter *filter, uint32_t value, uint32_t what)
{
    filter_put(filter, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    put_return(filter, what);
}

/* Both machines have the lower half of an argument first. The call fails unless it is one of these.
 */
static void put_must_be(struct filter *filter, size_t half, const uint32_t *values, uint8_t count)
{
    put_load(filter, offsetof(struct seccomp_data, args) + half * sizeof(uint32_t));
    for (uint8_t i = 0; i < count; i++)
        filter_put(filter, BPF_JMP | BPF_JEQ | BPF_K, values[i], (uint8_t)(count - i), 0);
    put_return(filter, SECCOMP_RET_TRAP);
}

enum { HALF = 2, UPPER = 1 }; /* HALF * 3 + UPPER: the upper half of the fourth argument */

/* The call's number is loaded: what follows is about this call, in so many steps. */
static void put_call(struct filter *filter, unsigned int number, size_t steps)
{
    filter_put(filter, BPF_JMP | BPF_JEQ | BPF_K, number, 0, (uint8_t)steps);
}

static void put_choice(struct filter *filter, unsigned int number, size_t half,
                       const uint32_t *values, uint8_t count)
{
    put_call(filter, number, count + 3u);
    put_must_be(filter, half, values, count);
    put_return(filter, SECCOMP_RET_ALLOW);
}

static void put_no_code(struct filter *filter, unsigned int number)
{
    put_call(filter, number, 4);
    put_load(filter, offsetof(struct seccomp_data, args[2]));
    filter_put(filter, BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1);
    put_return(filter, SECCOMP_RET_KILL_PROCESS);
    put_return(filter, SECCOMP_RET_ALLOW);
}

/* Another protocol would be one that Landlock does not know as TCP, as MPTCP. */
static void put_socket(struct filter *filter)
{
    static const uint32_t protocols[] = {0, IPPROTO_TCP, IPPROTO_UDP};
    static const uint32_t families[] = {AF_INET, AF_INET6, AF_UNIX};
    put_call(filter, __NR_socket, ARRAY_SIZE(protocols) + ARRAY_SIZE(families) + 5);
    put_must_be(filter, HALF * 2, protocols, ARRAY_SIZE(protocols));
    put_must_be(filter, HALF * 0, families, ARRAY_SIZE(families));
    put_return(filter, SECCOMP_RET_ALLOW);
}

/* getrlimit(2) of this process: no new limit, which is a pointer. */
static void put_getrlimit(struct filter *filter)
{
    static const uint32_t none = 0;
    put_call(filter, __NR_prlimit64, 10);
    put_must_be(filter, HALF * 0, &none, 1);
    put_must_be(filter, HALF * 2, &none, 1);
    put_must_be(filter, HALF * 2 + UPPER, &none, 1);
    put_return(filter, SECCOMP_RET_ALLOW);
}

/* Of this thread, between two policies that need no privilege (io/loop_preempt.c). */
static void put_policy(struct filter *filter)
{
    static const uint32_t self = 0;
    static const uint32_t policies[] = {SCHED_OTHER, SCHED_BATCH};
    put_call(filter, __NR_sched_setscheduler, ARRAY_SIZE(policies) + 6);
    put_must_be(filter, HALF * 0, &self, 1);
    put_must_be(filter, HALF * 1, policies, ARRAY_SIZE(policies));
    put_return(filter, SECCOMP_RET_ALLOW);
}

static void put_arguments(struct filter *filter, enum sandbox_thread thread)
{
    /* The bytes in a socket's queue; the number of a network interface. */
    static const uint32_t requests[] = {TIOCOUTQ, 0x8933};
    /* F_SETOWN and F_SETSIG would have the kernel send a signal to anybody. */
    static const uint32_t commands[] = {F_GETFL,         F_SETFL,      F_GETFD,     F_SETFD,
                                        F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ};
    const uint32_t self = (uint32_t)getpid();
    put_choice(filter, __NR_fcntl, HALF * 1, commands, ARRAY_SIZE(commands));
    put_choice(filter, __NR_ioctl, HALF * 1, requests, ARRAY_SIZE(requests));
    put_choice(filter, __NR_tgkill, HALF * 0, &self, 1); /* abort(3) */
    put_getrlimit(filter);
    if (thread != SANDBOX_STATUS)
        put_policy(filter);
    if (thread == SANDBOX_CLIENT) /* the others have all theirs from the main thread */
        put_socket(filter);
    put_no_code(filter, __NR_mmap);
    put_no_code(filter, __NR_mprotect);
}

static void put_filter(struct filter *filter, enum sandbox_thread thread)
{
    put_load(filter, offsetof(struct seccomp_data, arch));
    filter_put(filter, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    put_return(filter, SECCOMP_RET_KILL_PROCESS);
    put_load(filter, offsetof(struct seccomp_data, nr));
    filter_put(filter, BPF_JMP | BPF_JGE | BPF_K, X32_CALLS, 0, 1);
    put_return(filter, SECCOMP_RET_KILL_PROCESS);
    put_arguments(filter, thread);
    for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
        if ((allowed[i].threads & thread) != 0)
            put_return_if(filter, allowed[i].number, SECCOMP_RET_ALLOW);
    }
    for (size_t i = 0; i < ARRAY_SIZE(deadly); i++)
        put_return_if(filter, deadly[i], SECCOMP_RET_KILL_PROCESS);
    put_return(filter, SECCOMP_RET_TRAP);
}

int sandbox_restrict_calls(enum sandbox_thread thread)
{
    struct filter filter = {.count = 0};
    put_filter(&filter, thread);
    const struct sock_fprog program = {filter.count, filter.code};
    /* Not seccomp(2), which outer filters forget more often. */
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 1;
}

/* ---- refusals ---- */

enum { FROM_SECCOMP = 1 }; /* SYS_SECCOMP, which musl lacks */

static _Atomic unsigned int refusals;
static _Atomic int last_refused;

/* The first time that glibc gives memory of a thread back, it looks at this file. It goes on
 * without. */
static bool is_harmless(const siginfo_t *info, uintptr_t second_argument)
{
#ifdef __GLIBC__
    return info->si_syscall == __NR_openat &&
           strcmp((const char *)second_argument, "/proc/sys/vm/overcommit_memory") == 0;
#else
    return false;
#endif
}

/* Runs in the thread, in place of the call. */
static void refuse_call(int number, siginfo_t *info, void *arg)
{
    ucontext_t *context = arg;
    if (info->si_code != FROM_SECCOMP) { /* somebody has sent it, to end the process */
        const struct sigaction usual = {.sa_handler = SIG_DFL};
        (void)sigaction(number, &usual, NULL);
        (void)raise(number);
        return;
    }
#ifdef __x86_64__
    greg_t *registers = context->uc_mcontext.gregs;
    uintptr_t second_argument = (uintptr_t)registers[REG_RSI];
    registers[REG_RAX] = -EPERM;
#else
    unsigned long long *registers = context->uc_mcontext.regs;
    uintptr_t second_argument = (uintptr_t)registers[1];
    registers[0] = (unsigned long long)-EPERM;
#endif
    if (is_harmless(info, second_argument))
        return;
    atomic_store(&last_refused, info->si_syscall);
    (void)atomic_fetch_add(&refusals, 1);
}

void sandbox_watch_calls(void)
{
    struct sigaction action = {.sa_sigaction = refuse_call, .sa_flags = SA_SIGINFO};
    (void)sigaction(SIGSYS, &action, NULL);
}

unsigned int sandbox_refused_calls(int *ret_last)
{
    unsigned int count = atomic_load(&refusals);
    *ret_last = atomic_load(&last_refused);
    return count;
}

#else

int sandbox_restrict_calls(enum sandbox_thread thread)
{
    return -ENOSYS;
}

void sandbox_watch_calls(void)
{
}

unsigned int sandbox_refused_calls(int *ret_last)
{
    *ret_last = 0;
    return 0;
}

#endif
