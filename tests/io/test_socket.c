#include "io/socket.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "io/pipe_pool.h"
#include "testing.h"

static const struct socket_options no_options;

static int option_of(int fd, int level, int name)
{
    int value = -1;
    socklen_t len = sizeof(value);
    cr_assert_eq(getsockopt(fd, level, name, &value, &len), 0);
    return value;
}

/* Waits until what the peer did has arrived. */
static void wait_for(int fd, short events)
{
    struct pollfd pollfd = {.fd = fd, .events = events};
    cr_assert_eq(poll(&pollfd, 1, 5000), 1);
}

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]);
}

/* ---- options ---- */

Test(socket, options)
{
    struct socket_options options = {.nodelay = true,
                                     .keepalive_secs = 33,
                                     .keepalive_interval = 7};
    struct addr addr = tcp_loopback(1);
    int fd = socket_for_dialing(&addr, &options);
    cr_assert_geq(fd, 0);
    cr_assert((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    cr_assert((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    cr_assert_eq(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), 33);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), 7);
    /* With it, one unanswered probe is enough: several have to fit. */
    socket_set_user_timeout(fd, 20000);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 20000);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), 8);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), 2);
    socket_set_nodelay(fd, false);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    socket_set_user_timeout(fd, 0);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 0);
    (void)close(fd);
    fd = socket_for_dialing(&addr, &no_options);
    cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    cr_assert_eq(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    (void)close(fd);
    addr.any.sa_family = 12345;
    cr_assert_eq(socket_for_dialing(&addr, &no_options), -EAFNOSUPPORT);
}

/* A client's control channel has its user timeout from the options. It lowers what would leave no
 * room for several probes, and nothing else. */
Test(socket, options_of_a_control_channel)
{
    static const struct {
        struct socket_options options;
        int idle, interval;
    } cases[] = {
        {{.keepalive_secs = 20, .keepalive_interval = 8, .user_timeout_ms = 20000}, 8, 2},
        {{.keepalive_secs = 5, .keepalive_interval = 1, .user_timeout_ms = 20000}, 5, 1},
        {{.keepalive_secs = 8, .keepalive_interval = 2, .user_timeout_ms = 20000}, 8, 2},
        {{.keepalive_secs = 3, .keepalive_interval = 60, .user_timeout_ms = 20000}, 3, 2},
        {{.keepalive_secs = 33, .keepalive_interval = 7, .user_timeout_ms = 4321}, 1, 1},
        {{.keepalive_secs = 33, .keepalive_interval = 7}, 33, 7},
    };
    struct addr addr = tcp_loopback(1);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int fd = socket_for_dialing(&addr, &cases[i].options);
        cr_assert_geq(fd, 0);
        cr_expect_eq(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
        cr_expect_eq(option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT),
                     (int)cases[i].options.user_timeout_ms);
        cr_expect_eq(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), cases[i].idle, "%zu", i);
        cr_expect_eq(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), cases[i].interval, "%zu", i);
        (void)close(fd);
    }
    struct socket_options quiet = {.user_timeout_ms = 20000};
    int fd = socket_for_dialing(&addr, &quiet);
    cr_assert_eq(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 0, "keepalive_secs = 0 stays off");
    (void)close(fd);
}

/* A filter may refuse the option that makes a close clean, and then the peer sees a reset: the log
 * says so, once in a while. */
Test(socket, a_close_that_can_not_be_clean_is_told)
{
    char text[600] = "";
    int log = memfd_create("log", MFD_CLOEXEC), kept = dup(STDERR_FILENO), no_socket[2];
    cr_assert_eq(pipe(no_socket), 0);
    (void)dup2(log, STDERR_FILENO);
    socket_close_cleanly(no_socket[0]);
    socket_close_cleanly(no_socket[0]);
    (void)dup2(kept, STDERR_FILENO);
    cr_assert_gt(pread(log, text, sizeof(text) - 1, 0), 0);
    const char *line = strstr(text, "setsockopt(SO_LINGER)");
    cr_assert(line != NULL && strstr(line + 21, "SO_LINGER") == NULL, "%s", text);
    close_all((const int[]){log, kept, no_socket[0], no_socket[1]}, 4);
}

/* ---- connecting ---- */

