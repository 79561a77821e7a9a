/* Reloads of the server on the fake loop: what the main thread prepares, and how each worker
 * applies it, also during a login. */
#include "server/reload.h"

#include <assert.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/config_diff.h"
#include "net/recipe.h"
#include "proto/message.h"
#include "server/addresses.h"
#include "server/handover.h"
#include "server/server.h"
#include "side.h"

enum { WORKERS = 2, ECHO = 0, WEB, THIRD, FOURTH, FIFTH, PORTS };

static struct side side;
static struct server *server;
static struct addr control_addr, ports[PORTS];
static uint8_t session_key[KEYS_DIGEST_SIZE];
static size_t fds_before;

static const char *file(const char *own, const char *services)
{
    static char text[20000];
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = 127.0.0.1:%u\ndefault_token = one\n%s\n%s",
                   addr_port(&control_addr), own, services);
    return text;
}

static const char *service(const char *name, unsigned int port, const char *options)
{
    static char texts[4][300];
    static unsigned int next;
    char *text = texts[next++ % 4];
    (void)snprintf(text, sizeof(texts[0]), "[server.services.%s]\nbind_addr = 127.0.0.1:%u\n%s\n",
                   name, addr_port(&ports[port]), options);
    return text;
}

static void set_up(void)
{
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    fds_before = open_fd_count();
    control_addr = tcp_loopback(free_port());
    for (size_t i = 0; i < PORTS; i++)
        ports[i] = tcp_loopback(free_port());
    cr_assert_eq(side_init(&side, WORKERS), 0);
    struct config *config = side_config(file("", service("echo", ECHO, "")));
    cr_assert_eq(server_create(&config->server, WORKERS, NULL, &server), 0);
    config_destroy(config); /* the server keeps a copy */
    cr_assert_eq(side_start(&side, &server_role, server), 0);
    side_settle(&side, 3);
}

static void tear_down(void)
{
    side_finish(&side);
    server_destroy(server);
    cr_assert_eq(open_fd_count(), fds_before, "descriptors are left open");
}

/* Prepares and posts a plan. The workers have not applied any of it yet. */
static struct reload_outcome begin(const char *text, enum reload_attempt attempt, int expected)
{
    struct reload_outcome outcome;
    struct config *config = side_config(text);
    cr_assert_eq(server_reload_ops.begin(server, &config->server, NULL, attempt, 0, &outcome),
                 expected);
    config_destroy(config);
    return outcome;
}

static void look_up(const char *text)
{
    struct config *config = side_config(text);
    struct pollfd fd = {.fd = server_reload_ops.names_fd(server), .events = POLLIN};
    server_reload_ops.look_up(server, &config->server);
    while (!server_reload_ops.has_looked_up(server))
        cr_assert_eq(poll(&fd, 1, 10000), 1);
    config_destroy(config);
}

static void apply_posted(void)
{
    side_signal(&side, TUNNEL_SIGNAL_PLAN);
    for (int turn = 0; turn < 300 && !server_reload_ops.finish(server); turn++)
        side_settle(&side, 1);
    cr_assert_null(plan_current(&server->plan), "all workers have finished");
}

static struct reload_outcome reload(const char *text)
{
    struct reload_outcome outcome = begin(text, RELOAD_FIRST, 1);
    apply_posted();
    return outcome;
}

/* ---- a name with two addresses ---- */

int __real_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);

/* The list must be freed by freeaddrinfo, so two look-ups of numeric hosts are put together. */
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    if (strcmp(host, "two-addresses") != 0)
        return __real_getaddrinfo(host, service, hints, ret);
    int result = __real_getaddrinfo("127.0.0.5", service, hints, ret);
    struct addrinfo *last = *ret;
    while (result == 0 && last->ai_next != NULL)
        last = last->ai_next;
    return result == 0 ? __real_getaddrinfo("127.0.0.1", service, hints, &last->ai_next) : result;
}

/* ---- the client, played by the test ---- */

static int say_hello(const char *name, struct message_hello *ret)
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE];
    int end, fd = tcp_dial(&control_addr);
    keys_service_digest(name, strlen(name), digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    say(fd, hello, sizeof(hello));
    cr_assert_eq(side_read(&side, fd, hello, sizeof(hello), &end), sizeof(hello));
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), ret), 0);
    return fd;
}

/* Returns the Ack, or -1 if the connection is closed without one. */
static int say_auth(int fd, const struct message_hello *hello, const char *token)
{
    uint8_t bytes[MESSAGE_ACK_SIZE];
    enum message_ack ack;
    int end;
    keys_auth_digest(token, strlen(token), hello->digest, session_key);
    say(fd, session_key, KEYS_DIGEST_SIZE);
    if (side_read(&side, fd, bytes, sizeof(bytes), &end) != sizeof(bytes) ||
        message_ack_decode(bytes, sizeof(bytes), &ack) < 0)
        return -1;
    return (int)ack;
}

static int log_in(const char *name, const char *token)
{
    struct message_hello hello;
    int fd = say_hello(name, &hello);
    cr_assert_eq(say_auth(fd, &hello, token), MESSAGE_ACK_OK);
    return fd;
}

