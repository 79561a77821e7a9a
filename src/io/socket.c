#include "io/socket.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "io/pipe_pool.h"
#include "io/unix_socket.h"

static int result_of(ssize_t value)
{
    return value < 0 ? -errno : (int)value;
}

static void tcp_set_int(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

static int tcp_get_int(int fd, int option)
{
    int value = 0;
    socklen_t size = sizeof(value);
    return getsockopt(fd, IPPROTO_TCP, option, &value, &size) < 0 ? 0 : value;
}

static void lower(int fd, int option, int most)
{
    if (tcp_get_int(fd, option) > most)
        tcp_set_int(fd, IPPROTO_TCP, option, most);
}

/* A socket with TCP_USER_TIMEOUT is dead when that time has passed and one keepalive probe is
 * unanswered, however many more are allowed (tcp_keepalive_timer). So six have to be sent by then:
 * one lost packet must not end a session. */
static void probe_in_time(int fd)
{
    int timeout_ms = tcp_get_int(fd, TCP_USER_TIMEOUT);
    if (timeout_ms == 0)
        return;
    lower(fd, TCP_KEEPIDLE, MAX(timeout_ms * 2 / 5 / 1000, 1));
    lower(fd, TCP_KEEPINTVL, MAX(timeout_ms / 10 / 1000, 1));
}

void socket_set_options(int fd, const struct socket_options *options)
{
    if (options->nodelay)
        tcp_set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    if (options->keepalive_secs != 0) {
        tcp_set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        tcp_set_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)options->keepalive_secs);
        if (options->keepalive_interval != 0)
            tcp_set_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)options->keepalive_interval);
    }
    if (options->user_timeout_ms != 0)
        socket_set_user_timeout(fd, options->user_timeout_ms);
}

static int set_linger(int fd, int is_on)
{
    /* On, with a time of 0: a close discards unsent bytes and resets the connection (socket(7)). */
    struct linger linger = {.l_onoff = is_on, .l_linger = 0};
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0 ? -errno : 0;
}

/* SO_OOBINLINE keeps urgent bytes at their place in the stream, because a relay can't pass on the
 * urgent mark. SO_LINGER makes a close a reset until socket_close_cleanly: the kernel closes the
 * sockets of a killed process, and half a transfer must not look complete. Accepted sockets inherit
 * both options from their listener. */
static void prepare_connection(int fd)
{
    tcp_set_int(fd, SOL_SOCKET, SO_OOBINLINE, 1);
    (void)set_linger(fd, 1); /* a lack of it is as with other programs */
}

static bool is_prepared(int fd)
{
    struct linger linger = {0, 0};
    int inlined = 0;
    socklen_t linger_len = sizeof(linger), inlined_len = sizeof(inlined);
    return getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &linger_len) == 0 &&
           getsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &inlined, &inlined_len) == 0 &&
           linger.l_onoff != 0 && linger.l_linger == 0 && inlined != 0;
}

void socket_prepare_accepted(int fd)
{
    prepare_connection(fd);
    socket_set_user_timeout(fd, 0); /* 0.1.0 had one on its control port */
}

void socket_close_cleanly(int fd)
{
    static struct log_limit limit;
    uint32_t suppressed;
    int result = set_linger(fd, 0);
    /* A filter of system calls or of socket options may refuse it. What the peer has not read is
     * lost then, without another sign here. */
    if (result < 0 && log_allowed(&limit, &suppressed))
        log_warn("setsockopt(SO_LINGER): %s: a connection that has ended well is reset (%u similar "
                 "lines suppressed)",
                 error_text(result), suppressed);
}

void socket_change_options(int fd, const struct socket_options *options)
{
    if (!options->nodelay)
        tcp_set_int(fd, IPPROTO_TCP, TCP_NODELAY, 0);
    if (options->keepalive_secs == 0)
        tcp_set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
    socket_set_options(fd, options);
}

/* BBR's pacing costs a third of the throughput on loopback: docs/decisions.md, "The congestion
 * control of loopback connections is Reno". This has to be set before the connection exists,
 * because pacing stays on once BBR has begun it. Every kernel has Reno and allows it to every
 * user. */
