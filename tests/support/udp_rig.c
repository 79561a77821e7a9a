#include "udp_rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake_loop.h"
#include "proto/message.h"
#include "testing.h"

/* On a busy machine the kernel may take its time, which is not the loop's, even on loopback. */
enum { TURNS_MAX = 300, QUICK_TURNS = 100, PAUSE_US = 200 };

static const char secret[] = "a secret";

static struct addr address_of(const char *host, uint16_t port)
{
    struct host_port name = {.port = port};
    struct addr addr;
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    cr_assert(addr_from_numeric(&name, &addr));
    return addr;
}

static void on_signals(void *owner, uint32_t bits)
{
    struct tunnel_worker *worker = owner;
    const struct udp_rig *rig = container_of(worker->all, struct udp_rig, all);
    rig->role->signalled(owner, bits);
}

static void begin(struct udp_rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    log_configure(LOG_ERROR + (getenv("UDP_LOG") == NULL ? 0 : 3), LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    rig->fds_before = open_fd_count();
    rig->control = rig->listener = -1;
}

static void configure(struct udp_rig *rig, const char *text, unsigned int workers)
{
    struct config_report report;
    cr_assert_eq(config_parse("test", text, strlen(text), &rig->config, &report), 0);
    config_report_finish(&report);
    fake_loop_set_seed(1);
    rig->all.count = workers;
    rig->all.items = rig->workers;
    for (unsigned int i = 0; i < workers; i++)
        rig->workers[i].index = i;
    cr_assert_eq(mailbox_group_create(workers, &rig->mailboxes), 0);
}

static void prepare_worker(struct udp_rig *rig, struct tunnel_worker *worker)
{
    struct loop_options options = {.metrics = &worker->metrics};
    cr_assert_eq(loop_create(&options, &worker->loop), 0);
    fake_loop_set_idle_step_ms(worker->loop, 0);
    cr_assert_eq(relay_engine_init(&worker->relays, worker->loop, 1 << 20), 0);
    datagram_engine_init(&worker->datagrams, worker->loop);
    mailbox_attach(worker->mailbox, worker->loop, worker, on_signals);
}

static void start_next(struct udp_rig *rig, void *shared)
{
    mailbox_self_test(rig->workers[rig->started].mailbox);
    cr_assert_eq(rig->role->start(shared, &rig->workers[rig->started]), 0);
    rig->started++;
}

static void start(struct udp_rig *rig, const struct role *role, void *shared)
{
    rig->role = role;
    for (unsigned int i = 0; i < rig->all.count; i++) {
        rig->workers[i].all = &rig->all;
        rig->workers[i].mailbox = mailbox_of(rig->mailboxes, i);
    }
    for (unsigned int i = 0; i < rig->all.count; i++)
        prepare_worker(rig, &rig->workers[i]);
    start_next(rig, shared);
}

static void init_server(struct udp_rig *rig, const char *bind_host, const char *more,
                        unsigned int workers)
{
    char text[512];
    begin(rig);
    rig->control_addr = address_of("127.0.0.1", free_port());
    rig->udp_addr = address_of("127.0.0.1", free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"%s\"\n"
                   "[server.services.dns]\ntype = udp\nbind_addr = \"%s:%u\"\n%s",
                   addr_port(&rig->control_addr), secret, bind_host, addr_port(&rig->udp_addr),
                   more);
    configure(rig, text, workers);
    cr_assert_eq(server_create(&rig->config->server, workers, NULL, &rig->server), 0);
    start(rig, &server_role, rig->server);
}

void udp_rig_init_server(struct udp_rig *rig, const char *bind_host, const char *more)
{
    init_server(rig, bind_host, more, 1);
}

void udp_rig_init_server_of_two(struct udp_rig *rig, const char *bind_host, const char *more)
{
    init_server(rig, bind_host, more, 2);
    /* It leaves the group of listeners: the client's connections come to the first worker. */
    cr_assert_eq(shutdown(rig->server->control_binding->fds[1], SHUT_RDWR), 0);
}

void udp_rig_start_second(struct udp_rig *rig)
{
    start_next(rig, rig->server);
}

static void init_client(struct udp_rig *rig, const char *local_host, const char *more)
{
    char text[512];
    begin(rig);
    rig->listener = tcp_listener(&rig->control_addr);
    rig->udp_addr = address_of("127.0.0.1", free_port());
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"%s\"\n"
                   "[client.services.dns]\ntype = udp\nlocal_addr = \"%s:%u\"\n%s",
                   addr_port(&rig->control_addr), secret, local_host, addr_port(&rig->udp_addr),
                   more);
    configure(rig, text, 1);
    cr_assert_eq(client_create(&rig->config->client, 1, &rig->client), 0);
    start(rig, &client_role, rig->client);
}

void udp_rig_init_client(struct udp_rig *rig, const char *more)
{
    init_client(rig, "127.0.0.1", more);
}

