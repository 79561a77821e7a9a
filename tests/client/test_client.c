/* The client's sessions, from the login to the drain. */
#include "client/client.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "client_rig.h"

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

/* ---- many services ---- */

enum { MANY = 40 };

/* Accepts and closes all connections that come without a further wait. */
static unsigned int refuse_all(struct rig *rig)
{
    int fds[MANY];
    unsigned int count = 0;
    int fd;
    while (count < MANY && (fd = accepted(rig, rig->listener)) >= 0)
        fds[count++] = fd;
    for (unsigned int i = 0; i < count; i++)
        (void)close(fds[i]);
    side_settle(&rig->side, 5);
    return count;
}

Test(client, logs_in_a_few_at_a_time)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.services = MANY, .workers = 2, .seed = 1});
    cr_expect_eq(refuse_all(&rig), LIMIT_LOGINS_IN_PROGRESS);
    /* Logins that have failed give up their turn, and others find it within 2 ms. */
    side_advance(&rig.side, 3);
    cr_expect_eq(refuse_all(&rig), LIMIT_LOGINS_IN_PROGRESS);
    side_advance(&rig.side, 3);
    cr_expect_eq(refuse_all(&rig), MANY - 2 * LIMIT_LOGINS_IN_PROGRESS, "each once");
    side_advance(&rig.side, 3);
    cr_expect_eq(refuse_all(&rig), 0);
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
    cr_assert_eq(side_end_of(&rig.side, control), 1, "the server learns of it first, and cleanly");
    side_advance(&rig.side, LIMIT_CLIENT_PARTING_MS);
    cr_assert_eq(side_end_of(&rig.side, idle), -ECONNRESET);
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

/* While the end of the control channel is on its way, the server gives a visitor a channel. */
Test(client, drain_serves_a_visitor_that_comes_just_before_the_end)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.workers = 2, .seed = 1});
    int control = logged_in(&rig);
    int channel = parked(&rig, control), closed = parked(&rig, control);
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    cr_assert_eq(side_end_of(&rig.side, control), 1);
    say_start(channel);
    int local = accepted(&rig, rig.local);
    cr_assert_geq(local, 0);
    (void)close(closed); /* the server has seen the end */
    side_advance(&rig.side, 2 * LIMIT_CLIENT_PARTING_MS);
    say(channel, "ask", 3);
    cr_assert(side_expect(&rig.side, local, "ask", 3));
    (void)close(local);
    (void)close(channel);
    side_settle(&rig.side, 30);
    cr_assert(client_role.is_done(&rig.side.workers[0]) &&
              client_role.is_done(&rig.side.workers[1]));
    (void)close(control);
    rig_finish(&rig);
}

/* The end of a session is heard of before the signal that explains it. */
Test(client, drain_reaches_the_workers_one_by_one)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.workers = 2, .seed = 1});
    int control = logged_in(&rig);
    int channels[] = {parked(&rig, control), parked(&rig, control)};
    const struct client_worker *other = rig.side.workers[1].role;
    cr_assert_not(list_is_empty(&other->channels));
    mailbox_signal(rig.side.workers[0].mailbox, NULL, TUNNEL_SIGNAL_DRAIN);
    side_settle(&rig.side, 30);
    cr_assert_eq(side_end_of(&rig.side, control), 1);
    cr_assert_not(other->draining);
    for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
        cr_expect_eq(side_end_of(&rig.side, channels[i]), 0, "a visitor may be on its way");
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    for (size_t i = 0; i < ARRAY_SIZE(channels); i++)
        (void)close(channels[i]);
    (void)close(control);
    side_settle(&rig.side, 30);
    cr_assert(client_role.is_done(&rig.side.workers[0]) &&
              client_role.is_done(&rig.side.workers[1]));
    rig_finish(&rig);
}

