/* A client takes over from another, or hands over to one, on the fake loop: when it logs in, and
 * what becomes of its control channels. test_reload.c covers what a reload changes. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "client/client.h"
#include "proto/message.h"
#include "side.h"

static struct config *config;
static struct client *client;
static struct side side;
static int listener;
static size_t fds_before;

static void start(enum handover_phase phase)
{
    struct addr addr;
    char text[300];
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    listener = tcp_listener(&addr);
    cr_assert_eq(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"t\"\n"
                   "[client.services.echo]\nlocal_addr = \"127.0.0.1:9\"\n",
                   addr_port(&addr));
    config = side_config(text);
    cr_assert_eq(side_init(&side, 1), 0);
    side_set_idle_step_ms(&side, 0);
    cr_assert_eq(client_create(&config->client, 1, &client), 0);
    if (phase != HANDOVER_SERVING)
        handover_set_phase(&client->handover, phase);
    cr_assert_eq(side_start(&side, &client_role, client), 0);
    side_settle(&side, 3);
}

static void finish(void)
{
    (void)close(listener);
    side_finish(&side);
    cr_assert_eq(client->fds.tcp_channels + client->fds.half_open + client->fds.tcp_served, 0);
    client_destroy(client);
    config_destroy(config);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors");
}

static void enter(enum handover_phase phase)
{
    handover_set_phase(&client->handover, phase);
    side_signal(&side, TUNNEL_SIGNAL_HANDOVER);
    side_settle(&side, 4);
    cr_assert(handover_all_reached(&client->handover, 1, phase));
}

/* Accepts a connection of the client; -1: there is none. */
static int arrived(void)
{
    side_settle(&side, 4);
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* Accepts the login, as the server does. */
static int serve_login(void)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], auth[KEYS_DIGEST_SIZE], nonce[KEYS_DIGEST_SIZE] = {7};
    uint8_t ack[MESSAGE_ACK_SIZE];
    int end, fd = arrived();
    cr_assert_geq(fd, 0);
    cr_assert_eq(side_read(&side, fd, hello, sizeof(hello), &end), sizeof(hello));
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    say(fd, hello, sizeof(hello));
    cr_assert_eq(side_read(&side, fd, auth, sizeof(auth), &end), sizeof(auth));
    message_ack_encode(MESSAGE_ACK_OK, ack);
    say(fd, ack, sizeof(ack));
    side_settle(&side, 4);
    cr_assert_geq(side_metric(&side, METRIC_LOGINS), 1);
    return fd;
}

Test(client_control_change, a_successor_logs_in_when_it_is_told)
{
    start(HANDOVER_AWAITED);
    cr_assert(handover_all_reached(&client->handover, 1, HANDOVER_AWAITED));
    side_advance(&side, 60000);
    cr_assert_lt(arrived(), 0);
    enter(HANDOVER_SERVING);
    int fd = serve_login();
    (void)close(fd);
    finish();
}

Test(client_control_change, while_quiet_no_attempt_begins)
{
    start(HANDOVER_SERVING);
    int fd = arrived();
    cr_assert_geq(fd, 0, "a login is on its way");
    enter(HANDOVER_QUIET);
    cr_assert_neq(side_end_of(&side, fd), 0, "it would take the successor's place");
    (void)close(fd);
    side_advance(&side, 60000);
    cr_assert_lt(arrived(), 0);
    enter(HANDOVER_SERVING); /* the successor has died */
    fd = serve_login();
    (void)close(fd);
    finish();
}

Test(client_control_change, what_is_up_stays_until_it_is_replaced)
{
    start(HANDOVER_SERVING);
    int fd = serve_login();
    enter(HANDOVER_QUIET);
    cr_assert_eq(side_end_of(&side, fd), 0);
    enter(HANDOVER_LEAVING);
    cr_assert_eq(side_end_of(&side, fd), 0, "visitors are served");
    cr_assert_not(client_role.is_done(&side.workers[0]));
    (void)shutdown(fd, SHUT_RDWR); /* the server has the successor's control channel instead */
    side_settle(&side, 8);
    (void)close(fd);
    cr_assert(client_role.is_done(&side.workers[0]));
    side_advance(&side, 60000);
    cr_assert_lt(arrived(), 0, "and never comes back");
    finish();
}

Test(client_control_change, what_is_not_replaced_ends)
{
    start(HANDOVER_SERVING);
    int fd = serve_login();
    enter(HANDOVER_QUIET);
    enter(HANDOVER_LEAVING);
    side_advance(&side, LIMIT_UPGRADE_HOLD_MS - 1000);
    cr_assert_eq(side_end_of(&side, fd), 0);
    side_advance(&side, 2000);
    cr_assert_neq(side_end_of(&side, fd), 0);
    side_settle(&side, 4);
    cr_assert(client_role.is_done(&side.workers[0]));
    (void)close(fd);
    finish();
}

Test(client_control_change, one_that_waits_for_its_next_attempt_ends_at_once)
{
    start(HANDOVER_SERVING);
    int fd = arrived();
    (void)close(fd);
    side_settle(&side, 8);
    enter(HANDOVER_QUIET);
    enter(HANDOVER_LEAVING);
    cr_assert(client_role.is_done(&side.workers[0]));
    finish();
}