static bool connects(unsigned int port)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool connected = connect(fd, &ports[port].any, ports[port].len) == 0;
    (void)close(fd);
    side_settle(&side, 3);
    return connected;
}

static struct service *find_service(const char *name)
{
    struct service *found = NULL;
    list_for_each (node, &server->services.entries) {
        struct service *service = service_of(container_of(node, struct service_base, node));
        if (strcmp(service_name(service), name) == 0 && !service->entry.removed)
            found = service;
    }
    if (found == NULL)
        cr_assert_fail("no service %s", name);
    assert(found != NULL);
    return found;
}

static unsigned int unbound(void)
{
    return atomic_load(&server->unbound_count);
}

/* ---- services ---- */

Test(server_reload, the_same_file_is_nothing_to_do, .init = set_up, .fini = tear_down)
{
    struct reload_outcome outcome = begin(file("", service("echo", ECHO, "")), RELOAD_FIRST, 0);
    cr_expect(outcome.added + outcome.removed + outcome.changed + outcome.failed == 0);
    cr_expect_eq(outcome.changes, 0);
}

Test(server_reload, added_and_removed, .init = set_up, .fini = tear_down)
{
    char both[700];
    (void)snprintf(both, sizeof(both), "%s%s", service("echo", ECHO, ""), service("web", WEB, ""));
    struct reload_outcome outcome = reload(file("", both));
    cr_expect(outcome.added == 1 && outcome.removed == 0 && outcome.changed == 0);
    int echo = log_in("echo", "one"), web = log_in("web", "one");
    cr_expect(connects(ECHO) && connects(WEB));
    outcome = reload(file("", service("echo", ECHO, "")));
    cr_expect(outcome.removed == 1 && outcome.added == 0);
    cr_expect_eq(side_end_of(&side, web), 1);
    cr_expect(connects(ECHO) && !connects(WEB));
    /* A service that comes back gets the same port at once. */
    outcome = reload(file("", both));
    cr_expect(outcome.added == 1 && outcome.failed == 0);
    (void)close(web);
    web = log_in("web", "one");
    cr_expect(connects(WEB));
    (void)close(web);
    (void)close(echo);
}

Test(server_reload, hundreds_at_a_time, .init = set_up, .fini = tear_down)
{
    static char many[16000];
    size_t used = 0;
    static bool is_given[UINT16_MAX + 1];
    for (unsigned int i = 0; i < 150; i++) {
        uint16_t port = free_port();
        while (is_given[port])
            port = free_port();
        is_given[port] = true;
        used += (size_t)snprintf(many + used, sizeof(many) - used,
                                 "[server.services.s%u]\nbind_addr = 127.0.0.1:%u\n", i, port);
    }
    cr_expect_geq(reload(file("", many)).added, 140, "all whose port was still free");
    cr_expect_geq(reload(file("", service("web", WEB, ""))).removed, 140);
}

/* A login begins, then the main thread removes the service, and the login ends before its worker
 * has applied the plan. */
Test(server_reload, no_session_begins_on_a_removed_service, .init = set_up, .fini = tear_down)
{
    struct message_hello before, between;
    int first = say_hello("echo", &before);
    (void)begin(file("", service("web", WEB, "")), RELOAD_FIRST, 1);
    int second = say_hello("echo", &between);
    cr_expect_eq(say_auth(first, &before, "one"), -1);
    apply_posted();
    cr_expect_eq(say_auth(second, &between, "one"), -1);
    cr_expect_not(connects(ECHO));
    (void)close(first);
    (void)close(second);
}

Test(server_reload, a_new_token_ends_sessions_and_logins, .init = set_up, .fini = tear_down)
{
    struct message_hello hello;
    int up = log_in("echo", "one");
    int half = say_hello("echo", &hello);
    struct reload_outcome outcome = reload(file("", service("echo", ECHO, "token = two")));
    cr_expect(outcome.changed == 1 && outcome.added == 0);
    cr_expect_eq(side_end_of(&side, up), 1);
    cr_expect_eq(say_auth(half, &hello, "one"), -1);
    cr_expect_not(connects(ECHO));
    int again = log_in("echo", "two");
    cr_expect(connects(ECHO));
    (void)close(up);
    (void)close(half);
    (void)close(again);
}

Test(server_reload, a_new_address_leaves_the_session, .init = set_up, .fini = tear_down)
{
    int fd = log_in("echo", "one");
    cr_expect_eq(reload(file("", service("echo", WEB, ""))).changed, 1);
    cr_expect(connects(WEB) && !connects(ECHO));
    uint8_t bytes[64];
    cr_expect_gt(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), 0, "requests, and no end");
    (void)close(fd);
}

Test(server_reload, an_address_in_use, .init = set_up, .fini = tear_down)
{
    struct addr taken;
    int listener = tcp_listener(&taken);
    ports[WEB] = taken;
    int fd = log_in("echo", "one");
    struct reload_outcome outcome = begin(file("", service("echo", WEB, "")), RELOAD_FIRST, 0);
    cr_expect(outcome.failed == 1 && outcome.changed == 0 && outcome.deferred == 0);
    cr_expect(connects(ECHO), "it stays where it was");
    (void)close(listener);
    outcome = begin(file("", service("echo", WEB, "")), RELOAD_RETRY, 1);
    apply_posted();
    cr_expect(outcome.failed == 0 && outcome.changed == 1);
    cr_expect(connects(WEB) && !connects(ECHO));
    (void)close(fd);
}

