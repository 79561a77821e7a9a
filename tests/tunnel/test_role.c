/* Both roles, driven as app/ does it, without workers. */
#include "tunnel/role.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "client/client.h"
#include "server/server.h"
#include "side.h"
#include "testing.h"

static const struct role *const roles[] = {&server_role, &client_role};
static struct config *config;
static void *shared;
static uint16_t control_port, service_port;
static size_t fds_before;

static void set_up(void)
{
    char text[400];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    control_port = free_port();
    service_port = free_port();
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = 127.0.0.1:%u\ndefault_token = t\n"
                   "[server.services.a]\nbind_addr = 127.0.0.1:%u\n"
                   "[client]\nremote_addr = 127.0.0.1:%u\ndefault_token = t\n"
                   "[client.services.a]\nlocal_addr = 127.0.0.1:9\n",
                   control_port, service_port, control_port);
    config = side_config(text);
}

static void tear_down(void)
{
    config_destroy(config);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors");
}

static void make(const struct role *role)
{
    const struct role_options options = {
        .config = config_half(config, role->half),
        .file = "test",
        .workers = 2,
    };
    cr_assert_eq(role->create(&options, &shared), 0);
}

Test(role, no_function_is_missing)
{
    for (size_t i = 0; i < ARRAY_SIZE(roles); i++) {
        const struct role *role = roles[i];
        const struct reload_ops *ops = role->reload;
        cr_expect(role->create && role->destroy && role->bind && role->status && role->handover &&
                  role->list_sockets && role->leave_addresses);
        cr_expect(role->start && role->signalled && role->succeeded && role->is_done &&
                  role->finish);
        cr_expect(ops->look_up && ops->has_looked_up && ops->names_fd && ops->begin && ops->slot &&
                  ops->finish && ops->cut_due);
        role->destroy(NULL);
    }
}

Test(role, a_client_has_no_addresses, .init = set_up, .fini = tear_down)
{
    struct handover_sockets sockets;
    make(&client_role);
    cr_assert_eq(client_role.bind(shared, NULL, 0), 0);
    cr_expect_eq(client_role.status(shared).unbound_services, 0);
    cr_expect_eq(client_role.status(shared).waiting_visitors, 0);
    cr_expect_eq(handover_phase(client_role.handover(shared)), HANDOVER_SERVING);
    cr_expect_eq(client_role.list_sockets(shared, &sockets), 0);
    cr_expect_eq(sockets.count, 0);
    handover_sockets_finish(&sockets);
    client_role.reload->look_up(shared, &config->client);
    cr_expect(client_role.reload->has_looked_up(shared), "nobody has to wait for it");
    cr_expect_eq(client_role.reload->names_fd(shared), -1);
    client_role.leave_addresses(shared);
    client_role.destroy(shared);
}

Test(role, a_server_says_what_it_could_not_bind, .init = set_up, .fini = tear_down)
{
    struct handover_sockets sockets;
    struct addr addr = tcp_loopback(service_port);
    int holder = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(holder, &addr.any, addr.len), 0);
    make(&server_role);
    cr_expect_eq(server_role.bind(shared, NULL, 0), -EAGAIN);
    cr_expect_eq(server_role.bind(shared, NULL, LIMIT_START_MS), 0);
    cr_expect_eq(server_role.status(shared).unbound_services, 1);
    cr_expect_eq(handover_phase(server_role.handover(shared)), HANDOVER_SERVING);
    cr_expect_eq(server_role.list_sockets(shared, &sockets), 0);
    cr_expect_eq(sockets.count, 2, "of the control port");
    cr_expect_str_eq(sockets.names[0], "control");
    handover_sockets_finish(&sockets);

    addr = tcp_loopback(control_port);
    int dialled = tcp_dial(&addr);
    cr_expect_geq(dialled, 0);
    (void)close(dialled);
    server_role.leave_addresses(shared);
    server_role.destroy(shared);
    (void)close(holder);
}

/* With its port bound, no service waits for an address. */
Test(role, a_server_that_has_its_addresses, .init = set_up, .fini = tear_down)
{
    struct handover_sockets sockets;
    make(&server_role);
    cr_assert_eq(server_role.bind(shared, NULL, 0), 0);
    cr_expect_eq(server_role.status(shared).unbound_services, 0);
    cr_expect_eq(server_role.list_sockets(shared, &sockets), 0);
    cr_expect_eq(sockets.count, 4);
    handover_sockets_finish(&sockets);
    atomic_store(&((struct server *)shared)->waiting_visitors, 3);
    cr_expect_eq(server_role.status(shared).waiting_visitors, 3);
    server_role.destroy(shared);
}
