/* Faults at system calls that the program makes itself, and at allocation. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "faults.h"

/* Declares the real function and the one in its place. */
#define WRAP(type, name, ...)        \
    type __real_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__); \
    type __wrap_##name(__VA_ARGS__)

/* True: the call fails, and errno says how. *ret_other: a failure that is no error. */
static bool fails(enum fault_call call, unsigned int kinds, enum fault_what *ret_other)
{
    struct fault fault = faults_at(call, kinds);
    *ret_other = fault.what;
    if (fault.what == FAULT_DELAY)
        faults_wait();
    if (fault.what != FAULT_ERROR)
        return false;
    errno = fault.error;
    return true;
}

static bool fails_plainly(enum fault_call call)
{
    enum fault_what other;
    return fails(call, FAULT_ALL, &other);
}

/* The same for a call with a size, which a short count cuts. */
static bool fails_or_cuts(enum fault_call call, size_t *size)
{
    enum fault_what other;
    unsigned int kinds = *size > 1 ? FAULT_ALL : FAULT_ALL & ~FAULT_BIT(FAULT_SHORT);
    bool failed = fails(call, kinds, &other);
    if (other == FAULT_SHORT)
        *size = 1;
    return failed;
}

/* ---- sockets ---- */

WRAP(int, socket, int domain, int type, int protocol)
{
    return fails_plainly(FAULT_SOCKET) ? -1 : __real_socket(domain, type, protocol);
}

WRAP(int, bind, int fd, const struct sockaddr *addr, socklen_t len)
{
    return fails_plainly(FAULT_BIND) ? -1 : __real_bind(fd, addr, len);
}

WRAP(int, listen, int fd, int backlog)
{
    return fails_plainly(FAULT_LISTEN) ? -1 : __real_listen(fd, backlog);
}

WRAP(int, connect, int fd, const struct sockaddr *addr, socklen_t len)
{
    return fails_plainly(FAULT_CONNECT) ? -1 : __real_connect(fd, addr, len);
}

WRAP(int, setsockopt, int fd, int level, int name, const void *value, socklen_t len)
{
    return fails_plainly(FAULT_SETSOCKOPT) ? -1 : __real_setsockopt(fd, level, name, value, len);
}

WRAP(int, getsockopt, int fd, int level, int name, void *value, socklen_t *len)
{
    return fails_plainly(FAULT_GETSOCKOPT) ? -1 : __real_getsockopt(fd, level, name, value, len);
}

WRAP(int, shutdown, int fd, int how)
{
    /* -ENOTCONN: the peer has reset the connection, which every other call says too. That would not
     * be so here, so the end of the stream is sent all the same. */
    bool failed = fails_plainly(FAULT_SHUTDOWN);
    int result = __real_shutdown(fd, how);
    return failed ? -1 : result;
}

WRAP(ssize_t, send, int fd, const void *data, size_t size, int flags)
{
    return fails_or_cuts(FAULT_SEND_NOW, &size) ? -1 : __real_send(fd, data, size, flags);
}

WRAP(ssize_t, recv, int fd, void *data, size_t size, int flags)
{
    return fails_or_cuts(FAULT_RECV_NOW, &size) ? -1 : __real_recv(fd, data, size, flags);
}

/* Whether the descriptor is a pipe's. */
static bool is_pipe(int fd)
{
    return fcntl(fd, F_GETPIPE_SZ) >= 0;
}

WRAP(ssize_t, splice, int in, off64_t *in_at, int out, off64_t *out_at, size_t size,
     unsigned int flags)
{
    enum fault_call call = is_pipe(in) ? FAULT_SPLICE_OUT : FAULT_SPLICE_IN;
    enum fault_what other;
    if (fails(call, FAULT_ALL, &other))
        return -1;
    if (other == FAULT_ZERO)
        return 0; /* as it does at TCP's urgent mark behind a FIN */
    return __real_splice(in, in_at, out, out_at, other == FAULT_SHORT ? 1 : size, flags);
}

WRAP(int, sendmmsg, int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    size_t most = count;
    if (fails_or_cuts(FAULT_SENDMMSG, &most))
        return -1;
    return __real_sendmmsg(fd, messages, (unsigned int)most, flags);
}

WRAP(ssize_t, sendmsg, int fd, const struct msghdr *message, int flags)
{
    return fails_plainly(FAULT_SENDMSG) ? -1 : __real_sendmsg(fd, message, flags);
}

WRAP(int, recvmmsg, int fd, struct mmsghdr *messages, unsigned int count, int flags,
     struct timespec *timeout)
{
    size_t most = count;
    if (fails_or_cuts(FAULT_RECVMMSG, &most))
        return -1;
    return __real_recvmmsg(fd, messages, (unsigned int)most, flags, timeout);
}

/* ---- descriptors, threads, mappings ---- */

static __thread int small_pipe_fds[2] = {-1, -1};

WRAP(int, pipe2, int fds[2], int flags)
{
    enum fault_what other;
    if (fails(FAULT_PIPE2, FAULT_ALL, &other))
        return -1;
    int result = __real_pipe2(fds, flags);
    if (result == 0 && other == FAULT_SMALL) {
        /* As beyond the soft limit of pages: it has 8 KiB and gets no more (pipe(7)). */
        (void)fcntl(fds[1], F_SETPIPE_SZ, 8192);
        small_pipe_fds[0] = fds[0];
        small_pipe_fds[1] = fds[1];
    }
    return result;
}