static int listen_beside(const struct addr *addr)
{
    struct addr other = *addr;
    other.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, &other.any, other.len), 0);
    cr_assert_eq(listen(fd, 1), 0);
    return fd;
}

/* A service, and then the control port, wants its port on another address of this machine, where
 * another program has it. Its present address is not in the way, so it is not given up. */
Test(server_reload, an_address_in_use_on_another_host, .init = set_up, .fini = tear_down)
{
    char text[400];
    int beside_echo = listen_beside(&ports[ECHO]), beside_control = listen_beside(&control_addr);
    int fd = log_in("echo", "one");
    (void)snprintf(text, sizeof(text), "[server.services.echo]\nbind_addr = 127.0.0.2:%u\n",
                   addr_port(&ports[ECHO]));
    struct reload_outcome outcome = begin(file("", text), RELOAD_FIRST, 0);
    cr_expect(outcome.failed == 1 && outcome.deferred == 0 && outcome.replaced == 0);
    cr_expect(connects(ECHO), "it stays where it was");

    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = 127.0.0.2:%u\ndefault_token = one\n%s",
                   addr_port(&control_addr), service("echo", ECHO, ""));
    outcome = begin(text, RELOAD_FIRST, 0);
    cr_expect(outcome.failed == 1 && outcome.deferred == 0);
    int other = log_in("echo", "one");
    cr_expect(connects(ECHO));
    (void)close(beside_echo);
    (void)close(beside_control);
    (void)close(other);
    (void)close(fd);
}

Test(server_reload, a_service_takes_anothers_port, .init = set_up, .fini = tear_down)
{
    const char *text = file("", service("web", ECHO, ""));
    struct reload_outcome outcome = reload(text);
    cr_expect(outcome.removed == 1 && outcome.deferred == 1 && outcome.added == 1);
    outcome = begin(text, RELOAD_AGAIN, 1);
    apply_posted();
    cr_expect(outcome.bound == 1 && outcome.failed == 0 && outcome.changed == 0);
    int fd = log_in("web", "one");
    cr_expect(connects(ECHO));
    (void)close(fd);
}

Test(server_reload, one_moves_where_another_has_been, .init = set_up, .fini = tear_down)
{
    char text[700];
    int echo = log_in("echo", "one");
    (void)snprintf(text, sizeof(text), "%s%s", service("echo", WEB, ""), service("web", ECHO, ""));
    struct reload_outcome outcome = reload(file("", text));
    cr_expect(outcome.changed == 1 && outcome.added == 1 && outcome.deferred == 1);
    outcome = begin(file("", text), RELOAD_AGAIN, 1);
    apply_posted();
    cr_expect(outcome.bound == 1 && outcome.failed == 0);
    cr_expect_eq(side_end_of(&side, echo), 0, "its session stays");
    cr_expect(connects(WEB));
    /* Now they want each other's address, so both give theirs up. */
    (void)snprintf(text, sizeof(text), "%s%s", service("echo", ECHO, ""), service("web", WEB, ""));
    outcome = reload(file("", text));
    cr_expect(outcome.deferred == 2 && outcome.replaced == 0 && outcome.changed == 0);
    cr_expect_eq(unbound(), 2);
    outcome = begin(file("", text), RELOAD_AGAIN, 1);
    apply_posted();
    cr_expect(outcome.changed == 2 && outcome.failed == 0);
    cr_expect_eq(side_end_of(&side, echo), 0, "its session stays");
    cr_expect(connects(ECHO));
    (void)close(echo);
}

/* A whole reload, as app/reload.c does it: further plans follow at once while something is
 * deferred. */
static struct reload_outcome reload_to_the_end(const char *text, unsigned int *ret_plans)
{
    struct reload_outcome outcome = {.deferred = 1};
    for (*ret_plans = 0; outcome.deferred > 0; ++*ret_plans) {
        struct config *config = side_config(text);
        enum reload_attempt attempt = *ret_plans == 0 ? RELOAD_FIRST : RELOAD_AGAIN;
        cr_assert_lt(*ret_plans, 10u, "plans without end");
        if (server_reload_ops.begin(server, &config->server, NULL, attempt, 0, &outcome) > 0)
            apply_posted();
        config_destroy(config);
    }
    return outcome;
}

/* Services a, b, ... at these ports. */
static const char *letters(const unsigned int *at, size_t count)
{
    char text[1000];
    size_t used = 0;
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s",
                                 service((char[]){(char)('a' + i), '\0'}, at[i], ""));
    return file("", text);
}

enum { MOVING_MAX = 4 };

