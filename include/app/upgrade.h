/* An upgrade that drops no connection (elsewhere called hot restart): SIGUSR2 starts the program
 * file anew and hands every socket to it.
 *
 *     old                                     new
 *     fork, exec, sockets as LISTEN_FDS ----> rings, workers, but accepts nothing yet
 *     serves                                      |
 *     accepts no more visitors  <--- "ready" -----'
 *     waiting visitors get their channels
 *     closes its copies of the sockets, and the control channels
 *     MAINPID to the service manager
 *     keeps its relays ------------- "go" ------> accepts; the clients log in again
 *     ends with the last relay, or drain_timeout
 *
 * Connections and datagrams that arrive in between stay in the sockets' queues, which both
 * processes share: nothing is refused or reset.
 *
 * If the new process dies before "go", or is not ready within LIMIT_UPGRADE_START_MS, the old one
 * goes on as if nothing had been. If the old one dies, the new one sees the end of the channel and
 * takes that for "go". If the old one is stopped, the new one waits for LIMIT_UPGRADE_START_MS,
 * says "serving" and begins, and the old one leaves when it wakes up. Times are those of
 * app/awake.h.
 *
 * A client has no sockets to hand over. The old client stops logging in when the new one is ready,
 * and ends each of its control channels when the new one is logged in at that server: it is
 * replaced there, or the new process tells of the login (tunnel/handover.h). So the channel stays
 * open for LIMIT_UPGRADE_HOLD_MS after "go". Control channels that are left by then end too. A
 * process from before this closes the channel at "go", and a word that is not known is no error, so
 * both work with either.
 *
 * Belongs to the main thread; the workers see struct handover (tunnel/handover.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/macros.h"

struct handover;
struct notify;
struct program;
struct role;
struct status;
struct workers;

enum upgrade_state {
    UPGRADE_NONE,
    UPGRADE_AWAITING, /* this is the new process; the old one has not left */
    UPGRADE_STARTING, /* from here on this is the old one */
    UPGRADE_QUIET,    /* accepts no visitors; those that wait get channels */
    UPGRADE_LEAVING,  /* the workers close the sockets and control channels */
    UPGRADE_LEFT,     /* "go" is said; the relays go on */
};

struct upgrade {
    const struct program *program; /* the owner sets these seven, which are borrowed */
    struct notify *notify;
    struct handover *handover;
    struct workers *workers;
    struct status *status;
    const struct role *role;
    void *shared; /* of the role */
    unsigned int worker_count;

    enum upgrade_state state;
    int channel; /* to the other process, -1 = none; NONE: the new one tells its logins */
    pid_t child;
    bool is_reported;        /* AWAITING: "ready" is said */
    uint64_t deadline_ms;    /* when the state has to end; LEFT: the channel */
    uint64_t quiet_since_ms; /* QUIET: since when no visitor waits; 0 = one does */
    unsigned int failed_count;
};

/* In the new process, in the start. channel: from program_take_channel; the upgrade owns it. */
void upgrade_await(struct upgrade *upgrade, int channel);
/* In the old process, in state UPGRADE_NONE: begins an upgrade. An error is logged and told to the
 * service manager. */
void upgrade_begin(struct upgrade *upgrade, uint64_t now_ms);
/* To be called when this process begins to end: kills a new process that does not serve yet. */
void upgrade_cancel(struct upgrade *upgrade);
/* A descriptor to be polled for POLLIN; -1 = none. */
int upgrade_fd(const struct upgrade *upgrade);
/* The time in ms after which upgrade_turn is due even if nothing is readable; -1 = no limit. */
int upgrade_timeout_ms(const struct upgrade *upgrade, uint64_t now_ms);
/* Goes on as far as it can, without waiting, except for a child that has to be reaped (under a
 * second). True: this process has just left, and ends with its last relay. */
bool upgrade_turn(struct upgrade *upgrade, uint64_t now_ms);
