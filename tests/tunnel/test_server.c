/* The server on the fake loop, against clients and visitors whose bytes are written by hand. */
#include "tunnel/server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "fake_loop.h"
#include "proto/message.h"
#include "testing.h"

enum { WORKERS_MAX = 2, TURNS_MAX = 3000 };

static const char secret[] = "a secret";

struct rig {
    struct config *config;
    struct server *server;
    struct tunnel_workers all;
    struct tunnel_worker workers[WORKERS_MAX];
    struct mailbox_group *mailboxes;
    struct addr control_addr, service_addr;
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
};

static struct addr loopback(uint16_t port)
{
    struct addr addr = {.len = sizeof(addr.v4)};
    addr.v4.sin_family = AF_INET;
    addr.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    addr.v4.sin_port = htons(port);
    return addr;
}

static void on_signals(void *owner, uint32_t bits)
{
    server_role.signalled(owner, bits);
}

static void rig_worker(struct rig *rig, unsigned int index)
{
    struct tunnel_worker *worker = &rig->workers[index];
    worker->index = index;
    worker->all = &rig->all;
    worker->mailbox = mailbox_of(rig->mailboxes, index);
    struct loop_options options = {.metrics = &worker->metrics};
    cr_assert_eq(loop_create(&options, &worker->loop), 0);
    cr_assert_eq(relay_engine_init(&worker->relays, worker->loop, 1 << 20), 0);
    mailbox_attach(worker->mailbox, worker->loop, worker, on_signals);
}

static void rig_init(struct rig *rig, unsigned int workers, uint64_t seed)
{
    char text[400];
    struct config_report report;
    memset(rig, 0, sizeof(*rig));
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    rig->fds_before = open_fd_count();
    rig->control_addr = loopback(free_port());
    rig->service_addr = loopback(free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"%s\"\n"
                   "[server.services.echo]\nbind_addr = \"127.0.0.1:%u\"\n",
                   addr_port(&rig->control_addr), secret, addr_port(&rig->service_addr));
    cr_assert_eq(config_parse("test", text, strlen(text), &rig->config, &report), 0);
    config_report_finish(&report);
    fake_loop_set_seed(seed);
    rig->all.count = workers;
    rig->all.items = rig->workers;
    cr_assert_eq(mailbox_group_create(workers, &rig->mailboxes), 0);
    cr_assert_eq(server_create(&rig->config->server, workers, &rig->server), 0);
    for (unsigned int i = 0; i < workers; i++)
        rig_worker(rig, i);
    for (unsigned int i = 0; i < workers; i++) {
        mailbox_self_test(rig->workers[i].mailbox);
        cr_assert_eq(server_role.start(rig->server, &rig->workers[i]), 0);
    }
}

static void settle(struct rig *rig, int turns)
{
    for (int turn = 0; turn < turns; turn++) {
        for (unsigned int i = 0; i < rig->all.count; i++)
            cr_assert_eq(loop_run_once(rig->workers[i].loop), 0);
    }
}

static void idle_steps(struct rig *rig, unsigned int ms)
{
    for (unsigned int i = 0; i < rig->all.count; i++)
        fake_loop_set_idle_step_ms(rig->workers[i].loop, ms);
}

static void advance(struct rig *rig, uint64_t ms)
{
    for (unsigned int i = 0; i < rig->all.count; i++)
        fake_loop_advance_ms(rig->workers[i].loop, ms);
    settle(rig, 3);
}

static void faults(struct rig *rig, const struct fake_faults *wanted)
{
    for (unsigned int i = 0; i < rig->all.count; i++)
        fake_loop_set_faults(rig->workers[i].loop, wanted);
}

static void signal_all(struct rig *rig, uint32_t bits)
{
    for (unsigned int i = 0; i < rig->all.count; i++)
        mailbox_signal(rig->workers[i].mailbox, NULL, bits);
    settle(rig, 30);
}

static void rig_finish(struct rig *rig)
{
    static const struct fake_faults none;
    faults(rig, &none);
    signal_all(rig, TUNNEL_SIGNAL_STOP);
    for (unsigned int i = 0; i < rig->all.count; i++) {
        struct tunnel_worker *worker = &rig->workers[i];
        cr_assert(server_role.is_done(worker));
        cr_assert_eq(fake_loop_lent(worker->loop), 0);
        cr_assert_eq(worker->relays.relay_count, 0);
        mailbox_detach(worker->mailbox);
        server_role.finish(worker);
        relay_engine_finish(&worker->relays);
        loop_destroy(worker->loop);
    }
    mailbox_group_destroy(rig->mailboxes);
    server_destroy(rig->server);
    config_destroy(rig->config);
    cr_assert_eq(open_fd_count(), rig->fds_before, "descriptors");
}

