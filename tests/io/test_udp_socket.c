/* UDP sockets on the real kernel: groups, address families, options. */
#include "io/udp_socket.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "testing.h"

static struct addr address_of(const char *host, uint16_t port)
{
    struct host_port name = {.port = port};
    struct addr addr;
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    cr_assert(addr_from_numeric(&name, &addr));
    return addr;
}

Test(udp_socket, a_group_shares_a_port_and_no_one_else_does)
{
    size_t before = open_fd_count();
    struct addr addr = address_of("127.0.0.1", free_port());
    int fds[3], other[1];
    cr_assert_eq(udp_socket_bind_group(&addr, fds, 3), 0);
    cr_expect_eq(udp_socket_bind_group(&addr, other, 1), -EADDRINUSE);
    for (size_t i = 0; i < 3; i++)
        (void)close(fds[i]);
    cr_expect_eq(open_fd_count(), before);
}

/* Each sender stays with one socket of the group. */
Test(udp_socket, a_sender_keeps_its_socket)
{
    struct addr addr = address_of("127.0.0.1", free_port());
    int fds[4];
    unsigned int used = 0;
    cr_assert_eq(udp_socket_bind_group(&addr, fds, 4), 0);
    for (int sender = 0; sender < 32; sender++) {
        struct udp_socket from;
        cr_assert_eq(udp_socket_connect(&addr, &from), 0);
        for (int i = 0; i < 5; i++)
            cr_assert_eq(send(from.fd, "x", 1, 0), 1);
        unsigned int holders = 0;
        for (unsigned int i = 0; i < 4; i++) {
            char byte;
            int got = 0;
            while (recv(fds[i], &byte, 1, MSG_DONTWAIT) == 1)
                got++;
            cr_expect(got == 0 || got == 5);
            if (got == 5) {
                holders++;
                used |= 1u << i;
            }
        }
        cr_expect_eq(holders, 1);
        (void)close(from.fd);
    }
    cr_expect_eq(used, 15, "32 senders use all four");
    for (size_t i = 0; i < 4; i++)
        (void)close(fds[i]);
}

Test(udp_socket, any_is_dual_stack)
{
    uint16_t port = free_port();
    struct addr addr = address_of("::", port), v4 = address_of("127.0.0.1", port);
    int fd;
    if (udp_socket_bind_group(&addr, &fd, 1) < 0) {
        SKIP_LOUDLY("no IPv6 here");
        return;
    }
    struct udp_socket from;
    cr_assert_eq(udp_socket_connect(&v4, &from), 0);
    cr_assert_eq(send(from.fd, "x", 1, 0), 1);
    struct addr sender = {.len = sizeof(sender.v6)};
    char byte;
    cr_assert_eq(recvfrom(fd, &byte, 1, MSG_DONTWAIT, &sender.any, &sender.len), 1);
    cr_expect(IN6_IS_ADDR_V4MAPPED(&sender.v6.sin6_addr));
    struct udp_socket udp;
    udp_socket_init(&udp, fd, &addr);
    cr_expect(udp.is_v6);
    cr_expect_not(udp.is_connected);
    (void)close(from.fd);
    (void)close(fd);
}

Test(udp_socket, counts_what_the_kernel_drops)
{
    struct addr addr = address_of("127.0.0.1", free_port());
    struct udp_socket udp, from;
    int fd, small = 4096;
    cr_assert_eq(udp_socket_bind_group(&addr, &fd, 1), 0);
    udp_socket_init(&udp, fd, &addr);
    cr_expect_gt(udp_socket_receive_room(fd), 0);
    cr_expect_leq(udp_socket_receive_room(fd), LIMIT_UDP_SOCKET_BUFFER);
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    cr_assert_eq(udp_socket_connect(&addr, &from), 0);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(send(from.fd, "0123456789", 10, 0), 10);
    unsigned int got = 0;
    char bytes[16];
    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        got++;
    cr_expect_lt(got, 100);
    cr_expect_eq(udp_socket_take_overflows(&udp), 100 - got);
    cr_expect_eq(udp_socket_take_overflows(&udp), 0, "only what is new");
    (void)close(from.fd);
    (void)close(fd);
}

Test(udp_socket, errors)
{
    struct addr addr = address_of("203.0.113.1", 7); /* not an address of this machine (RFC 5737) */
    struct udp_socket udp = {.fd = -1};
    int fd = -1;
    cr_expect_eq(udp_socket_bind_group(&addr, &fd, 1), -EADDRNOTAVAIL);
    addr = address_of("127.255.255.255", 7); /* the one that needs no route */
    cr_expect_eq(udp_socket_connect(&addr, &udp), -EACCES, "broadcast");
    cr_expect_eq(udp.fd, -1);
    cr_expect_eq(udp_socket_receive_room(-1), 0);
    cr_expect_eq(udp_socket_take_overflows(&udp), 0);
}

/* The duplicate stands for a poll in the ring that still holds the socket. */
Test(udp_socket, closing_gives_descriptor_and_port_back_at_once)
{
    struct addr addr = address_of("127.0.0.1", free_port()), own = {.len = sizeof(own.v6)};
    struct udp_socket udp;
    int fd;
    cr_assert_eq(udp_socket_connect(&addr, &udp), 0);
    cr_assert_eq(getsockname(udp.fd, &own.any, &own.len), 0);
    int number = udp.fd, held = dup(udp.fd);
    cr_expect_eq(udp_socket_bind_group(&own, &fd, 1), -EADDRINUSE);
    udp_socket_close(&udp);
    cr_expect_eq(udp.fd, -1);
    cr_assert_eq(udp_socket_bind_group(&own, &fd, 1), 0);
    cr_expect_eq(fd, number);
    (void)close(fd);
    (void)close(held);
}

Test(udp_socket, another_takes_its_number_over)
{
    struct addr addr = address_of("127.0.0.1", free_port()), own = {.len = sizeof(own.v6)};
    struct udp_socket udp, by;
    int receiver, fd;
    size_t before = open_fd_count();
    cr_assert_eq(udp_socket_bind_group(&addr, &receiver, 1), 0);
    cr_assert_eq(udp_socket_connect(&addr, &udp), 0);
    cr_assert_eq(getsockname(udp.fd, &own.any, &own.len), 0);
    cr_assert_eq(udp_socket_connect(&addr, &by), 0);
    int number = udp.fd;
    cr_assert_eq(udp_socket_replace(&udp, &by), 0);
    cr_expect(by.fd == number && udp.fd == -1);
    cr_expect_eq(open_fd_count(), before + 2);
    cr_expect_neq(fcntl(by.fd, F_GETFD) & FD_CLOEXEC, 0);
    cr_assert_eq(udp_socket_bind_group(&own, &fd, 1), 0, "its port is free");
    cr_assert_eq(send(by.fd, "x", 1, 0), 1);
    char byte;
    cr_expect_eq(recv(receiver, &byte, 1, MSG_DONTWAIT), 1);
    struct udp_socket gone = {.fd = -1};
    cr_expect_lt(udp_socket_replace(&gone, &by), 0);
    cr_expect_eq(by.fd, number);
    (void)close(fd);
    (void)close(by.fd);
    (void)close(receiver);
}

Test(udp_socket, counts_the_ports_of_the_system)
{
    cr_expect_geq(udp_socket_port_count(), 1);
    cr_expect_leq(udp_socket_port_count(), 65536);
}
