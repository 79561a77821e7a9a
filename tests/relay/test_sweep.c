/* The sweep that finds dead peers, on the fake loop in virtual time. The test plays the kernel: it
 * answers socket_life. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "relay_rig.h"

enum { LIVES_MAX = 8, QUIET_MS = 500000 };

/* The answers for some descriptors. All others are idle, and were last heard QUIET_MS ago. */
static struct {
    int fd;
    struct socket_life life;
} lives[LIVES_MAX];
static size_t live_count;

static int answer(int fd, struct socket_life *ret)
{
    *ret = (struct socket_life){.window = 65536, .heard_ms = QUIET_MS};
    for (size_t i = 0; i < live_count; i++) {
        if (lives[i].fd == fd)
            *ret = lives[i].life;
    }
    return 0;
}

static void set_life(int fd, struct socket_life life)
{
    size_t i = 0;
    while (i < live_count && lives[i].fd != fd)
        i++;
    cr_assert_lt(i, LIVES_MAX);
    live_count = MAX(live_count, i + 1);
    lives[i].fd = fd;
    lives[i].life = life;
}

static const struct socket_life unacked = {
    .unacked = 1, .window = 65536, .heard_ms = QUIET_MS, .retransmits = 7};
static const struct socket_life idle = {.window = 65536, .heard_ms = QUIET_MS};

static _Atomic uint32_t doubts;

static void begin(struct rig *rig)
{
    rig_init(rig, 1, 0);
    live_count = 0;
    fake_socket_set_life(answer);
    fake_loop_set_idle_step_ms(rig->loop, 0);
    rig->options.doubts = &doubts;
    rig->options.doubted_end = RELAY_SERVICE_END;
    relay_start(&rig->relay, &rig->options);
    rig_turns(rig, 3);
}

static void seconds(struct rig *rig, int count)
{
    for (int i = 0; i < count; i++) {
        fake_loop_advance_ms(rig->loop, 1000);
        if (rig->other_loop != NULL)
            fake_loop_advance_ms(rig->other_loop, 1000);
        rig_turns(rig, 2);
    }
}

static void finish(struct rig *rig)
{
    if (!rig->closed)
        relay_terminate(&rig->relay);
    rig_turns(rig, 10);
    fake_socket_set_life(NULL);
    rig_finish(rig, 1);
}

static int read_error(int fd)
{
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 ? errno : 0;
}

static int option(int fd, int level, int name)
{
    int value = 0;
    socklen_t size = sizeof(value);
    cr_assert_eq(getsockopt(fd, level, name, &value, &size), 0);
    return value;
}

/* ---- an end that does not acknowledge ---- */

static void unacknowledged(unsigned int end)
{
    struct rig rig;
    begin(&rig);
    set_life(rig.options.fds[end], unacked);
    seconds(&rig, LIMIT_SILENT_MS / 1000);
    cr_assert_not(rig.closed, "too early");
    seconds(&rig, 2);
    cr_assert(rig.closed);
    cr_expect_eq(rig.relay.error, ERR_UNACKED);
    cr_expect_eq(rig.relay.silent_end, end);
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_RELAYS_SILENT), 1);
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_RELAYS_ABORTED), 1);
    rig_turns(&rig, 3); /* the closes */
    cr_expect_eq(read_error(rig.peers[0].fd), ECONNRESET);
    cr_expect_eq(read_error(rig.peers[1].fd), ECONNRESET);
    finish(&rig);
}

Test(relay_silence, an_end_that_does_not_acknowledge_resets_both)
{
    unacknowledged(RELAY_VISITOR_END);
    unacknowledged(RELAY_SERVICE_END);
}

Test(relay_silence, acknowledgements_keep_it)
{
    struct rig rig;
    begin(&rig);
    struct socket_life life = unacked;
    set_life(rig.options.fds[1], life);
    for (int i = 0; i < 20; i++) {
        seconds(&rig, LIMIT_SILENT_MS / 1000 - 3);
        life.heard_ms = 100;
        set_life(rig.options.fds[1], life);
        seconds(&rig, 1);
        set_life(rig.options.fds[1], unacked);
    }
    cr_assert_not(rig.closed);
    finish(&rig);
}

/* No byte moves after an end of stream, but the peer has to acknowledge the FIN too. */
Test(relay_silence, an_end_of_stream_is_watched)
{
    struct rig rig;
    begin(&rig);
    seconds(&rig, 5);
    (void)shutdown(rig.peers[0].fd, SHUT_WR);
    rig_turns(&rig, 3);
    set_life(rig.options.fds[1], unacked);
    seconds(&rig, LIMIT_SILENT_MS / 1000 + 3);
    cr_assert(rig.closed);
    finish(&rig);
}

/* SIGSTOP, then SIGCONT: two looks an hour apart. */
Test(relay_silence, a_pause_of_ours_is_not_their_silence)
{
    struct rig rig;
    begin(&rig);
    set_life(rig.options.fds[1], unacked);
    seconds(&rig, 2);
    fake_loop_advance_ms(rig.loop, 3600000);
    seconds(&rig, 20);
    cr_assert_not(rig.closed);
    set_life(rig.options.fds[1], idle);
    seconds(&rig, 100);
    cr_assert_not(rig.closed);
    finish(&rig);
}

static bool move(struct relay *relay)
{
    relay_detach(relay);
    return true;
}

