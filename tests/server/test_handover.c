/* Handovers of a server on the fake loop, as predecessor and as successor: what it accepts in which
 * phase. The test keeps duplicates of the listeners, as the other process would. */
#include "server/handover.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "proto/message.h"
#include "server/listener.h"
#include "server/server.h"
#include "side.h"

enum { WORKERS = 2 };

static struct config *config;
static struct server *server;
static struct side side;
static struct addr control_addr, service_addr;
static size_t fds_before;
static uint8_t session_key[KEYS_DIGEST_SIZE];

static void start(enum handover_phase phase)
{
    char text[500];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    control_addr = tcp_loopback(free_port());
    service_addr = tcp_loopback(free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"t\"\n"
                   "[server.services.echo]\nbind_addr = \"127.0.0.1:%u\"\n"
                   "[server.services.dns]\ntype = udp\nbind_addr = \"127.0.0.1:%u\"\n",
                   addr_port(&control_addr), addr_port(&service_addr), free_port());
    config = side_config(text);
    cr_assert_eq(side_init(&side, WORKERS), 0);
    for (unsigned int i = 0; i < WORKERS; i++)
        datagram_engine_init(&side.workers[i].datagrams, side.workers[i].loop);
    cr_assert_eq(server_create(&config->server, WORKERS, NULL, &server), 0);
    if (phase != HANDOVER_SERVING)
        handover_set_phase(&server->handover, phase);
    cr_assert_eq(side_start(&side, &server_role, server), 0);
}

static void finish(void)
{
    side_signal(&side, TUNNEL_SIGNAL_STOP);
    side_settle(&side, 8);
    for (unsigned int i = 0; i < WORKERS; i++)
        datagram_engine_finish(&side.workers[i].datagrams);
    side_finish(&side);
    server_destroy(server);
    config_destroy(config);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors are left open");
}

static void enter(enum handover_phase phase)
{
    handover_set_phase(&server->handover, phase);
    side_signal(&side, TUNNEL_SIGNAL_HANDOVER);
    side_settle(&side, 4);
}

static bool all_are_in(enum handover_phase phase)
{
    return handover_all_reached(&server->handover, WORKERS, phase);
}

/* Logs a client in. Returns its control channel. */
static int log_in(void)
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE], ack[MESSAGE_ACK_SIZE];
    struct message_hello answer;
    int end, fd = tcp_dial(&control_addr);
    keys_service_digest("echo", 4, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    say(fd, hello, sizeof(hello));
    if (side_read(&side, fd, hello, sizeof(hello), &end) != sizeof(hello)) {
        (void)close(fd);
        return -1;
    }
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), &answer), 0);
    keys_auth_digest("t", 1, answer.digest, session_key);
    say(fd, session_key, sizeof(session_key));
    cr_assert_eq(side_read(&side, fd, ack, sizeof(ack), &end), sizeof(ack));
    return fd;
}

static int bring_channel(void)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    int fd = tcp_dial(&control_addr);
    message_hello_encode(MESSAGE_HELLO_DATA, session_key, hello);
    say(fd, hello, sizeof(hello));
    side_settle(&side, 4);
    return fd;
}

static int visit(void)
{
    int fd = tcp_dial(&service_addr);
    cr_assert_geq(fd, 0, "refused");
    side_settle(&side, 4);
    return fd;
}

static uint64_t accepted(void)
{
    return side_metric(&side, METRIC_VISITORS_ACCEPTED);
}

static bool gets_command(int channel_fd)
{
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    return side_expect(&side, channel_fd, command, sizeof(command));
}

/* ---- the list for the successor ---- */

