/* The client on the fake loop, against a server whose bytes the test writes. Covers
 * src/client/local_service.c, src/client/data_channel_relay.c, src/client/session.c,
 * src/client/opening.c and src/client/client_worker.c, too. */
#include "client/client.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "proto/message.h"
#include "side.h"

static const char secret[] = "a secret";

struct rig {
    struct config *config;
    struct client *client;
    struct side side;
    int listener, local; /* the listeners of the server and of the local service */
    struct addr server_addr, local_addr;
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
};

/* ---- the test answers names ---- */

static resolver_answered_fn *asked_answered;
static void *asked_by;
static unsigned int asked_count;

struct resolver_query *__wrap_resolver_ask(struct resolver *resolver, const struct host_port *name,
                                           bool prefer_ipv6, struct mailbox *answer_to,
                                           resolver_answered_fn *answered, void *asker);
void __wrap_resolver_abandon(struct resolver_query *query);

struct resolver_query *__wrap_resolver_ask(struct resolver *resolver, const struct host_port *name,
                                           bool prefer_ipv6, struct mailbox *answer_to,
                                           resolver_answered_fn *answered, void *asker)
{
    asked_answered = answered;
    asked_by = asker;
    asked_count++;
    return (struct resolver_query *)(void *)&asked_count;
}

void __wrap_resolver_abandon(struct resolver_query *query)
{
    if (query != NULL)
        asked_answered = NULL;
}

static void answer(const struct resolver_answer *resolver_answer)
{
    resolver_answered_fn *answered = asked_answered;
    cr_assert_not_null(answered);
    asked_answered = NULL;
    answered(asked_by, resolver_answer);
}

/* ---- the test refuses sockets ---- */

static int refused_family, refused_error; /* AF_UNSPEC: none */
static unsigned int refused_count;

int __wrap_socket(int family, int type, int protocol);
int __real_socket(int family, int type, int protocol);

int __wrap_socket(int family, int type, int protocol)
{
    if (refused_family == AF_UNSPEC || family != refused_family)
        return __real_socket(family, type, protocol);
    refused_count++;
    errno = refused_error;
    return -1;
}

static void refuse_sockets(int family, int error)
{
    refused_family = family;
    refused_error = error;
    refused_count = 0;
}

/* ---- the rig ---- */

struct rig_options {
    unsigned int workers, services; /* 0: one */
    const char *server_host;        /* NULL: 127.0.0.1 */
    const char *local_host;
    uint64_t seed;
};

static void rig_configure(struct rig *rig, const struct rig_options *options)
{
    static char text[16384];
    int size =
        snprintf(text, sizeof(text), "[client]\nremote_addr = \"%s:%u\"\ndefault_token = \"%s\"\n",
                 options->server_host != NULL ? options->server_host : "127.0.0.1",
                 addr_port(&rig->server_addr), secret);
    for (unsigned int i = 0; i < MAX(options->services, 1u); i++)
        size += snprintf(text + size, sizeof(text) - (size_t)size,
                         "[client.services.echo%u]\nlocal_addr = \"%s:%u\"\n", i,
                         options->local_host != NULL ? options->local_host : "127.0.0.1",
                         addr_port(&rig->local_addr));
    rig->config = side_config(text);
}

