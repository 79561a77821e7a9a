#include "testing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, strerror(errno));
    abort();
}

uint64_t random_next(struct random *random)
{
    /* splitmix64 */
    uint64_t z = (random->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

size_t random_below(struct random *random, size_t below)
{
    return (size_t)(random_next(random) % below);
}

bool random_permille(struct random *random, unsigned int permille)
{
    return permille > 0 && random_next(random) % 1000 < permille;
}

struct addr tcp_loopback(uint16_t port)
{
    struct addr addr = {.len = sizeof(addr.v4)};
    addr.v4.sin_family = AF_INET;
    addr.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.v4.sin_port = htons(port);
    return addr;
}

int tcp_listener(struct addr *ret)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    need(fd >= 0, "socket");
    *ret = tcp_loopback(0);
    need(bind(fd, &ret->any, ret->len) == 0 && listen(fd, 128) == 0, "listen");
    need(getsockname(fd, &ret->any, &ret->len) == 0, "getsockname");
    return fd;
}

int tcp_dial(const struct addr *addr)
{
    int fd = socket(addr->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    need(fd >= 0, "socket");
    if (connect(fd, &addr->any, addr->len) < 0 && errno != EINPROGRESS) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static void set_buffers(int fd, int size)
{
    if (size == 0)
        return;
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

void tcp_pair(int fds[2], int buffer_size)
{
    struct addr addr;
    int listener = tcp_listener(&addr);
    set_buffers(listener, buffer_size);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fds[0] >= 0, "socket");
    set_buffers(fds[0], buffer_size);
    need(connect(fds[0], &addr.any, addr.len) == 0, "connect");
    fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    need(fds[1] >= 0, "accept");
    need(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0, "fcntl");
    set_buffers(fds[1], buffer_size);
    tcp_abort_on_close(fds[1]);
    (void)close(listener);
}

void tcp_without_pacing(const int fds[2])
{
    for (unsigned int i = 0; i < 2; i++)
        (void)setsockopt(fds[i], IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

static bool port_is_free(uint16_t port)
{
    struct addr addr = tcp_loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    need(fd >= 0, "socket");
    bool is_free = bind(fd, &addr.any, addr.len) == 0;
    (void)close(fd);
    return is_free;
}

/* Test programs run at the same time, and a port is free until its test binds it. The process that
 * has locked the port's byte of this file may have it (fcntl(2), F_SETLK): until it ends. Opened
 * before any test counts descriptors. -1: another user's file, or none; then luck decides. */
static int port_locks = -1;

__attribute__((constructor)) static void open_port_locks(void)
{
    port_locks =
        open("/tmp/rathole-uring-test-ports", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
}

static bool port_lock(uint16_t port)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = port, .l_len = 1};
    return port_locks < 0 || fcntl(port_locks, F_SETLK, &lock) == 0;
}

/* Below the ephemeral range (32768 and up), so that no connection of a test takes the port, and
 * below those of the end-to-end tests. Each test program starts at another port. */
uint16_t free_port(void)
{
    enum { FIRST = 5000, COUNT = 6000 };
    static unsigned int given;
    unsigned int start = (unsigned int)getpid() * 37 % COUNT;
    for (unsigned int i = 0; i < COUNT; i++) {
        uint16_t port = (uint16_t)(FIRST + (start + given++) % COUNT);
        if (port_lock(port) && port_is_free(port))
            return port;
    }
    need(false, "a free port");
    return 0;
}

void tcp_abort_on_close(int fd)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

void tcp_close_now(int fd)
{
    tcp_abort_on_close(fd);
    (void)close(fd);
}

size_t open_fd_count(void)
{
    size_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    need(dir != NULL, "/proc/self/fd");
    while (readdir(dir) != NULL)
        count++;
    (void)closedir(dir);
    return count;
}

uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 10) : otherwise;
}

uint64_t seeds_of(uint64_t count)
{
    uint64_t part = count * env_number("TEST_SEEDS_PERCENT", 100) / 100;
    return part > 0 ? part : 1;
}