Test(socket, connect_now)
{
    struct addr addr;
    int listener = tcp_listener(&addr);
    int fd = socket_for_dialing(&addr, &no_options);
    cr_assert_eq(socket_connect_now(fd, &addr), 0, "over loopback at once");
    struct addr peer;
    cr_assert_geq(socket_peer(fd, &peer), 0);
    cr_assert(addr_equal(&peer, &addr));
    cr_assert_eq(socket_take_error(fd), 0);
    (void)close(fd);
    (void)close(listener);
    struct addr nobody = tcp_loopback(free_port());
    fd = socket_for_dialing(&nobody, &no_options);
    cr_assert_eq(socket_connect_now(fd, &nobody), -ECONNREFUSED);
    cr_assert_eq(socket_peer(fd, &peer), -ENOTCONN);
    (void)close(fd);
}

Test(socket, connect_in_progress)
{
    struct addr addr = tcp_loopback(0);
    int fds[8];
    size_t count = 0;
    int result = 0;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(listener, &addr.any, addr.len), 0);
    cr_assert_eq(listen(listener, 0), 0);
    cr_assert_eq(getsockname(listener, &addr.any, &addr.len), 0);
    /* With a full backlog the kernel does not answer further connections. */
    while (count < 8 && result == 0) {
        fds[count] = socket_for_dialing(&addr, &no_options);
        result = socket_connect_now(fds[count++], &addr);
    }
    cr_assert_eq(result, -EINPROGRESS);
    cr_assert_eq(socket_take_error(fds[count - 1]), 0);
    close_all(fds, count);
    (void)close(listener);
}

Test(socket, pending_error_is_taken_once)
{
    int fds[2];
    tcp_pair(fds, 0);
    tcp_abort_on_close(fds[0]);
    (void)close(fds[0]);
    wait_for(fds[1], POLLIN);
    cr_assert_eq(socket_take_error(fds[1]), -ECONNRESET);
    cr_assert_eq(socket_take_error(fds[1]), 0);
    (void)close(fds[1]);
    cr_assert_eq(socket_take_error(fds[1]), -EBADF);
}

/* ---- listeners ---- */

/* Connects and closes: 0, or -ECONNREFUSED if there is no listener. */
static int dial_now(const struct addr *addr)
{
    int fd = socket_for_dialing(addr, &no_options);
    int result = socket_connect_now(fd, addr);
    (void)close(fd);
    return result;
}

enum { MEMBERS = 4 };

Test(socket, members_share_a_port_and_others_do_not)
{
    struct socket_options options = {.nodelay = true, .user_timeout_ms = 5000};
    struct addr addr = tcp_loopback(free_port());
    int fds[MEMBERS], more[MEMBERS];
    size_t before = open_fd_count();
    cr_assert_eq(socket_bind_group(&addr, &options, false, fds, MEMBERS), 0);
    cr_assert_eq(open_fd_count(), before + MEMBERS);
    for (size_t i = 0; i < MEMBERS; i++) {
        struct addr own = {.len = sizeof(own.v6)};
        cr_assert_eq(socket_listen(fds[i]), 0);
        cr_assert_eq(getsockname(fds[i], &own.any, &own.len), 0);
        cr_assert(addr_equal(&own, &addr));
        cr_assert((fcntl(fds[i], F_GETFD) & FD_CLOEXEC) != 0);
    }
    cr_assert_eq(socket_bind_group(&addr, &options, false, more, MEMBERS), -EADDRINUSE);
    cr_assert_eq(open_fd_count(), before + MEMBERS);
    /* With enough connections each member gets some. */
    int dialled[100];
    unsigned int got[MEMBERS] = {0};
    for (size_t i = 0; i < ARRAY_SIZE(dialled); i++)
        cr_assert_geq(dialled[i] = tcp_dial(&addr), 0);
    for (size_t i = 0; i < MEMBERS; i++) {
        int fd;
        cr_assert_eq(fcntl(fds[i], F_SETFL, O_NONBLOCK), 0);
        while ((fd = accept4(fds[i], NULL, NULL, SOCK_CLOEXEC)) >= 0) {
            cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 1, "inherited");
            cr_assert_eq(option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), 5000, "inherited");
            got[i]++;
            (void)close(fd);
        }
        cr_assert_gt(got[i], 0);
    }
    cr_assert_eq(got[0] + got[1] + got[2] + got[3], ARRAY_SIZE(dialled));
    close_all(dialled, ARRAY_SIZE(dialled));
    close_all(fds, MEMBERS);
    cr_assert_eq(socket_bind_group(&addr, &options, false, more, MEMBERS), 0,
                 "at once after its end");
    close_all(more, MEMBERS);
    cr_assert_eq(open_fd_count(), before);
}