/* The services run at the ports `from`, each with a session, and move to the ports `to`. */
static void move_all(const unsigned int *from, const unsigned int *to, size_t count,
                     unsigned int plans_max)
{
    char name[] = "a";
    int sessions[MOVING_MAX];
    unsigned int plans;
    cr_assert_eq(reload_to_the_end(letters(from, count), &plans).failed, 0);
    for (size_t i = 0; i < count; i++) {
        name[0] = (char)('a' + i);
        sessions[i] = log_in(name, "one");
    }
    struct reload_outcome outcome = reload_to_the_end(letters(to, count), &plans);
    cr_expect_eq(outcome.failed, 0);
    cr_expect_leq(plans, plans_max);
    for (size_t i = 0; i < count; i++) {
        name[0] = (char)('a' + i);
        cr_expect_eq(find_service(name)->failures_said, 0, "nothing was said of %s", name);
        cr_expect_eq(addr_port(&find_service(name)->binding->addr), addr_port(&ports[to[i]]));
        cr_expect_eq(side_end_of(&side, sessions[i]), 0, "the session of %s stays", name);
        cr_expect(connects(to[i]));
        (void)close(sessions[i]);
    }
}

Test(server_reload, a_chain_of_addresses, .init = set_up, .fini = tear_down)
{
    static const unsigned int from[] = {ECHO, WEB, THIRD}, to[] = {WEB, THIRD, FOURTH};
    static const unsigned int back[] = {FOURTH, THIRD, WEB}, forth[] = {THIRD, WEB, ECHO};
    move_all(from, to, 3, 3);
    move_all(back, forth, 3, 3);
}

Test(server_reload, addresses_in_a_circle, .init = set_up, .fini = tear_down)
{
    static const unsigned int from[] = {ECHO, WEB, THIRD}, to[] = {WEB, THIRD, ECHO};
    move_all(from, to, 3, 2);
    move_all(from, from, 3, 1);
}

Test(server_reload, udp_services_in_a_circle, .init = set_up, .fini = tear_down)
{
    char text[700];
    unsigned int plans;
    int sessions[2];
    for (unsigned int round = 0; round < 2; round++) {
        (void)snprintf(text, sizeof(text), "%s%s",
                       service("a", round == 0 ? ECHO : WEB, "type = udp"),
                       service("b", round == 0 ? WEB : ECHO, "type = udp"));
        cr_expect_eq(reload_to_the_end(file("", text), &plans).failed, 0);
        cr_expect_eq(find_service("a")->binding->addr.v4.sin_port,
                     ports[round == 0 ? ECHO : WEB].v4.sin_port);
        cr_expect_not_null(find_service("b")->binding);
        for (int i = 0; i < 2 && round == 0; i++)
            sessions[i] = log_in(i == 0 ? "a" : "b", "one");
    }
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(side_end_of(&side, sessions[i]), 0, "the session stays");
        (void)close(sessions[i]);
    }
}

Test(server_reload, a_circle_beside_a_chain, .init = set_up, .fini = tear_down)
{
    static const unsigned int from[] = {ECHO, WEB, THIRD, FOURTH},
                              to[] = {WEB, ECHO, FOURTH, FIFTH};
    move_all(from, to, 4, 3);
}

/* Another program has the address that the last service of a chain wants. All services stay where
 * they are until that address is free. */
Test(server_reload, a_chain_that_can_not_move, .init = set_up, .fini = tear_down)
{
    static const unsigned int from[] = {ECHO, WEB, THIRD}, to[] = {WEB, THIRD, FOURTH};
    struct addr taken;
    unsigned int plans;
    int listener = tcp_listener(&taken);
    ports[FOURTH] = taken;
    cr_assert_eq(reload_to_the_end(letters(from, 3), &plans).failed, 0);
    int a = log_in("a", "one"), b = log_in("b", "one"), c = log_in("c", "one");
    struct reload_outcome outcome = reload_to_the_end(letters(to, 3), &plans);
    cr_expect(outcome.failed == 3 && outcome.changed == 0);
    cr_expect_eq(unbound(), 0, "nobody has lost an address");
    cr_expect(connects(ECHO) && connects(WEB) && connects(THIRD));
    (void)close(listener);
    outcome = begin(letters(to, 3), RELOAD_RETRY, 1);
    apply_posted();
    cr_expect_eq(outcome.changed, 1);
    outcome = reload_to_the_end(letters(to, 3), &plans);
    cr_expect_eq(outcome.failed, 0);
    cr_expect(connects(WEB) && connects(THIRD) && connects(FOURTH));
    for (char name[] = "a"; name[0] <= 'c'; name[0]++)
        cr_expect_eq(find_service(name)->failures_said, 0);
    cr_expect(side_end_of(&side, a) == 0 && side_end_of(&side, b) == 0 &&
              side_end_of(&side, c) == 0);
    (void)close(a);
    (void)close(b);
    (void)close(c);
}

/* Service a wants the wildcard address in place of 127.0.0.1, but b has 127.0.0.2 with the same
 * port and stays. So a stays too. */
