#include "app/process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "io/inherit.h"

void process_ignore_signal(int number)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(number, &ignore, NULL);
}

void process_secure_start(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        /* open(2) takes the lowest free number, which is fd. Without /dev (an empty container) a
         * descriptor of the root directory keeps the number occupied, and writes to it fail. No
         * O_CLOEXEC: the program that an upgrade starts needs these three as well. */
        if (open("/dev/null", O_RDWR | O_NOCTTY) < 0)
            (void)open("/", O_PATH | O_DIRECTORY);
    }
    process_ignore_signal(SIGXFSZ);
}

static void process_wake(int number)
{
    (void)number; /* its system call returns */
}

/* -EINTR: not within this time. */
static int wait_random_for(unsigned int wait_ms)
{
    /* Every second from then on: the first signal may come just before the call. */
    const struct itimerval never = {0}, timer = {.it_interval.tv_sec = 1,
                                                 .it_value.tv_sec = wait_ms / 1000,
                                                 .it_value.tv_usec = wait_ms % 1000 * 1000};
    uint8_t byte;
    (void)setitimer(ITIMER_REAL, &timer, NULL);
    int result = getrandom(&byte, sizeof(byte), 0) < 0 ? -errno : 0;
    (void)setitimer(ITIMER_REAL, &never, NULL);
    return result;
}

int process_wait_random(void)
{
    const struct sigaction on_alarm = {.sa_handler = process_wake};
    struct sigaction before;
    sigset_t alarm, mask;
    uint8_t byte;
    if (getrandom(&byte, sizeof(byte), GRND_NONBLOCK) >= 0)
        return 0;
    if (errno != EAGAIN)
        return -errno;
    (void)sigemptyset(&alarm);
    (void)sigaddset(&alarm, SIGALRM);
    (void)sigaction(SIGALRM, &on_alarm, &before);
    (void)pthread_sigmask(SIG_UNBLOCK, &alarm, &mask);
    int result = wait_random_for(LIMIT_RANDOM_TELL_MS);
    if (result == -EINTR) {
        (void)fprintf(stderr, "rathole-uring: the kernel has no random numbers yet: waiting\n");
        result = wait_random_for(LIMIT_RANDOM_MS);
    }
    (void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
    (void)sigaction(SIGALRM, &before, NULL);
    return result == -EINTR ? -ETIMEDOUT : result;
}

static void raise_nofile_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_debug("cannot raise the limit of open files: %s", error_text(-errno));
}

/* Some kernels count a ring's memory against this limit, once the process is not root any more.
 * Root may raise the hard limit too. */
static void raise_memlock_limit(unsigned int workers)
{
    struct rlimit limit, wanted;
    wanted.rlim_cur = wanted.rlim_max = LIMIT_MEMLOCK_MIN + (rlim_t)workers * LIMIT_MEMLOCK_WORKER;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        return;
    if (limit.rlim_max < wanted.rlim_max && setrlimit(RLIMIT_MEMLOCK, &wanted) == 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        log_debug("cannot raise the limit of locked memory: %s", error_text(-errno));
}

void process_raise_limits(unsigned int workers)
{
    raise_nofile_limit();
    raise_memlock_limit(workers);
}

int process_open_signals(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigaddset(&set, SIGUSR2);
    /* Blocked and never read, because splice(2) has no MSG_NOSIGNAL. */
    (void)sigaddset(&set, SIGPIPE);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -EINVAL;
    (void)sigdelset(&set, SIGPIPE);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

bool process_is_asked_to_stop(unsigned int wait_ms)
{
    const struct timespec wait = {.tv_sec = wait_ms / 1000,
                                  .tv_nsec = (long)(wait_ms % 1000) * NS_PER_MS};
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    return sigtimedwait(&set, NULL, &wait) > 0;
}

void process_close_leftovers(struct inherited *inherited)
{
    struct inherited_socket left;
    while (inherited_take_any(inherited, &left)) {
        /* Passed by a predecessor of version 0.1.0. */
        bool is_address_lock = left.addr.len == 0 && left.type == SOCK_DGRAM;
        char text[ADDR_TEXT_SIZE] = "no socket of this program's kind";
        if (left.addr.len != 0)
            (void)addr_format(&left.addr, text, sizeof(text));
        if (!is_address_lock)
            log_warn(
                "inherited descriptor %d (%s): %s: nothing in the configuration is for it: closed",
                left.fd, left.name != NULL && left.name[0] != '\0' ? left.name : "without a name",
                text);
        (void)close(left.fd);
    }
    inherited_finish(inherited);
}
