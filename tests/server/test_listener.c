/* The listeners of workers on the fake loop: with more sockets than workers, with fewer, and how
 * they close. */
#include "server/listener.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "server/server.h"
#include "server/visitor.h"
#include "side.h"
#include "testing.h"

static struct side side;
static struct server server;
static struct server_worker workers[2];
static struct service *service;
static struct addr addr;
static size_t fds_before;

static void set_up(void)
{
    static const struct socket_options none;
    struct config_service config = {.name = (char *)(uintptr_t) "echo",
                                    .token = (char *)(uintptr_t) "t"};
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(side_init(&side, 2), 0);
    fds_before = open_fd_count();
    server.fd_visitors_max = INT32_MAX;
    service_registry_init(&server.services, service_free);
    addr = tcp_loopback(free_port());
    (void)snprintf(config.addr.host, sizeof(config.addr.host), "127.0.0.1");
    config.addr.port = addr_port(&addr);
    cr_assert_eq(service_create(&server.services, &config, 2, &service), 0);
    cr_assert_eq(service_bind(service, &config, &addr, &none, NULL, &service->binding), 0);
    for (unsigned int i = 0; i < 2; i++) {
        workers[i].server = &server;
        workers[i].tunnel = &side.workers[i];
        list_init(&workers[i].closing_ports);
    }
}

static void tear_down(void)
{
    side_settle(&side, 4);
    for (unsigned int i = 0; i < 2; i++)
        cr_assert(list_is_empty(&workers[i].closing_ports));
    service_drop(service);
    cr_assert_eq(open_fd_count(), fds_before);
    service_registry_finish(&server.services);
    side_finish(&side);
}

static bool connects(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool connected = connect(fd, &addr.any, addr.len) == 0;
    (void)close(fd);
    return connected;
}

static size_t count(const struct list *ports)
{
    size_t found = 0;
    list_for_each (node, ports)
        found++;
    return found;
}

static void open_all(void)
{
    for (unsigned int i = 0; i < 2; i++)
        cr_assert_eq(listener_open_all(&workers[i], service, service->binding, visitor_begin,
                                       &service->parts[i].ports),
                     0);
}

Test(listener, listens_while_the_service_is_up, .init = set_up, .fini = tear_down)
{
    open_all();
    cr_assert_eq(count(&service->parts[0].ports), 1);
    cr_assert_eq(count(&service->parts[1].ports), 1);
    cr_assert_not(connects(), "refused: no client serves it");
    atomic_store(&service->up, true);
    for (unsigned int i = 0; i < 2; i++)
        listener_sync_all(&service->parts[i].ports);
    cr_assert(connects());
    for (unsigned int i = 0; i < 2; i++)
        listener_close_all(&service->parts[i].ports, NULL);
    cr_assert_not(connects(), "refused at once");
    side_settle(&side, 4);
    cr_assert_eq(service->binding->fds[0], -1);
    cr_assert_eq(service->binding->fds[1], -1);
}

/* A process that takes sockets over may have more sockets than workers, or fewer. */
Test(listener, sockets_are_shared_out, .init = set_up, .fini = tear_down)
{
    struct binding few = {.guard_fd = -1, .count = 1, .fds = (int[]){dup(0)}};
    struct binding many = {.guard_fd = -1, .count = 5, .fds = (int[5]){0}};
    for (unsigned int i = 0; i < many.count; i++)
        many.fds[i] = dup(0);
    struct list *first = &service->parts[0].ports, *second = &service->parts[1].ports;
    cr_assert_eq(listener_open_all(&workers[0], service, &few, visitor_begin, first), 0);
    cr_assert_eq(listener_open_all(&workers[1], service, &few, visitor_begin, second), 0);
    cr_assert(count(first) == 1 && count(second) == 0);
    cr_assert_eq(listener_open_all(&workers[0], service, &many, visitor_begin, first), 0);
    cr_assert_eq(listener_open_all(&workers[1], service, &many, visitor_begin, second), 0);
    cr_assert(count(first) == 1 + 3 && count(second) == 2);
    listener_close_all(first, &few);
    cr_assert(count(first) == 3, "those of the other binding stay");
    listener_close_all(first, &many);
    listener_close_all(second, &many);
    cr_assert(count(first) + count(second) == 0);
    cr_assert_eq(few.fds[0], -1);
    for (unsigned int i = 0; i < many.count; i++)
        cr_assert_eq(many.fds[i], -1);
}