/* ---- the other side ---- */

/* size bytes, or fewer when the connection ends: ret_end 0 = it goes on, 1 = end of stream, -errno.
 */
static size_t read_until(struct rig *rig, int fd, void *out, size_t size, int *ret_end)
{
    size_t have = 0;
    *ret_end = 0;
    for (int turn = 0; turn < TURNS_MAX && have < size && *ret_end == 0; turn++) {
        ssize_t got = recv(fd, (char *)out + have, size - have, MSG_DONTWAIT);
        if (got > 0)
            have += (size_t)got;
        else if (got == 0)
            *ret_end = 1;
        else if (errno != EAGAIN)
            *ret_end = -errno;
        settle(rig, 1);
    }
    return have;
}

static bool expect(struct rig *rig, int fd, const void *bytes, size_t size)
{
    unsigned char got[4096];
    int end;
    return read_until(rig, fd, got, size, &end) == size && memcmp(got, bytes, size) == 0;
}

static bool has_ended(struct rig *rig, int fd)
{
    char bytes[4096];
    int end;
    for (int i = 0; i < 30; i++) {
        settle(rig, 1);
        while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
            ;
        if (errno != EAGAIN)
            break;
    }
    ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    end = got < 0 ? errno : 0;
    return got <= 0 && end != EAGAIN;
}

static void say(int fd, const void *bytes, size_t size)
{
    (void)send(fd, bytes, size, MSG_NOSIGNAL);
}

/* The Ack, or -1. The session key goes to the rig. */
static int log_in(struct rig *rig, int fd, const char *service, const char *word)
{
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE], bytes[MESSAGE_ACK_SIZE];
    struct message_hello answer;
    enum message_ack ack;
    int end;
    keys_service_digest(service, strlen(service), digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    say(fd, hello, sizeof(hello));
    if (read_until(rig, fd, hello, sizeof(hello), &end) != sizeof(hello) ||
        message_hello_decode(hello, sizeof(hello), &answer) < 0)
        return -1;
    keys_auth_digest(word, strlen(word), answer.digest, rig->session_key);
    say(fd, rig->session_key, KEYS_DIGEST_SIZE);
    if (read_until(rig, fd, bytes, sizeof(bytes), &end) != sizeof(bytes) ||
        message_ack_decode(bytes, sizeof(bytes), &ack) < 0)
        return -1;
    return (int)ack;
}

static int control(struct rig *rig)
{
    int fd = tcp_dial(&rig->control_addr);
    cr_assert_eq(log_in(rig, fd, "echo", secret), MESSAGE_ACK_OK);
    return fd;
}

static int channel(struct rig *rig)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    int fd = tcp_dial(&rig->control_addr);
    message_hello_encode(MESSAGE_HELLO_DATA, rig->session_key, hello);
    say(fd, hello, sizeof(hello));
    settle(rig, 4);
    return fd;
}

static int visitor(struct rig *rig)
{
    int fd = tcp_dial(&rig->service_addr);
    settle(rig, 4);
    return fd;
}

static uint32_t parked(const struct rig *rig)
{
    return rig->server->services[0].pool.parked_count;
}

/* ---- logging in ---- */

Test(server, login_asks_for_channels_and_a_visitor_gets_one)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        rig_init(&rig, workers, workers);
        int early = tcp_dial(&rig.service_addr);
        int end;
        char byte;
        cr_assert(early < 0 || (read_until(&rig, early, &byte, 1, &end) == 0 && end != 0),
                  "refused while no client serves it");
        int control_fd = control(&rig);
        uint8_t command[MESSAGE_COMMAND_SIZE];
        message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
        for (int i = 0; i < LIMIT_POOL_MIN; i++)
            cr_assert(expect(&rig, control_fd, command, sizeof(command)));
        int channel_fd = channel(&rig);
        cr_assert_eq(parked(&rig), 1);
        int visitor_fd = visitor(&rig);
        say(visitor_fd, "ping", 4);
        message_data_command_encode(MESSAGE_DATA_START_TCP, command);
        cr_assert(expect(&rig, channel_fd, command, sizeof(command)));
        cr_assert(expect(&rig, channel_fd, "ping", 4));
        say(channel_fd, "pong", 4);
        cr_assert(expect(&rig, visitor_fd, "pong", 4));
        (void)shutdown(visitor_fd, SHUT_WR);
        cr_assert(has_ended(&rig, channel_fd));
        (void)close(early);
        (void)close(channel_fd);
        cr_assert(has_ended(&rig, visitor_fd));
        (void)close(visitor_fd);
        (void)close(control_fd);
        settle(&rig, 10);
        cr_assert_not(atomic_load(&rig.server->services[0].up));
        rig_finish(&rig);
    }
}