Test(server_reload, no_address_is_given_up_for_one_that_is_kept, .init = set_up, .fini = tear_down)
{
    char text[700];
    unsigned int plans;
    (void)snprintf(text, sizeof(text), "%s[server.services.b]\nbind_addr = 127.0.0.2:%u\n",
                   service("a", ECHO, ""), addr_port(&ports[ECHO]));
    cr_assert_eq(reload_to_the_end(file("", text), &plans).failed, 0);
    int a = log_in("a", "one");
    (void)snprintf(text, sizeof(text),
                   "[server.services.a]\nbind_addr = 0.0.0.0:%u\n"
                   "[server.services.b]\nbind_addr = 127.0.0.2:%u\n",
                   addr_port(&ports[ECHO]), addr_port(&ports[ECHO]));
    cr_expect_eq(reload_to_the_end(file("", text), &plans).failed, 1);
    cr_expect_eq(unbound(), 0);
    cr_expect(connects(ECHO), "it stays where it was");
    (void)snprintf(text, sizeof(text), "[server.services.a]\nbind_addr = 0.0.0.0:%u\n",
                   addr_port(&ports[ECHO]));
    cr_expect_eq(reload_to_the_end(file("", text), &plans).failed, 0);
    cr_expect_eq(find_service("a")->binding->addr.v4.sin_addr.s_addr, htonl(INADDR_ANY));
    cr_expect_eq(side_end_of(&side, a), 0);
    (void)close(a);
}

/* ---- addresses that another program holds in part ---- */

/* The file with the echo service, or the control port, at this host. */
static const char *at_host(const char *host, bool is_control, bool is_udp)
{
    static char text[700];
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = %s:%u\ndefault_token = one\n"
                   "[server.services.echo]\nbind_addr = %s:%u\n%s",
                   is_control ? host : "127.0.0.1", addr_port(&control_addr),
                   is_control ? "127.0.0.1" : host, addr_port(&ports[ECHO]),
                   is_udp ? "type = udp\n" : "");
    return text;
}

static const struct binding *bound(bool is_control)
{
    const struct binding *binding =
        is_control ? server->control_binding : find_service("echo")->binding;
    cr_assert_not_null(binding, "it has an address");
    return binding;
}

static bool is_at_wildcard(bool is_control)
{
    return bound(is_control)->addr.v4.sin_addr.s_addr == htonl(INADDR_ANY);
}

/* is_shared: it allows others of its user to join it, as the sockets of another server do. */
static int hold_beside(const struct addr *addr, bool is_udp, bool is_shared)
{
    const int on = is_shared;
    struct addr other = *addr;
    other.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 4);
    int fd = socket(AF_INET, is_udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
    cr_assert_eq(bind(fd, &other.any, other.len), 0);
    cr_assert(is_udp || listen(fd, 1) == 0);
    return fd;
}

/* The echo service, or the control port, wants the wildcard address in place of 127.0.0.1, but
 * another program has the port at 127.0.0.5. Its own address is in the way too, and is not given
 * up in vain, neither at first nor by a retry. */
static void want_wildcard(bool is_control, bool is_udp)
{
    unsigned int plans;
    cr_assert_eq(reload_to_the_end(at_host("127.0.0.1", false, is_udp), &plans).failed, 0);
    int session = log_in("echo", "one");
    int holder = hold_beside(is_control ? &control_addr : &ports[ECHO], is_udp, false);
    const struct binding *before = bound(is_control);
    const char *text = at_host("0.0.0.0", is_control, is_udp);
    cr_expect_eq(begin(text, RELOAD_FIRST, 0).failed, 1);
    cr_expect_eq(begin(text, RELOAD_RETRY, 0).failed, 1);
    cr_expect_eq(unbound(), 0);
    cr_expect_eq(bound(is_control), before, "the same sockets");
    cr_expect_eq(side_end_of(&side, session), 0, "its session stays");
    (void)close(holder);
    cr_expect_eq(begin(text, RELOAD_RETRY, 1).deferred, 1);
    apply_posted();
    cr_expect_eq(begin(text, RELOAD_AGAIN, 1).failed, 0);
    apply_posted();
    cr_expect(is_at_wildcard(is_control));
    cr_expect(is_udp || connects(ECHO));
    (void)close(session);
}

Test(server_reload, a_wildcard_that_another_program_holds_in_part, .init = set_up,
     .fini = tear_down)
{
    want_wildcard(false, false);
}

Test(server_reload, a_udp_wildcard_that_another_program_holds_in_part, .init = set_up,
     .fini = tear_down)
{
    want_wildcard(false, true);
}

Test(server_reload, a_control_wildcard_that_another_program_holds_in_part, .init = set_up,
     .fini = tear_down)
{
    want_wildcard(true, false);
}

/* The other program is of the same user and shares its address, so it is only found when the old
 * address has been given up. That is taken back, and is not given up again by a retry. */
static void take_back(bool is_control, bool is_udp)
{
    unsigned int plans;
    cr_assert_eq(reload_to_the_end(at_host("127.0.0.1", false, is_udp), &plans).failed, 0);
    int session = log_in("echo", "one");
    int holder = hold_beside(is_control ? &control_addr : &ports[ECHO], is_udp, true);
    const char *text = at_host("0.0.0.0", is_control, is_udp);
    cr_expect_eq(begin(text, RELOAD_FIRST, 1).deferred, 1);
    apply_posted();
    struct reload_outcome outcome = begin(text, RELOAD_AGAIN, 1);
    cr_expect(outcome.failed == 1 && outcome.deferred == 0 && outcome.changed == 0);
    apply_posted();
    cr_expect_eq(unbound(), 0);
    cr_expect_not(is_at_wildcard(is_control));
    cr_expect(is_udp || connects(ECHO));
    cr_expect_eq(side_end_of(&side, session), 0, "its session stays");
    cr_expect_eq(begin(text, RELOAD_RETRY, 0).failed, 1);
    (void)close(holder);
    cr_expect_eq(reload_to_the_end(text, &plans).failed, 0);
    cr_expect(is_at_wildcard(is_control));
    (void)close(session);
    session = log_in("echo", "one");
    cr_expect(is_udp || connects(ECHO));
    (void)close(session);
}

