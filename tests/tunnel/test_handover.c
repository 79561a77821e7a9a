#include "tunnel/handover.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* The list grows more than once. It does not close descriptors that it has not opened. */
Test(handover, lists_sockets_by_name)
{
    struct handover_sockets sockets = {0};
    char name[16], expected[32];
    for (int i = 0; i < 100; i++) {
        (void)snprintf(name, sizeof(name), "%d", i);
        cr_assert_eq(handover_sockets_add(&sockets, 1000 + i, i % 2 == 0 ? "udp" : "service", name),
                     0);
    }
    cr_assert_eq(handover_sockets_add(&sockets, 7, "control", NULL), 0);
    cr_assert_eq(sockets.count, 101);
    for (int i = 0; i < 100; i++) {
        (void)snprintf(expected, sizeof(expected), "%s-%d", i % 2 == 0 ? "udp" : "service", i);
        cr_expect_eq(sockets.fds[i], 1000 + i);
        cr_expect_str_eq(sockets.names[i], expected);
    }
    cr_expect_eq(sockets.fds[100], 7);
    cr_expect_str_eq(sockets.names[100], "control");
    handover_sockets_finish(&sockets);
    cr_expect_eq(sockets.count, 0);
    handover_sockets_finish(&sockets);
}

Test(handover, all_have_reached_a_phase_when_the_last_has)
{
    struct handover handover = {0};
    handover_reach(&handover, 0, HANDOVER_QUIET);
    cr_expect_not(handover_all_reached(&handover, 2, HANDOVER_QUIET));
    handover_reach(&handover, 1, HANDOVER_LEAVING);
    cr_expect_not(handover_all_reached(&handover, 2, HANDOVER_QUIET), "that is another one");
    handover_reach(&handover, 1, HANDOVER_QUIET);
    cr_expect(handover_all_reached(&handover, 2, HANDOVER_QUIET));
}

/* A full channel, or one that nobody reads any more, neither blocks nor ends the worker that tells. */
Test(handover, logins_are_told_while_there_is_a_channel)
{
    struct handover handover = {0};
    uint8_t packet[32];
    uint64_t login, heard_count = 0;
    int ends[2];
    ssize_t got;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    handover_tell_login(&handover, 1);
    handover_set_channel(&handover, ends[0]);
    for (uint64_t i = 0; i < 100000; i++)
        handover_tell_login(&handover, i);
    while ((got = recv(ends[1], packet, sizeof(packet), MSG_DONTWAIT)) > 0) {
        cr_assert(handover_hear_login(packet, (size_t)got, &login));
        cr_assert_eq(login, heard_count++, "in order, and the first ones");
        cr_assert_not(handover_hear_login(packet, (size_t)got - 1, &login));
    }
    cr_assert(heard_count > 100 && heard_count < 100000);
    cr_assert_not(handover_hear_login("go", 2, &login));
    (void)close(ends[1]);
    handover_tell_login(&handover, 2);
    handover_set_channel(&handover, 0);
    (void)close(ends[0]);
}