Test(server_handover, lists_every_socket)
{
    start(HANDOVER_SERVING);
    struct handover_sockets sockets;
    cr_assert_eq(server_sockets_list(server, &sockets), 0);
    unsigned int controls = 0, services = 0, lanes = 0;
    for (size_t i = 0; i < sockets.count; i++) {
        cr_assert_geq(fcntl(sockets.fds[i], F_GETFD), 0);
        controls += strcmp(sockets.names[i], "control") == 0;
        services += strcmp(sockets.names[i], "service-echo") == 0;
        lanes += strcmp(sockets.names[i], "udp-dns") == 0;
    }
    cr_assert(controls == WORKERS && services == WORKERS && lanes == WORKERS);
    cr_assert_eq(sockets.count, 3 * WORKERS, "a guard stays with its process");
    cr_assert_eq(sockets.shared_count, 0);
    handover_sockets_finish(&sockets);

    /* The sockets of a service manager come first, without their duplicates. */
    struct service *echo = side_first_service(server);
    echo->binding->is_shared = true;
    echo->binding->distinct_count = 1;
    cr_assert_eq(server_sockets_list(server, &sockets), 0);
    cr_assert_eq(sockets.shared_count, 1);
    cr_assert_eq(sockets.fds[0], echo->binding->fds[0]);
    cr_assert_eq(sockets.count, 2 * WORKERS + 1);
    handover_sockets_finish(&sockets);
    finish();
}

/* ---- phases ---- */

Test(server_handover, a_successor_accepts_when_it_is_told)
{
    start(HANDOVER_AWAITED);
    side_settle(&side, 4);
    cr_assert(all_are_in(HANDOVER_AWAITED));
    int early = tcp_dial(&control_addr);
    cr_assert_geq(early, 0, "it waits in the queue");
    side_settle(&side, 8);
    cr_assert_eq(side_metric(&side, METRIC_STRANGERS_ACCEPTED), 0);
    enter(HANDOVER_SERVING);
    cr_assert(all_are_in(HANDOVER_SERVING));
    side_settle(&side, 4);
    cr_assert_eq(side_metric(&side, METRIC_STRANGERS_ACCEPTED), 1);
    (void)close(early);
    int control_fd = log_in();
    cr_assert_geq(control_fd, 0);
    (void)close(control_fd);
    finish();
}

Test(server_handover, while_quiet_only_those_that_wait_are_served)
{
    start(HANDOVER_SERVING);
    int control_fd = log_in();
    int waiting = visit();
    cr_assert_eq(accepted(), 1);
    cr_assert_eq(atomic_load(&server->waiting_visitors), 1);
    enter(HANDOVER_QUIET);
    side_advance(&side, 50);
    side_settle(&side, 4);
    cr_assert(all_are_in(HANDOVER_QUIET));
    int late = visit();
    cr_assert_eq(accepted(), 1, "it is for the successor");
    int channel_fd = bring_channel();
    cr_assert(gets_command(channel_fd), "the control port goes on");
    cr_assert_eq(atomic_load(&server->waiting_visitors), 0);
    enter(HANDOVER_SERVING); /* as when the successor has died */
    cr_assert(all_are_in(HANDOVER_SERVING));
    side_settle(&side, 4);
    cr_assert_eq(accepted(), 2, "and nobody was lost");
    (void)close(late);
    (void)close(waiting);
    (void)close(channel_fd);
    (void)close(control_fd);
    finish();
}

Test(server_handover, leaving_touches_no_listener)
{
    start(HANDOVER_SERVING);
    int control_fd = log_in();
    int channel_fd = bring_channel();
    int talking = visit();
    cr_assert(gets_command(channel_fd));
    struct handover_sockets sockets;
    cr_assert_eq(server_sockets_list(server, &sockets), 0);
    for (size_t i = 0; i < sockets.count; i++)
        cr_assert_geq(sockets.fds[i] = dup(sockets.fds[i]), 0);
    enter(HANDOVER_QUIET);
    int late = visit();
    enter(HANDOVER_LEAVING);
    side_advance(&side, 50);
    side_settle(&side, 8);
    cr_assert(all_are_in(HANDOVER_LEAVING));
    server_leave_addresses(server);
    cr_assert_neq(side_end_of(&side, control_fd), 0, "its client may go to the successor");
    say(talking, "on", 2);
    cr_assert(side_expect(&side, channel_fd, "on", 2), "relays live");
    /* The successor's copies still listen, and have the connections that came in between. */
    int taken = -1;
    for (size_t i = 0; i < sockets.count; i++) {
        if (strcmp(sockets.names[i], "service-echo") != 0)
            continue;
        int listening = 0;
        socklen_t len = sizeof(listening);
        cr_assert_eq(getsockopt(sockets.fds[i], SOL_SOCKET, SO_ACCEPTCONN, &listening, &len), 0);
        cr_assert_eq(listening, 1);
        (void)fcntl(sockets.fds[i], F_SETFL, O_NONBLOCK);
        int fd = accept(sockets.fds[i], NULL, NULL);
        taken = MAX(taken, fd);
    }
    cr_assert_geq(taken, 0);
    cr_assert_eq(accepted(), 1);
    (void)close(talking);
    (void)close(channel_fd);
    side_settle(&side, 8);
    for (unsigned int i = 0; i < WORKERS; i++)
        cr_assert(server_role.is_done(&side.workers[i]), "the last relay was it");
    for (size_t i = 0; i < sockets.count; i++)
        (void)close(sockets.fds[i]);
    handover_sockets_finish(&sockets);
    (void)close(taken);
    (void)close(late);
    (void)close(control_fd);
    finish();
}

