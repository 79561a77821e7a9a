#include "server/binding.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "io/inherit.h"
#include "io/udp_socket.h"
#include "testing.h"

Test(binding, tcp_sockets_and_a_guard)
{
    struct addr addr;
    int listener = tcp_listener(&addr);
    struct binding_options options = {.addr = &addr, .is_guarded = true, .count = 3};
    struct binding *binding = NULL, *second = NULL;
    size_t before = open_fd_count();
    cr_assert_eq(binding_create(&options, &binding), -EADDRINUSE);
    cr_assert_null(binding);
    cr_assert_eq(open_fd_count(), before);

    addr = tcp_loopback(free_port());
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert_eq(binding->count, 3);
    cr_assert(addr_equal(&binding->addr, &addr));
    cr_assert_null(binding->lanes);
    cr_assert_eq(open_fd_count(), before + 3 + 1, "three listeners and the guard");
    cr_assert_eq(binding_create(&options, &second), -EADDRINUSE, "guarded, though none listens");
    (void)close(binding->fds[1]); /* as the socket's worker does */
    binding->fds[1] = -1;
    binding_destroy(binding);
    cr_assert_eq(open_fd_count(), before);
    cr_assert_eq(binding_create(&options, &binding), 0, "at once after its end");
    binding_destroy(binding);
    binding_destroy(NULL);
    (void)close(listener);
}

Test(binding, a_unix_socket_is_shared_by_duplicates)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "/tmp/binding-%d.sock", (int)getpid());
    struct addr addr = addr_of_unix(path);
    struct binding_options options = {.addr = &addr,
                                      .is_guarded = true,
                                      .unix_path = path,
                                      .unix_access = {.mode = 0600, .owner = ""},
                                      .count = 3};
    struct binding *binding, *second = NULL;
    size_t before = open_fd_count();
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert_eq(open_fd_count(), before + 3, "no guard");
    cr_assert_eq(binding->distinct_count, 1);
    cr_assert_eq(binding_create(&options, &second), -EADDRINUSE);
    cr_assert_eq(access(path, F_OK), 0);
    binding_destroy(binding);
    cr_assert_eq(open_fd_count(), before);
    cr_assert_eq(access(path, F_OK), -1, "the file goes with the binding");

    cr_assert_eq(binding_create(&options, &binding), 0);
    int successors = dup(binding->fds[0]);
    binding_destroy(binding);
    cr_assert_eq(access(path, F_OK), 0, "a successor has the socket");
    (void)close(successors);
    cr_assert_eq(binding_create(&options, &binding), 0);
    successors = dup(binding->fds[0]);
    binding_remove_file(binding);
    cr_assert_eq(access(path, F_OK), -1, "there is no successor");
    binding_destroy(binding);
    (void)close(successors);
}

Test(binding, udp_sockets_have_lanes)
{
    struct addr addr = tcp_loopback(free_port());
    struct binding_options options = {.addr = &addr, .is_udp = true, .count = 4};
    struct binding *binding, *second = NULL;
    size_t before = open_fd_count();
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert_eq(open_fd_count(), before + 4);
    cr_assert_eq(binding->guard_fd, -1);
    for (unsigned int i = 0; i < 4; i++) {
        cr_assert_eq(lane_id_index(binding->lanes[i].waiters[0].visitor_id), i);
        cr_assert_not(binding->lanes[i].waiters[0].waiting);
    }
    cr_assert_eq(binding_create(&options, &second), -EADDRINUSE);
    uint64_t last = binding->lanes[3].waiters[0].visitor_id;
    binding_destroy(binding);
    cr_assert_eq(open_fd_count(), before);
    cr_assert_eq(binding_create(&options, &second), 0);
    cr_assert_gt(second->lanes[0].waiters[0].visitor_id, last, "no name is used twice");
    binding_destroy(second);
}

/* ---- inherited sockets ---- */

enum { INHERITED_MAX = 5 };

/* The sockets that the process was started with: `count` sockets of one reuseport group. */
struct inheritance {
    struct inherited inherited;
    struct inherited_socket items[INHERITED_MAX];
};

static void inherit(struct inheritance *from, int type, const int *fds, size_t count, bool shared)
{
    *from = (struct inheritance){.inherited = {.items = from->items, .count = count}};
    for (size_t i = 0; i < count; i++) {
        struct inherited_socket *socket = &from->items[i];
        *socket = (struct inherited_socket){.fd = fds[i], .type = type, .is_shared = shared};
        socket->addr.len = sizeof(socket->addr.v6);
        cr_assert_eq(getsockname(fds[i], &socket->addr.any, &socket->addr.len), 0);
        socket->is_listening = type == SOCK_STREAM && !shared;
    }
}

static const struct socket_options no_options;

