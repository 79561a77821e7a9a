/* The server on the fake loop. The test plays the clients and visitors, byte by byte. */
#include "server/server.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/socket_life.h"
#include "proto/message.h"
#include "side.h"

static const char secret[] = "a secret";

struct rig {
    struct config *config;
    struct server *server;
    struct side side;
    struct addr control_addr, service_addr;
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
};

static void rig_init_with(struct rig *rig, unsigned int workers, uint64_t seed, const char *more)
{
    char text[400];
    memset(rig, 0, sizeof(*rig));
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    rig->fds_before = open_fd_count();
    rig->control_addr = tcp_loopback(free_port());
    rig->service_addr = tcp_loopback(free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"%s\"\n"
                   "[server.services.echo]\nbind_addr = \"127.0.0.1:%u\"\n%s",
                   addr_port(&rig->control_addr), secret, addr_port(&rig->service_addr), more);
    rig->config = side_config(text);
    fake_loop_set_seed(seed);
    cr_assert_eq(side_init(&rig->side, workers), 0);
    cr_assert_eq(server_create(&rig->config->server, workers, NULL, &rig->server), 0);
    cr_assert_eq(side_start(&rig->side, &server_role, rig->server), 0);
}

static void rig_init(struct rig *rig, unsigned int workers, uint64_t seed)
{
    rig_init_with(rig, workers, seed, "");
}

static void rig_finish(struct rig *rig)
{
    side_finish(&rig->side);
    server_destroy(rig->server);
    config_destroy(rig->config);
    cr_assert_eq(open_fd_count(), rig->fds_before, "descriptors are left open");
}

/* ---- clients and visitors, played by the test ---- */

/* Logs in. Returns the Ack, or -1 without one. The session key goes to the rig. */
static int log_in(struct rig *rig, int fd, const char *service, const char *word)
{
    return side_log_in(&rig->side, fd, service, word, rig->session_key);
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
    side_settle(&rig->side, 4);
    return fd;
}

static int visitor(struct rig *rig)
{
    int fd = tcp_dial(&rig->service_addr);
    side_settle(&rig->side, 4);
    return fd;
}

static uint32_t parked(const struct rig *rig)
{
    return side_first_service(rig->server)->pool.parked_count;
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
        cr_assert(early < 0 || (side_read(&rig.side, early, &byte, 1, &end) == 0 && end != 0),
                  "refused while no client serves it");
        int control_fd = control(&rig);
        uint8_t command[MESSAGE_COMMAND_SIZE];
        message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, command);
        for (int i = 0; i < LIMIT_POOL_MIN; i++)
            cr_assert(side_expect(&rig.side, control_fd, command, sizeof(command)));
        int channel_fd = channel(&rig);
        cr_assert_eq(parked(&rig), 1);
        int visitor_fd = visitor(&rig);
        say(visitor_fd, "ping", 4);
        message_data_command_encode(MESSAGE_DATA_START_TCP, command);
        cr_assert(side_expect(&rig.side, channel_fd, command, sizeof(command)));
        cr_assert(side_expect(&rig.side, channel_fd, "ping", 4));
        say(channel_fd, "pong", 4);
        cr_assert(side_expect(&rig.side, visitor_fd, "pong", 4));
        (void)shutdown(visitor_fd, SHUT_WR);
        cr_assert_neq(side_end_of(&rig.side, channel_fd), 0);
        (void)close(early);
        (void)close(channel_fd);
        cr_assert_neq(side_end_of(&rig.side, visitor_fd), 0);
        (void)close(visitor_fd);
        (void)close(control_fd);
        side_settle(&rig.side, 10);
        cr_assert_not(atomic_load(&side_first_service(rig.server)->up));
        rig_finish(&rig);
    }
}