Test(server, refusals_say_why)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    int fd = tcp_dial(&rig.control_addr);
    cr_assert_eq(log_in(&rig, fd, "echo", "wrong"), MESSAGE_ACK_AUTH_FAILED);
    cr_assert(has_ended(&rig, fd));
    (void)close(fd);
    fd = tcp_dial(&rig.control_addr);
    cr_assert_eq(log_in(&rig, fd, "nothing", secret), MESSAGE_ACK_NO_SERVICE);
    (void)close(fd);
    memset(rig.session_key, 7, sizeof(rig.session_key));
    fd = channel(&rig);
    cr_assert(has_ended(&rig, fd));
    (void)close(fd);
    rig_finish(&rig);
}

Test(server, one_deadline_however_slowly)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    idle_steps(&rig, 0);
    int silent = tcp_dial(&rig.control_addr), slow = tcp_dial(&rig.control_addr);
    settle(&rig, 3);
    for (int i = 0; i < 4; i++) {
        say(slow, "\0", 1);
        advance(&rig, 1000);
    }
    char byte;
    cr_assert(recv(silent, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    advance(&rig, 1100);
    cr_assert(has_ended(&rig, silent));
    cr_assert(has_ended(&rig, slow));
    cr_assert_eq(metrics_get(&rig.workers[0].metrics, METRIC_STRANGERS_TIMED_OUT), 2);
    (void)close(silent);
    (void)close(slow);
    rig_finish(&rig);
}

Test(server, a_newer_login_replaces_the_older)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        rig_init(&rig, workers, 3);
        int first = control(&rig);
        int stale = channel(&rig);
        int second = control(&rig);
        cr_assert(has_ended(&rig, first));
        cr_assert(has_ended(&rig, stale));
        char byte;
        while (recv(second, &byte, 1, MSG_DONTWAIT) > 0)
            ;
        cr_assert_eq(errno, EAGAIN, "the newer one lives");
        cr_assert(atomic_load(&rig.server->services[0].up));
        (void)close(first);
        (void)close(stale);
        (void)close(second);
        rig_finish(&rig);
    }
}

/* ---- visitors ---- */