void udp_rig_init_client_of(struct udp_rig *rig, const char *local_host)
{
    init_client(rig, local_host, "");
}

static void finish_worker(struct udp_rig *rig, struct tunnel_worker *worker)
{
    cr_assert(rig->role->is_done(worker), "UDP does not drain");
    mailbox_detach(worker->mailbox);
    rig->role->finish(worker);
    relay_engine_finish(&worker->relays);
    datagram_engine_finish(&worker->datagrams);
    loop_destroy(worker->loop);
}

void udp_rig_finish(struct udp_rig *rig)
{
    for (unsigned int i = 0; i < rig->all.count; i++)
        mailbox_signal(rig->workers[i].mailbox, NULL, TUNNEL_SIGNAL_DRAIN);
    udp_rig_settle(rig, 60);
    for (unsigned int i = 0; i < rig->all.count; i++)
        finish_worker(rig, &rig->workers[i]);
    mailbox_group_destroy(rig->mailboxes);
    server_destroy(rig->server);
    if (rig->client != NULL)
        cr_assert_eq(rig->client->fds.udp.open + rig->client->fds.udp.channels, 0);
    client_destroy(rig->client);
    config_destroy(rig->config);
    if (rig->control >= 0)
        (void)close(rig->control);
    if (rig->listener >= 0)
        (void)close(rig->listener);
    cr_assert_eq(open_fd_count(), rig->fds_before, "descriptors");
}

void udp_rig_settle(struct udp_rig *rig, int turns)
{
    while (turns-- > 0) {
        for (unsigned int i = 0; i < rig->started; i++)
            cr_assert_eq(loop_run_once(rig->workers[i].loop), 0);
    }
}

void udp_rig_advance(struct udp_rig *rig, uint64_t ms)
{
    fake_loop_advance_ms(rig->worker.loop, ms);
    udp_rig_settle(rig, 4);
}

uint64_t udp_rig_count(const struct udp_rig *rig, enum metric metric)
{
    return metrics_get(&rig->worker.metrics, metric);
}

/* ---- bytes of the tunnel ---- */

static bool read_exactly(struct udp_rig *rig, int fd, void *out, size_t size)
{
    size_t have = 0;
    for (int turn = 0; turn < TURNS_MAX && have < size; turn++) {
        ssize_t got = recv(fd, (char *)out + have, size - have, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            return false;
        have += got > 0 ? (size_t)got : 0;
        udp_rig_settle(rig, 1);
        if (turn > QUICK_TURNS)
            (void)usleep(PAUSE_US);
    }
    return have == size;
}

static void say(int fd, const void *bytes, size_t size)
{
    cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

static void log_in_to_server(struct udp_rig *rig)
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE], ack_bytes[MESSAGE_ACK_SIZE];
    struct message_hello answer;
    enum message_ack ack;
    rig->control = tcp_dial(&rig->control_addr);
    socket_set_nodelay(rig->control, true);
    keys_service_digest("dns", 3, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    udp_rig_settle(rig, 3);
    say(rig->control, hello, sizeof(hello));
    cr_assert(read_exactly(rig, rig->control, hello, sizeof(hello)));
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), &answer), 0);
    keys_auth_digest(secret, strlen(secret), answer.digest, rig->session_key);
    say(rig->control, rig->session_key, sizeof(rig->session_key));
    cr_assert(read_exactly(rig, rig->control, ack_bytes, sizeof(ack_bytes)));
    cr_assert_eq(message_ack_decode(ack_bytes, sizeof(ack_bytes), &ack), 0);
    cr_assert_eq(ack, MESSAGE_ACK_OK);
}

static int accept_one(struct udp_rig *rig)
{
    for (int turn = 0; turn < TURNS_MAX; turn++) {
        int fd = accept4(rig->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            socket_set_nodelay(fd, true); /* Nagle would wait for the real clock */
            return fd;
        }
        udp_rig_settle(rig, 1);
        if (turn > QUICK_TURNS)
            (void)usleep(PAUSE_US);
    }
    cr_assert_fail("nobody connects");
    return -1;
}

static void answer_login(struct udp_rig *rig)
{
    uint8_t nonce[KEYS_NONCE_SIZE] = {7}, hello[MESSAGE_HELLO_SIZE];
    uint8_t auth[MESSAGE_AUTH_SIZE], ack[MESSAGE_ACK_SIZE];
    rig->control = accept_one(rig);
    cr_assert(read_exactly(rig, rig->control, hello, sizeof(hello)));
    message_hello_encode(MESSAGE_HELLO_CONTROL, nonce, hello);
    say(rig->control, hello, sizeof(hello));
    cr_assert(read_exactly(rig, rig->control, auth, sizeof(auth)));
    memcpy(rig->session_key, auth, sizeof(rig->session_key));
    message_ack_encode(MESSAGE_ACK_OK, ack);
    say(rig->control, ack, sizeof(ack));
}