Test(binding, all_inherited_sockets_are_taken)
{
    struct inheritance from;
    struct addr addr = tcp_loopback(free_port());
    struct binding *binding;
    int fds[INHERITED_MAX];
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, fds, INHERITED_MAX), 0);
    inherit(&from, SOCK_STREAM, fds, INHERITED_MAX, false);
    struct binding_options options = {
        .addr = &addr, .inherited = &from.inherited, .tcp = {.nodelay = true}, .count = 2};
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert_eq(binding->count, INHERITED_MAX, "more than asked for");
    cr_assert_eq(binding->distinct_count, INHERITED_MAX);
    cr_assert(binding->is_inherited && binding->is_listening && !binding->is_shared);
    for (int i = 0; i < INHERITED_MAX; i++) {
        int nodelay = 0;
        socklen_t len = sizeof(nodelay);
        cr_assert_eq(binding->fds[i], fds[i], "the inherited sockets, and no copies");
        cr_assert_eq(getsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &nodelay, &len), 0);
        cr_assert_eq(nodelay, 1, "as configured now");
    }
    binding_destroy(binding);
}

Test(binding, more_join_an_inherited_group)
{
    struct inheritance from;
    struct addr addr = tcp_loopback(free_port());
    struct binding *binding;
    int fd;
    cr_assert_eq(socket_bind_group(&addr, &no_options, false, &fd, 1), 0);
    cr_assert_eq(socket_listen(fd), 0);
    inherit(&from, SOCK_STREAM, &fd, 1, false);
    struct binding_options options = {.addr = &addr, .inherited = &from.inherited, .count = 3};
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert(binding->count == 3 && binding->distinct_count == 3);
    for (unsigned int i = 0; i < 3; i++) {
        int listening = 0;
        socklen_t len = sizeof(listening);
        cr_assert_eq(getsockopt(binding->fds[i], SOL_SOCKET, SO_ACCEPTCONN, &listening, &len), 0);
        cr_assert_eq(listening, 1, "as the group did");
    }
    binding_destroy(binding);
}

Test(binding, a_managers_socket_is_shared_by_duplicates)
{
    struct inheritance from;
    struct addr addr;
    struct binding *binding;
    int fd = tcp_listener(&addr);
    size_t before = open_fd_count();
    inherit(&from, SOCK_STREAM, &fd, 1, true);
    struct binding_options options = {
        .addr = &addr, .is_guarded = true, .inherited = &from.inherited, .count = 3};
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert(binding->count == 3 && binding->distinct_count == 1 && binding->is_shared);
    cr_assert_eq(binding->guard_fd, -1, "it listens, and is the manager's to close");
    cr_assert_eq(open_fd_count(), before + 2);
    binding_destroy(binding);
    cr_assert_eq(open_fd_count(), before - 1, "its own as well");
}

Test(binding, a_group_that_cannot_be_joined_is_shared_by_duplicates)
{
    struct inheritance from;
    struct addr addr;
    struct binding *binding;
    int fd = tcp_listener(&addr); /* without SO_REUSEPORT */
    inherit(&from, SOCK_STREAM, &fd, 1, false);
    struct binding_options options = {.addr = &addr, .inherited = &from.inherited, .count = 2};
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert(binding->count == 2 && binding->distinct_count == 1);
    binding_destroy(binding);
}

Test(binding, udp_lanes_are_as_many_as_there_are_sockets)
{
    for (int shared = 0; shared < 2; shared++) {
        struct inheritance from;
        struct addr addr = tcp_loopback(free_port());
        struct binding *binding;
        int fd;
        cr_assert_eq(udp_socket_bind_group(&addr, &fd, 1), 0);
        inherit(&from, SOCK_DGRAM, &fd, 1, shared == 1);
        struct binding_options options = {
            .addr = &addr, .is_udp = true, .inherited = &from.inherited, .count = 3};
        cr_assert_eq(binding_create(&options, &binding), 0);
        cr_assert_eq(binding->count, shared == 1 ? 1 : 3);
        uint64_t last = binding->lanes[binding->count - 1].waiters[0].visitor_id;
        cr_assert_eq(lane_id_index(last), binding->count - 1);
        cr_assert(binding->is_inherited && !binding->is_listening);
        binding_destroy(binding);
    }
}

/* The sockets that a predecessor has passed on have a guard when the predecessor is gone. */
Test(binding, inherited_sockets_get_a_guard)
{
    struct inheritance from;
    struct addr addr = tcp_loopback(free_port());
    struct binding_options options = {.addr = &addr, .is_guarded = true, .count = 2};
    struct binding *old, *binding, *third = NULL;
    cr_assert_eq(binding_create(&options, &old), 0);
    inherit(&from, SOCK_STREAM, (int[]){dup(old->fds[0]), dup(old->fds[1])}, 2, false);
    options.inherited = &from.inherited;
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert(binding->is_inherited && binding->guard_fd >= 0);
    binding_leave(old);
    binding_destroy(old);
    options.inherited = NULL;
    cr_assert_eq(binding_create(&options, &third), -EADDRINUSE);
    binding_leave(binding);
    cr_assert_eq(binding->guard_fd, -1);
    cr_assert_eq(binding_create(&options, &third), 0, "given up");
    binding_destroy(third);
    binding_destroy(binding);
}
