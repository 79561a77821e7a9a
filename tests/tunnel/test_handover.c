#include "tunnel/handover.h"

#include <criterion/criterion.h>
#include <stdio.h>

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
