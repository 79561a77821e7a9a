/* What the service manager is told: sd_notify's datagrams, without libsystemd.
 *
 *     READY, STATUS           it serves, and what
 *     RELOADING ... READY     a reload or an upgrade is going on
 *     STOPPING                it drains
 *     MAINPID                 the successor, which speaks for the service from then on
 *     WATCHDOG                every worker turns its loop (app/watchdog.h)
 *
 * Without a manager ($NOTIFY_SOCKET unset) all of it does nothing. What goes wrong is a line in the
 * log at level debug: the process serves, whoever listens. A full socket of the manager's holds us
 * up for at most NOTIFY_WAIT_MS per message, of which a turn of the main thread has at most three;
 * the watchdog's does not wait, as the next one comes soon. Belongs to the main thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "base/macros.h"

enum { NOTIFY_WAIT_MS = 200 };

struct notify {
    struct sockaddr_un manager;
    socklen_t manager_len;
    int fd; /* -1: nobody to tell */
    bool is_silent;
    uint64_t watchdog_us; /* how long the manager waits for WATCHDOG; 0 = it does not */
};

/* As the environment says: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID. Always leaves a valid
 * object. */
void notify_init(struct notify *notify);
void notify_finish(struct notify *notify); /* accepts a zeroed one */

/* The end of the start, of a reload (done or refused) and of an upgrade that was given up; the
 * text, at most 200 bytes, becomes the unit's status. */
void notify_ready(const struct notify *notify, const char *format, ...) PRINTF_FORMAT(2, 3);
void notify_status(const struct notify *notify, const char *format, ...) PRINTF_FORMAT(2, 3);
/* A reload or an upgrade begins; notify_ready follows in every case. */
void notify_reloading(const struct notify *notify);
void notify_stopping(const struct notify *notify);
void notify_watchdog(const struct notify *notify);
/* Another process is the service now. Whatever this one had to say afterwards would be taken for
 * the other's, so it says nothing more. */
void notify_hand_over(struct notify *notify, pid_t successor);
