#include "app/upgrade.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/notify.h"
#include "app/program.h"
#include "app/status.h"
#include "app/worker.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "tunnel/handover.h"
#include "tunnel/role.h"

/* The messages on the channel; each is one packet. */
static const char ready_word[] = "ready", go_word[] = "go", serving_word[] = "serving";

enum {
    STEP_MS = 5, /* between two checks of what the workers have reached */
    WORD_SIZE = 16,
    REAP_MS = 200, /* the channel ends a little before the child can be reaped */
    KILL_MS = 500, /* a killed child can be reaped within this */
};

static void set_phase(struct upgrade *upgrade, enum handover_phase phase)
{
    handover_set_phase(upgrade->handover, phase);
    workers_signal(upgrade->workers, TUNNEL_SIGNAL_HANDOVER);
}

static bool all_reached(const struct upgrade *upgrade, enum handover_phase phase)
{
    return handover_all_reached(upgrade->handover, upgrade->worker_count, phase);
}

/* ---- the channel ---- */

static void say(const struct upgrade *upgrade, const char *word)
{
    /* If the other process has ended, the next hear() returns HEARD_END. */
    ssize_t sent = send(upgrade->channel, word, strlen(word), MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent;
}

enum heard { HEARD_NOTHING, HEARD_WORD, HEARD_END };

static enum heard receive_word(const struct upgrade *upgrade, char text[static WORD_SIZE],
                               size_t *ret_size)
{
    ssize_t got = recv(upgrade->channel, text, WORD_SIZE, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return HEARD_NOTHING;
    *ret_size = got > 0 ? (size_t)got : 0;
    return got > 0 ? HEARD_WORD : HEARD_END;
}

static enum heard hear(const struct upgrade *upgrade, const char *word)
{
    char text[WORD_SIZE];
    size_t size = 0;
    enum heard heard = receive_word(upgrade, text, &size);
    if (heard == HEARD_WORD && (size != strlen(word) || memcmp(text, word, size) != 0))
        return HEARD_END;
    return heard;
}

static void close_channel(struct upgrade *upgrade)
{
    if (upgrade->channel < 0)
        return;
    handover_set_channel(upgrade->handover, 0);
    (void)close(take_fd(&upgrade->channel));
}

/* After "go": passes on the logins of the successor. The other direction is silent. */
static void turn_logins(struct upgrade *upgrade)
{
    char text[WORD_SIZE];
    size_t size = 0;
    uint64_t login;
    enum heard heard;
    while ((heard = receive_word(upgrade, text, &size)) == HEARD_WORD) {
        if (handover_hear_login(text, size, &login))
            workers_succeeded(upgrade->workers, login);
    }
    if (heard == HEARD_END)
        close_channel(upgrade);
}

/* ---- the new process ---- */

void upgrade_await(struct upgrade *upgrade, int channel)
{
    upgrade->channel = channel;
    upgrade->state = UPGRADE_AWAITING;
    upgrade->is_reported = false;
}

static void upgrade_take_over(struct upgrade *upgrade, const char *why)
{
    handover_set_channel(upgrade->handover, upgrade->channel); /* turn_logins finds its end */
    upgrade->state = UPGRADE_NONE;
    set_phase(upgrade, HANDOVER_SERVING);
    log_info("upgrade: %s, serving", why);
}

static void turn_awaiting(struct upgrade *upgrade, uint64_t now_ms)
{
    if (!upgrade->is_reported && all_reached(upgrade, HANDOVER_AWAITED)) {
        say(upgrade, ready_word);
        upgrade->is_reported = true;
        upgrade->deadline_ms = now_ms + LIMIT_UPGRADE_START_MS;
    }
    switch (hear(upgrade, go_word)) {
    case HEARD_WORD:
        upgrade_take_over(upgrade, "the process before this one has left");
        return;
    case HEARD_END:
        upgrade_take_over(upgrade, "the process before this one has ended");
        return;
    case HEARD_NOTHING:
        break;
    }
    if (upgrade->is_reported && now_ms >= upgrade->deadline_ms) {
        say(upgrade, serving_word); /* for the predecessor, if it is stopped and wakes up */
        upgrade_take_over(upgrade, "the process before this one does not answer");
    }
}

/* ---- the old process: starting the new one ---- */

static void failed(struct upgrade *upgrade, const char *why)
{
    upgrade->failed_count++;
    log_error("upgrade: %s; this process goes on serving (%u upgrades failed so far)", why,
              upgrade->failed_count);
    notify_ready(upgrade->notify, "serving on, an upgrade failed: %s", why);
    close_channel(upgrade);
    upgrade->state = UPGRADE_NONE;
    if (handover_phase(upgrade->handover) != HANDOVER_SERVING)
        set_phase(upgrade, HANDOVER_SERVING);
}

static int start_child(struct upgrade *upgrade, int child_channel)
{
    struct program_fds fds = {.channel = child_channel};
    struct handover_sockets sockets;
    int result = upgrade->role->list_sockets(upgrade->shared, &sockets);
    if (result == 0)
        result = status_list_socket(upgrade->status, &sockets);
    if (result == 0) {
        fds.sockets = sockets.fds;
        fds.names = (const char *const *)sockets.names;
        fds.count = sockets.count;
        fds.shared_count = sockets.shared_count;
        result = program_spawn(upgrade->program, &fds, &upgrade->child);
    }
    handover_sockets_finish(&sockets);
    return result;
}

void upgrade_begin(struct upgrade *upgrade, uint64_t now_ms)
{
    assert(upgrade->state == UPGRADE_NONE);
    const char *path = upgrade->program->path;
    log_info("upgrade: starting %s", path != NULL ? path : "this program");
    notify_reloading(upgrade->notify);
    close_channel(upgrade); /* to a predecessor that still waits for logins */
    int ends[2];
    int result = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        result = -errno;
    if (result == 0) {
        upgrade->channel = ends[0];
        result = start_child(upgrade, ends[1]);
        (void)close(ends[1]);
    }
    if (result < 0) {
        char why[300];
        (void)snprintf(why, sizeof(why), "cannot start %s: %s",
                       path != NULL ? path : "this program (its path is unknown)",
                       error_text(result));
        failed(upgrade, why);
        return;
    }
    upgrade->state = UPGRADE_STARTING;
    upgrade->deadline_ms = now_ms + LIMIT_UPGRADE_START_MS;
}

/* Waits for a child that is of no use to end, and kills it if it does not. Returns its exit code;
 * -1: it was killed, or ended by a signal. */
static int upgrade_reap(struct upgrade *upgrade, bool kill_now)
{
    int status = 0;
    for (int waited_ms = 0; !kill_now && waited_ms < REAP_MS; waited_ms += STEP_MS) {
        if (waitpid(upgrade->child, &status, WNOHANG) == upgrade->child)
            return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        (void)usleep(STEP_MS * 1000);
    }
    (void)kill(upgrade->child, SIGKILL);
    /* A child that hangs in the kernel may take longer. Then nobody waits for it: init reaps it
     * after this process has ended. */
    for (int waited_ms = 0; waited_ms < KILL_MS; waited_ms += STEP_MS) {
        if (waitpid(upgrade->child, &status, WNOHANG) != 0)
            break;
        (void)usleep(STEP_MS * 1000);
    }
    return -1;
}

static void child_ended(struct upgrade *upgrade)
{
    char why[80] = "the new process broke off";
    int status = upgrade_reap(upgrade, false);
    if (status >= 0)
        (void)snprintf(why, sizeof(why), "the new process ended at its start (exit code %d)",
                       status);
    failed(upgrade, why);
}

static void give_up_child(struct upgrade *upgrade, const char *why)
{
    /* Before the channel is closed: the child would take that for "go". */
    (void)upgrade_reap(upgrade, true);
    failed(upgrade, why);
}

void upgrade_cancel(struct upgrade *upgrade)
{
    if (upgrade->state == UPGRADE_STARTING || upgrade->state == UPGRADE_QUIET)
        give_up_child(upgrade, "cancelled");
}

/* ---- the old process: leaving ---- */

static void turn_starting(struct upgrade *upgrade, uint64_t now_ms)
{
    switch (hear(upgrade, ready_word)) {
    case HEARD_WORD:
        upgrade->state = UPGRADE_QUIET;
        upgrade->deadline_ms = now_ms + LIMIT_UPGRADE_QUIET_MS;
        upgrade->quiet_since_ms = 0;
        set_phase(upgrade, HANDOVER_QUIET);
        return;
    case HEARD_END:
        child_ended(upgrade);
        return;
    case HEARD_NOTHING:
        break;
    }
    if (now_ms >= upgrade->deadline_ms)
        give_up_child(upgrade, "the new process is not ready in time");
}

static bool somebody_waits(const struct upgrade *upgrade)
{
    return upgrade->role->status(upgrade->shared).waiting_visitors > 0;
}

static void begin_leaving(struct upgrade *upgrade, uint64_t now_ms)
{
    upgrade->state = UPGRADE_LEAVING;
    upgrade->deadline_ms = now_ms + LIMIT_UPGRADE_QUIET_MS;
    set_phase(upgrade, HANDOVER_LEAVING);
}

static void turn_quiet(struct upgrade *upgrade, uint64_t now_ms)
{
    switch (hear(upgrade, serving_word)) {
    case HEARD_WORD: /* this process was stopped for so long that the new one has begun to serve */
        begin_leaving(upgrade, now_ms);
        return;
    case HEARD_END:
        child_ended(upgrade);
        return;
    case HEARD_NOTHING:
        break;
    }
    bool is_over = now_ms >= upgrade->deadline_ms;
    if (!all_reached(upgrade, HANDOVER_QUIET)) {
        if (is_over)
            give_up_child(upgrade, "a worker of this process does not answer");
        return;
    }
    if (!is_over && somebody_waits(upgrade)) {
        upgrade->quiet_since_ms = 0;
        return;
    }
    if (upgrade->quiet_since_ms == 0)
        upgrade->quiet_since_ms = now_ms;
    /* The commands of relays that have just begun must reach the client before its session ends. */
    if (now_ms - upgrade->quiet_since_ms < LIMIT_UPGRADE_SETTLE_MS)
        return;
    begin_leaving(upgrade, now_ms);
}

static bool turn_leaving(struct upgrade *upgrade, uint64_t now_ms)
{
    if (!all_reached(upgrade, HANDOVER_LEAVING) && now_ms < upgrade->deadline_ms)
        return false;
    upgrade->role->leave_addresses(upgrade->shared);
    notify_hand_over(upgrade->notify, upgrade->child);
    say(upgrade, go_word);
    upgrade->state = UPGRADE_LEFT;
    upgrade->deadline_ms = now_ms + LIMIT_UPGRADE_HOLD_MS;
    log_info("upgrade: process %lld serves from here on; this one ends with its last relay",
             (long long)upgrade->child);
    return true;
}

static void turn_left(struct upgrade *upgrade, uint64_t now_ms)
{
    turn_logins(upgrade);
    if (now_ms >= upgrade->deadline_ms)
        close_channel(upgrade);
}

/* ---- turns ---- */

int upgrade_fd(const struct upgrade *upgrade)
{
    /* Nothing is read in LEAVING, so the end of a dead child would make poll(2) return at once for
     * ever. */
    return upgrade->state == UPGRADE_LEAVING ? -1 : upgrade->channel;
}

int upgrade_timeout_ms(const struct upgrade *upgrade, uint64_t now_ms)
{
    switch (upgrade->state) {
    case UPGRADE_NONE:
        return -1;
    case UPGRADE_LEFT:
        if (upgrade->channel < 0)
            return -1;
        break;
    case UPGRADE_AWAITING:
        if (!upgrade->is_reported)
            return STEP_MS;
        break;
    case UPGRADE_STARTING:
        break;
    case UPGRADE_QUIET:
    case UPGRADE_LEAVING:
        return STEP_MS;
    }
    return upgrade->deadline_ms > now_ms ? (int)(upgrade->deadline_ms - now_ms) : 0;
}

bool upgrade_turn(struct upgrade *upgrade, uint64_t now_ms)
{
    switch (upgrade->state) {
    case UPGRADE_NONE:
        if (upgrade->channel >= 0)
            turn_logins(upgrade);
        break;
    case UPGRADE_LEFT:
        if (upgrade->channel >= 0)
            turn_left(upgrade, now_ms);
        break;
    case UPGRADE_AWAITING:
        turn_awaiting(upgrade, now_ms);
        break;
    case UPGRADE_STARTING:
        turn_starting(upgrade, now_ms);
        break;
    case UPGRADE_QUIET:
        turn_quiet(upgrade, now_ms);
        break;
    case UPGRADE_LEAVING:
        return turn_leaving(upgrade, now_ms);
    }
    return false;
}