static void set_congestion_control(int fd, const struct addr *addr)
{
    static const char name[] = "reno";
    if (addr_is_loopback(addr))
        (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, sizeof(name) - 1);
}

void socket_set_nodelay(int fd, bool nodelay)
{
    tcp_set_int(fd, IPPROTO_TCP, TCP_NODELAY, nodelay);
}

void socket_set_user_timeout(int fd, uint32_t timeout_ms)
{
    tcp_set_int(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)timeout_ms);
    if (timeout_ms != 0)
        probe_in_time(fd);
}

void socket_widen_window(int fd, int bytes)
{
    /* SO_RCVBUF would switch the kernel's buffer tuning off. A low-water mark makes the kernel grow
     * the buffer to hold it, and the buffer keeps that size when the mark goes back to 1
     * (tcp_set_rcvlowat, Linux 4.18). */
    socket_set_low_water(fd, bytes);
    socket_set_low_water(fd, 1);
}

void socket_set_unsent_limit(int fd, size_t bytes)
{
    tcp_set_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, (int)bytes);
}

int socket_for_dialing(const struct addr *to, const struct socket_options *options)
{
    int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (addr_is_unix(to)) {
        unix_socket_prepare_accepted(fd); /* the options below are TCP's */
        return fd;
    }
    prepare_connection(fd);
    socket_set_options(fd, options);
    set_congestion_control(fd, to);
    if (options->speaks_first)
        tcp_set_int(fd, IPPROTO_TCP, TCP_QUICKACK, 0);
    return fd;
}

int socket_connect_now(int fd, const struct addr *to)
{
    if (connect(fd, &to->any, to->len) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return -errno;
    /* Over loopback the connection is complete by now, but a non-blocking connect(2) returns
     * EINPROGRESS without looking. The second call looks. */
    if (connect(fd, &to->any, to->len) == 0)
        return 0;
    return errno == EALREADY || errno == EINTR ? -EINPROGRESS : -errno;
}

bool socket_error_is_of_address(int error)
{
    switch (-error) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case EAGAIN:
    case EINTR:
        return false;
    default:
        return error < 0;
    }
}

/* ---- listeners ---- */

/* An unbound TCP socket; "::" is dual-stack. */
static int make_listener(const struct addr *addr, bool reuse_addr, bool join_group)
{
    int fd = socket(addr->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    tcp_set_int(fd, SOL_SOCKET, SO_REUSEADDR, reuse_addr);
    if (addr->any.sa_family == AF_INET6)
        tcp_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    if (join_group)
        tcp_set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    return fd;
}

static int bind_made(int fd, const struct addr *addr)
{
    if (bind(fd, &addr->any, addr->len) < 0)
        return -errno;
    tcp_set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1); /* from here on other sockets may join */
    return 0;
}

static int tcp_bind_one(const struct addr *addr, const struct socket_options *options,
                        bool join_group, int *ret_fd)
{
    /* SO_REUSEADDR, because connections of a predecessor may be in TIME_WAIT. */
    CLEANUP_FD int fd = make_listener(addr, true, join_group);
    if (fd < 0)
        return fd;
    prepare_connection(fd); /* accepted sockets inherit this and the options that follow */
    socket_set_options(fd, options);
    set_congestion_control(fd, addr);
    int result = bind_made(fd, addr);
    if (result == 0)
        *ret_fd = take_fd(&fd);
    return result;
}

static int bind_guard(const struct addr *addr, bool reuse_addr, bool join_group, int *ret_fd)
{
    CLEANUP_FD int fd = make_listener(addr, reuse_addr, join_group);
    if (fd < 0)
        return fd;
    int result = bind_made(fd, addr);
    if (result < 0)
        return result;
    tcp_set_int(fd, SOL_SOCKET, SO_REUSEADDR, 0);
    *ret_fd = take_fd(&fd);
    return 0;
}

int socket_guard(const struct addr *addr, bool join_group, int *ret_fd)
{
    int result = bind_guard(addr, false, join_group, ret_fd);
    /* Perhaps only connections of a predecessor hold the address. They allow its reuse; another
     * guard or a listener does not, so this attempt fails for those. */
    if (result == -EADDRINUSE)
        result = bind_guard(addr, true, join_group, ret_fd);
    return result;
}

