/* Hot reload: watches the configuration file, reads it when it has changed or SIGHUP asks for it,
 * and has the role apply the difference. A file with errors changes nothing, nor does one for which
 * there may be too few descriptors.
 *
 *     file at rest --.
 *     SIGHUP --------+--> config_load --> ops->look_up --> ops->begin --> workers --> ops->finish
 *                                                             ^                           |
 *                                                             +-- deferred: at once ------+
 *                                                             `-- failed: after 1 s ------+
 *                                                                                         v
 *                                                                        one line in the log
 *
 * A file with errors, and one whose last line has no end, may be half written: that waits until the
 * file was left alone for LIMIT_WATCH_DOUBT_MS. A file that is cut off right behind a line, and is
 * valid without its rest, is taken for a whole one.
 *
 * What fails (an address in use, a name without one) stays as it was, and is tried again once a
 * second; so is what the start has left.
 *
 * Belongs to the main thread, which polls its descriptors. */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "tunnel/role.h"

struct reload;
struct workers;

enum { RELOAD_FDS = 2 };

struct reload_options {
    const char *path;
    const struct stat *seen; /* the file, just before `started` was read from it */
    const struct role *role;
    void *shared; /* the role's */
    struct workers *workers;
    const struct config_peer *started; /* what it was started with; borrowed */
    unsigned int worker_count;
};

/* -ENOMEM. The options' objects outlive it. */
MUST_CHECK int reload_create(const struct reload_options *options, struct reload **ret);
void reload_destroy(struct reload *reload); /* accepts NULL */
/* What to poll, and for how long at most; -1 = for ever. */
void reload_pollfds(const struct reload *reload, struct pollfd fds[static RELOAD_FDS]);
int reload_timeout_ms(const struct reload *reload, uint64_t now_ms);
/* After each poll: does what is due. */
void reload_run(struct reload *reload, uint64_t now_ms);
/* SIGHUP: the file is read at once, changed or not. */
void reload_ask(struct reload *reload);
/* A change is being applied, or has been asked for; one that is only being written does not count.
 */
bool reload_is_busy(const struct reload *reload);
/* The drain_timeout in force. */
uint32_t reload_drain_timeout_ms(const struct reload *reload);
/* The main thread's counters, as workers_log_metrics. */
void reload_log_metrics(const struct reload *reload);

/* Level and format of the log; RATHOLE_URING_LOG in the environment wins, else RUST_LOG. */
void reload_configure_log(const struct config_peer *peer);