void udp_rig_log_in(struct udp_rig *rig)
{
    if (rig->control >= 0)
        (void)close(rig->control);
    if (rig->server != NULL)
        log_in_to_server(rig);
    else
        answer_login(rig);
}

unsigned int udp_rig_requests(struct udp_rig *rig)
{
    unsigned int count = 0;
    uint8_t bytes[MESSAGE_COMMAND_SIZE];
    enum message_command command;
    udp_rig_settle(rig, 5);
    while (recv(rig->control, bytes, sizeof(bytes), MSG_DONTWAIT) == sizeof(bytes)) {
        cr_assert_eq(message_command_decode(bytes, sizeof(bytes), &command), 0);
        count += command == MESSAGE_COMMAND_CREATE_CHANNEL;
    }
    return count;
}

int udp_rig_dial_channel(struct udp_rig *rig)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    int fd = tcp_dial(&rig->control_addr);
    socket_set_nodelay(fd, true);
    udp_rig_settle(rig, 3);
    message_hello_encode(MESSAGE_HELLO_DATA, rig->session_key, hello);
    say(fd, hello, sizeof(hello));
    udp_rig_settle(rig, 3);
    return fd;
}

void udp_rig_await_start(struct udp_rig *rig, int fd)
{
    uint8_t bytes[MESSAGE_DATA_COMMAND_SIZE];
    enum message_data_command command;
    cr_assert(read_exactly(rig, fd, bytes, sizeof(bytes)), "not started");
    cr_assert_eq(message_data_command_decode(bytes, sizeof(bytes), &command), 0);
    cr_assert_eq(command, MESSAGE_DATA_START_UDP);
}

int udp_rig_channel(struct udp_rig *rig)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], bytes[MESSAGE_COMMAND_SIZE];
    if (rig->server != NULL) {
        int fd = udp_rig_dial_channel(rig);
        udp_rig_await_start(rig, fd);
        return fd;
    }
    message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, bytes);
    say(rig->control, bytes, sizeof(bytes));
    int fd = accept_one(rig);
    cr_assert(read_exactly(rig, fd, hello, sizeof(hello)));
    message_data_command_encode(MESSAGE_DATA_START_UDP, bytes);
    say(fd, bytes, sizeof(bytes));
    udp_rig_settle(rig, 5);
    return fd;
}

void udp_rig_send_frame(struct udp_rig *rig, int fd, const struct udp_frame_addr *from,
                        const void *payload, size_t size)
{
    static uint8_t wire[UDP_FRAME_MAX];
    size_t len = udp_frame_encode_head(from, (uint16_t)size, wire);
    memcpy(wire + len, payload, size);
    len += size;
    for (size_t at = 0; at < len;) {
        ssize_t sent = send(fd, wire + at, len - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        cr_assert(sent > 0 || errno == EAGAIN);
        at += sent > 0 ? (size_t)sent : 0;
        udp_rig_settle(rig, 2);
    }
    udp_rig_settle(rig, 3);
}

bool udp_rig_get_frame(struct udp_rig *rig, int fd, struct udp_frame *ret)
{
    static uint8_t wire[UDP_FRAME_MAX];
    udp_rig_settle(rig, 3);
    if (!read_exactly(rig, fd, wire, 1) || !read_exactly(rig, fd, wire + 1, wire[0]))
        return false;
    size_t len = 1 + (size_t)wire[0];
    size_t payload_len = wire[len - 2] | (size_t)wire[len - 1] << 8;
    return read_exactly(rig, fd, wire + len, payload_len) &&
           udp_frame_decode(wire, len + payload_len, ret) == (int)(len + payload_len);
}

bool udp_rig_has_ended(struct udp_rig *rig, int fd)
{
    char bytes[512];
    ssize_t got;
    udp_rig_settle(rig, 10);
    do {
        got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    } while (got > 0);
    return got == 0 || errno != EAGAIN;
}

/* ---- datagrams ---- */

int udp_rig_visitor(const char *own_host, const struct addr *to)
{
    struct addr own = address_of(own_host, 1);
    own.v4.sin_port = 0;
    int fd = socket(to->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, &own.any, own.len), 0);
    cr_assert_eq(connect(fd, &to->any, to->len), 0);
    return fd;
}

ssize_t udp_rig_receive(struct udp_rig *rig, int fd, void *out, size_t size)
{
    for (int turn = 0; turn < 20; turn++) {
        ssize_t got = recv(fd, out, size, MSG_DONTWAIT);
        if (got >= 0)
            return got;
        udp_rig_settle(rig, 1);
    }
    return -1;
}

void udp_rig_end(struct udp_rig *rig, const int *fds, size_t count)
{
    while (count-- > 0)
        (void)close(fds[count]);
    udp_rig_settle(rig, 10);
    udp_rig_finish(rig);
}
