/* Messages to the service manager: the protocol of sd_notify(3), without libsystemd.
 *
 *     READY, STATUS           it serves, and what
 *     RELOADING ... READY     a reload or an upgrade is going on
 *     STOPPING                it drains
 *     MAINPID                 the successor is the service from now on
 *     WATCHDOG                every worker runs its loop (app/watchdog.h)
 *
 * Without a manager ($NOTIFY_SOCKET is not set) all functions do nothing. Errors are logged at
 * level debug only, because the process can serve without being heard. If the manager's socket is
 * full, a message waits for at most NOTIFY_WAIT_MS, and a turn of the main thread sends at most
 * three. The watchdog's message does not wait, as the next one follows soon. Belongs to the main
 * thread. */
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
    int fd;         /* -1: there is no manager */
    bool is_silent; /* another process is the service now */
    uint64_t
        watchdog_us; /* the manager restarts us without WATCHDOG for so long; 0 = it does not */
};

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. The object is valid in any case; after an
 * error it sends nothing. */
void notify_init(struct notify *notify);
void notify_finish(struct notify *notify); /* accepts a zeroed one */

/* Sent at the end of the start, of a reload (applied or refused) and of an upgrade that failed. The
 * text, at most 200 bytes, becomes the unit's status. */
void notify_ready(const struct notify *notify, const char *format, ...) PRINTF_FORMAT(2, 3);
void notify_status(const struct notify *notify, const char *format, ...) PRINTF_FORMAT(2, 3);
/* A reload or an upgrade begins. The caller has to follow it with notify_ready in every case. */
void notify_reloading(const struct notify *notify);
void notify_stopping(const struct notify *notify);
void notify_watchdog(const struct notify *notify);
/* Another process is the service from now on. Later messages of this process would be taken for
 * messages of the other, so none are sent. */
void notify_hand_over(struct notify *notify, pid_t successor);