static int bind_guarded(const struct addr *addr, int *guard, int *fds, size_t count)
{
    int result = socket_guard(addr, false, guard);
    if (result < 0)
        return result;
    result = socket_bind_group(addr, &no_options, true, fds, count);
    if (result < 0)
        (void)close(*guard);
    return result;
}

/* Leaves connections in TIME_WAIT on the listener's side. */
static void serve_once(const struct addr *addr, const int *fds, size_t count)
{
    cr_assert_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    for (size_t i = 0; i < count; i++)
        cr_assert_eq(socket_listen(fds[i]), 0);
    for (unsigned int i = 0; i < 20; i++) {
        int dialled = tcp_dial(addr), accepted = accept4(fds[0], NULL, NULL, SOCK_CLOEXEC);
        if (accepted >= 0)
            (void)close(accepted);
        (void)close(dialled);
    }
    for (size_t i = 0; i < count; i++)
        socket_unlisten(fds[i]);
}

/* A group that does not listen shares its address with any socket that has SO_REUSEADDR. The guard
 * prevents that, also when the address has connections in TIME_WAIT. */
Test(socket, a_guard_keeps_others_out_of_a_group_that_does_not_listen)
{
    struct addr addr = tcp_loopback(free_port()), any = addr;
    int fds[MEMBERS], guard, other;
    size_t before = open_fd_count();
    any.v4.sin_addr.s_addr = htonl(INADDR_ANY);
    for (unsigned int life = 0; life < 2; life++) { /* the first leaves TIME_WAIT connections */
        cr_assert_eq(bind_guarded(&addr, &guard, fds, MEMBERS), 0);
        for (unsigned int round = 0; round < 3; round++) {
            cr_assert_eq(socket_guard(&addr, false, &other), -EADDRINUSE);
            cr_assert_eq(socket_bind_group(&addr, &no_options, false, &other, 1), -EADDRINUSE);
            cr_assert_eq(socket_bind_group(&any, &no_options, false, &other, 1), -EADDRINUSE);
            serve_once(&addr, fds, MEMBERS);
        }
        close_all(fds, MEMBERS);
        (void)close(guard);
    }
    /* Without the guard another group may share the address. */
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, fds, 1), 0);
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, &other, 1), 0);
    close_all((int[]){fds[0], other}, 2);
    cr_assert_eq(open_fd_count(), before);
}

Test(socket, a_successor_has_a_guard_of_its_own)
{
    struct addr addr = tcp_loopback(free_port());
    int fds[2], guard, own, more;
    cr_assert_eq(bind_guarded(&addr, &guard, fds, 2), 0);
    cr_assert_eq(socket_guard(&addr, true, &own), 0, "joins, as the sockets were passed on");
    (void)close(guard);
    cr_assert_eq(socket_guard(&addr, false, &more), -EADDRINUSE);
    cr_assert_eq(socket_join_group(&addr, &no_options, &more), 0);
    cr_assert_eq(socket_listen(more), 0);
    close_all((int[]){fds[0], fds[1], own, more}, 4);
}

static bool is_prepared(int fd)
{
    struct linger linger = {0, 0};
    socklen_t len = sizeof(linger);
    cr_assert_eq(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len), 0);
    return option_of(fd, SOL_SOCKET, SO_OOBINLINE) == 1 && linger.l_onoff && linger.l_linger == 0;
}

/* Both ends of a connection have the options: the accepted one inherits them. */
static void accept_from(int listener, const struct addr *addr)
{
    int dialled = socket_for_dialing(addr, &no_options);
    cr_assert_geq(dialled, 0);
    cr_expect(is_prepared(dialled));
    cr_assert_eq(socket_connect_now(dialled, addr), 0);
    int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    cr_assert_geq(accepted, 0);
    cr_expect(is_prepared(accepted));
    (void)close(dialled);
    (void)close(accepted);
}

