/* The upgrade without dropping: SIGUSR2 starts the program file anew and hands it every socket.
 *
 *     old                                     new
 *     fork, exec, sockets as LISTEN_FDS ----> rings, workers, but accepts nothing yet
 *     serves                                      |
 *     accepts no more visitors  <--- "ready" -----'
 *     those that wait get their channel
 *     closes its copies of the sockets, and the control channels
 *     MAINPID to the service manager
 *     keeps its relays ------------- "go" ------> accepts; the clients log in again
 *     ends with the last relay, or drain_timeout
 *
 * Between the two what arrives waits in the sockets' queues: nothing is refused or reset. If the
 * new process dies before "go", or is not ready within LIMIT_UPGRADE_START_MS, the old one goes on
 * as if nothing had been; if the old one dies, the end of the channel means "go". One that is
 * stopped does not answer for as long: then the new one says "serving" and begins, and the old one
 * leaves when it wakes up. Times are those of app/awake.h.
 *
 * A client has no sockets to hand over: the old one stops logging in when the new one is ready, the
 * server replaces its control channels by the new one's, and what is left of them ends after
 * LIMIT_UPGRADE_HOLD_MS.
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
struct workers;

enum upgrade_state {
    UPGRADE_NONE,
    UPGRADE_AWAITING, /* this is the new process, and the old one has not left */
    UPGRADE_STARTING, /* from here on this is the old one */
    UPGRADE_QUIET,
    UPGRADE_LEAVING,
    UPGRADE_LEFT,
};

struct upgrade {
    const struct program *program; /* these are borrowed, and set by the owner */
    struct notify *notify;
    struct handover *handover;
    struct workers *workers;
    const struct role *role;
    void *shared; /* the role's */
    unsigned int worker_count;

    enum upgrade_state state;
    int channel; /* to the other process, -1 = none */
    pid_t child;
    bool is_reported;        /* AWAITING: "ready" is said */
    uint64_t deadline_ms;    /* of the state */
    uint64_t quiet_since_ms; /* QUIET: nobody waits any more; 0 = somebody does */
    unsigned int failed_count;
};

/* The new process: it has been started by channel, as program_take_channel says. */
void upgrade_await(struct upgrade *upgrade, int channel);
/* The old process: begins, in state UPGRADE_NONE. A failure is logged, and told the service
 * manager. */
void upgrade_begin(struct upgrade *upgrade, uint64_t now_ms);
/* The process is to end: a new one that is not serving yet is killed. */
void upgrade_cancel(struct upgrade *upgrade);
/* To be polled for POLLIN, -1 = nothing. */
int upgrade_fd(const struct upgrade *upgrade);
/* Until the next turn even if nothing is readable, -1 = none is needed. */
int upgrade_timeout_ms(const struct upgrade *upgrade, uint64_t now_ms);
/* Goes on as far as it can. True: this process has just left; it ends with its last relay. */
bool upgrade_turn(struct upgrade *upgrade, uint64_t now_ms);