static void rig_init(struct rig *rig, const struct rig_options *options)
{
    memset(rig, 0, sizeof(*rig));
    asked_count = 0;
    asked_answered = NULL;
    refuse_sockets(AF_UNSPEC, 0);
    log_configure(LOG_ERROR + (getenv("CLIENT_LOG") == NULL ? 0 : 3), LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    rig->fds_before = open_fd_count();
    rig->listener = tcp_listener(&rig->server_addr);
    rig->local = tcp_listener(&rig->local_addr);
    rig_configure(rig, options);
    fake_loop_set_seed(options->seed);
    unsigned int workers = MAX(options->workers, 1u);
    cr_assert_eq(side_init(&rig->side, workers), 0);
    side_set_idle_step_ms(&rig->side, 0);
    cr_assert_eq(client_create(&rig->config->client, workers, &rig->client), 0);
    cr_assert_eq(side_start(&rig->side, &client_role, rig->client), 0);
    side_settle(&rig->side, 3);
}

static void close_listener(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

static void rig_finish(struct rig *rig)
{
    side_finish(&rig->side);
    cr_assert_eq(atomic_load(&rig->client->logins_in_progress), 0);
    cr_assert_eq(rig->client->fds.tcp_channels + rig->client->fds.half_open +
                     rig->client->fds.tcp_served,
                 0);
    client_destroy(rig->client);
    config_destroy(rig->config);
    close_listener(&rig->listener);
    close_listener(&rig->local);
    cr_assert_eq(open_fd_count(), rig->fds_before, "descriptors");
}

/* ---- the other side ---- */

/* Accepts the client's next connection; -1: there is none. */
static int accepted(struct rig *rig, int listener)
{
    int fd = -1;
    for (int turn = 0; turn < 10 && fd < 0; turn++) {
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        side_settle(&rig->side, 1);
    }
    if (fd >= 0)
        socket_set_nodelay(fd, true); /* what the test sends has to arrive in the next turn */
    return fd;
}

/* Reads the client's Hello and answers it. Then reads its Auth and, if that is right, makes the
 * connection the rig's. */
static bool hear_login(struct rig *rig, int fd, unsigned int service)
{
    uint8_t nonce[KEYS_NONCE_SIZE], digest[KEYS_DIGEST_SIZE], bytes[MESSAGE_HELLO_SIZE];
    char name[16];
    int size = snprintf(name, sizeof(name), "echo%u", service);
    keys_service_digest(name, (size_t)size, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, bytes);
    if (!side_expect(&rig->side, fd, bytes, sizeof(bytes)))
        return false;
    keys_random(nonce, sizeof(nonce));
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, bytes);
    say(fd, bytes, sizeof(bytes));
    keys_auth_digest(secret, strlen(secret), nonce, rig->session_key);
    return side_expect(&rig->side, fd, rig->session_key, sizeof(rig->session_key));
}

static void say_ack(struct rig *rig, int fd, enum message_ack ack)
{
    uint8_t bytes[MESSAGE_ACK_SIZE];
    message_ack_encode(ack, bytes);
    say(fd, bytes, sizeof(bytes));
    side_settle(&rig->side, 3);
}

static int logged_in(struct rig *rig)
{
    int fd = accepted(rig, rig->listener);
    cr_assert_geq(fd, 0);
    cr_assert(hear_login(rig, fd, 0));
    say_ack(rig, fd, MESSAGE_ACK_OK);
    cr_assert_eq(side_metric(&rig->side, METRIC_LOGINS), 1);
    return fd;
}

static void ask_for(struct rig *rig, int control, unsigned int count)
{
    uint8_t command[MESSAGE_COMMAND_SIZE];
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
    for (unsigned int i = 0; i < count; i++)
        say(control, command, sizeof(command));
    side_settle(&rig->side, 4);
}

static bool hear_channel(struct rig *rig, int fd)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    message_hello_encode(MESSAGE_HELLO_DATA, rig->session_key, hello);
    return side_expect(&rig->side, fd, hello, sizeof(hello));
}

/* Asks for a data channel over the control channel, and returns it parked. */
static int parked(struct rig *rig, int control)
{
    ask_for(rig, control, 1);
    int fd = accepted(rig, rig->listener);
    cr_assert_geq(fd, 0);
    cr_assert(hear_channel(rig, fd));
    return fd;
}

static void say_start(int fd)
{
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    say(fd, command, sizeof(command));
}

/* ---- logging in ---- */

Test(client, login_channel_and_relay)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        rig_init(&rig, &(struct rig_options){.workers = workers, .seed = workers});
        int control = logged_in(&rig);
        int channel = parked(&rig, control);
        say_start(channel);
        say(channel, "ping", 4);
        int local = accepted(&rig, rig.local);
        cr_assert_geq(local, 0);
        cr_assert(side_expect(&rig.side, local, "ping", 4));
        say(local, "pong", 4);
        cr_assert(side_expect(&rig.side, channel, "pong", 4));
        (void)shutdown(channel, SHUT_WR);
        cr_assert_eq(side_end_of(&rig.side, local), 1);
        say(local, "last", 4);
        cr_assert(side_expect(&rig.side, channel, "last", 4), "a half-closed relay goes on");
        (void)close(local);
        cr_assert_eq(side_end_of(&rig.side, channel), 1);
        (void)close(channel);
        (void)close(control);
        rig_finish(&rig);
    }
}

struct wrong {
    const char *name;
    uint8_t hello[MESSAGE_HELLO_SIZE + 8]; /* sent instead of a right Hello if hello_len > 0 */
    size_t hello_len;
    uint8_t ack[8];
    size_t ack_len;
    bool ends, resets;
};

