/* Reloads of the client on the fake loop. */
#include "client/reload.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"
#include "config/config_diff.h"
#include "proto/message.h"
#include "side.h"

enum { WORKERS = 2 };

static struct side side;
static struct client *client;
static struct addr server_addr;
static int listener;
static size_t fds_before;

static const char *file(const char *own, const char *services)
{
    static char text[3000];
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = 127.0.0.1:%u\ndefault_token = one\n%s\n%s",
                   addr_port(&server_addr), own, services);
    return text;
}

#define ECHO "[client.services.echo]\nlocal_addr = 127.0.0.1:9\n"
#define WEB  "[client.services.web]\nlocal_addr = 127.0.0.1:9\n"

static void set_up(void)
{
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    listener = tcp_listener(&server_addr);
    cr_assert_eq(side_init(&side, WORKERS), 0);
    side_set_idle_step_ms(&side, 0);
    struct config *config = side_config(file("", ECHO));
    cr_assert_eq(client_create(&config->client, WORKERS, &client), 0);
    config_destroy(config); /* the client has copied it */
    cr_assert_eq(side_start(&side, &client_role, client), 0);
    side_settle(&side, 3);
}

static void tear_down(void)
{
    side_finish(&side);
    cr_assert_eq(client->fds.tcp_channels + client->fds.half_open + client->fds.tcp_served, 0);
    client_destroy(client);
    (void)close(listener);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors");
}

static struct reload_outcome begin(const char *text, int expected)
{
    struct reload_outcome outcome;
    struct config *config = side_config(text);
    cr_assert_eq(client_reload_ops.begin(client, &config->client, NULL, RELOAD_FIRST, 0, &outcome),
                 expected);
    config_destroy(config);
    return outcome;
}

static struct reload_outcome reload(const char *text)
{
    struct reload_outcome outcome = begin(text, 1);
    side_signal(&side, TUNNEL_SIGNAL_PLAN);
    for (int turn = 0; turn < 100 && !client_reload_ops.finish(client); turn++)
        side_settle(&side, 1);
    cr_assert_null(plan_current(&client->plan), "all workers have finished");
    return outcome;
}

/* Accepts the next connection for a login. Reads its Hello, but does not answer. -1: there is
 * none. */
static int accept_login(const char *name)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], digest[KEYS_DIGEST_SIZE];
    struct message_hello asked;
    int end, fd = -1;
    for (int turn = 0; turn < 20 && fd < 0; turn++) {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        side_settle(&side, 1);
        if (fd < 0)
            side_advance(&side, 20);
    }
    if (fd < 0)
        return -1;
    cr_assert_eq(side_read(&side, fd, hello, sizeof(hello), &end), sizeof(hello));
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), &asked), 0);
    keys_service_digest(name, strlen(name), digest);
    cr_assert_arr_eq(asked.digest, digest, sizeof(digest));
    return fd;
}

/* Answers the Hello. True: the client proves to have this token, and is up. */
static void answer_login(int fd, const char *token)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], nonce[KEYS_DIGEST_SIZE] = {7}, right[KEYS_DIGEST_SIZE];
    uint8_t auth[KEYS_DIGEST_SIZE], ack[MESSAGE_ACK_SIZE];
    int end;
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    say(fd, hello, sizeof(hello));
    cr_assert_eq(side_read(&side, fd, auth, sizeof(auth), &end), sizeof(auth));
    keys_auth_digest(token, strlen(token), nonce, right);
    cr_expect_arr_eq(auth, right, sizeof(right), "not the Auth of token %s", token);
    message_ack_encode(MESSAGE_ACK_OK, ack);
    say(fd, ack, sizeof(ack));
    side_settle(&side, 4);
}

static int serve_login_as(const char *name, const char *token)
{
    int fd = accept_login(name);
    if (fd >= 0)
        answer_login(fd, token);
    return fd;
}

/* Accepts the client's next login and completes it; -1: there is none. */
static int serve_login(const char *name)
{
    return serve_login_as(name, "one");
}

Test(client_reload, services_come_and_go, .init = set_up, .fini = tear_down)
{
    int echo = serve_login("echo");
    cr_assert_geq(echo, 0);
    (void)begin(file("", ECHO), 0);
    cr_expect_eq(reload(file("", ECHO WEB)).added, 1);
    int web = serve_login("web");
    cr_assert_geq(web, 0);
    cr_expect_eq(reload(file("", WEB)).removed, 1);
    cr_expect_eq(side_end_of(&side, echo), -ECONNRESET,
                 "rathole notices that one heartbeat sooner");
    cr_expect_eq(side_metric(&side, METRIC_CONTROL_CHANNELS_LOST), 0, "it was let go");
    cr_expect_eq(side_end_of(&side, web), 0);
    cr_expect_eq(serve_login("echo"), -1, "never again");
    (void)close(echo);
    (void)close(web);
}

