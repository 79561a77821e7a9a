/* The sockets that the environment passes (io/inherit.h). The input is what each descriptor is, then
 * LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES. The kernel is this file: the linker replaces the calls that
 * look at a descriptor, so no real one is touched. Each socket is closed once or taken once, none that
 * was not passed; names go to the descriptors in order. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "fuzz.h"
#include "io/inherit.h"
#include "script.h"

enum { FIRST_FD = 3, FDS = 12, TEXT_MAX = 200 };

enum kind { NOT_OPEN, TCP, UDP, UNIX_STREAM, UNIX_DGRAM, OTHER, KINDS };

static struct {
    enum kind kind;
    bool is_v6, is_connected, is_listening;
    uint16_t port;
    unsigned int closed;
} fds[FDS];
static bool is_ours; /* the calls of now come from the code under test */

/* fcntl64: meson builds with 64-bit offsets. */

int __real_close(int fd);
int __wrap_close(int fd);
int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size);
int __real_getsockname(int fd, struct sockaddr *addr, socklen_t *size);
int __wrap_getsockname(int fd, struct sockaddr *addr, socklen_t *size);
int __real_getpeername(int fd, struct sockaddr *addr, socklen_t *size);
int __wrap_getpeername(int fd, struct sockaddr *addr, socklen_t *size);

static bool is_open(int fd)
{
    return fd >= FIRST_FD && fd < FIRST_FD + FDS && fds[fd - FIRST_FD].kind != NOT_OPEN &&
           fds[fd - FIRST_FD].closed == 0;
}

static int bad_fd(void)
{
    errno = EBADF;
    return -1;
}

int __wrap_close(int fd)
{
    if (!is_ours)
        return __real_close(fd);
    FUZZ_CHECK(is_open(fd));
    fds[fd - FIRST_FD].closed++;
    return 0;
}

int __wrap_fcntl64(int fd, int command, ...)
{
    va_list args;
    va_start(args, command);
    long argument = va_arg(args, long);
    va_end(args);
    if (!is_ours)
        return __real_fcntl64(fd, command, argument);
    return is_open(fd) ? 0 : bad_fd();
}

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    if (!is_ours)
        return __real_getsockopt(fd, level, name, value, size);
    if (!is_open(fd))
        return bad_fd();
    enum kind kind = fds[fd - FIRST_FD].kind;
    bool is_unix = kind == UNIX_STREAM || kind == UNIX_DGRAM;
    int result = 0; /* of others: also IPV6_V6ONLY */
    if (level == SOL_SOCKET && name == SO_TYPE)
        result = kind == TCP || kind == UNIX_STREAM ? SOCK_STREAM : SOCK_DGRAM;
    else if (level == SOL_SOCKET && name == SO_DOMAIN)
        result = is_unix ? AF_UNIX : fds[fd - FIRST_FD].is_v6 ? AF_INET6 : AF_INET;
    else if (level == SOL_SOCKET && name == SO_PROTOCOL)
        result = kind == TCP ? IPPROTO_TCP : kind == UDP ? IPPROTO_UDP : 0;
    else if (level == SOL_SOCKET && name == SO_ACCEPTCONN)
        result = fds[fd - FIRST_FD].is_listening;
    memcpy(value, &result, sizeof(result));
    return 0;
}

static struct addr addr_of(size_t at)
{
    struct addr addr = {.len = sizeof(addr.v4)};
    if (fds[at].is_v6) {
        addr.len = sizeof(addr.v6);
        addr.v6.sin6_family = AF_INET6;
        addr.v6.sin6_port = htons(fds[at].port);
    } else {
        addr.v4.sin_family = AF_INET;
        addr.v4.sin_port = htons(fds[at].port);
    }
    return addr;
}

int __wrap_getsockname(int fd, struct sockaddr *addr, socklen_t *size)
{
    if (!is_ours)
        return __real_getsockname(fd, addr, size);
    if (!is_open(fd))
        return bad_fd();
    enum kind kind = fds[fd - FIRST_FD].kind;
    struct addr own = addr_of((size_t)(fd - FIRST_FD));
    if (kind == UNIX_STREAM)
        own = addr_of_unix("/run/a");
    memcpy(addr, &own.any, MIN(*size, own.len));
    *size = own.len;
    return 0;
}

