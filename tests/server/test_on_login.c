/* Services that exist only while a client serves them, on the fake loop: what a login waits for,
 * what the main thread makes of it, and reloads in between. */
#include "server/on_login.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "proto/message.h"
#include "server/reload.h"
#include "server/server.h"
#include "side.h"

enum { WORKERS = 2 };

static struct side side;
static struct server *server;
static struct addr control_addr, port_addr;
static uint8_t session_key[KEYS_DIGEST_SIZE];
static uint64_t now_ms = 1000000;
static size_t fds_before;

/* A file with a range of one port, g-PORT, and these options. */
static const char *file(const char *options)
{
    static char text[1000];
    unsigned int port = addr_port(&port_addr);
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = 127.0.0.1:%u\ndefault_token = one\n"
                   "[server.services.\"g-{port}\"]\nbind_addr = 127.0.0.1:%u-%u\n%s\n",
                   addr_port(&control_addr), port, port, options);
    return text;
}

static void set_up(void)
{
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    control_addr = tcp_loopback(free_port());
    port_addr = tcp_loopback(free_port());
    cr_assert_eq(side_init(&side, WORKERS), 0);
    struct config *config = side_config(file(""));
    cr_assert_eq(server_create(&config->server, WORKERS, NULL, &server), 0);
    config_destroy(config);
    cr_assert_eq(side_start(&side, &server_role, server), 0);
    side_settle(&side, 3);
}

static void tear_down(void)
{
    side_finish(&side);
    server_destroy(server);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors are left open");
}

/* ---- the main thread, played by the test ---- */

static int begin(const char *text, enum reload_attempt attempt)
{
    struct reload_outcome outcome;
    struct config *config = side_config(text);
    int result = server_reload_ops.begin(server, &config->server, NULL, attempt, now_ms, &outcome);
    config_destroy(config);
    return result;
}

static void apply_posted(void)
{
    side_signal(&side, TUNNEL_SIGNAL_PLAN);
    for (int turn = 0; turn < 300 && !server_reload_ops.finish(server); turn++)
        side_settle(&side, 1);
    cr_assert_null(plan_current(&server->plan), "all workers have finished");
}

static bool is_due(void)
{
    uint64_t next_ms;
    return server_reload_ops.on_login_due(server, now_ms, &next_ms);
}

/* Does what is due. Returns whether something was. */
static bool serve_main(void)
{
    side_settle(&side, 5);
    if (!is_due())
        return false;
    if (begin(file(""), RELOAD_ON_LOGIN) > 0)
        apply_posted();
    return true;
}

static struct service *find_member(void)
{
    struct service *found = NULL;
    list_for_each (node, &server->services.entries) {
        struct service *service = service_of(container_of(node, struct service_base, node));
        if (!service->entry.removed)
            found = service;
    }
    return found;
}

/* ---- the client, played by the test ---- */

static int say_hello(struct message_hello *ret)
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE];
    char name[32];
    int end, fd = tcp_dial(&control_addr);
    (void)snprintf(name, sizeof(name), "g-%u", addr_port(&port_addr));
    keys_service_digest(name, strlen(name), digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    say(fd, hello, sizeof(hello));
    cr_assert_eq(side_read(&side, fd, hello, sizeof(hello), &end), sizeof(hello));
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), ret), 0);
    return fd;
}

static void say_auth(int fd, const struct message_hello *hello, const char *token)
{
    keys_auth_digest(token, strlen(token), hello->digest, session_key);
    say(fd, session_key, KEYS_DIGEST_SIZE);
    side_settle(&side, 5);
}

/* The Ack; -1: closed without one, -2: it has not come yet. */
static int ack_of(int fd)
{
    uint8_t bytes[MESSAGE_ACK_SIZE];
    enum message_ack ack;
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    int end;
    side_settle(&side, 5);
    if (poll(&poll_fd, 1, 0) == 0)
        return -2;
    if (side_read(&side, fd, bytes, sizeof(bytes), &end) != sizeof(bytes) ||
        message_ack_decode(bytes, sizeof(bytes), &ack) < 0)
        return -1;
    return (int)ack;
}

static int ask_for(const char *token)
{
    struct message_hello hello;
    int fd = say_hello(&hello);
    say_auth(fd, &hello, token);
    return fd;
}

static int log_in(void)
{
    int fd = ask_for("one");
    (void)serve_main();
    cr_assert_eq(ack_of(fd), MESSAGE_ACK_OK);
    return fd;
}

static void leave(int fd)
{
    (void)close(fd);
    side_settle(&side, 5);
}

static bool connects(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool connected = connect(fd, &port_addr.any, port_addr.len) == 0;
    (void)close(fd);
    side_settle(&side, 3);
    return connected;
}

/* ---- a login ---- */

Test(on_login, waits_for_its_service, .init = set_up, .fini = tear_down)
{
    cr_expect_not(serve_main());
    int fd = ask_for("one");
    cr_expect_eq(ack_of(fd), -2, "it waits");
    cr_expect_null(find_member());
    cr_expect(serve_main());
    cr_expect_eq(ack_of(fd), MESSAGE_ACK_OK);
    cr_expect(connects());
    cr_expect_not(serve_main(), "nothing is left to do");
    leave(fd);
}

Test(on_login, a_stranger_makes_nothing, .init = set_up, .fini = tear_down)
{
    struct message_hello hello;
    int half = say_hello(&hello), wrong = ask_for("two");
    cr_expect_not(serve_main());
    cr_expect_null(find_member());
    cr_expect_eq(ack_of(wrong), MESSAGE_ACK_AUTH_FAILED);
    leave(half);
    leave(wrong);
}