Test(server, refusals_say_why)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    int fd = tcp_dial(&rig.control_addr);
    cr_assert_eq(log_in(&rig, fd, "echo", "wrong"), MESSAGE_ACK_AUTH_FAILED);
    cr_assert_neq(side_end_of(&rig.side, fd), 0);
    (void)close(fd);
    fd = tcp_dial(&rig.control_addr);
    cr_assert_eq(log_in(&rig, fd, "nothing", secret), MESSAGE_ACK_NO_SERVICE);
    (void)close(fd);
    memset(rig.session_key, 7, sizeof(rig.session_key));
    fd = channel(&rig);
    cr_assert_neq(side_end_of(&rig.side, fd), 0);
    (void)close(fd);
    rig_finish(&rig);
}

Test(server, one_deadline_however_slowly)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    side_set_idle_step_ms(&rig.side, 0);
    int silent = tcp_dial(&rig.control_addr), slow = tcp_dial(&rig.control_addr);
    side_settle(&rig.side, 3);
    for (int i = 0; i < 4; i++) {
        say(slow, "\0", 1);
        side_advance(&rig.side, 1000);
    }
    char byte;
    cr_assert(recv(silent, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    side_advance(&rig.side, 1100);
    cr_assert_neq(side_end_of(&rig.side, silent), 0);
    cr_assert_neq(side_end_of(&rig.side, slow), 0);
    cr_assert_eq(side_metric(&rig.side, METRIC_STRANGERS_TIMED_OUT), 2);
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
        cr_assert_neq(side_end_of(&rig.side, first), 0);
        cr_assert_neq(side_end_of(&rig.side, stale), 0);
        char byte;
        while (recv(second, &byte, 1, MSG_DONTWAIT) > 0)
            ;
        cr_assert_eq(errno, EAGAIN, "the newer one lives");
        cr_assert(atomic_load(&side_first_service(rig.server)->up));
        (void)close(first);
        (void)close(stale);
        (void)close(second);
        rig_finish(&rig);
    }
}

/* A reload looks at the control channels that are there. One that comes a moment later must not have
 * slipped through. */
Test(server, a_login_that_is_denied_before_its_end)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    struct config *config = side_config(
        "[server]\nbind_addr = \"127.0.0.1:1\"\ndeny = \"127.0.0.0/8\"\ndefault_token = \"t\"\n"
        "[server.services.echo]\nbind_addr = \"127.0.0.1:2\"\n");
    uint8_t digest[KEYS_DIGEST_SIZE], hello[MESSAGE_HELLO_SIZE];
    struct message_hello answer;
    int end, fd = tcp_dial(&rig.control_addr);
    keys_service_digest("echo", strlen("echo"), digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    say(fd, hello, sizeof(hello));
    cr_assert_eq(side_read(&rig.side, fd, hello, sizeof(hello), &end), sizeof(hello));
    cr_assert_eq(message_hello_decode(hello, sizeof(hello), &answer), 0);
    const struct config_peer *before = server_config(rig.server);
    atomic_store(&rig.server->config, &config->server);
    keys_auth_digest(secret, strlen(secret), answer.digest, digest);
    say(fd, digest, sizeof(digest));
    cr_expect_eq(side_end_of(&rig.side, fd), 1);
    cr_expect_not(atomic_load(&side_first_service(rig.server)->up));
    cr_expect_eq(side_metric(&rig.side, METRIC_LOGINS), 0);
    atomic_store(&rig.server->config, before);
    config_destroy(config);
    (void)close(fd);
    rig_finish(&rig);
}

/* ---- visitors ---- */