Test(client, wrong_answers_end_in_a_back_off)
{
    static const struct wrong rows[] = {
        {.name = "tag", .hello = {1, 0, 0, 0, 1}, .hello_len = 37},
        {.name = "unknown tag", .hello = {9, 0, 0, 0, 1}, .hello_len = 37},
        {.name = "version", .hello = {0, 0, 0, 0, 7}, .hello_len = 37},
        {.name = "short hello", .hello_len = 10, .ends = true},
        {.name = "no hello", .hello_len = 1, .resets = true},
        {.name = "no service", .ack = {1}, .ack_len = 4},
        {.name = "wrong token", .ack = {2}, .ack_len = 4},
        {.name = "unknown ack", .ack = {3}, .ack_len = 4},
        {.name = "huge ack", .ack = {0, 0, 0, 1}, .ack_len = 4},
        {.name = "short ack", .ack = {0}, .ack_len = 3, .ends = true},
        {.name = "reset for an ack", .ack_len = 0, .resets = true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        const struct wrong *row = &rows[i];
        struct rig rig;
        rig_init(&rig, &(struct rig_options){.seed = i});
        int fd = accepted(&rig, rig.listener);
        if (row->hello_len > 0) {
            say(fd, row->hello, row->hello_len);
        } else {
            cr_assert(hear_login(&rig, fd, 0), "%s", row->name);
            say(fd, row->ack, row->ack_len);
        }
        side_settle(&rig.side, 3);
        if (row->resets)
            tcp_abort_on_close(fd);
        if (row->ends || row->resets)
            (void)close(fd);
        else
            cr_expect_neq(side_end_of(&rig.side, fd), 0, "%s", row->name);
        side_settle(&rig.side, 5);
        cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1, "%s", row->name);
        cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS), 0);
        side_advance(&rig.side, 390);
        cr_expect_eq(accepted(&rig, rig.listener), -1, "%s: too early", row->name);
        side_advance(&rig.side, 220);
        int next = accepted(&rig, rig.listener);
        cr_expect_geq(next, 0, "%s: not again", row->name);
        if (!row->ends && !row->resets)
            (void)close(fd);
        (void)close(next);
        rig_finish(&rig);
    }
}

Test(client, a_silent_server_is_left)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int fd = accepted(&rig, rig.listener);
    for (int i = 0; i < 14; i++) {
        say(fd, "\0", 1);
        side_advance(&rig.side, 1000);
    }
    cr_assert_eq(
        side_end_of(&rig.side, fd) == 0 || side_metric(&rig.side, METRIC_LOGINS_FAILED) == 1, true);
    side_advance(&rig.side, 1100);
    cr_assert_neq(side_end_of(&rig.side, fd), 0);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    (void)close(fd);
    rig_finish(&rig);
}

Test(client, waits_grow_and_start_over)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    close_listener(&rig.listener);
    static const uint64_t waits_ms[] = {500, 1000, 1000};
    /* The first attempt reached the listener, and fails when that closes. */
    side_settle(&rig.side, 5);
    for (size_t i = 0; i < ARRAY_SIZE(waits_ms); i++) {
        cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), i + 1);
        side_advance(&rig.side, waits_ms[i] * 78 / 100);
        cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), i + 1, "wait %zu: too short", i);
        side_advance(&rig.side, waits_ms[i] * 44 / 100);
        cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), i + 2, "wait %zu: too long", i);
    }
    rig_finish(&rig);
}

static uint32_t doubts(const struct rig *rig)
{
    const struct list *first = rig->client->services.entries.next;
    return atomic_load(&container_of(first, struct service_base, node)->doubts);
}

Test(client, heartbeats_keep_it_and_silence_ends_it)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    uint8_t heartbeat[MESSAGE_COMMAND_SIZE];
    message_command_encode(MESSAGE_COMMAND_HEARTBEAT, heartbeat);
    for (int i = 0; i < 5; i++) {
        side_advance(&rig.side, 30000);
        say(control, heartbeat, sizeof(heartbeat));
        side_settle(&rig.side, 3);
    }
    side_advance(&rig.side, 30000);
    say(control, heartbeat, 2); /* half a command does not count as a heartbeat */
    side_advance(&rig.side, 9000);
    cr_assert_eq(side_end_of(&rig.side, control), 0);
    cr_assert_eq(doubts(&rig), 0);
    side_advance(&rig.side, 1500);
    cr_assert_neq(side_end_of(&rig.side, control), 0);
    cr_assert_eq(side_metric(&rig.side, METRIC_CONTROL_CHANNELS_LOST), 1);
    cr_assert_eq(doubts(&rig), 1, "its relays are to be asked");
    (void)close(control);
    side_advance(&rig.side, 700);
    int next = accepted(&rig, rig.listener);
    cr_assert_geq(next, 0);
    (void)close(next);
    rig_finish(&rig);
}

