/* The channel of an upgrade after "go": a client's logins, and programs from before them. The steps
 * up to there are tests/e2e/test_upgrade.py's. */
#include "app/upgrade.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app/notify.h"
#include "app/program.h"
#include "app/status.h"
#include "app/worker.h"
#include "base/limits.h"
#include "base/log.h"
#include "tunnel/handover.h"
#include "tunnel/role.h"

static struct handover handover;
static struct upgrade upgrade;
static int other; /* the other process's end of the channel */
static uint64_t heard[8];
static unsigned int heard_count;

/* ---- replace worker.c, notify.c, program.c, status.c ---- */

void workers_signal(struct workers *workers, uint32_t bits)
{
    handover_reach(&handover, 0, handover_phase(&handover));
}

void workers_succeeded(struct workers *workers, uint64_t login)
{
    cr_assert_lt(heard_count, ARRAY_SIZE(heard));
    heard[heard_count++] = login;
}

void notify_ready(const struct notify *notify, const char *format, ...)
{
}

void notify_reloading(const struct notify *notify)
{
}

void notify_hand_over(struct notify *notify, pid_t successor)
{
}

int status_list_socket(const struct status *status, struct handover_sockets *sockets)
{
    return 0;
}

int program_spawn(const struct program *program, const struct program_fds *fds, pid_t *ret)
{
    *ret = 1;
    other = dup(fds->channel);
    return other < 0 ? -1 : 0;
}

/* ---- the role ---- */

static int list_sockets(void *shared, struct handover_sockets *ret)
{
    *ret = (struct handover_sockets){0};
    return 0;
}

static struct role_status status(void *shared)
{
    return (struct role_status){0};
}

static void leave_addresses(void *shared)
{
}

static const struct role role = {
    .status = status,
    .list_sockets = list_sockets,
    .leave_addresses = leave_addresses,
};

/* ---- */

static void start(void)
{
    static char path[] = "/program";
    static const struct program program = {.path = path};
    log_configure(LOG_ERROR, LOG_TEXT);
    handover_set_phase(&handover, HANDOVER_SERVING);
    upgrade = (struct upgrade){.program = &program,
                               .handover = &handover,
                               .role = &role,
                               .worker_count = 1,
                               .channel = -1};
}

static void say(const char *word)
{
    cr_assert_eq(send(other, word, strlen(word), MSG_NOSIGNAL), (ssize_t)strlen(word));
}

/* "": nothing; "end": the channel is closed. */
static const char *hear(void)
{
    static char text[32];
    memset(text, 0, sizeof(text));
    ssize_t got = recv(other, text, sizeof(text) - 1, MSG_DONTWAIT);
    return got == 0 ? "end" : text;
}

static void tell(uint64_t login)
{
    const struct handover successor = {.channel = other};
    handover_tell_login(&successor, login);
}

/* A predecessor up to its "go". Returns the time. */
static uint64_t leave(void)
{
    uint64_t now_ms = 1000;
    start();
    upgrade_begin(&upgrade, now_ms);
    say("ready");
    cr_assert_not(upgrade_turn(&upgrade, now_ms));
    cr_assert_not(upgrade_turn(&upgrade, now_ms));
    now_ms += LIMIT_UPGRADE_SETTLE_MS;
    cr_assert_not(upgrade_turn(&upgrade, now_ms));
    cr_assert(upgrade_turn(&upgrade, now_ms), "it has left");
    cr_assert_str_eq(hear(), "go");
    return now_ms;
}

/* A successor up to the predecessor's "go". */
static void take_over(void)
{
    int ends[2];
    start();
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    other = ends[1];
    handover_set_phase(&handover, HANDOVER_AWAITED);
    handover_reach(&handover, 0, HANDOVER_AWAITED);
    upgrade_await(&upgrade, ends[0]);
    (void)upgrade_turn(&upgrade, 1000);
    cr_assert_str_eq(hear(), "ready");
    handover_tell_login(&handover, 1);
    cr_assert_str_eq(hear(), "", "not before it is its turn");
    say("go");
}

