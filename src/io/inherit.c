#include "io/inherit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/unix_socket.h"

enum { FIRST_FD = 3 };

/* ---- the environment ---- */

/* Parses decimal digits, up to max. 0 or -EINVAL. */
static int inherit_number(const char *text, long max, long *ret)
{
    char *end;
    if (text == NULL || text[0] < '0' || text[0] > '9')
        return -EINVAL;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || value > max)
        return -EINVAL;
    *ret = value;
    return 0;
}

static bool is_for_us(const char *pid_text)
{
    long pid;
    return inherit_number(pid_text, INT32_MAX, &pid) == 0 && pid == (long)getpid();
}

static void forget_environment(void)
{
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_FDNAMES");
    (void)unsetenv("LISTEN_PIDFDID");
}

/* ---- what a descriptor is ---- */

static int option_of(int fd, int option)
{
    int value = -1;
    socklen_t len = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -1 : value;
}

static void set_nonblocking(int fd, bool nonblocking)
{
    int flags = fcntl(fd, F_GETFL);
    int wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (flags >= 0 && flags != wanted)
        (void)fcntl(fd, F_SETFL, wanted);
}

/* A listener, or a socket that will listen; not a connection. */
static void examine_unix(struct inherited_socket *socket)
{
    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof(peer);
    struct addr addr = unix_socket_addr(socket->fd);
    if (addr.len == 0 || getpeername(socket->fd, (struct sockaddr *)&peer, &peer_len) == 0)
        return;
    socket->type = SOCK_STREAM;
    socket->addr = addr;
    socket->is_listening = option_of(socket->fd, SO_ACCEPTCONN) == 1;
    set_nonblocking(socket->fd, false);
}

/* Fills type, addr and is_listening; type stays 0 if this program has no use for the socket. */
static void examine(struct inherited_socket *socket)
{
    int type = option_of(socket->fd, SO_TYPE);
    int domain = option_of(socket->fd, SO_DOMAIN);
    int protocol = option_of(socket->fd, SO_PROTOCOL);
    if (domain == AF_UNIX && type == SOCK_DGRAM) {
        socket->type = SOCK_DGRAM;
        return;
    }
    if (domain == AF_UNIX && type == SOCK_STREAM) {
        examine_unix(socket);
        return;
    }
    bool is_tcp = type == SOCK_STREAM && protocol == IPPROTO_TCP;
    bool is_udp = type == SOCK_DGRAM && protocol == IPPROTO_UDP;
    struct addr addr = {.len = sizeof(addr.v6)};
    struct sockaddr_storage peer;
    socklen_t peer_len = sizeof(peer);
    if ((domain != AF_INET && domain != AF_INET6) || (!is_tcp && !is_udp))
        return;
    if (getpeername(socket->fd, (struct sockaddr *)&peer, &peer_len) == 0)
        return; /* a connection */
    if (getsockname(socket->fd, &addr.any, &addr.len) < 0 || addr_port(&addr) == 0)
        return; /* not bound */
    socket->type = type;
    socket->addr = addr;
    socket->is_listening = is_tcp && option_of(socket->fd, SO_ACCEPTCONN) == 1;
    /* On a non-blocking listener the ring's accept returns -EAGAIN instead of waiting. */
    set_nonblocking(socket->fd, is_udp);
}

/* ---- taking over ---- */

/* Splits LISTEN_FDNAMES, in place, in the order of the descriptors. */
static void set_names(struct inherited *inherited, const char *text)
{
    if (text == NULL)
        return;
    inherited->names = strdup(text);
    char *rest = inherited->names; /* NULL: no memory, so the sockets have no names */
    for (size_t i = 0; rest != NULL && i < inherited->count; i++)
        inherited->items[i].name = strsep(&rest, ":");
}

static int inherit_take_over(struct inherited *inherited, size_t count, int shared_count)
{
    inherited->items = calloc(count + 1, sizeof(*inherited->items));
    if (inherited->items == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct inherited_socket *socket = &inherited->items[i];
        int flags = fcntl(FIRST_FD + (int)i, F_GETFD);
        socket->fd = flags < 0 ? -1 : FIRST_FD + (int)i;
        socket->name = "";
        socket->is_shared = shared_count == INHERITED_ALL_SHARED || (int)i < shared_count;
        if (socket->fd < 0)
            continue;
        (void)fcntl(socket->fd, F_SETFD, flags | FD_CLOEXEC);
        examine(socket);
    }
    inherited->count = count;
    return 0;
}