Test(socket, accepted_sockets_are_prepared)
{
    struct addr addr = tcp_loopback(free_port());
    int own, joined;
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, &own, 1), 0);
    cr_assert_eq(socket_listen(own), 0);
    accept_from(own, &addr);
    (void)close(own);

    addr = tcp_loopback(free_port());
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, &own, 1), 0);
    cr_assert_eq(socket_join_group(&addr, &no_options, &joined), 0);
    (void)close(own);
    cr_assert_eq(socket_listen(joined), 0);
    accept_from(joined, &addr);
    (void)close(joined);

    struct addr inherited_addr;
    int inherited = tcp_listener(&inherited_addr);
    cr_assert_not(is_prepared(inherited));
    cr_expect_not(socket_adopt(inherited, &inherited_addr, &no_options));
    cr_expect_not(is_prepared(inherited), "its owner does not know of it");
    socket_prepare_accepted(inherited);
    cr_expect(is_prepared(inherited));
    cr_expect(socket_adopt(inherited, &inherited_addr, &no_options));
    accept_from(inherited, &inherited_addr);
    (void)close(inherited);
}

Test(socket, unlisten_refuses_and_keeps_the_port)
{
    struct addr addr = tcp_loopback(free_port());
    int fds[2];
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, fds, 2), 0);
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(dial_now(&addr), -ECONNREFUSED, "before");
        cr_assert_eq(socket_listen(fds[0]), 0);
        cr_assert_eq(socket_listen(fds[1]), 0);
        cr_assert_eq(dial_now(&addr), 0);
        socket_unlisten(fds[0]);
        socket_unlisten(fds[1]);
        cr_assert_eq(dial_now(&addr), -ECONNREFUSED, "after");
    }
    close_all(fds, 2);
}