Test(on_login, two_for_one, .init = set_up, .fini = tear_down)
{
    int first = ask_for("one"), second = ask_for("one");
    cr_expect(serve_main());
    cr_expect_eq(ack_of(first), MESSAGE_ACK_OK);
    cr_expect_eq(ack_of(second), MESSAGE_ACK_OK);
    cr_expect_eq(atomic_load(&find_member()->sessions), 2);
    cr_expect_not(serve_main());
    leave(first);
    leave(second);
}

Test(on_login, gives_up_at_its_deadline, .init = set_up, .fini = tear_down)
{
    int fd = ask_for("one");
    side_advance(&side, LIMIT_HANDSHAKE_MS + 1000);
    cr_expect_eq(ack_of(fd), -1);
    /* Its service is made all the same, and goes again. */
    cr_expect(serve_main());
    cr_expect_not_null(find_member());
    now_ms += LIMIT_ON_LOGIN_LINGER_MS;
    cr_expect_not(is_due(), "the first look");
    now_ms += LIMIT_ON_LOGIN_LINGER_MS;
    cr_expect(serve_main());
    cr_expect_null(find_member());
    leave(fd);
}

Test(on_login, waits_while_the_server_stops, .init = set_up, .fini = tear_down)
{
    int fd = ask_for("one");
    side_signal(&side, TUNNEL_SIGNAL_DRAIN);
    cr_expect_eq(ack_of(fd), -1);
    leave(fd);
}

/* ---- the end of a session ---- */

Test(on_login, goes_after_its_time, .init = set_up, .fini = tear_down)
{
    leave(log_in());
    cr_expect_not(serve_main(), "the first look");
    now_ms += LIMIT_ON_LOGIN_LINGER_MS - 1;
    cr_expect_not(serve_main());
    cr_expect_not_null(find_member());
    now_ms++;
    cr_expect(serve_main());
    cr_expect_null(find_member());
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_expect_eq(bind(fd, &port_addr.any, port_addr.len), 0, "the port is free");
    (void)close(fd);
}

/* The time begins anew with each session, also with one that the main thread has not seen. */
Test(on_login, stays_for_one_that_is_back, .init = set_up, .fini = tear_down)
{
    leave(log_in());
    cr_expect_not(serve_main());
    now_ms += LIMIT_ON_LOGIN_LINGER_MS - 1;
    int fd = ask_for("one");
    cr_expect_eq(ack_of(fd), MESSAGE_ACK_OK, "at once");
    leave(fd);
    now_ms++;
    cr_expect_not(serve_main());
    cr_expect_not_null(find_member());
    now_ms += LIMIT_ON_LOGIN_LINGER_MS;
    cr_expect(serve_main());
    cr_expect_null(find_member());
}

/* The main thread has decided to remove the service; the worker does not know it yet. */
Test(on_login, a_login_that_meets_the_removal, .init = set_up, .fini = tear_down)
{
    leave(log_in());
    cr_expect_not(serve_main());
    now_ms += LIMIT_ON_LOGIN_LINGER_MS;
    cr_assert(is_due());
    cr_assert_eq(begin(file(""), RELOAD_ON_LOGIN), 1);
    int fd = ask_for("one");
    cr_expect_eq(ack_of(fd), -2, "it waits for the next one");
    apply_posted();
    cr_expect_eq(ack_of(fd), -2);
    cr_expect(serve_main());
    cr_expect_eq(ack_of(fd), MESSAGE_ACK_OK);
    cr_expect(connects());
    leave(fd);
}

/* A login has claimed the service just before. */
Test(on_login, a_removal_that_meets_a_login, .init = set_up, .fini = tear_down)
{
    leave(log_in());
    cr_expect_not(serve_main());
    now_ms += LIMIT_ON_LOGIN_LINGER_MS;
    cr_expect(session_claim(find_member()));
    cr_assert(is_due());
    cr_expect_eq(begin(file(""), RELOAD_ON_LOGIN), 0, "it stays");
    cr_expect_eq(begin(file(""), RELOAD_ON_LOGIN), 1, "the claim came to nothing");
    apply_posted();
    cr_expect_null(find_member());
}

/* ---- reloads in between ---- */

Test(on_login, a_new_token_meets_a_login, .init = set_up, .fini = tear_down)
{
    struct message_hello hello;
    int half = say_hello(&hello), waiting = ask_for("one");
    cr_assert_eq(begin(file("token = two"), RELOAD_FIRST), 1);
    int between = ask_for("one");
    say_auth(half, &hello, "one");
    cr_expect_eq(ack_of(half), -1, "it was proved with the old token");
    cr_expect_eq(ack_of(between), MESSAGE_ACK_AUTH_FAILED, "the new one counts already");
    apply_posted();
    cr_expect_eq(ack_of(waiting), -1);
    leave(half);
    leave(between);
    leave(waiting);
}

Test(on_login, a_range_goes_with_its_session, .init = set_up, .fini = tear_down)
{
    int fd = log_in();
    port_addr = tcp_loopback(free_port());
    cr_assert_eq(begin(file(""), RELOAD_FIRST), 1);
    apply_posted();
    cr_expect_eq(side_end_of(&side, fd), 1);
    cr_expect_null(find_member());
    leave(fd);
}
