#include "io/socket_life.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "testing.h"

static int fds[2];

static void set_up(void)
{
    tcp_pair(fds, 4096);
}

static void tear_down(void)
{
    (void)close(fds[0]);
    (void)close(fds[1]);
}

static int option(int level, int name)
{
    int value = 0;
    socklen_t size = sizeof(value);
    cr_assert_eq(getsockopt(fds[0], level, name, &value, &size), 0);
    return value;
}

Test(socket_life, an_idle_connection, .init = set_up, .fini = tear_down)
{
    struct socket_life life;
    cr_assert_eq(send(fds[0], "x", 1, 0), 1);
    (void)usleep(60000);
    cr_assert_eq(socket_life(fds[0], &life), 0);
    cr_expect_eq(life.unacked, 0);
    cr_expect_eq(life.unsent, 0);
    cr_expect_eq(life.probes, 0);
    cr_expect_eq(life.retransmits, 0);
    cr_expect_gt(life.window, 0);
    cr_expect_lt(life.heard_ms, 5000);
    cr_expect_geq(life.heard_ms, 40, "the acknowledgement");
    cr_expect_geq(life.rto_ms, 200);
}

/* A peer that does not read closes its window. */
Test(socket_life, a_closed_window, .init = set_up, .fini = tear_down)
{
    static const char block[65536];
    struct socket_life life;
    for (int i = 0; i < 200; i++) {
        while (send(fds[0], block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
            ;
        (void)usleep(1000);
    }
    cr_assert_eq(socket_life(fds[0], &life), 0);
    cr_expect_gt(life.unsent, 0);
    cr_expect_eq(life.retransmits, 0, "it answers");
    cr_expect_leq(life.probes, 1);
}

Test(socket_life, what_is_no_tcp_connection)
{
    struct socket_life life;
    int pair[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    cr_expect_lt(socket_life(pair[0], &life), 0);
    cr_expect_lt(socket_life(-1, &life), 0);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

/* The peer's kernel answers within a round trip, although its process does not read. Afterwards the
 * keepalive settings are restored. */
Test(socket_life, asking, .init = set_up, .fini = tear_down)
{
    struct socket_keepalive keepalive;
    struct socket_life life;
    for (int on = 0; on < 2; on++) {
        int idle = 100 + on, interval = 30 + on;
        (void)setsockopt(fds[0], SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        (void)setsockopt(fds[0], IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
        (void)setsockopt(fds[0], IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
        (void)usleep(1100000);
        cr_assert_eq(socket_life(fds[0], &life), 0);
        cr_assert_geq(life.heard_ms, 1000);
        socket_ask(fds[0], &keepalive);
        cr_expect_eq(option(SOL_SOCKET, SO_KEEPALIVE), 1);
        (void)usleep(300000);
        cr_assert_eq(socket_life(fds[0], &life), 0);
        cr_expect_lt(life.heard_ms, 1000, "no answer");
        socket_stop_asking(fds[0], &keepalive);
        cr_expect_eq(option(SOL_SOCKET, SO_KEEPALIVE), on);
        cr_expect_eq(option(IPPROTO_TCP, TCP_KEEPIDLE), idle);
        cr_expect_eq(option(IPPROTO_TCP, TCP_KEEPINTVL), interval);
    }
}
