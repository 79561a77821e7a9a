#include "client_rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"

static const char secret[] = "a secret";

/* ---- the test answers names ---- */

resolver_answered_fn *asked_answered;
static void *asked_by;
unsigned int asked_count;

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

void answer(const struct resolver_answer *resolver_answer)
{
    resolver_answered_fn *answered = asked_answered;
    cr_assert_not_null(answered);
    asked_answered = NULL;
    answered(asked_by, resolver_answer);
}

/* ---- the test refuses sockets ---- */

static int refused_family, refused_error;
unsigned int refused_count;

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

void refuse_sockets(int family, int error)
{
    refused_family = family;
    refused_error = error;
    refused_count = 0;
}

/* ---- the rig ---- */

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
    if (options->proxy != NULL)
        (void)snprintf(text + size, sizeof(text) - (size_t)size,
                       "[client.transport.tcp]\nproxy = \"%s127.0.0.1:%u\"\n", options->proxy,
                       addr_port(&rig->server_addr));
    rig->config = side_config(text);
}

void rig_init(struct rig *rig, const struct rig_options *options)
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

void close_listener(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void rig_finish(struct rig *rig)
{
    side_finish(&rig->side);
    cr_assert_eq(atomic_load(&rig->client->servers.any->logins_in_progress), 0);
    cr_assert_eq(atomic_load(&rig->client->fds.more_controls), 0);
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

int accepted(struct rig *rig, int listener)
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

bool hear_login(struct rig *rig, int fd, unsigned int service)
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

void say_ack(struct rig *rig, int fd, enum message_ack ack)
{
    uint8_t bytes[MESSAGE_ACK_SIZE];
    message_ack_encode(ack, bytes);
    say(fd, bytes, sizeof(bytes));
    side_settle(&rig->side, 3);
}

int logged_in(struct rig *rig)
{
    int fd = accepted(rig, rig->listener);
    cr_assert_geq(fd, 0);
    cr_assert(hear_login(rig, fd, 0));
    say_ack(rig, fd, MESSAGE_ACK_OK);
    cr_assert_eq(side_metric(&rig->side, METRIC_LOGINS), 1);
    return fd;
}

void ask_for(struct rig *rig, int control, unsigned int count)
{
    uint8_t command[MESSAGE_COMMAND_SIZE];
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
    for (unsigned int i = 0; i < count; i++)
        say(control, command, sizeof(command));
    side_settle(&rig->side, 4);
}

bool hear_channel(struct rig *rig, int fd)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    message_hello_encode(MESSAGE_HELLO_DATA, rig->session_key, hello);
    return side_expect(&rig->side, fd, hello, sizeof(hello));
}

int parked(struct rig *rig, int control)
{
    ask_for(rig, control, 1);
    int fd = accepted(rig, rig->listener);
    cr_assert_geq(fd, 0);
    cr_assert(hear_channel(rig, fd));
    return fd;
}

void say_start(int fd)
{
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    say(fd, command, sizeof(command));
}

uint32_t doubts(const struct rig *rig)
{
    const struct list *first = rig->client->services.entries.next;
    return atomic_load(&container_of(first, struct service_base, node)->doubts);
}

void answer_two(struct rig *rig, struct addr first, struct addr second)
{
    struct resolver_answer both = {.count = 2, .addrs = {first, second}};
    answer(&both);
    side_settle(&rig->side, 8);
}

struct addr nobody(void)
{
    return tcp_loopback(free_port());
}

/* ---- addresses that do not answer ---- */

void hole_open(struct hole *hole)
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

void hole_close(struct hole *hole)
{
    (void)close(hole->filler);
    (void)close(hole->fd);
}