/* A server that closes its parked channels lets the client end without the time limit. */
Test(client, drain_ends_with_the_last_parked_channel)
{
    struct rig rig;
    rig_init(&rig, &(struct rig_options){.workers = 1, .seed = 1});
    int control = logged_in(&rig);
    int idle = parked(&rig, control);
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    side_settle(&rig.side, 30);
    cr_assert_not(client_role.is_done(&rig.side.workers[0]));
    (void)close(idle);
    (void)close(control);
    side_settle(&rig.side, 30);
    cr_assert(client_role.is_done(&rig.side.workers[0]));
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

/* ---- a successor ---- */

static void enter(struct rig *rig, enum handover_phase phase)
{
    handover_set_phase(&rig->client->handover, phase);
    side_signal(&rig->side, TUNNEL_SIGNAL_HANDOVER);
    side_settle(&rig->side, 4);
}

/* The successor's login, as the main thread passes it on. */
static void succeed(struct rig *rig, uint64_t login)
{
    for (unsigned int i = 0; i < rig->side.all.count; i++)
        client_role.succeeded(&rig->side.workers[i], login);
    side_settle(&rig->side, 4);
}

/* What the rig's client tells at its next login, which this does for it. */
static uint64_t told_login(struct rig *rig, unsigned int service, int *ret_control)
{
    int ends[2];
    uint8_t packet[32];
    uint64_t login = 0;
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    handover_set_channel(&rig->client->handover, ends[0]);
    *ret_control = accepted(rig, rig->listener);
    cr_assert_geq(*ret_control, 0);
    cr_assert(hear_login(rig, *ret_control, service));
    say_ack(rig, *ret_control, MESSAGE_ACK_OK);
    ssize_t got = recv(ends[1], packet, sizeof(packet), MSG_DONTWAIT);
    cr_assert(got > 0 && handover_hear_login(packet, (size_t)got, &login));
    handover_set_channel(&rig->client->handover, 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return login;
}

Test(client, a_successor_ends_its_session)
{
    struct rig rig;
    int control;
    rig_init(&rig, &(struct rig_options){.workers = 2, .seed = 1});
    uint64_t login = told_login(&rig, 0, &control);
    int relay = parked(&rig, control), channel = parked(&rig, control);
    int idle = parked(&rig, control);
    say_start(relay);
    int local = accepted(&rig, rig.local);
    succeed(&rig, login);
    cr_assert_eq(side_end_of(&rig.side, control), 0, "it does not leave yet");
    enter(&rig, HANDOVER_QUIET);
    enter(&rig, HANDOVER_LEAVING);
    succeed(&rig, login + 1);
    cr_assert_eq(side_end_of(&rig.side, control), 0, "that is another one's");
    succeed(&rig, login);
    cr_assert_eq(side_end_of(&rig.side, control), 1, "cleanly");
    say_start(channel); /* the server gives it to a visitor while the end is on its way */
    int second = accepted(&rig, rig.local);
    cr_assert_geq(second, 0);
    cr_assert_eq(side_end_of(&rig.side, idle), 0);
    side_advance(&rig.side, LIMIT_CLIENT_PARTING_MS);
    cr_assert_eq(side_end_of(&rig.side, idle), -ECONNRESET);
    say(relay, "more", 4);
    cr_assert(side_expect(&rig.side, local, "more", 4));
    close_listener(&relay), close_listener(&channel), close_listener(&local),
        close_listener(&second);
    side_settle(&rig.side, 30);
    cr_assert(client_role.is_done(&rig.side.workers[0]) &&
              client_role.is_done(&rig.side.workers[1]));
    side_advance(&rig.side, 60000);
    cr_assert_eq(accepted(&rig, rig.listener), -1, "it does not come back");
    (void)close(control);
    (void)close(idle);
    rig_finish(&rig);
}

/* Each service and server for itself: a server that the successor does not reach holds only its
 * own control channel, and that one up to the limit. */
Test(client, a_successor_ends_the_sessions_that_it_has)
{
    struct rig rig;
    int first, second;
    rig_init(&rig, &(struct rig_options){.workers = 2, .services = 2, .seed = 1});
    uint64_t logins[2] = {told_login(&rig, 0, &first), 0};
    uint8_t first_key[KEYS_DIGEST_SIZE];
    memcpy(first_key, rig.session_key, sizeof(first_key));
    logins[1] = told_login(&rig, 1, &second);
    cr_assert_neq(logins[0], logins[1]);
    memcpy(rig.session_key, first_key, sizeof(first_key));
    int idle = parked(&rig, first);
    enter(&rig, HANDOVER_QUIET);
    enter(&rig, HANDOVER_LEAVING);
    succeed(&rig, logins[0]);
    cr_assert_eq(side_end_of(&rig.side, first), 1);
    cr_assert_eq(side_end_of(&rig.side, second), 0);
    cr_assert_eq(side_end_of(&rig.side, idle), 0);
    side_advance(&rig.side, LIMIT_UPGRADE_HOLD_MS - 1000);
    cr_assert_eq(side_end_of(&rig.side, second), 0);
    side_advance(&rig.side, 1000);
    cr_assert_eq(side_end_of(&rig.side, second), 1);
    side_advance(&rig.side, LIMIT_CLIENT_PARTING_MS);
    cr_assert_eq(side_end_of(&rig.side, idle), -ECONNRESET);
    side_settle(&rig.side, 30);
    cr_assert(client_role.is_done(&rig.side.workers[0]) &&
              client_role.is_done(&rig.side.workers[1]));
    (void)close(first);
    (void)close(second);
    (void)close(idle);
    rig_finish(&rig);
}