int __wrap_getpeername(int fd, struct sockaddr *addr, socklen_t *size)
{
    if (!is_ours)
        return __real_getpeername(fd, addr, size);
    if (is_open(fd) && fds[fd - FIRST_FD].is_connected)
        return 0;
    errno = ENOTCONN;
    return -1;
}

/* ---- the input ---- */

static void take_fds(struct script *script)
{
    for (size_t i = 0; i < FDS; i++) {
        uint8_t byte = script_byte(script);
        fds[i].kind = (enum kind)(byte % KINDS);
        fds[i].is_v6 = (byte & 16) != 0;
        fds[i].is_connected = (byte & 96) == 96;
        fds[i].is_listening = (byte & 128) != 0;
        fds[i].port = (uint16_t)(script_byte(script) % 8);
        fds[i].closed = 0;
    }
}

/* Text cannot have a zero byte in the environment. */
static void take_text(struct script *script, char out[static TEXT_MAX + 1])
{
    size_t size;
    const uint8_t *piece = script_piece(script, TEXT_MAX, &size);
    for (size_t i = 0; i < size; i++)
        out[i] = piece[i] != 0 ? (char)piece[i] : '0';
    out[size] = '\0';
}

static void check_names(const struct inherited *inherited, const char *names)
{
    const char *at = names;
    for (size_t i = 0; i < inherited->count; i++) {
        const char *end = at != NULL ? strchrnul(at, ':') : NULL;
        size_t size = at != NULL ? (size_t)(end - at) : 0;
        const char *name = inherited->items[i].name;
        if (at != NULL)
            FUZZ_CHECK(strlen(name) == size && memcmp(name, at, size) == 0);
        at = end != NULL && *end == ':' ? end + 1 : NULL;
    }
}

static void check_taking(struct inherited *inherited)
{
    for (size_t i = 0; i < FDS; i++) {
        struct addr addr = addr_of(i);
        struct inherited_socket socket;
        int type = fds[i].kind == UDP ? SOCK_DGRAM : SOCK_STREAM;
        size_t count = inherited_count(inherited, &addr, type);
        FUZZ_CHECK(count <= inherited->count);
        if (!inherited_take(inherited, &addr, type, &socket)) {
            FUZZ_CHECK(count == 0);
            continue;
        }
        FUZZ_CHECK(is_open(socket.fd) && socket.type == type &&
                   !socket.is_listening ==
                       !(type == SOCK_STREAM && fds[socket.fd - FIRST_FD].is_listening));
        FUZZ_CHECK(!fds[socket.fd - FIRST_FD].is_connected);
        FUZZ_CHECK(addr_port(&socket.addr) == addr_port(&addr) && addr_port(&addr) != 0);
        (void)close(socket.fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script script = {data, size};
    struct inherited inherited;
    char pid[TEXT_MAX + 1], count[TEXT_MAX + 1], names[TEXT_MAX + 1];
    uint8_t choice = script_byte(&script);
    take_fds(&script);
    take_text(&script, count);
    take_text(&script, names);
    take_text(&script, pid);
    if ((choice & 1) != 0)
        (void)snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    (void)setenv("LISTEN_PID", pid, 1);
    (void)setenv("LISTEN_FDS", count, 1);
    (void)setenv("LISTEN_FDNAMES", names, 1);
    is_ours = true;
    int shared = (int)(choice >> 1 & 15) - 1;
    int result = inherited_init(&inherited, shared);
    FUZZ_CHECK(result == 0 || result == -EINVAL);
    FUZZ_CHECK(getenv("LISTEN_PID") == NULL && getenv("LISTEN_FDS") == NULL &&
               getenv("LISTEN_FDNAMES") == NULL);
    size_t passed = inherited.count;
    FUZZ_CHECK(passed <= LIMIT_INHERITED && (result == 0 || passed == 0));
    if (passed > 0)
        FUZZ_CHECK(strtoul(count, NULL, 10) == passed && strtol(pid, NULL, 10) == getpid());
    check_names(&inherited, names);
    for (size_t i = 0; i < passed; i++)
        FUZZ_CHECK(inherited.items[i].is_shared ==
                   (shared == INHERITED_ALL_SHARED || (int)i < shared));
    if ((choice & 32) != 0)
        check_taking(&inherited);
    inherited_finish(&inherited);
    is_ours = false;
    for (size_t i = 0; i < FDS; i++)
        FUZZ_CHECK(fds[i].closed == (i < passed && fds[i].kind != NOT_OPEN ? 1 : 0));
    return 0;
}