Test(server, a_visitor_waits_ten_seconds)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    idle_steps(&rig, 0);
    int control_fd = control(&rig);
    int visitor_fd = visitor(&rig);
    char byte;
    advance(&rig, LIMIT_VISITOR_WAIT_MS - 100);
    cr_assert(recv(visitor_fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    advance(&rig, 200);
    cr_assert(has_ended(&rig, visitor_fd));
    cr_assert_eq(atomic_load(&rig.server->waiting_visitors), 0);
    (void)close(visitor_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* A visitor that has reset its connection while it waited gets no channel: it stays for the next.
 */
Test(server, a_channel_is_too_good_for_a_dead_visitor)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    int control_fd = control(&rig);
    int visitor_fd = visitor(&rig);
    cr_assert_eq(atomic_load(&rig.server->waiting_visitors), 1);
    tcp_abort_on_close(visitor_fd);
    (void)close(visitor_fd);
    int channel_fd = channel(&rig);
    settle(&rig, 5);
    cr_expect_eq(parked(&rig), 1, "spent on a dead visitor");
    (void)close(channel_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* Its channel was reset before the first byte and no other is there; at the end of its wait, in
 * those turns in which its relay is torn down, one comes. */
static void run_late_replacement(uint64_t seed)
{
    struct rig rig;
    rig_init(&rig, 1, seed);
    idle_steps(&rig, 0);
    int control_fd = control(&rig);
    int lost = channel(&rig);
    int visitor_fd = visitor(&rig);
    settle(&rig, 5);
    tcp_abort_on_close(lost);
    (void)close(lost);
    settle(&rig, 10);
    cr_assert_eq(atomic_load(&rig.server->waiting_visitors), 1);
    faults(&rig, &(struct fake_faults){.delay = 300, .reorder = 1000});
    fake_loop_advance_ms(rig.workers[0].loop, LIMIT_VISITOR_WAIT_MS - 10);
    uint8_t hello[MESSAGE_HELLO_SIZE];
    message_hello_encode(MESSAGE_HELLO_DATA, rig.session_key, hello);
    int channel_fd = tcp_dial(&rig.control_addr);
    settle(&rig, 20);
    say(channel_fd, hello, sizeof(hello) - 1);
    settle(&rig, 20);
    fake_loop_advance_ms(rig.workers[0].loop, 10);
    settle(&rig, 1); /* the wait ends */
    say(channel_fd, hello + sizeof(hello) - 1, 1);
    settle(&rig, 30);
    (void)close(channel_fd);
    (void)close(visitor_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

Test(server, a_replacement_that_comes_too_late)
{
    for (uint64_t seed = 1; seed <= 50; seed++)
        run_late_replacement(seed);
}

Test(server, drain_lets_relays_finish)
{
    struct rig rig;
    rig_init(&rig, 2, 1);
    int control_fd = control(&rig);
    int channel_fd = channel(&rig);
    int visitor_fd = visitor(&rig), waiting_fd = visitor(&rig);
    signal_all(&rig, TUNNEL_SIGNAL_DRAIN);
    cr_assert(has_ended(&rig, control_fd));
    cr_assert(has_ended(&rig, waiting_fd));
    cr_assert_not(server_role.is_done(&rig.workers[0]) && server_role.is_done(&rig.workers[1]));
    say(visitor_fd, "more", 4);
    unsigned char bytes[MESSAGE_DATA_COMMAND_SIZE + 4];
    int end;
    cr_assert_eq(read_until(&rig, channel_fd, bytes, sizeof(bytes), &end), sizeof(bytes));
    (void)close(visitor_fd);
    (void)close(channel_fd);
    settle(&rig, 30);
    cr_assert(server_role.is_done(&rig.workers[0]) && server_role.is_done(&rig.workers[1]));
    (void)close(waiting_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* ---- anything goes ---- */

/* Logins, channels and visitors that come and go in random order under all faults: nothing may
 * crash, nothing may be left. */
static void run_storm(uint64_t seed)
{
    struct rig rig;
    struct random random = {seed};
    int fds[40];
    rig_init(&rig, 1 + (unsigned int)(seed % 2), seed);
    struct fake_faults storm = {.delay = 200,
                                .reorder = 500,
                                .short_count = 200,
                                .eintr = 20,
                                .eagain = 20,
                                .enobufs = 20,
                                .lost_cancel = 500,
                                .accept_ends = 200,
                                .accept_error = 50,
                                .reset = 5,
                                .epipe = 5,
                                .enomem = 5};
    faults(&rig, &storm);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        size_t choice = random_below(&random, 8);
        fds[i] = tcp_dial(choice < 5 ? &rig.control_addr : &rig.service_addr);
        if (fds[i] < 0)
            continue;
        if (choice < 2) {
            (void)log_in(&rig, fds[i], "echo", choice == 0 ? secret : "wrong");
        } else if (choice < 5) {
            uint8_t hello[MESSAGE_HELLO_SIZE];
            message_hello_encode(MESSAGE_HELLO_DATA, rig.session_key, hello);
            say(fds[i], hello, 1 + random_below(&random, sizeof(hello) + 20) % sizeof(hello));
            say(fds[i], "answer", 6);
        } else {
            say(fds[i], "request", 7);
        }
        settle(&rig, (int)random_below(&random, 6));
        int *old = &fds[random_below(&random, i + 1)];
        if (random_permille(&random, 400) && *old >= 0) {
            if (random_permille(&random, 500))
                tcp_abort_on_close(*old);
            (void)close(*old);
            *old = -1;
        }
        if (random_permille(&random, 100))
            advance(&rig, random_below(&random, 12000));
    }
    if (random_permille(&random, 500))
        signal_all(&rig, TUNNEL_SIGNAL_DRAIN);
    settle(&rig, (int)random_below(&random, 20));
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    rig_finish(&rig);
}

Test(server, storm)
{
    uint64_t only = env_number("SERVER_SEED", 0);
    for (uint64_t seed = 1; seed <= 150; seed++)
        run_storm(only != 0 ? only : seed);
}