Test(client_reload, what_a_login_depends_on, .init = set_up, .fini = tear_down)
{
    static const char *const files[] = {"token = two\n", "token = three\n"};
    int echo = serve_login("echo");
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        char text[200];
        (void)snprintf(text, sizeof(text), ECHO "%s", files[i]);
        cr_expect_eq(reload(file("", text)).changed, 1);
        cr_expect_neq(side_end_of(&side, echo), 0);
        (void)close(echo);
        echo = serve_login_as("echo", i == 0 ? "two" : "three");
        cr_assert_geq(echo, 0, "at once, without a wait");
    }
    /* The address of the server changes. */
    (void)close(listener);
    listener = tcp_listener(&server_addr);
    cr_expect_eq(reload(file("", ECHO "token = three\n")).changes, CONFIG_CHANGE_ADDRESS);
    cr_expect_neq(side_end_of(&side, echo), 0);
    (void)close(echo);
    echo = serve_login_as("echo", "three");
    cr_assert_geq(echo, 0);
    (void)close(echo);
}

Test(client_reload, what_a_login_does_not_depend_on, .init = set_up, .fini = tear_down)
{
    int echo = serve_login("echo");
    cr_expect_eq(reload(file("", "[client.services.echo]\nlocal_addr = 127.0.0.1:10\n")).changed,
                 1);
    cr_expect_eq(reload(file("connect_timeout = 3\nheartbeat_timeout = 7\n", ECHO)).changes,
                 CONFIG_CHANGE_LIMITS | CONFIG_CHANGE_HEARTBEAT);
    cr_expect_eq(side_end_of(&side, echo), 0);
    side_advance(&side, 7500);
    cr_expect_neq(side_end_of(&side, echo), 0, "no heartbeat for longer than the new limit");
    (void)close(echo);
}

/* The server is slow with its Hello. Meanwhile the configuration that the login began with is
 * replaced and freed. Neither change concerns the login, so it goes on, once. */
Test(client_reload, a_login_outlives_the_configuration_that_it_began_with, .init = set_up,
     .fini = tear_down)
{
    int echo = accept_login("echo");
    cr_assert_geq(echo, 0);
    cr_expect_eq(reload(file("", "[client.services.echo]\nlocal_addr = 127.0.0.1:10\n")).changed,
                 1);
    cr_expect_eq(reload(file("connect_timeout = 3\n", "[client.services.echo]\n"
                                                      "local_addr = 127.0.0.1:10\n"))
                     .changes,
                 CONFIG_CHANGE_LIMITS);
    answer_login(echo, "one");
    cr_expect_eq(side_end_of(&side, echo), 0);
    cr_expect_eq(accept_login("echo"), -1, "a second login");
    cr_expect_eq(side_metric(&side, METRIC_LOGINS), 1);
    cr_expect_eq(side_metric(&side, METRIC_LOGINS_FAILED), 0);
    (void)close(echo);
}

/* The token changes: the login with the old one is given up, and one with the new one begins. */
Test(client_reload, a_token_changes_while_the_hello_is_awaited, .init = set_up, .fini = tear_down)
{
    int old = accept_login("echo");
    cr_assert_geq(old, 0);
    cr_expect_eq(reload(file("", ECHO "token = two\n")).changed, 1);
    cr_expect_neq(side_end_of(&side, old), 0);
    int echo = serve_login_as("echo", "two");
    cr_assert_geq(echo, 0);
    cr_expect_eq(side_end_of(&side, echo), 0);
    cr_expect_eq(side_metric(&side, METRIC_LOGINS), 1);
    cr_expect_eq(side_metric(&side, METRIC_LOGINS_FAILED), 0);
    (void)close(old);
    (void)close(echo);
}

/* Every state that a control channel may be in. */
Test(client_reload, a_token_changes_at_any_time, .init = set_up, .fini = tear_down)
{
    for (unsigned int turns = 0; turns < 12; turns++) {
        char text[200];
        (void)snprintf(text, sizeof(text), ECHO "token = t%u\n", turns);
        cr_expect_eq(reload(file("", text)).changed, 1);
        side_settle(&side, (int)turns);
        int stray = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (stray >= 0)
            (void)close(stray);
    }
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        (void)close(fd);
}

Test(client_reload, an_unfinished_plan_is_freed, .init = set_up)
{
    (void)begin(file("connect_timeout = 3\n", ECHO "token = x\n"), 1);
    tear_down();
}
