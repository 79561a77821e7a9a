/* Binding the addresses at the start of a server: what the start waits for, and what it starts
 * without. */
#include "server/addresses.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "io/inherit.h"
#include "io/resolver.h"
#include "server/server.h"
#include "side.h"

enum { WORKERS = 2, A = 0, B, PORTS };

static struct server *server;
static struct config *config;
static uint16_t control_port, ports[PORTS];
static size_t fds_before;

static void set_up(void)
{
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    control_port = free_port();
    for (size_t i = 0; i < PORTS; i++)
        ports[i] = free_port();
}

static void tear_down(void)
{
    server_destroy(server);
    config_destroy(config);
    /* A look-up that still runs has a socket until it ends. */
    for (int i = 0; i < 3000 && open_fd_count() != fds_before; i++)
        (void)usleep(10000);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors are left open");
}

/* Makes the server with services "a" and "b" at these hosts, without binding an address. */
static void allocate(const char *control_host, const char *host_a, const char *host_b)
{
    char text[1000];
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = %s:%u\ndefault_token = t\n"
                   "[server.services.a]\nbind_addr = %s:%u\n"
                   "[server.services.b]\nbind_addr = %s:%u\n",
                   control_host, control_port, host_a, ports[A], host_b, ports[B]);
    config = side_config(text);
    const struct role_options options = {.config = &config->server, .workers = WORKERS};
    cr_assert_eq(server_allocate(&options, &server), 0);
}

static void await_names(void)
{
    struct pollfd fd = {.fd = resolver_fd(server->resolver), .events = POLLIN};
    while (!resolver_poll(server->resolver))
        cr_assert_eq(poll(&fd, 1, 30000), 1);
}

static const struct binding *binding_of(const char *name)
{
    list_for_each (node, &server->services.entries) {
        struct service *service = service_of(container_of(node, struct service_base, node));
        if (strcmp(service_name(service), name) == 0)
            return service->binding;
    }
    return NULL;
}

static int hold(uint16_t port)
{
    struct addr addr = tcp_loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, &addr.any, addr.len), 0);
    return fd;
}

Test(addresses_bind, all_of_it, .init = set_up, .fini = tear_down)
{
    allocate("127.0.0.1", "127.0.0.1", "0.0.0.0");
    cr_assert_eq(addresses_bind(server, NULL, 0), 0);
    cr_expect_not_null(server->control_binding);
    cr_expect_not_null(binding_of("a"));
    cr_expect_not_null(binding_of("b"));
    cr_expect_eq(atomic_load(&server->unbound_count), 0);
}

Test(addresses_bind, names_have_a_moment, .init = set_up, .fini = tear_down)
{
    allocate("127.0.0.1", "localhost", "127.0.0.1");
    await_names();
    cr_assert_eq(addresses_bind(server, NULL, 0), 0);
    cr_expect_not_null(binding_of("a"));
}

/* Another program has a service's port. The start waits LIMIT_START_MS, in case it is a
 * predecessor, and then does without the service's address. */
Test(addresses_bind, a_port_in_use, .init = set_up, .fini = tear_down)
{
    int holder = hold(ports[A]);
    allocate("127.0.0.1", "127.0.0.1", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), -EAGAIN);
    cr_expect_not_null(binding_of("b"), "the others do not wait");
    cr_expect_eq(addresses_bind(server, NULL, LIMIT_START_MS - 1), -EAGAIN);
    cr_expect_eq(addresses_bind(server, NULL, LIMIT_START_MS), 0);
    cr_expect_null(binding_of("a"));
    cr_expect_eq(atomic_load(&server->unbound_count), 1);
    (void)close(holder);
}

Test(addresses_bind, a_port_that_is_free_in_time, .init = set_up, .fini = tear_down)
{
    int holder = hold(ports[A]);
    allocate("127.0.0.1", "127.0.0.1", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), -EAGAIN);
    (void)close(holder);
    cr_expect_eq(addresses_bind(server, NULL, 20), 0);
    cr_expect_eq(atomic_load(&server->unbound_count), 0);
}

Test(addresses_bind, an_address_of_another_machine_is_not_waited_for, .init = set_up,
     .fini = tear_down)
{
    allocate("127.0.0.1", "192.0.2.77", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), 0);
    cr_expect_null(binding_of("a"));
    cr_expect_not_null(binding_of("b"));
}

Test(addresses_bind, the_control_port_is_needed, .init = set_up, .fini = tear_down)
{
    int holder = hold(control_port);
    allocate("127.0.0.1", "127.0.0.1", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), -EAGAIN);
    cr_expect_eq(addresses_bind(server, NULL, LIMIT_BIND_RETRY_MS), -EADDRINUSE);
    cr_expect_null(binding_of("a"), "nothing is bound before it");
    (void)close(holder);
}

Test(addresses_bind, the_control_port_is_nobodys, .init = set_up, .fini = tear_down)
{
    allocate("192.0.2.77", "127.0.0.1", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), -EADDRNOTAVAIL);
}

Test(addresses_bind, the_control_ports_name_has_no_address, .init = set_up, .fini = tear_down)
{
    allocate("no-such-name.invalid", "127.0.0.1", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), -EAGAIN, "it is looked up");
    await_names();
    cr_expect_eq(addresses_bind(server, NULL, 1), ERR_RESOLVE);
}

/* Two services have one address: the first one gets it, and the start does not wait. */
Test(addresses_bind, one_address_for_two, .init = set_up, .fini = tear_down)
{
    ports[B] = ports[A];
    allocate("127.0.0.1", "0.0.0.0", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), 0);
    cr_expect_not_null(binding_of("a"));
    cr_expect_null(binding_of("b"));
}

/* A service has the control port's address, and does not get it. */
Test(addresses_bind, the_control_ports_address, .init = set_up, .fini = tear_down)
{
    ports[A] = control_port;
    allocate("127.0.0.1", "0.0.0.0", "127.0.0.1");
    cr_expect_eq(addresses_bind(server, NULL, 0), 0);
    cr_expect_null(binding_of("a"));
    cr_expect_not_null(binding_of("b"));
}

/* No name server answers, so a successor goes on with the addresses that its predecessor had. */
Test(addresses_bind, a_successor_without_a_name_server, .init = set_up, .fini = tear_down)
{
    struct inherited_socket items[2] = {{.type = SOCK_STREAM, .name = "service-a"},
                                        {.type = SOCK_STREAM, .name = "control"}};
    struct inherited inherited = {.items = items, .count = 2};
    struct addr of_a = tcp_loopback(ports[A]), of_control = tcp_loopback(control_port);
    items[0].addr = of_a;
    items[0].fd = hold(ports[A]);
    items[1].addr = of_control;
    items[1].fd = hold(control_port);
    allocate("no-such-name.invalid", "no-such-name.invalid", "127.0.0.1");
    await_names();
    cr_expect_eq(addresses_bind(server, &inherited, LIMIT_START_MS), 0);
    cr_assert_not_null(binding_of("a"));
    cr_expect(addr_equal(&binding_of("a")->addr, &of_a));
    cr_expect(addr_equal(&server->control_binding->addr, &of_control));
    cr_expect(items[0].fd == -1 && items[1].fd == -1, "both are taken");
}