/* The process was stopped for longer than any of its deadlines. */
Test(client, a_stop_ends_no_login_that_goes_on)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int fd = accepted(&rig, rig.listener);
    cr_assert_geq(fd, 0);
    side_stop(&rig.side, 45000);
    cr_assert(hear_login(&rig, fd, 0));
    side_advance(&rig.side, LIMIT_ABSENT_GRACE_MS / 2);
    say_ack(&rig, fd, MESSAGE_ACK_OK);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS), 1);
    side_advance(&rig.side, LIMIT_ABSENT_GRACE_MS);
    cr_assert_eq(side_end_of(&rig.side, fd), 0);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0);
    (void)close(fd);
    rig_finish(&rig);
}

Test(client, a_stop_ends_a_session_only_of_a_silent_server)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    uint8_t heartbeat[MESSAGE_COMMAND_SIZE];
    message_command_encode(MESSAGE_COMMAND_HEARTBEAT, heartbeat);
    say(control, heartbeat, sizeof(heartbeat));
    side_stop(&rig.side, 45000);
    side_advance(&rig.side, LIMIT_ABSENT_GRACE_MS + 100);
    cr_assert_eq(side_end_of(&rig.side, control), 0);
    side_stop(&rig.side, 45000);
    cr_assert_eq(side_end_of(&rig.side, control), 0, "it may be about to speak");
    side_advance(&rig.side, LIMIT_ABSENT_GRACE_MS + 100);
    cr_assert_neq(side_end_of(&rig.side, control), 0, "soon, not a whole timeout later");
    cr_assert_eq(side_metric(&rig.side, METRIC_CONTROL_CHANNELS_LOST), 1);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, unknown_commands_end_the_session)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    say(control, "\7\0\0\0", 4);
    cr_assert_neq(side_end_of(&rig.side, control), 0);
    cr_assert_eq(side_metric(&rig.side, METRIC_CONTROL_CHANNELS_LOST), 1);
    cr_assert_eq(doubts(&rig), 0, "that was no silence");
    (void)close(control);
    rig_finish(&rig);
}

/* ---- several addresses ---- */

static void answer_two(struct rig *rig, struct addr first, struct addr second)
{
    struct resolver_answer both = {.count = 2, .addrs = {first, second}};
    answer(&both);
    side_settle(&rig->side, 8);
}

static struct addr nobody(void)
{
    return tcp_loopback(free_port());
}

Test(client, the_next_address_when_one_refuses)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    cr_assert_eq(asked_count, 1);
    answer_two(&rig, nobody(), rig.server_addr);
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    /* Data channels use the address of the control channel. The end of one is no reason to try
     * another address. */
    (void)close(channel);
    (void)close(control);
    side_settle(&rig.side, 6);
    cr_assert_eq(asked_count, 1);
    side_advance(&rig.side, 700);
    cr_assert_eq(asked_count, 2, "asks again");
    answer_two(&rig, nobody(), nobody());
    cr_assert_eq(asked_count, 2);
    side_advance(&rig.side, 1300);
    cr_assert_eq(asked_count, 3, "none of them: it backs off");
    answer(&(struct resolver_answer){.error = ERR_RESOLVE});
    side_advance(&rig.side, 1300);
    cr_assert_eq(asked_count, 4);
    /* The name server does not answer. */
    side_advance(&rig.side, LIMIT_LOGIN_MS + 10);
    cr_assert_null(asked_answered, "abandoned");
    rig_finish(&rig);
}

Test(client, a_refused_login_is_not_tried_elsewhere)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    answer_two(&rig, rig.server_addr, rig.server_addr);
    int fd = accepted(&rig, rig.listener);
    cr_assert(hear_login(&rig, fd, 0));
    say_ack(&rig, fd, MESSAGE_ACK_AUTH_FAILED);
    cr_assert_eq(accepted(&rig, rig.listener), -1);
    (void)close(fd);
    rig_finish(&rig);
}

/* An address that drops packets: the accept queue of its listener is full. */
struct hole {
    struct addr addr;
    int fd, filler;
};

static void hole_open(struct hole *hole)
{
    hole->addr = tcp_loopback(0);
    hole->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = hole->addr.len;
    cr_assert_eq(bind(hole->fd, &hole->addr.any, len), 0);
    cr_assert_eq(getsockname(hole->fd, &hole->addr.any, &len), 0);
    cr_assert_eq(listen(hole->fd, 0), 0);
    hole->filler = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(hole->filler, &hole->addr.any, len), 0);
}

static void hole_close(struct hole *hole)
{
    (void)close(hole->filler);
    (void)close(hole->fd);
}