/* ---- services that were handed over ---- */

/* Starts as if the sockets had come from a predecessor in which the service was up. */
static void start_inherited(void)
{
    start(HANDOVER_AWAITED);
    side_settle(&side, 2);
    struct service *echo = side_first_service(server);
    for (unsigned int i = 0; i < WORKERS; i++)
        cr_assert_eq(socket_listen(echo->binding->fds[i]), 0);
    list_for_each (node, &echo->parts[0].ports) {
        struct listener *port = container_of(node, struct listener, node);
        port->listening = port->held = true;
    }
    list_for_each (node, &echo->parts[1].ports) {
        struct listener *port = container_of(node, struct listener, node);
        port->listening = port->held = true;
    }
}

Test(server_handover, visitors_wait_for_the_client_to_come_back)
{
    start_inherited();
    int early = visit();
    enter(HANDOVER_SERVING);
    side_advance(&side, LIMIT_UPGRADE_HOLD_MS / 2);
    side_settle(&side, 4);
    cr_assert_eq(accepted(), 0);
    int control_fd = log_in();
    side_settle(&side, 4);
    cr_assert_eq(accepted(), 1);
    int channel_fd = bring_channel();
    cr_assert(gets_command(channel_fd));
    (void)close(early);
    (void)close(channel_fd);
    (void)close(control_fd);
    finish();
}

Test(server_handover, and_are_refused_when_it_does_not)
{
    start_inherited();
    enter(HANDOVER_SERVING);
    int early = visit();
    side_advance(&side, LIMIT_UPGRADE_HOLD_MS + 100);
    side_settle(&side, 4);
    cr_assert_lt(side_end_of(&side, early), 0, "reset");
    int late = tcp_dial(&service_addr);
    cr_assert(late < 0 || side_end_of(&side, late) < 0, "refused");
    (void)close(early);
    (void)close(late);
    int control_fd = log_in(); /* a client that comes later is served all the same */
    cr_assert_geq(control_fd, 0);
    int visitor_fd = visit();
    cr_assert_eq(accepted(), 1);
    (void)close(visitor_fd);
    (void)close(control_fd);
    finish();
}

/* More visitors wait in the accept queue than may wait for a channel at a time. */
Test(server_handover, a_crowd_is_accepted_at_the_pace_of_the_channels)
{
    enum { CROWD = LIMIT_UPGRADE_PACE_VISITORS + 100 };
    static int crowd[CROWD];
    start_inherited();
    for (int i = 0; i < CROWD; i++)
        cr_assert_geq(crowd[i] = tcp_dial(&service_addr), 0);
    enter(HANDOVER_SERVING);
    int control_fd = log_in();
    for (int i = 0; i < 2 * CROWD; i++)
        side_settle(&side, 1);
    cr_assert_geq(accepted(), LIMIT_UPGRADE_PACE_VISITORS);
    cr_assert_leq(accepted(), LIMIT_UPGRADE_PACE_VISITORS + WORKERS);
    uint64_t before = accepted();
    int channel_fds[8];
    for (size_t i = 0; i < ARRAY_SIZE(channel_fds); i++)
        channel_fds[i] = bring_channel();
    side_advance(&side, 20);
    side_settle(&side, 40);
    cr_assert_geq(accepted(), before + 4, "as channels come");
    cr_assert_lt(accepted(), CROWD);
    for (int i = 0; i < CROWD; i++)
        (void)close(crowd[i]);
    for (size_t i = 0; i < ARRAY_SIZE(channel_fds); i++)
        (void)close(channel_fds[i]);
    (void)close(control_fd);
    finish();
}