int inherited_init(struct inherited *inherited, int shared_count)
{
    *inherited = (struct inherited){0};
    const char *fds = getenv("LISTEN_FDS");
    int result = 0;
    if (fds != NULL && is_for_us(getenv("LISTEN_PID"))) {
        long count;
        result = inherit_number(fds, LIMIT_INHERITED, &count);
        if (result == 0)
            result = inherit_take_over(inherited, (size_t)count, shared_count);
        if (result == 0)
            set_names(inherited, getenv("LISTEN_FDNAMES"));
    }
    forget_environment();
    return result;
}

void inherited_finish(struct inherited *inherited)
{
    struct inherited_socket socket;
    while (inherited_take_any(inherited, &socket))
        (void)close(socket.fd);
    free(inherited->items);
    free(inherited->names);
    *inherited = (struct inherited){0};
}

/* ---- finding a socket ---- */

static bool is_match(const struct inherited_socket *socket, const struct addr *addr, int type)
{
    return socket->fd >= 0 && socket->type == type && socket->addr.len != 0 &&
           addr_equal(&socket->addr, addr);
}

/* ListenStream=2333 makes systemd bind [::]:2333, a dual-stack socket that accepts IPv4 too. A
 * second socket on 0.0.0.0:2333 could not be bound beside it, so this one serves both. */
static bool is_dual_stack_match(const struct inherited_socket *socket, const struct addr *addr,
                                int type)
{
    if (socket->fd < 0 || socket->type != type || socket->addr.len == 0 ||
        addr->any.sa_family != AF_INET || addr->v4.sin_addr.s_addr != htonl(INADDR_ANY))
        return false;
    int v6_only = 1;
    socklen_t len = sizeof(v6_only);
    return socket->addr.any.sa_family == AF_INET6 &&
           IN6_IS_ADDR_UNSPECIFIED(&socket->addr.v6.sin6_addr) &&
           addr_port(&socket->addr) == addr_port(addr) &&
           getsockopt(socket->fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, &len) == 0 && v6_only == 0;
}

typedef bool match_fn(const struct inherited_socket *socket, const struct addr *addr, int type);

static struct inherited_socket *inherit_find(const struct inherited *inherited,
                                             const struct addr *addr, int type, size_t *ret_count)
{
    static match_fn *const matches[] = {is_match, is_dual_stack_match};
    struct inherited_socket *first = NULL;
    *ret_count = 0;
    for (size_t k = 0; k < ARRAY_SIZE(matches) && first == NULL; k++) {
        for (size_t i = 0; i < inherited->count; i++) {
            if (!matches[k](&inherited->items[i], addr, type))
                continue;
            if (first == NULL)
                first = &inherited->items[i];
            (*ret_count)++;
        }
    }
    return first;
}

size_t inherited_count(const struct inherited *inherited, const struct addr *addr, int type)
{
    size_t count = 0;
    if (inherited != NULL)
        (void)inherit_find(inherited, addr, type, &count);
    return count;
}

bool inherited_take(struct inherited *inherited, const struct addr *addr, int type,
                    struct inherited_socket *ret)
{
    size_t count;
    struct inherited_socket *found =
        inherited != NULL ? inherit_find(inherited, addr, type, &count) : NULL;
    if (found == NULL)
        return false;
    *ret = *found;
    found->fd = -1;
    return true;
}

/* Whether `passed` is `name` as app/program.c passes it: other characters than printable ASCII, and
 * colons, are replaced by "_". */
static bool is_passed_as(const char *name, const char *passed)
{
    for (; *name != '\0' && *passed != '\0'; name++, passed++) {
        bool is_kept = *name > 0x20 && *name < 0x7f && *name != ':';
        if (*passed != (is_kept ? *name : '_'))
            return false;
    }
    return *name == *passed;
}

bool inherited_find_named(const struct inherited *inherited, const char *name, int type,
                          uint16_t port, struct addr *ret)
{
    for (size_t i = 0; inherited != NULL && i < inherited->count; i++) {
        const struct inherited_socket *socket = &inherited->items[i];
        if (socket->fd < 0 || socket->type != type || addr_port(&socket->addr) != port ||
            socket->name == NULL || !is_passed_as(name, socket->name))
            continue;
        *ret = socket->addr;
        return true;
    }
    return false;
}

bool inherited_take_any(struct inherited *inherited, struct inherited_socket *ret)
{
    for (size_t i = 0; i < inherited->count; i++) {
        if (inherited->items[i].fd < 0)
            continue;
        *ret = inherited->items[i];
        inherited->items[i].fd = -1;
        return true;
    }
    return false;
}