static struct addr v6_loopback(const struct addr *like)
{
    struct addr addr = {.len = sizeof(addr.v6)};
    addr.v6.sin6_family = AF_INET6;
    addr.v6.sin6_addr = in6addr_loopback;
    addr.v6.sin6_port = htons(addr_port(like));
    return addr;
}

Test(client, a_server_address_without_an_answer_costs_a_moment)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    answer_two(&rig, hole.addr, rig.server_addr);
    side_advance(&rig.side, LIMIT_DIAL_FIRST_MS - 10);
    cr_assert_eq(accepted(&rig, rig.listener), -1, "too early");
    side_advance(&rig.side, 20);
    int control = logged_in(&rig);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0, "it was one login");
    int channel = parked(&rig, control);
    (void)close(channel);
    (void)close(control);
    side_settle(&rig.side, 6);
    side_advance(&rig.side, 700);
    cr_assert_eq(asked_count, 2);
    answer_two(&rig, hole.addr, rig.server_addr);
    control = accepted(&rig, rig.listener);
    cr_assert_geq(control, 0, "what worked comes first");
    cr_assert_eq(accepted(&rig, rig.listener), -1, "and once");
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, all_addresses_together_have_the_limit)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.server_host = "server.test", .seed = 1});
    answer_two(&rig, hole.addr, hole.addr);
    for (unsigned int ms = 0; ms < LIMIT_CONNECT_MS - 100; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0);
    for (unsigned int ms = 0; ms < 700; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    /* The client is stopped while an address is left to try. */
    side_advance(&rig.side, 1300);
    cr_assert_eq(asked_count, 2);
    answer_two(&rig, hole.addr, hole.addr);
    fake_loop_advance_ms(rig.side.workers[0].loop, LIMIT_DIAL_FIRST_MS + 1);
    side_settle(&rig.side, 1);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, without_ipv6_the_other_addresses_are_tried)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){
                       .server_host = "server.test", .local_host = "local.test", .seed = 1});
    refuse_sockets(AF_INET6, EAFNOSUPPORT);
    answer_two(&rig, v6_loopback(&rig.server_addr), rig.server_addr);
    int control = logged_in(&rig);
    cr_assert_eq(refused_count, 1);
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 0);
    for (unsigned int i = 0; i < 2; i++) {
        int channel = parked(&rig, control);
        say_start(channel);
        side_settle(&rig.side, 4);
        if (i == 0)
            answer_two(&rig, v6_loopback(&rig.local_addr), rig.local_addr);
        int local = accepted(&rig, rig.local);
        cr_assert_geq(local, 0);
        cr_assert_eq(refused_count, 2, "tried once, then what worked comes first");
        (void)close(local);
        (void)close(channel);
    }
    /* If all addresses are like that: one failure, then the back-off. */
    (void)close(control);
    side_settle(&rig.side, 6);
    side_advance(&rig.side, 700);
    answer_two(&rig, v6_loopback(&rig.server_addr), v6_loopback(&rig.local_addr));
    cr_assert_eq(side_metric(&rig.side, METRIC_LOGINS_FAILED), 1);
    cr_assert_eq(refused_count, 4);
    rig_finish(&rig);
}

/* No address can help against this error, so the next ones are not tried. */
Test(client, without_descriptors_the_other_addresses_are_not_tried)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say_start(channel);
    side_settle(&rig.side, 4);
    refuse_sockets(AF_INET, EMFILE);
    answer_two(&rig, rig.local_addr, rig.local_addr);
    cr_assert_eq(refused_count, 2); /* the second socket is for a reserved descriptor */
    cr_assert_eq(side_end_of(&rig.side, channel), 1);
    refuse_sockets(AF_UNSPEC, 0);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* ---- many services ---- */

Test(client, logs_in_a_few_at_a_time)
{
    enum { SERVICES = 40 };
    struct rig rig;
    int fds[SERVICES];
    unsigned int count = 0;
    rig_init(&rig, &(struct rig_options){.services = SERVICES, .workers = 2, .seed = 1});
    int fd;
    while (count < SERVICES && (fd = accepted(&rig, rig.listener)) >= 0)
        fds[count++] = fd;
    cr_assert_eq(count, LIMIT_LOGINS_IN_PROGRESS);
    /* Logins that have failed give up their turn. */
    for (unsigned int i = 0; i < count; i++)
        (void)close(fds[i]);
    side_settle(&rig.side, 5);
    side_advance(&rig.side, 60);
    count = 0;
    while (count < SERVICES && (fd = accepted(&rig, rig.listener)) >= 0)
        fds[count++] = fd;
    cr_assert_eq(count, LIMIT_LOGINS_IN_PROGRESS);
    for (unsigned int i = 0; i < count; i++)
        (void)close(fds[i]);
    rig_finish(&rig);
}