Test(server_reload, an_address_that_was_given_up_in_vain, .init = set_up, .fini = tear_down)
{
    take_back(false, false);
}

Test(server_reload, a_udp_address_that_was_given_up_in_vain, .init = set_up, .fini = tear_down)
{
    take_back(false, true);
}

Test(server_reload, a_control_address_that_was_given_up_in_vain, .init = set_up, .fini = tear_down)
{
    take_back(true, false);
}

/* The old address, which is given up for the wildcard one, is taken by another program too. Later
 * it is free again, and the service comes back to it while the new one is still in use. */
Test(server_reload, an_address_that_can_not_be_taken_back, .init = set_up, .fini = tear_down)
{
    int session = log_in("echo", "one");
    int holder = hold_beside(&ports[ECHO], false, true);
    const char *text = at_host("0.0.0.0", false, false);
    (void)begin(text, RELOAD_FIRST, 1);
    apply_posted();
    int thief = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(thief, &ports[ECHO].any, ports[ECHO].len), 0);
    cr_expect_eq(begin(text, RELOAD_AGAIN, 0).failed, 1);
    cr_expect_eq(unbound(), 1);
    cr_expect_neq(find_service("echo")->failures_said, 0);
    (void)close(thief);
    cr_expect_eq(begin(text, RELOAD_RETRY, 1).bound, 1);
    apply_posted();
    cr_expect_eq(unbound(), 0);
    cr_expect(connects(ECHO));
    (void)close(holder);
    (void)close(session);
}

/* A name stands for 127.0.0.5, which another program has, and for the service's present address.
 * Only the first was tried, so the second is not in the way. */
Test(server_reload, the_second_address_of_a_name_is_not_in_the_way, .init = set_up,
     .fini = tear_down)
{
    int session = log_in("echo", "one");
    int holder = hold_beside(&ports[ECHO], false, true);
    const struct binding *before = bound(false);
    const char *text = at_host("two-addresses", false, false);
    look_up(text);
    cr_expect_eq(begin(text, RELOAD_FIRST, 0).failed, 1);
    cr_expect_eq(bound(false), before, "the same sockets");
    (void)close(holder);
    cr_expect_eq(begin(text, RELOAD_RETRY, 1).changed, 1);
    apply_posted();
    cr_expect_neq(bound(false)->addr.v4.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    (void)close(session);
}

/* ---- */

/* Two services swap their addresses, and a third wants the address that one of them gets: the third
 * stays. */
Test(server_reload, no_address_is_given_up_behind_a_circle, .init = set_up, .fini = tear_down)
{
    static const unsigned int from[] = {ECHO, WEB, THIRD}, to[] = {WEB, ECHO, WEB};
    unsigned int plans;
    cr_assert_eq(reload_to_the_end(letters(from, 3), &plans).failed, 0);
    (void)close(log_in("c", "one"));
    int a = log_in("a", "one"), b = log_in("b", "one"), c = log_in("c", "one");
    cr_expect_eq(reload_to_the_end(letters(to, 3), &plans).failed, 1);
    cr_expect_eq(plans, 2);
    cr_expect_eq(unbound(), 0);
    cr_expect_eq(addr_port(&find_service("a")->binding->addr), addr_port(&ports[WEB]));
    cr_expect_eq(addr_port(&find_service("c")->binding->addr), addr_port(&ports[THIRD]));
    cr_expect(connects(ECHO) && connects(WEB) && connects(THIRD));
    (void)close(a);
    (void)close(b);
    (void)close(c);
}

/* The control port and a service want each other's address. */
Test(server_reload, the_control_port_in_a_circle, .init = set_up, .fini = tear_down)
{
    unsigned int plans;
    const struct addr old = control_addr;
    int fd = log_in("echo", "one");
    control_addr = ports[ECHO];
    ports[ECHO] = old;
    cr_expect_eq(reload_to_the_end(file("", service("echo", ECHO, "")), &plans).failed, 0);
    cr_expect_eq(plans, 2);
    cr_expect_eq(side_end_of(&side, fd), 0, "the session stays");
    cr_expect(connects(ECHO));
    (void)close(log_in("echo", "one"));
    (void)close(fd);
}

Test(server_reload, another_type_and_other_lanes, .init = set_up, .fini = tear_down)
{
    const char *options[] = {"type = udp", "type = udp\nudp_data_channels = 3", ""};
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        struct reload_outcome outcome = reload(file("", service("echo", ECHO, options[i])));
        cr_expect(outcome.replaced == 1 && outcome.deferred == 1);
        outcome = begin(file("", service("echo", ECHO, options[i])), RELOAD_AGAIN, 1);
        apply_posted();
        cr_expect(outcome.added == 1 && outcome.failed == 0);
    }
    cr_expect_eq(reload(file("", service("echo", ECHO, "type = udp"))).replaced, 1);
}

/* ---- services without an address ---- */