Test(upgrade, the_old_one_hears_of_logins)
{
    uint64_t now_ms = leave();
    cr_assert_geq(upgrade_fd(&upgrade), 0);
    tell(5);
    say("word from a later program");
    say("login");
    tell(UINT64_MAX - 1);
    (void)upgrade_turn(&upgrade, now_ms);
    cr_assert_eq(heard_count, 2);
    cr_expect(heard[0] == 5 && heard[1] == UINT64_MAX - 1);
    cr_expect_eq(upgrade_timeout_ms(&upgrade, now_ms + 1), (int)LIMIT_UPGRADE_HOLD_MS - 1);
    (void)upgrade_turn(&upgrade, now_ms + LIMIT_UPGRADE_HOLD_MS);
    cr_expect_str_eq(hear(), "end");
    cr_expect_eq(upgrade_fd(&upgrade), -1);
    cr_expect_eq(upgrade_timeout_ms(&upgrade, now_ms + LIMIT_UPGRADE_HOLD_MS), -1);
    (void)close(other);
}

/* One from before this closes the channel at "go"; so does one that dies. */
Test(upgrade, a_new_one_that_tells_nothing)
{
    uint64_t now_ms = leave();
    (void)close(other);
    (void)upgrade_turn(&upgrade, now_ms);
    cr_expect_eq(upgrade.state, UPGRADE_LEFT);
    cr_expect_eq(upgrade_fd(&upgrade), -1, "it is not polled for ever");
    cr_expect_eq(upgrade_timeout_ms(&upgrade, now_ms), -1);
    cr_expect_eq(heard_count, 0);
}

Test(upgrade, the_new_one_tells_until_nobody_listens)
{
    uint64_t login;
    char packet[32];
    take_over();
    (void)upgrade_turn(&upgrade, 1000);
    cr_assert_eq(upgrade.state, UPGRADE_NONE);
    cr_assert_eq(handover_phase(&handover), HANDOVER_SERVING);
    cr_expect_eq(upgrade_timeout_ms(&upgrade, 1000), -1);
    handover_tell_login(&handover, 9);
    ssize_t got = recv(other, packet, sizeof(packet), MSG_DONTWAIT);
    cr_assert_gt(got, 0);
    cr_assert(handover_hear_login(packet, (size_t)got, &login));
    cr_expect_eq(login, 9);
    (void)upgrade_turn(&upgrade, 1000);
    cr_assert_geq(upgrade_fd(&upgrade), 0);
    (void)close(other);
    (void)upgrade_turn(&upgrade, 1000);
    cr_expect_eq(upgrade_fd(&upgrade), -1);
    handover_tell_login(&handover, 10);
}

/* One from before this closes the channel at "go". */
Test(upgrade, an_old_one_that_listens_to_nothing)
{
    take_over();
    (void)close(other);
    (void)upgrade_turn(&upgrade, 1000);
    cr_assert_eq(handover_phase(&handover), HANDOVER_SERVING);
    handover_tell_login(&handover, 9); /* no signal ends this process */
    (void)upgrade_turn(&upgrade, 1000);
    cr_expect_eq(upgrade_fd(&upgrade), -1);
}

Test(upgrade, the_next_upgrade_ends_the_last_one)
{
    take_over();
    (void)upgrade_turn(&upgrade, 1000);
    int before = other;
    upgrade_begin(&upgrade, 1001);
    cr_assert_eq(upgrade.state, UPGRADE_STARTING);
    int successor = other;
    other = before;
    cr_expect_str_eq(hear(), "end");
    handover_tell_login(&handover, 9);
    other = successor;
    cr_expect_str_eq(hear(), "", "that channel is another one's");
    (void)close(before);
    (void)close(other);
}