int socket_bind_group(const struct addr *addr, const struct socket_options *options,
                      bool is_guarded, int *ret_fds, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int result = tcp_bind_one(addr, options, is_guarded || i > 0, &ret_fds[i]);
        if (result < 0) {
            while (i-- > 0)
                (void)close(take_fd(&ret_fds[i]));
            return result;
        }
    }
    return 0;
}

int socket_join_group(const struct addr *addr, const struct socket_options *options, int *ret_fd)
{
    return tcp_bind_one(addr, options, true, ret_fd);
}

int socket_probe(const struct addr *addr, bool is_udp)
{
    CLEANUP_FD int fd =
        socket(addr->any.sa_family, (is_udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (!is_udp)
        tcp_set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (addr->any.sa_family == AF_INET6)
        tcp_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    return bind(fd, &addr->any, addr->len) < 0 ? -errno : 0;
}

bool socket_adopt(int fd, const struct addr *addr, const struct socket_options *options)
{
    /* socket_set_options only sets options; these may be set already and have to be off. */
    tcp_set_int(fd, IPPROTO_TCP, TCP_NODELAY, 0);
    tcp_set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
    socket_set_user_timeout(fd, 0);
    socket_set_options(fd, options);
    set_congestion_control(fd, addr);
    return is_prepared(fd);
}

int socket_listen(int fd)
{
    return result_of(listen(fd, SOCKET_BACKLOG));
}

int socket_accept_last(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return result_of(accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

void socket_unlisten(int fd)
{
    (void)shutdown(fd, SHUT_RD);
}

/* ---- state ---- */

int socket_peer(int fd, struct addr *ret)
{
    ret->len = sizeof(ret->v6);
    return result_of(getpeername(fd, &ret->any, &ret->len));
}

int socket_local(int fd, struct addr *ret)
{
    ret->len = sizeof(ret->v6);
    return result_of(getsockname(fd, &ret->any, &ret->len));
}

int socket_take_error(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return -errno;
    return -error;
}

int socket_peek(int fd)
{
    unsigned char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got > 0)
        return 1;
    if (got == 0)
        return ERR_EOF;
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

uint32_t socket_unsent(int fd)
{
    int unsent = 0;
    return ioctl(fd, SIOCOUTQ, &unsent) < 0 || unsent < 0 ? 0 : (uint32_t)unsent;
}

void socket_shutdown_send(int fd)
{
    (void)shutdown(fd, SHUT_WR);
}

/* ---- moving bytes ---- */

ssize_t socket_recv_now(int fd, void *buffer, size_t size)
{
    ssize_t got = recv(fd, buffer, size, MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}

ssize_t socket_peek_now(int fd, void *buffer, size_t size)
{
    ssize_t got = recv(fd, buffer, size, MSG_PEEK | MSG_DONTWAIT);
    return got < 0 ? -errno : got;
}

void socket_set_low_water(int fd, int bytes)
{
    tcp_set_int(fd, SOL_SOCKET, SO_RCVLOWAT, bytes);
}

ssize_t socket_send_now(int fd, const void *data, size_t size)
{
    ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

ssize_t socket_send_more(int fd, const void *data, size_t size)
{
    ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
    return sent < 0 ? -errno : sent;
}

ssize_t socket_splice_in(int fd, struct pipe *pipe, size_t max)
{
    /* Into a pipe that holds bytes, -EAGAIN could also mean that the pipe has no free slot. */
    assert(pipe->pending_bytes == 0);
    ssize_t got = splice(fd, NULL, pipe->write_fd, NULL, max, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    if (got < 0)
        return -errno;
    pipe->pending_bytes = (size_t)got;
    return got;
}

ssize_t socket_splice_out(struct pipe *pipe, int fd)
{
    /* Not SPLICE_F_MORE: the kernel would hold the last segment back for 200 ms, even with
     * TCP_NODELAY. */
    ssize_t sent = splice(pipe->read_fd, NULL, fd, NULL, pipe->pending_bytes,
                          SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    if (sent < 0)
        return -errno;
    pipe->pending_bytes -= (size_t)sent;
    return sent;
}