/* Another program has the port of a new service. The service is added all the same and its client
 * logs in; when the port is free, the service gets it. */
Test(server_reload, a_service_waits_for_its_address, .init = set_up, .fini = tear_down)
{
    for (int is_udp = 0; is_udp < 2; is_udp++) {
        char both[700];
        int type = is_udp ? SOCK_DGRAM : SOCK_STREAM;
        int holder = socket(AF_INET, type | SOCK_CLOEXEC, 0);
        cr_assert_eq(bind(holder, &ports[WEB].any, ports[WEB].len), 0);
        (void)snprintf(both, sizeof(both), "%s%s", service("echo", ECHO, ""),
                       service("web", WEB, is_udp ? "type = udp" : ""));
        struct reload_outcome outcome = reload(file("", both));
        cr_expect(outcome.added == 1 && outcome.failed == 1 && outcome.deferred == 0);
        cr_expect_eq(unbound(), 1);
        cr_expect_neq(find_service("web")->failures_said, 0);
        int echo = log_in("echo", "one"), web = log_in("web", "one");
        cr_expect(connects(ECHO));
        for (int again = 0; again < 3; again++) {
            outcome = begin(file("", both), RELOAD_RETRY, 0);
            cr_expect(outcome.failed == 1 && outcome.bound == 0 && outcome.changed == 0);
        }
        (void)close(holder);
        outcome = begin(file("", both), RELOAD_RETRY, 1);
        apply_posted();
        cr_expect(outcome.failed == 0 && outcome.bound == 1 && outcome.changed == 0);
        cr_expect_eq(unbound(), 0);
        cr_expect_eq(find_service("web")->failures_said, 0);
        cr_expect(is_udp || connects(WEB), "its client is there already");
        cr_expect_eq(side_end_of(&side, web), 0, "and its session stays");
        outcome = begin(file("", both), RELOAD_RETRY, 0);
        cr_expect(outcome.failed == 0, "nothing is left to do");
        (void)close(web);
        (void)close(echo);
        cr_expect_eq(reload(file("", service("echo", ECHO, ""))).removed, 1);
    }
}

/* While a service waits for its address, one reload changes its token, another its address. */
Test(server_reload, a_waiting_service_changes, .init = set_up, .fini = tear_down)
{
    struct addr taken;
    int listener = tcp_listener(&taken);
    char both[700];
    uint16_t free_one = addr_port(&ports[WEB]);
    ports[WEB] = taken;
    (void)snprintf(both, sizeof(both), "%s%s", service("echo", ECHO, ""), service("web", WEB, ""));
    cr_expect_eq(reload(file("", both)).added, 1);
    int web = log_in("web", "one");
    (void)snprintf(both, sizeof(both), "%s%s", service("echo", ECHO, ""),
                   service("web", WEB, "token = two"));
    struct reload_outcome outcome = reload(file("", both));
    cr_expect(outcome.changed == 1 && outcome.failed == 1);
    cr_expect_eq(side_end_of(&side, web), 1, "by the new token");
    (void)close(web);
    web = log_in("web", "two");
    ports[WEB] = tcp_loopback(free_one);
    (void)snprintf(both, sizeof(both), "%s%s", service("echo", ECHO, ""),
                   service("web", WEB, "token = two"));
    outcome = reload(file("", both));
    cr_expect(outcome.changed == 1 && outcome.failed == 0 && unbound() == 0);
    cr_expect(connects(WEB));
    (void)close(web);
    (void)close(listener);
}

/* Of two new services with one address the first in the file gets it. The other gets it when the
 * first is removed. */
Test(server_reload, services_with_one_address, .init = set_up, .fini = tear_down)
{
    char three[1000];
    (void)snprintf(three, sizeof(three), "%s%s%s", service("echo", ECHO, ""), service("z", WEB, ""),
                   service("b", WEB, ""));
    struct reload_outcome outcome = reload(file("", three));
    cr_expect(outcome.added == 2 && outcome.failed == 1);
    cr_expect_not_null(find_service("z")->binding, "in the order of the file, not of the names");
    cr_expect_null(find_service("b")->binding);
    (void)snprintf(three, sizeof(three), "%s%s", service("echo", ECHO, ""), service("b", WEB, ""));
    outcome = reload(file("", three));
    cr_expect(outcome.removed == 1 && outcome.deferred == 1);
    outcome = begin(file("", three), RELOAD_AGAIN, 1);
    apply_posted();
    cr_expect(outcome.bound == 1 && outcome.failed == 0 && unbound() == 0);
    cr_expect_not_null(find_service("b")->binding);
}

/* A wildcard address is in use if a service, or the control port, has the port on one address. */
Test(server_reload, addresses_that_overlap, .init = set_up, .fini = tear_down)
{
    char text[1000];
    (void)snprintf(text, sizeof(text),
                   "%s[server.services.any]\nbind_addr = 0.0.0.0:%u\n"
                   "[server.services.control]\nbind_addr = 0.0.0.0:%u\n",
                   service("echo", ECHO, ""), addr_port(&ports[ECHO]), addr_port(&control_addr));
    struct reload_outcome outcome = reload(file("", text));
    cr_expect(outcome.added == 2 && outcome.failed == 2 && unbound() == 2);
    struct server_holder holder =
        server_find_holder(server, server_config(server), service_config(find_service("any")));
    cr_expect(!holder.is_control && holder.service == find_service("echo"));
    holder =
        server_find_holder(server, server_config(server), service_config(find_service("control")));
    cr_expect(holder.is_control);
    int echo = log_in("echo", "one");
    cr_expect(connects(ECHO));
    (void)close(echo);
}