Test(server, a_visitor_waits_ten_seconds)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    side_set_idle_step_ms(&rig.side, 0);
    int control_fd = control(&rig);
    int visitor_fd = visitor(&rig);
    char byte;
    side_advance(&rig.side, LIMIT_VISITOR_WAIT_MS - 100);
    cr_assert(recv(visitor_fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    side_advance(&rig.side, 200);
    cr_assert_neq(side_end_of(&rig.side, visitor_fd), 0);
    cr_assert_eq(atomic_load(&rig.server->waiting_visitors), 0);
    (void)close(visitor_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* Each login makes the waiting visitors look for a channel again. Their time limit stays. */
Test(server, a_login_gives_no_visitor_more_time)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    side_set_idle_step_ms(&rig.side, 0);
    int control_fd = control(&rig);
    int visitor_fd = visitor(&rig);
    for (int i = 0; i < 9; i++) {
        side_advance(&rig.side, LIMIT_VISITOR_WAIT_MS / 10);
        int newer_fd = control(&rig); /* replaces the older one, so the service stays up */
        (void)close(control_fd);
        control_fd = newer_fd;
    }
    cr_expect_eq(side_first_service(rig.server)->pool.waiting_count, 1);
    cr_expect_eq(atomic_load(&rig.server->waiting_visitors), 1);
    side_advance(&rig.side, LIMIT_VISITOR_WAIT_MS / 10 + 100);
    cr_expect_eq(side_metric(&rig.side, METRIC_VISITORS_TIMED_OUT), 1);
    cr_expect_eq(side_end_of(&rig.side, visitor_fd), -ECONNRESET,
                 "an end of stream looks like an answer");
    cr_expect_eq(atomic_load(&rig.server->waiting_visitors), 0);
    (void)close(visitor_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* It was served for longer than a visitor waits, and then its client vanished. */
Test(server, a_second_attempt_has_time_of_its_own)
{
    struct rig rig;
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    rig_init_with(&rig, 1, 1, "clients = \"balance\"\n");
    side_set_idle_step_ms(&rig.side, 0);
    int first_fd = control(&rig);
    int lost = channel(&rig);
    int visitor_fd = visitor(&rig);
    int second_fd = control(&rig);
    side_advance(&rig.side, LIMIT_VISITOR_WAIT_MS + 100);
    tcp_abort_on_close(lost);
    (void)close(lost);
    side_settle(&rig.side, 5);
    cr_expect_eq(side_metric(&rig.side, METRIC_VISITORS_TRIED_AGAIN), 1);
    cr_expect_eq(atomic_load(&rig.server->waiting_visitors), 1);
    side_advance(&rig.side, LIMIT_VISITOR_WAIT_MS - 100);
    int other = channel(&rig);
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    cr_expect(side_expect(&rig.side, other, command, sizeof(command)));
    (void)close(visitor_fd);
    (void)close(other);
    (void)close(first_fd);
    (void)close(second_fd);
    rig_finish(&rig);
}

/* Another worker has a channel for the visitor and may put the visitor back into the queue. Until
 * then the visitor must not be freed, even if everything ends. */
Test(server, a_visitor_keeps_its_place_while_a_match_is_on_its_way)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    struct tunnel_worker *worker = &rig.side.workers[0];
    struct channel_pool *pool = &side_first_service(rig.server)->pool;
    int control_fd = control(&rig);
    int visitor_fd = visitor(&rig);
    struct pool_match match;
    struct pool_offer offered = {.transport = {.fd = -1},
                                 .source = pool->slots[0].source->handle,
                                 .may_park = true};
    cr_assert_eq(channel_pool_offer(pool, &offered, &match), POOL_MATCHED);
    side_signal(&rig.side, TUNNEL_SIGNAL_STOP);
    cr_assert_neq(side_end_of(&rig.side, visitor_fd), 0);
    cr_assert_neq(side_end_of(&rig.side, control_fd), 0);
    cr_assert_not(server_role.is_done(worker));
    cr_assert_not(channel_pool_undo(pool, &match, offered.transport, 0), "the pool is closed");
    side_signal(&rig.side, TUNNEL_SIGNAL_VISITORS);
    cr_assert(server_role.is_done(worker));
    (void)close(visitor_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* The process is stopped (as by SIGSTOP) for longer than each of its deadlines. Afterwards peers
 * that were about to send something may still do so, in several steps. A peer that sends nothing is
 * closed a little later. */
Test(server, a_stop_ends_nobody_who_speaks)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    side_set_idle_step_ms(&rig.side, 0);
    int control_fd = control(&rig);
    int waiting = visitor(&rig);
    int late = tcp_dial(&rig.control_addr), silent = tcp_dial(&rig.control_addr);
    side_settle(&rig.side, 3);
    side_stop(&rig.side, 45000);
    int channel_fd = channel(&rig);
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    cr_assert(side_expect(&rig.side, channel_fd, command, sizeof(command)));
    say(channel_fd, "hello", 5);
    cr_assert(side_expect(&rig.side, waiting, "hello", 5));
    cr_assert_eq(log_in(&rig, late, "echo", secret), MESSAGE_ACK_OK);
    cr_assert_eq(side_end_of(&rig.side, silent), 0);
    for (unsigned int i = 0; i < LIMIT_ABSENT_GRACE_MS / 100 + 1; i++) {
        say(silent, "\0", 1); /* single bytes do not prolong the deadline */
        side_advance(&rig.side, 100);
    }
    cr_assert_neq(side_end_of(&rig.side, silent), 0);
    cr_assert_eq(side_metric(&rig.side, METRIC_STRANGERS_TIMED_OUT), 1);
    cr_assert_eq(side_metric(&rig.side, METRIC_VISITORS_TIMED_OUT), 0);
    int fds[] = {control_fd, waiting, late, silent, channel_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        (void)close(fds[i]);
    side_settle(&rig.side, 10);
    rig_finish(&rig);
}

/* Channels that were requested before the process was stopped wait in the accept queue after it.
 * The server does not request them again, and does not take their client for a stranger. */
Test(server, a_stop_forgets_no_request)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    side_set_idle_step_ms(&rig.side, 0);
    int control_fd = control(&rig), channels[LIMIT_POOL_MIN];
    uint64_t asked = side_metric(&rig.side, METRIC_DATA_CHANNELS_REQUESTED);
    cr_assert_eq(asked, LIMIT_POOL_MIN);
    side_stop(&rig.side, 45000);
    for (int i = 0; i < LIMIT_POOL_MIN; i++)
        channels[i] = channel(&rig);
    side_advance(&rig.side, LIMIT_ABSENT_GRACE_MS + 100);
    cr_assert_eq(parked(&rig), LIMIT_POOL_MIN);
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_REQUESTED), asked);
    cr_assert_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_FAILED), 0);
    for (int i = 0; i < LIMIT_POOL_MIN; i++)
        (void)close(channels[i]);
    (void)close(control_fd);
    side_settle(&rig.side, 10);
    rig_finish(&rig);
}

