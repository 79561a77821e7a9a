/* The listeners of workers on the fake loop: with more sockets than workers, with fewer, and how
 * they close. */
#include "server/listener.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/limits.h"
#include "server/descriptors.h"
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

static void set_up_at(const char *unix_path)
{
    static const struct socket_options none;
    struct config_service config = {.name = (char *)(uintptr_t) "echo",
                                    .token = (char *)(uintptr_t) "t"};
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(side_init(&side, 2), 0);
    fds_before = open_fd_count();
    server.fd_visitors_max = INT32_MAX;
    gate_init(&server.arrivals, 1, 1);
    service_registry_init(&server.services, service_free);
    addr = unix_path == NULL ? tcp_loopback(free_port()) : addr_of_unix(unix_path);
    (void)snprintf(config.addr.host, sizeof(config.addr.host), "%s",
                   unix_path == NULL ? "127.0.0.1" : unix_path);
    config.addr.port = unix_path == NULL ? addr_port(&addr) : 0;
    cr_assert_eq(service_create(&server.services, &config, 2, &service), 0);
    cr_assert_eq(service_bind(service, &config, &addr, &none, NULL, &service->binding), 0);
    for (unsigned int i = 0; i < 2; i++) {
        workers[i].server = &server;
        workers[i].tunnel = &side.workers[i];
        list_init(&workers[i].closing_ports);
        gate_desk_init(&workers[i].arrivals_desk, &side.workers[i]);
    }
}

static void set_up(void)
{
    set_up_at(NULL);
}

static char unix_path[40];

static void set_up_unix(void)
{
    (void)snprintf(unix_path, sizeof(unix_path), "/tmp/listener-%d", (int)getpid());
    set_up_at(unix_path);
}

static void tear_down(void)
{
    side_settle(&side, 4);
    for (unsigned int i = 0; i < 2; i++)
        cr_assert(list_is_empty(&workers[i].closing_ports));
    service_drop(service);
    cr_assert_eq(open_fd_count(), fds_before);
    service_registry_finish(&server.services);
    gate_finish(&server.arrivals);
    side_finish(&side);
}

static bool connects(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool connected = connect(fd, &addr.any, addr.len) == 0;
    (void)close(fd);
    return connected;
}

static int dial(void)
{
    if (!addr_is_unix(&addr))
        return tcp_dial(&addr);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s", unix_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
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

static unsigned int taken;

static void take_and_close(struct server_worker *worker, struct service *of, int fd, bool has_left)
{
    if (has_left) {
        visitor_begin(worker, of, fd, has_left);
        return;
    }
    taken++;
    (void)close(fd);
}

static uint64_t both(enum metric metric)
{
    return metrics_get(&side.workers[0].metrics, metric) +
           metrics_get(&side.workers[1].metrics, metric);
}

static uint64_t reasons(void)
{
    uint64_t sum = 0;
    for (unsigned int i = 0; i < 2; i++)
        sum += atomic_load(&service_worker_stats(service, i)->reasons[VISITOR_REFUSED_QUEUE]);
    return sum;
}

static void open_and_pause(void)
{
    handover_set_phase(&server.handover, HANDOVER_SERVING);
    atomic_store(&service->up, true);
    for (unsigned int i = 0; i < 2; i++) {
        workers[i].pause_ms = LIMIT_ACCEPT_PAUSE_MIN_MS;
        timer_init(&workers[i].resume_timer, server_fds_resume);
        visitor_init_slab(&workers[i].visitor_slab);
        lobby_init(&workers[i].lobby, &side.workers[i], &server.gate, NULL);
        list_init(&workers[i].parts);
        list_init(&workers[i].control_ports);
        list_push_back(&workers[i].parts, &service->parts[i].node);
        cr_assert_eq(listener_open_all(&workers[i], service, service->binding, take_and_close,
                                       &service->parts[i].ports),
                     0);
    }
    server.fd_visitors_max = 0;
    for (unsigned int i = 0; both(METRIC_ACCEPT_PAUSED) < 2 && i < 200; i++) {
        int fd = dial();
        side_settle(&side, 1);
        (void)close(fd);
    }
    cr_assert_eq(both(METRIC_ACCEPT_PAUSED), 2);
}

/* Visitors come while descriptors are out, and most leave again. When accepting goes on, those who
 * have left are passed over, and those who have stayed are served; so is later who ends its half at
 * once. */
enum { CROWD = 40, STAY = 5 };

static void crowd_comes_and_leaves(int *crowd)
{
    open_and_pause();
    for (unsigned int i = 0; i < CROWD; i++)
        crowd[i] = dial();
    side_settle(&side, 2);
    cr_assert_eq(taken, 0);
    for (unsigned int i = STAY; i < CROWD; i++)
        (void)close(crowd[i]);
    server.fd_visitors_max = INT32_MAX;
    side_advance(&side, LIMIT_ACCEPT_PAUSE_MS);
    side_settle(&side, CROWD + 10);
}

static void end_crowd(const int *stayed)
{
    for (unsigned int i = 0; i < STAY; i++)
        (void)close(stayed[i]);
    for (unsigned int i = 0; i < 2; i++)
        slab_finish(&workers[i].visitor_slab);
    for (unsigned int i = 0; i < 2; i++)
        listener_close_all(&service->parts[i].ports, NULL);
}

Test(listener, a_crowd_that_has_left_costs_no_channel, .init = set_up, .fini = tear_down)
{
    int crowd[CROWD];
    crowd_comes_and_leaves(crowd);
    uint64_t refused = both(METRIC_VISITORS_REFUSED_QUEUE);
    cr_assert_geq(refused, CROWD - STAY); /* and those above */
    cr_assert_eq(both(METRIC_VISITORS_ACCEPTED), refused, "those who are taken do not count here");
    cr_assert_eq(reasons(), refused, "and the service says why");
    cr_assert_eq(taken, STAY);
    side_advance(&side, 3000);
    int half = dial();
    (void)shutdown(half, SHUT_WR);
    side_settle(&side, 10);
    cr_assert_eq(taken, STAY + 1, "not in a crowd");
    (void)close(half);
    end_crowd(crowd);
}

/* There a close is no reset: who is refused would take it for the service's empty answer. */
Test(listener, nobody_is_passed_over_at_a_unix_socket, .init = set_up_unix, .fini = tear_down)
{
    int crowd[CROWD];
    crowd_comes_and_leaves(crowd);
    cr_assert_geq(taken, CROWD);
    cr_assert_eq(both(METRIC_VISITORS_REFUSED_QUEUE), 0);
    end_crowd(crowd);
    (void)unlink(unix_path);
}
