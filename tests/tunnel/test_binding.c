#include "tunnel/binding.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "testing.h"

static struct host_port loopback(uint16_t port)
{
    struct host_port addr = {.port = port};
    (void)snprintf(addr.host, sizeof(addr.host), "127.0.0.1");
    return addr;
}

Test(binding, tcp_sockets_and_a_claim)
{
    struct addr taken;
    int listener = tcp_listener(&taken);
    struct host_port addr = loopback(addr_port(&taken));
    struct binding_options options = {.addr = &addr, .is_claimed = true, .count = 3};
    struct binding *binding = NULL, *second = NULL;
    size_t before = open_fd_count();
    cr_assert_eq(binding_create(&options, &binding), -EADDRINUSE);
    cr_assert_null(binding);
    cr_assert_eq(open_fd_count(), before);

    addr = loopback(free_port());
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert_eq(binding->count, 3);
    cr_assert_eq(addr_port(&binding->addr), addr.port);
    cr_assert_null(binding->lanes);
    cr_assert_eq(open_fd_count(), before + 3 + 1, "three listeners and the claim");
    cr_assert_eq(binding_create(&options, &second), -EADDRINUSE, "claimed, though none listens");
    (void)close(binding->fds[1]); /* as its worker does */
    binding->fds[1] = -1;
    binding_destroy(binding);
    cr_assert_eq(open_fd_count(), before);
    cr_assert_eq(binding_create(&options, &binding), 0, "at once after its end");
    binding_destroy(binding);
    binding_destroy(NULL);
    (void)close(listener);
}

Test(binding, udp_sockets_have_lanes)
{
    struct host_port addr = loopback(free_port());
    struct binding_options options = {.addr = &addr, .is_udp = true, .count = 4};
    struct binding *binding, *second = NULL;
    size_t before = open_fd_count();
    cr_assert_eq(binding_create(&options, &binding), 0);
    cr_assert_eq(open_fd_count(), before + 4);
    cr_assert_eq(binding->claim_fd, -1);
    for (unsigned int i = 0; i < 4; i++) {
        cr_assert_eq(binding->lanes[i].binding, binding);
        cr_assert_eq(binding->lanes[i].index, i);
        cr_assert_not(binding->lanes[i].waiter.waiting);
    }
    cr_assert_eq(binding_create(&options, &second), -EADDRINUSE);
    binding_destroy(binding);
    cr_assert_eq(open_fd_count(), before);
}

Test(binding, a_name_without_address)
{
    struct host_port addr = {.host = "no-such-name.invalid", .port = 80};
    struct binding_options options = {.addr = &addr, .count = 1};
    struct binding *binding = NULL;
    cr_assert_eq(binding_create(&options, &binding), ERR_RESOLVE);
    cr_assert_null(binding);
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(binding_log_failed("web", &addr, ERR_RESOLVE), ERR_RESOLVE);
    cr_assert_eq(binding_log_failed(NULL, &addr, -EADDRINUSE), -EADDRINUSE);
}