Test(socket, a_group_that_fails_leaves_nothing_open)
{
    struct addr addr = tcp_loopback(free_port());
    int fds[MEMBERS];
    struct rlimit old;
    size_t before = open_fd_count();
    int probe = dup(0);
    (void)close(probe);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit tight = {.rlim_cur = (rlim_t)probe + 2, .rlim_max = old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int result = socket_bind_group(&addr, &no_options, false, fds, MEMBERS);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    cr_assert_eq(result, -EMFILE);
    cr_assert_eq(open_fd_count(), before);
    struct addr foreign = tcp_loopback(free_port());
    foreign.v4.sin_addr.s_addr = htonl(0x08080808);
    cr_assert_eq(socket_bind_group(&foreign, &no_options, false, fds, MEMBERS), -EADDRNOTAVAIL);
    cr_assert_eq(open_fd_count(), before);
}

Test(socket, any_v6_takes_v4_too)
{
    uint16_t port = free_port();
    struct addr any = {.len = sizeof(any.v6)}, v4 = tcp_loopback(port), peer;
    int fd;
    any.v6.sin6_family = AF_INET6;
    any.v6.sin6_port = htons(port);
    if (socket_bind_group(&any, &no_options, false, &fd, 1) < 0) {
        SKIP_LOUDLY("no IPv6");
        return;
    }
    cr_assert_eq(socket_listen(fd), 0);
    int dialled = tcp_dial(&v4);
    int accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    cr_assert_geq(accepted, 0);
    cr_assert_geq(socket_peer(accepted, &peer), 0);
    cr_assert_eq(peer.any.sa_family, AF_INET6);
    close_all((int[]){fd, dialled, accepted}, 3);
}

/* ---- the end of a connection ---- */

Test(socket, peek)
{
    int fds[2];
    char byte;
    tcp_pair(fds, 0);
    cr_assert_eq(socket_peek(fds[1]), 0, "quiet");
    cr_assert_eq(socket_send_now(fds[0], "x", 1), 1);
    wait_for(fds[1], POLLIN);
    cr_assert_eq(socket_peek(fds[1]), 1);
    cr_assert_eq(socket_peek(fds[1]), 1, "it stays there");
    cr_assert_eq(socket_recv_now(fds[1], &byte, 1), 1);
    cr_assert_eq(socket_peek(fds[1]), 0);
    socket_shutdown_send(fds[0]);
    wait_for(fds[1], POLLIN);
    cr_assert_eq(socket_peek(fds[1]), ERR_EOF);
    cr_assert_eq(socket_recv_now(fds[1], &byte, 1), 0);
    cr_assert_eq(socket_send_now(fds[1], "y", 1), 1, "the other way is open");
    wait_for(fds[0], POLLIN);
    close_all(fds, 2);
    tcp_pair(fds, 0);
    tcp_abort_on_close(fds[0]);
    (void)close(fds[0]);
    wait_for(fds[1], POLLIN);
    cr_assert_eq(socket_peek(fds[1]), -ECONNRESET, "an abort is a reset");
    (void)close(fds[1]);
}

Test(socket, recv_and_send_now_do_not_wait)
{
    static char bytes[1 << 16];
    int fds[2];
    ssize_t sent;
    size_t all = 0;
    tcp_pair(fds, 4096);
    (void)fcntl(fds[0], F_SETFL, 0);
    (void)fcntl(fds[1], F_SETFL, 0);
    cr_assert_eq(socket_recv_now(fds[1], bytes, sizeof(bytes)), -EAGAIN);
    while ((sent = socket_send_now(fds[0], bytes, sizeof(bytes))) > 0)
        all += (size_t)sent;
    cr_assert_eq(sent, -EAGAIN);
    cr_assert_gt(all, 0);
    tcp_abort_on_close(fds[1]);
    (void)close(fds[1]);
    wait_for(fds[0], POLLOUT);
    cr_assert_eq(socket_send_now(fds[0], bytes, 1), -ECONNRESET);
    cr_assert_eq(socket_send_now(fds[0], bytes, 1), -EPIPE, "and no signal");
    (void)close(fds[0]);
}

/* ---- splice ---- */

Test(socket, splice)
{
    int in[2], out[2];
    char bytes[32];
    struct pipe_pool *pool;
    tcp_pair(in, 0);
    tcp_pair(out, 4096);
    cr_assert_eq(pipe_pool_create(1 << 20, &pool), 0);
    struct pipe *pipe = pipe_pool_get(pool);
    if (pipe == NULL) {
        SKIP_LOUDLY("no pipe");
        return;
    }
    cr_assert_eq(socket_splice_in(in[1], pipe, 1000), -EAGAIN);
    cr_assert_eq(pipe->pending_bytes, 0);
    cr_assert_eq(send(in[0], "0123456789", 10, 0), 10);
    cr_assert_eq(socket_splice_in(in[1], pipe, 6), 6);
    cr_assert_eq(pipe->pending_bytes, 6);
    cr_assert_eq(socket_splice_out(pipe, out[0]), 6);
    cr_assert_eq(pipe->pending_bytes, 0);
    cr_assert_eq(socket_splice_in(in[1], pipe, 1000), 4);
    cr_assert_eq(socket_splice_out(pipe, out[0]), 4);
    wait_for(out[1], POLLIN);
    cr_assert_eq(recv(out[1], bytes, sizeof(bytes), 0), 10);
    cr_assert_arr_eq(bytes, "0123456789", 10);
    /* The sink is full. */
    while (send(out[0], bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    cr_assert_eq(send(in[0], "tail", 4, 0), 4);
    cr_assert_eq(socket_splice_in(in[1], pipe, 1000), 4);
    cr_assert_eq(socket_splice_out(pipe, out[0]), -EAGAIN);
    cr_assert_eq(pipe->pending_bytes, 4, "still there");
    tcp_abort_on_close(out[1]);
    (void)close(out[1]);
    cr_assert_lt(socket_splice_out(pipe, out[0]), 0);
    cr_assert_eq(pipe->pending_bytes, 4);
    pipe_pool_put(pool, pipe);
    pipe = pipe_pool_get(pool);
    cr_assert_eq(pipe->pending_bytes, 0, "another one");
    socket_shutdown_send(in[0]);
    wait_for(in[1], POLLIN);
    cr_assert_eq(socket_splice_in(in[1], pipe, 1000), 0, "the end");
    pipe_pool_put(pool, pipe);
    pipe_pool_destroy(pool);
    close_all((int[]){in[0], in[1], out[0]}, 3);
}