Test(relay_silence, a_relay_that_moves_is_watched_on)
{
    struct rig rig;
    begin(&rig);
    rig_use_second_worker(&rig);
    set_life(rig.options.fds[1], unacked);
    seconds(&rig, 10);
    cr_assert(move(&rig.relay));
    rig_turns(&rig, 3);
    cr_assert_eq(rig.relay.engine, &rig.other_engine);
    seconds(&rig, LIMIT_SILENT_MS / 1000);
    cr_assert_not(rig.closed);
    seconds(&rig, 3);
    cr_assert(rig.closed);
    finish(&rig);
}

/* ---- doubts ---- */

Test(relay_silence, a_doubted_end_that_answers_lives)
{
    struct rig rig;
    begin(&rig);
    int fd = rig.options.fds[1];
    int idle_secs = option(fd, IPPROTO_TCP, TCP_KEEPIDLE);
    int interval_secs = option(fd, IPPROTO_TCP, TCP_KEEPINTVL);
    seconds(&rig, 3);
    (void)atomic_fetch_add(&doubts, 1);
    seconds(&rig, 1);
    cr_assert_eq(metrics_get(&rig.metrics, METRIC_RELAYS_ASKED), 1);
    cr_expect_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 1);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), LIMIT_ASK_INTERVAL_S);
    seconds(&rig, LIMIT_ASK_MS / 1000 - 1);
    struct socket_life life = idle;
    life.heard_ms = 100;
    set_life(fd, life);
    seconds(&rig, 1);
    set_life(fd, idle);
    cr_expect_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0, "as it was before");
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), idle_secs);
    cr_expect_eq(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), interval_secs);
    seconds(&rig, 100);
    cr_assert_not(rig.closed);
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_RELAYS_ASKED), 1, "asked once for one doubt");
    finish(&rig);
}

Test(relay_silence, a_doubted_end_that_does_not_answer_is_dead)
{
    struct rig rig;
    begin(&rig);
    seconds(&rig, 3);
    (void)atomic_fetch_add(&doubts, 1);
    seconds(&rig, LIMIT_ASK_MS / 1000);
    cr_assert_not(rig.closed, "too early");
    seconds(&rig, 2);
    cr_assert(rig.closed);
    cr_expect_eq(rig.relay.error, ERR_SILENT);
    cr_expect_eq(rig.relay.silent_end, RELAY_SERVICE_END);
    finish(&rig);
}

/* The kernel retransmits outstanding bytes, or probes a zero window, at its own intervals: a probe
 * of ours adds nothing. */
Test(relay_silence, an_end_that_owes_something_is_not_asked)
{
    struct rig rig;
    begin(&rig);
    struct socket_life slow = {.unsent = 100000, .heard_ms = 100000};
    set_life(rig.options.fds[1], slow);
    seconds(&rig, 3);
    (void)atomic_fetch_add(&doubts, 1);
    seconds(&rig, 60);
    cr_assert_not(rig.closed);
    cr_assert_eq(metrics_get(&rig.metrics, METRIC_RELAYS_ASKED), 0);
    finish(&rig);
}

Test(relay_silence, a_relay_that_moves_while_asked_keeps_its_options)
{
    struct rig rig;
    begin(&rig);
    rig_use_second_worker(&rig);
    int fd = rig.options.fds[1];
    (void)atomic_fetch_add(&doubts, 1);
    seconds(&rig, 2);
    cr_assert_eq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 1);
    cr_assert(move(&rig.relay));
    rig_turns(&rig, 3);
    cr_expect_eq(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    cr_expect_neq(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 1);
    seconds(&rig, 30);
    cr_assert_not(rig.closed);
    finish(&rig);
}

/* ---- costs ---- */

enum { RELAYS = 600 };

static size_t closed_count;

static void one_closed(struct relay *relay)
{
    closed_count++;
}

static const struct relay_ops many_ops = {.closed = one_closed};

/* The kernel is asked about each relay once after its start, then never again. A doubt makes the
 * sweep ask about all of them, some in each turn. */
Test(relay_silence, an_idle_relay_costs_no_call)
{
    static struct relay relays[RELAYS];
    static int outer[RELAYS][2];
    struct rig rig;
    begin(&rig);
    relay_terminate(&rig.relay);
    rig_turns(&rig, 5);
    for (size_t i = 0; i < RELAYS; i++) {
        int fds[2][2];
        tcp_pair(fds[0], 0);
        tcp_pair(fds[1], 0);
        outer[i][0] = fds[0][0];
        outer[i][1] = fds[1][0];
        struct relay_options options = {.engine = &rig.engine,
                                        .ops = &many_ops,
                                        .fds = {fds[0][1], fds[1][1]},
                                        .doubts = &doubts,
                                        .doubted_end = RELAY_SERVICE_END};
        relay_start(&relays[i], &options);
    }
    size_t before = fake_socket_looks();
    seconds(&rig, 3);
    cr_expect_eq(fake_socket_looks() - before, 2 * RELAYS);
    before = fake_socket_looks();
    seconds(&rig, 600);
    cr_expect_eq(fake_socket_looks() - before, 0);
    (void)atomic_fetch_add(&doubts, 1);
    for (int turn = 0; turn < 8; turn++) {
        if (turn % 4 == 0)
            fake_loop_advance_ms(rig.loop, 1000);
        before = fake_socket_looks();
        rig_turn(&rig);
        cr_expect_leq(fake_socket_looks() - before, 2 * LIMIT_SWEEP_STEP, "turn %d", turn);
    }
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_RELAYS_ASKED), RELAYS);
    seconds(&rig, 15);
    cr_expect_eq(closed_count, RELAYS, "nobody has answered");
    for (size_t i = 0; i < RELAYS; i++) {
        (void)close(outer[i][0]);
        (void)close(outer[i][1]);
    }
    finish(&rig);
}