/* ---- data channels ---- */

Test(client, without_the_local_service_the_visitor_sees_an_end_of_stream)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    close_listener(&rig.local);
    for (int i = 0; i < 3; i++) {
        int channel = parked(&rig, control);
        say_start(channel);
        say(channel, "request", 7);
        side_settle(&rig.side, 10); /* so that a reset behind the end would show */
        cr_expect_eq(side_end_of(&rig.side, channel), 1, "an end, not a reset");
        (void)close(channel);
        side_settle(&rig.side, 3);
    }
    (void)close(control);
    rig_finish(&rig);
}

Test(client, bad_commands_reset_the_channel)
{
    static const uint8_t commands[][4] = {{1}, {2}, {0, 0, 0, 1}, {255, 255, 255, 255}};
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        int channel = parked(&rig, control);
        say(channel, commands[i], 4);
        cr_expect_eq(side_end_of(&rig.side, channel), -ECONNRESET);
        cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), i + 1);
        (void)close(channel);
    }
    cr_assert_eq(accepted(&rig, rig.local), -1);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, a_parked_channel_that_the_server_closes)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    size_t before = open_fd_count();
    for (int i = 0; i < 3; i++) {
        int channel = parked(&rig, control);
        if (i == 1)
            tcp_abort_on_close(channel);
        if (i == 2)
            say(channel, "\0", 2); /* half a command */
        (void)close(channel);
        side_settle(&rig.side, 6);
        cr_assert_eq(open_fd_count(), before);
    }
    cr_assert_eq(side_end_of(&rig.side, control), 0);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, the_end_of_the_session_resets_parked_channels_and_no_others)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        int channels[6];
        rig_init(&rig, &(struct rig_options){.workers = workers, .seed = 1});
        int control = logged_in(&rig);
        for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
            channels[i] = parked(&rig, control);
        say_start(channels[0]);
        int local = accepted(&rig, rig.local);
        (void)close(control);
        for (size_t i = 1; i < ARRAY_SIZE(channels); i++)
            cr_expect_eq(side_end_of(&rig.side, channels[i]), -ECONNRESET);
        say(local, "still", 5);
        cr_assert(side_expect(&rig.side, channels[0], "still", 5));
        (void)close(local);
        for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
            (void)close(channels[i]);
        rig_finish(&rig);
    }
}

Test(client, a_channel_is_dialled_for_ten_seconds)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    struct addr addr = rig.server_addr;
    close_listener(&rig.listener);
    (void)setsockopt(control, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    ask_for(&rig, control, 1);
    for (int i = 0; i < 60; i++)
        side_advance(&rig.side, 100);
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    rig.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)setsockopt(rig.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    cr_assert_eq(bind(rig.listener, &addr.any, addr.len), 0);
    cr_assert_eq(listen(rig.listener, 10), 0);
    side_advance(&rig.side, 200);
    int channel = accepted(&rig, rig.listener);
    cr_assert_geq(channel, 0);
    cr_assert(hear_channel(&rig, channel));
    close_listener(&rig.listener);
    ask_for(&rig, control, 1);
    for (int i = 0; i < 104; i++)
        side_advance(&rig.side, 100);
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 1, "then no more");
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* A channel that waits for a descriptor counts as well. The server asks anew, and otherwise all
 * channels asked for since would dial as soon as descriptors are free. */
Test(client, a_channel_waits_for_a_descriptor_for_ten_seconds)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    refuse_sockets(AF_INET, EMFILE);
    ask_for(&rig, control, 1);
    for (int i = 0; i < 98; i++)
        side_advance(&rig.side, 100);
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    for (int i = 0; i < 6; i++)
        side_advance(&rig.side, 100);
    cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 1);
    refuse_sockets(AF_UNSPEC, 0);
    side_advance(&rig.side, 1000);
    cr_expect_eq(accepted(&rig, rig.listener), -1, "it is given up");
    ask_for(&rig, control, 1);
    int channel = accepted(&rig, rig.listener);
    cr_expect_geq(channel, 0);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