/* A reload does not wait for a name: it fails, and succeeds when the name has been looked up. */
Test(server_reload, a_name_comes_later, .init = set_up, .fini = tear_down)
{
    char text[1000];
    (void)snprintf(text, sizeof(text), "%s[server.services.web]\nbind_addr = localhost:%u\n",
                   service("echo", ECHO, ""), addr_port(&ports[WEB]));
    struct reload_outcome outcome = reload(file("", text)); /* nobody has looked the name up */
    cr_expect(outcome.added == 1 && outcome.failed == 1 && unbound() == 1);
    look_up(file("", text));
    outcome = begin(file("", text), RELOAD_RETRY, 1);
    apply_posted();
    cr_expect(outcome.bound == 1 && outcome.failed == 0 && unbound() == 0);
    int web = log_in("web", "one");
    cr_expect(connects(WEB));
    (void)close(web);
}

/* ---- the server itself ---- */

Test(server_reload, settings, .init = set_up, .fini = tear_down)
{
    int fd = log_in("echo", "one");
    struct reload_outcome outcome = reload(
        file("max_pending_handshakes = 7\nheartbeat_interval = 2\n", service("echo", ECHO, "")));
    cr_expect_eq(outcome.changes, CONFIG_CHANGE_LIMITS | CONFIG_CHANGE_HEARTBEAT);
    cr_expect_eq(server->gate.pending_max, 7);
    cr_expect_eq(server_config(server)->heartbeat_interval_ms, 2000);
    uint8_t bytes[4096];
    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    side_advance(&side, 2100);
    cr_expect_geq(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), 4, "a heartbeat");
    cr_expect_eq(begin(file("threads = 9\n", service("echo", ECHO, "")), RELOAD_FIRST, 1).changes &
                     CONFIG_CHANGE_RESTART,
                 0);
    apply_posted();
    (void)close(fd);
}

Test(server_reload, the_control_port_moves, .init = set_up, .fini = tear_down)
{
    struct addr old = control_addr;
    int fd = log_in("echo", "one");
    control_addr = tcp_loopback(free_port());
    cr_expect_eq(reload(file("", service("echo", ECHO, ""))).changes, CONFIG_CHANGE_ADDRESS);
    int other = log_in("echo", "one"); /* at the new port; it replaces the first login */
    cr_expect_eq(side_end_of(&side, fd), 1);
    int probe = socket(AF_INET, SOCK_STREAM, 0);
    cr_expect_lt(connect(probe, &old.any, old.len), 0);
    (void)close(probe);
    (void)close(fd);
    (void)close(other);
}

#define NOISE                                                      \
    "[server.transport]\ntype = noise\n[server.transport.noise]\n" \
    "local_private_key = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=\n"

Test(server_reload, another_transport_ends_what_began_with_the_old, .init = set_up,
     .fini = tear_down)
{
    struct message_hello hello;
    int up = log_in("echo", "one"), half = say_hello("echo", &hello);
    cr_expect_eq(reload(file("", NOISE "[server.services.echo]\nbind_addr = 127.0.0.1:1\n")).failed,
                 0);
    cr_expect_neq(side_end_of(&side, up), 0);
    cr_expect_neq(side_end_of(&side, half), 0);
    cr_expect(recipe_has_handshakes(side.workers[0].recipe));
    (void)reload(file("", service("echo", ECHO, "")));
    cr_expect_not(recipe_has_handshakes(side.workers[1].recipe));
    (void)close(up);
    (void)close(half);
    int fd = log_in("echo", "one");
    (void)close(fd);
}

/* The process ends while a plan is being applied. */
Test(server_reload, an_unfinished_plan_is_freed, .init = set_up)
{
    (void)begin(file("handshake_timeout = 3\n", service("echo", WEB, "token = x")), RELOAD_FIRST,
                1);
    tear_down();
}

/* A server that is asked to stop while a plan is being applied may run on for its relays. The next
 * server gets all addresses at once, also those that the plan replaces. */
Test(server_reload, a_server_that_leaves_gives_up_what_its_plan_replaces, .init = set_up)
{
    static const unsigned int all[] = {ECHO, WEB};
    struct binding *next[ARRAY_SIZE(all)];
    (void)begin(file("", service("echo", WEB, "")), RELOAD_FIRST, 1);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        struct binding_options options = {.addr = &ports[all[i]], .is_guarded = true, .count = 1};
        cr_expect_eq(binding_create(&options, &next[i]), -EADDRINUSE);
    }
    server_leave_addresses(server);
    side_signal(&side, TUNNEL_SIGNAL_DRAIN);
    side_settle(&side, 3);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        struct binding_options options = {.addr = &ports[all[i]], .is_guarded = true, .count = 1};
        cr_assert_eq(binding_create(&options, &next[i]), 0);
        binding_destroy(next[i]);
    }
    tear_down();
}