/* F_SETPIPE_SZ of a small pipe. The program calls it right after pipe2. */
static bool is_refused_size(int fd, int command)
{
    return command == F_SETPIPE_SZ && (fd == small_pipe_fds[0] || fd == small_pipe_fds[1]);
}

int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    void *value = va_arg(args, void *);
    va_end(args);
    if (is_refused_size(fd, command)) {
        small_pipe_fds[0] = small_pipe_fds[1] = -1;
        errno = EPERM;
        return -1;
    }
    return __real_fcntl64(fd, command, value);
}

WRAP(int, eventfd, unsigned int count, int flags)
{
    return fails_plainly(FAULT_EVENTFD) ? -1 : __real_eventfd(count, flags);
}

WRAP(int, epoll_create1, int flags)
{
    return fails_plainly(FAULT_EPOLL_CREATE) ? -1 : __real_epoll_create1(flags);
}

WRAP(int, epoll_ctl, int set, int operation, int fd, struct epoll_event *event)
{
    /* The other operations allocate nothing and have no errors but those of wrong arguments. */
    if (operation == EPOLL_CTL_ADD && fails_plainly(FAULT_EPOLL_ADD))
        return -1;
    return __real_epoll_ctl(set, operation, fd, event);
}

WRAP(int, epoll_wait, int set, struct epoll_event *events, int count, int timeout)
{
    return fails_plainly(FAULT_EPOLL_WAIT) ? -1 : __real_epoll_wait(set, events, count, timeout);
}

WRAP(int, pthread_create, pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
     void *arg)
{
    if (fails_plainly(FAULT_PTHREAD_CREATE))
        return errno;
    return __real_pthread_create(thread, attr, run, arg);
}

WRAP(void *, mmap64, void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    if (fails_plainly(FAULT_MMAP))
        return MAP_FAILED;
    return __real_mmap64(at, size, protection, flags, fd, offset);
}

/* ---- memory ---- */

static _Atomic int64_t blocks;

int64_t faults_blocks(void)
{
    return atomic_load(&blocks);
}

static void *counted(void *block)
{
    if (block != NULL)
        (void)atomic_fetch_add(&blocks, 1);
    return block;
}

WRAP(void *, malloc, size_t size)
{
    return fails_plainly(FAULT_ALLOC) ? NULL : counted(__real_malloc(size));
}

WRAP(void *, calloc, size_t count, size_t size)
{
    return fails_plainly(FAULT_ALLOC) ? NULL : counted(__real_calloc(count, size));
}

WRAP(void *, realloc, void *block, size_t size)
{
    if (fails_plainly(FAULT_ALLOC))
        return NULL;
    bool is_new = block == NULL;
    void *grown = __real_realloc(block, size);
    return is_new ? counted(grown) : grown;
}

WRAP(int, posix_memalign, void **ret, size_t alignment, size_t size)
{
    if (fails_plainly(FAULT_ALLOC))
        return ENOMEM;
    int result = __real_posix_memalign(ret, alignment, size);
    if (result == 0)
        (void)counted(*ret);
    return result;
}

WRAP(void *, aligned_alloc, size_t alignment, size_t size)
{
    return fails_plainly(FAULT_ALLOC) ? NULL : counted(__real_aligned_alloc(alignment, size));
}

WRAP(char *, strdup, const char *text)
{
    return fails_plainly(FAULT_ALLOC) ? NULL : counted(__real_strdup(text));
}

WRAP(char *, strndup, const char *text, size_t size)
{
    return fails_plainly(FAULT_ALLOC) ? NULL : counted(__real_strndup(text, size));
}

int __real_vasprintf(char **ret, const char *format, va_list args);

static int print(char **ret, const char *format, va_list args)
{
    if (fails_plainly(FAULT_ALLOC))
        return -1;
    int size = __real_vasprintf(ret, format, args);
    if (size >= 0)
        (void)counted(*ret);
    return size;
}

int __wrap_vasprintf(char **ret, const char *format, va_list args);
int __wrap_vasprintf(char **ret, const char *format, va_list args)
{
    return print(ret, format, args);
}

int __wrap_asprintf(char **ret, const char *format, ...);
int __wrap_asprintf(char **ret, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = print(ret, format, args);
    va_end(args);
    return size;
}

/* What the compiler makes of the two where it checks sizes (_FORTIFY_SOURCE). */
int __wrap___vasprintf_chk(char **ret, int flag, const char *format, va_list args);
int __wrap___vasprintf_chk(char **ret, int flag, const char *format, va_list args)
{
    return print(ret, format, args);
}

int __wrap___asprintf_chk(char **ret, int flag, const char *format, ...);
int __wrap___asprintf_chk(char **ret, int flag, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = print(ret, format, args);
    va_end(args);
    return size;
}

WRAP(void, free, void *block)
{
    if (block != NULL)
        (void)atomic_fetch_sub(&blocks, 1);
    __real_free(block);
}