/* A process that was stopped has not tried for that long. */
Test(client, a_channel_is_dialled_after_a_stop)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.seed = 1});
    int control = logged_in(&rig);
    close_listener(&rig.listener);
    (void)setsockopt(control, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    ask_for(&rig, control, 1);
    side_advance(&rig.side, 300);
    rig.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    (void)setsockopt(rig.listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    cr_assert_eq(bind(rig.listener, &rig.server_addr.any, rig.server_addr.len), 0);
    cr_assert_eq(listen(rig.listener, 10), 0);
    side_stop(&rig.side, 45000);
    int channel = accepted(&rig, rig.listener);
    cr_assert_geq(channel, 0);
    cr_assert(hear_channel(&rig, channel));
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
}

Test(client, a_flood_of_requests_is_bounded)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        rig_init(&rig, &(struct rig_options){.workers = workers, .seed = 1});
        int control = logged_in(&rig);
        /* Each attempt is refused, and the channel waits for its next one. */
        close_listener(&rig.listener);
        size_t before = open_fd_count();
        for (int i = 0; i < 60; i++)
            ask_for(&rig, control, 50);
        side_settle(&rig.side, 20);
        cr_assert_leq(open_fd_count(), before + LIMIT_CLIENT_CHANNELS_PENDING);
        size_t channels = 0;
        for (unsigned int i = 0; i < workers; i++) {
            struct client_worker *worker = rig.side.workers[i].role;
            list_for_each (node, &worker->channels)
                channels++;
        }
        cr_assert_eq(channels, LIMIT_CLIENT_CHANNELS_PENDING);
        cr_assert_eq(side_end_of(&rig.side, control), 0);
        (void)close(control);
        rig_finish(&rig);
    }
}

Test(client, names_of_local_services)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say_start(channel);
    side_settle(&rig.side, 4);
    cr_assert_eq(asked_count, 1);
    answer_two(&rig, nobody(), rig.local_addr);
    int local = accepted(&rig, rig.local);
    cr_assert_geq(local, 0);
    int second = parked(&rig, control);
    say_start(second);
    int local_too = accepted(&rig, rig.local);
    cr_assert_geq(local_too, 0);
    cr_assert_eq(asked_count, 1, "remembered");
    int third = parked(&rig, control);
    side_advance(&rig.side, 11000);
    say_start(third);
    side_settle(&rig.side, 4);
    cr_assert_eq(asked_count, 2, "but not for ever");
    answer(&(struct resolver_answer){.error = ERR_RESOLVE});
    cr_assert_eq(side_end_of(&rig.side, third), 1);
    int fds[] = {control, channel, local, second, local_too, third};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        (void)close(fds[i]);
    rig_finish(&rig);
}

static int visitor_of(struct rig *rig, int control)
{
    int channel = parked(rig, control);
    say_start(channel);
    side_settle(&rig->side, 4);
    return channel;
}

static void expect_local(struct rig *rig, int channel)
{
    int local = accepted(rig, rig->local);
    cr_assert_geq(local, 0);
    cr_assert_eq(accepted(rig, rig->local), -1, "once");
    (void)close(local);
    (void)close(channel);
}

Test(client, a_local_address_without_an_answer_costs_a_moment)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int first = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, rig.local_addr);
    side_advance(&rig.side, LIMIT_DIAL_FIRST_MS - 10);
    cr_assert_eq(accepted(&rig, rig.local), -1, "too early");
    side_advance(&rig.side, 20);
    expect_local(&rig, first);
    expect_local(&rig, visitor_of(&rig, control)); /* the address that worked is first */
    side_advance(&rig.side, 11000);
    first = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, rig.local_addr); /* also after the next look-up */
    expect_local(&rig, first);
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, all_workers_know_which_local_address_works)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .workers = 2, .seed = 1});
    int control = logged_in(&rig);
    struct client_service *service = client_service_of(
        container_of(rig.client->services.entries.next, struct service_base, node));
    const struct resolver_answer both = {.count = 2, .addrs = {hole.addr, rig.local_addr}};
    for (unsigned int i = 0; i < 2; i++)
        client_local_take(&service->locals[i], &both, loop_now_ns(rig.side.workers[i].loop));
    int first = visitor_of(&rig, control);
    side_advance(&rig.side, LIMIT_DIAL_FIRST_MS + 10);
    expect_local(&rig, first);
    for (unsigned int i = 0; i < 6; i++)
        expect_local(&rig, visitor_of(&rig, control));
    cr_assert(addr_equal(&service->locals[0].answer.addrs[0], &rig.local_addr));
    cr_assert(addr_equal(&service->locals[1].answer.addrs[0], &rig.local_addr));
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