/* A visitor that reset its connection while it waited gets no channel. The channel is parked. */
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
    side_settle(&rig.side, 5);
    cr_expect_eq(parked(&rig), 1, "spent on a dead visitor");
    (void)close(channel_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

/* A channel that is reset before its first byte back ends its visitor. The bytes that were sent on
 * it are not sent on another channel. docs/decisions.md, "Removed: replay and rebind". */
Test(server, a_lost_channel_is_the_visitors_end)
{
    struct rig rig;
    rig_init(&rig, 1, 1);
    int control_fd = control(&rig);
    int lost = channel(&rig);
    int visitor_fd = visitor(&rig);
    int spare = channel(&rig);
    say(visitor_fd, "request", 7);
    side_settle(&rig.side, 5);
    tcp_abort_on_close(lost);
    (void)close(lost);
    cr_assert_eq(side_end_of(&rig.side, visitor_fd), -ECONNRESET);
    cr_assert_eq(atomic_load(&rig.server->waiting_visitors), 0);
    cr_assert_eq(parked(&rig), 1, "another channel was taken");
    unsigned char byte;
    cr_assert(recv(spare, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    (void)close(spare);
    (void)close(visitor_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

static uint32_t doubts(const struct rig *rig)
{
    return atomic_load(&side_first_service(rig->server)->entry.doubts);
}

static void expect_echo(struct rig *rig, int visitor_fd, int channel_fd)
{
    uint8_t bytes[MESSAGE_DATA_COMMAND_SIZE];
    int end;
    say(visitor_fd, "ping", 4);
    cr_assert_eq(side_read(&rig->side, channel_fd, bytes, 4, &end), 4);
    say(channel_fd, "pong", 4);
    cr_assert(side_expect(&rig->side, visitor_fd, "pong", 4));
}

/* If a client ends its control channel, its relays go on without a doubt. If a newer login replaces
 * it, the older client may have been switched off: its relays are probed, and go on if the client's
 * kernel answers. */
Test(server, relays_outlive_their_session)
{
    for (unsigned int workers = 1; workers <= 2; workers++) {
        struct rig rig;
        rig_init(&rig, workers, workers);
        int controls[3];
        controls[0] = control(&rig);
        int channel_fd = channel(&rig);
        int visitor_fd = visitor(&rig);
        uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
        message_data_command_encode(MESSAGE_DATA_START_TCP, command);
        cr_assert(side_expect(&rig.side, channel_fd, command, sizeof(command)));
        (void)close(controls[0]); /* a reset: its commands were not read (RFC 2525, 2.17) */
        side_settle(&rig.side, 10);
        controls[1] = control(&rig);
        side_settle(&rig.side, 10);
        cr_assert_eq(doubts(&rig), 0);
        controls[2] = control(&rig);
        side_settle(&rig.side, 10);
        cr_assert_eq(doubts(&rig), 1);
        cr_assert_eq(side_metric(&rig.side, METRIC_RELAYS_ASKED), 0, "not in the same turn");
        for (int i = 0; i < 40; i++)
            side_advance(&rig.side, 1000);
        cr_assert_eq(side_metric(&rig.side, METRIC_RELAYS_ASKED), 1);
        cr_assert_eq(side_metric(&rig.side, METRIC_RELAYS_SILENT), 0);
        expect_echo(&rig, visitor_fd, channel_fd);
        (void)close(controls[1]);
        (void)close(controls[2]);
        (void)close(channel_fd);
        (void)close(visitor_fd);
        rig_finish(&rig);
    }
}

/* ---- parked channels ---- */

static uint32_t heard_ms; /* what answer_life reports for every connection */

static int answer_life(int fd, struct socket_life *ret)
{
    *ret = (struct socket_life){.window = 65536, .heard_ms = heard_ms};
    return 0;
}

/* Two unanswered keepalive probes take 20 + 2 * 8 s. Only channels that were parked for longer are
 * checked. */
Test(server, a_parked_channel_that_was_not_heard_from_is_not_handed_out)
{
    static const struct {
        uint64_t parked_ms;
        uint32_t heard_ms;
        bool stale, looked;
    } rows[] = {
        {30000, 30000, false, false}, {35900, 35900, false, false}, {37000, 15000, false, true},
        {37000, 36500, true, true},   {500000, 19000, false, true}, {500000, 480000, true, true},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct rig rig;
        rig_init(&rig, 1, 1);
        side_set_idle_step_ms(&rig.side, 0);
        int control_fd = control(&rig);
        int old = channel(&rig);
        side_advance(&rig.side, rows[i].parked_ms);
        int fresh = channel(&rig);
        cr_assert_eq(parked(&rig), 2);
        heard_ms = rows[i].heard_ms;
        fake_socket_set_life(answer_life);
        size_t before = fake_socket_looks();
        int visitor_fd = visitor(&rig);
        cr_expect_eq(fake_socket_looks() - before, rows[i].looked ? 1 : 0, "row %zu", i);
        fake_socket_set_life(NULL);
        cr_expect_eq(side_metric(&rig.side, METRIC_DATA_CHANNELS_STALE), rows[i].stale ? 1 : 0,
                     "row %zu", i);
        uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
        message_data_command_encode(MESSAGE_DATA_START_TCP, command);
        cr_expect(side_expect(&rig.side, rows[i].stale ? fresh : old, command, sizeof(command)));
        if (rows[i].stale)
            cr_expect_eq(side_end_of(&rig.side, old), -ECONNRESET, "row %zu", i);
        (void)close(visitor_fd);
        (void)close(old);
        (void)close(fresh);
        (void)close(control_fd);
        rig_finish(&rig);
    }
}

Test(server, drain_lets_relays_finish)
{
    struct rig rig;
    rig_init(&rig, 2, 1);
    int control_fd = control(&rig);
    int channel_fd = channel(&rig);
    int visitor_fd = visitor(&rig), waiting_fd = visitor(&rig);
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    cr_assert_neq(side_end_of(&rig.side, control_fd), 0);
    cr_assert_neq(side_end_of(&rig.side, waiting_fd), 0);
    cr_assert_not(server_role.is_done(&rig.side.workers[0]) &&
                  server_role.is_done(&rig.side.workers[1]));
    say(visitor_fd, "more", 4);
    unsigned char bytes[MESSAGE_DATA_COMMAND_SIZE + 4];
    int end;
    cr_assert_eq(side_read(&rig.side, channel_fd, bytes, sizeof(bytes), &end), sizeof(bytes));
    (void)close(visitor_fd);
    (void)close(channel_fd);
    side_settle(&rig.side, 30);
    cr_assert(server_role.is_done(&rig.side.workers[0]) &&
              server_role.is_done(&rig.side.workers[1]));
    (void)close(waiting_fd);
    (void)close(control_fd);
    rig_finish(&rig);
}

static bool is_refused(struct rig *rig, const struct addr *addr)
{
    int fd = tcp_dial(addr);
    bool refused = fd < 0 || side_end_of(&rig->side, fd) == -ECONNREFUSED;
    if (fd >= 0)
        (void)close(fd);
    return refused;
}

/* The end of drain_delay (app/drain.h): no new visitor, and those that wait are served. */
Test(server, refusing_serves_those_who_wait)
{
    struct rig rig;
    rig_init(&rig, 2, 1);
    int control_fd = control(&rig);
    int waiting_fd = visitor(&rig);
    side_signal(&rig.side, TUNNEL_SIGNAL_REFUSE);
    cr_assert(is_refused(&rig, &rig.service_addr));
    cr_assert_eq(side_end_of(&rig.side, control_fd), 0, "the session goes on");
    cr_assert_eq(side_end_of(&rig.side, waiting_fd), 0);
    int channel_fd = channel(&rig);
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    cr_expect(side_expect(&rig.side, channel_fd, command, sizeof(command)));
    int late_fd = control(&rig); /* a client that logs in now changes nothing */
    cr_assert(is_refused(&rig, &rig.service_addr));
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    cr_assert_neq(side_end_of(&rig.side, late_fd), 0);
    cr_assert(is_refused(&rig, &rig.control_addr));
    (void)close(waiting_fd);
    (void)close(channel_fd);
    side_settle(&rig.side, 30);
    cr_assert(server_role.is_done(&rig.side.workers[0]) &&
              server_role.is_done(&rig.side.workers[1]));
    (void)close(control_fd);
    (void)close(late_fd);
    rig_finish(&rig);
}

/* ---- anything goes ---- */

/* Logins, channels and visitors come and go in random order, under all faults that the fake loop
 * can inject. Nothing may crash, and nothing may be left over. */
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
                                .crowded = 300,
                                .accept_ends = 200,
                                .accept_error = 50,
                                .reset = 5,
                                .epipe = 5,
                                .enomem = 5};
    side_set_faults(&rig.side, &storm);
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
        side_settle(&rig.side, (int)random_below(&random, 6));
        int *old = &fds[random_below(&random, i + 1)];
        if (random_permille(&random, 400) && *old >= 0) {
            if (random_permille(&random, 500))
                tcp_abort_on_close(*old);
            (void)close(*old);
            *old = -1;
        }
        if (random_permille(&random, 100))
            side_advance(&rig.side, random_below(&random, 12000));
    }
    if (random_permille(&random, 500))
        side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    side_settle(&rig.side, (int)random_below(&random, 20));
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