Test(client, the_end_between_two_local_addresses)
{
    struct rig rig;
    struct hole hole;
    hole_open(&hole);
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, hole.addr);
    for (unsigned int ms = 0; ms < LIMIT_CONNECT_MS - 100; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_end_of(&rig.side, channel), 0, "within the limit");
    for (unsigned int ms = 0; ms < 700; ms += 50)
        side_advance(&rig.side, 50);
    cr_assert_eq(side_end_of(&rig.side, channel), 1, "of all together");
    (void)close(channel);
    channel = visitor_of(&rig, control);
    answer_two(&rig, hole.addr, hole.addr);
    fake_loop_advance_ms(rig.side.workers[0].loop, LIMIT_DIAL_FIRST_MS + 1);
    side_settle(&rig.side, 1);
    (void)close(channel);
    (void)close(control);
    rig_finish(&rig);
    hole_close(&hole);
}

/* The process was stopped during a look-up. */
Test(client, a_name_may_be_answered_after_a_stop)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.local_host = "local.test", .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control);
    say_start(channel);
    side_settle(&rig.side, 4);
    cr_assert_eq(asked_count, 1);
    side_stop(&rig.side, 45000);
    answer(&(struct resolver_answer){.count = 1, .addrs = {rig.local_addr}});
    int local = accepted(&rig, rig.local);
    cr_assert_geq(local, 0);
    say(channel, "ping", 4);
    cr_assert(side_expect(&rig.side, local, "ping", 4));
    (void)close(control);
    (void)close(channel);
    (void)close(local);
    rig_finish(&rig);
}

/* ---- the end ---- */

Test(client, drain_lets_relays_finish)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.workers = 2, .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control), idle = parked(&rig, control);
    say_start(channel);
    int local = accepted(&rig, rig.local);
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    cr_assert_eq(side_end_of(&rig.side, idle), -ECONNRESET);
    cr_assert_neq(side_end_of(&rig.side, control), 0);
    cr_assert_not(client_role.is_done(&rig.side.workers[0]) &&
                  client_role.is_done(&rig.side.workers[1]));
    say(channel, "more", 4);
    cr_assert(side_expect(&rig.side, local, "more", 4));
    (void)close(local);
    (void)close(channel);
    side_settle(&rig.side, 30);
    cr_assert(client_role.is_done(&rig.side.workers[0]) &&
              client_role.is_done(&rig.side.workers[1]));
    side_advance(&rig.side, 60000);
    cr_assert_eq(accepted(&rig, rig.listener), -1, "it does not come back");
    (void)close(control);
    (void)close(idle);
    rig_finish(&rig);
}

/* ---- random events ---- */

static const struct fake_faults storm_faults = {.delay = 200,
                                                .reorder = 500,
                                                .short_count = 200,
                                                .eintr = 20,
                                                .eagain = 20,
                                                .enobufs = 20,
                                                .lost_cancel = 500,
                                                .connect_error = 50,
                                                .reset = 5,
                                                .epipe = 5,
                                                .enomem = 5};

/* A server that accepts logins, asks for channels, starts them, answers and closes at random, under
 * all faults of the fake loop. */
static void run_storm(uint64_t seed)
{
    struct rig rig;
    struct random random = {seed};
    int fds[60];
    size_t count = 0;
    rig_init(&rig, &(struct rig_options){.workers = 1 + (unsigned int)(seed % 2), .seed = seed});
    for (unsigned int i = 0; i < rig.side.all.count; i++)
        fake_loop_set_faults(rig.side.workers[i].loop, &storm_faults);
    for (int step = 0; step < 60; step++) {
        int fd = accepted(&rig, random_permille(&random, 700) ? rig.listener : rig.local);
        if (fd >= 0 && count < ARRAY_SIZE(fds)) {
            fds[count++] = fd;
            if (random_permille(&random, 500) && hear_login(&rig, fd, 0)) {
                say_ack(&rig, fd, random_permille(&random, 900) ? MESSAGE_ACK_OK : 2);
                ask_for(&rig, fd, (unsigned int)random_below(&random, 5));
            } else {
                say_start(fd);
                say(fd, "visitor", 7);
            }
        } else if (fd >= 0) {
            (void)close(fd);
        }
        if (count > 0 && random_permille(&random, 300)) {
            size_t i = random_below(&random, count);
            if (random_permille(&random, 500))
                tcp_abort_on_close(fds[i]);
            (void)close(fds[i]);
            fds[i] = fds[--count];
        }
        if (random_permille(&random, 200))
            side_advance(&rig.side, random_below(&random, 3000));
    }
    if (random_permille(&random, 500))
        side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    for (size_t i = 0; i < count; i++)
        (void)close(fds[i]);
    rig_finish(&rig);
}

Test(client, storm)
{
    uint64_t only = env_number("CLIENT_SEED", 0);
    for (uint64_t seed = 1; seed <= 60; seed++)
        run_storm(only != 0 ? only : seed);
}
