/* Hot reload: watches the configuration file, reads it when it has changed or SIGHUP asks for it,
 * and has the role apply the difference to what runs. A file with errors changes nothing, nor does
 * one that needs more descriptors than the process may have.
 *
 *     file at rest --.
 *     SIGHUP --------+--> config_load --> ops->look_up --> ops->begin --> workers --> ops->finish
 *                                                             ^                           |
 *                                                             +-- deferred: at once ------+
 *                                                             `-- failed: after 1 s ------+
 *                                                                                         v
 *                                                                        one line in the log
 *
 * A file with errors, or without a newline at its end, may be half written. It is refused or
 * applied only when it has not changed for LIMIT_WATCH_DOUBT_MS. A file that is cut off at the end
 * of a line, and is valid as it stands, is taken for a complete one (docs/decisions.md, "Removed:
 * inotify").
 *
 * A service whose new address can't be had (it is in use, or its name has no address) stays as it
 * was, and is tried again once a second. So are the services that have no address since the start.
 *
 * Belongs to the main thread, which polls its descriptors. */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "tunnel/role.h"

struct metrics;
struct reload;
struct source;
struct status;
struct workers;

enum { RELOAD_FDS = 3 };

struct reload_options {
    const struct source *source; /* borrowed */
    const struct role *role;
    void *shared; /* of the role */
    struct workers *workers;
    struct status *status;
    const struct config_peer *started; /* the configuration at the start; borrowed */
    unsigned int worker_count;
};

/* -ENOMEM. The objects that the options point to must outlive the reload. */
MUST_CHECK int reload_create(const struct reload_options *options, struct reload **ret);
void reload_destroy(struct reload *reload); /* accepts NULL */
/* The descriptors to poll (-1: none), and the longest time to wait for them, in ms. */
void reload_pollfds(const struct reload *reload, struct pollfd fds[static RELOAD_FDS]);
int reload_timeout_ms(const struct reload *reload, uint64_t now_ms);
/* To be called after each poll. Does what is due; never blocks. */
void reload_run(struct reload *reload, uint64_t now_ms);
/* For SIGHUP: the next reload_run reads the file, changed or not. */
void reload_ask(struct reload *reload);
/* True: a change is being applied, or reload_ask was called. False for a file that is still being
 * written. */
bool reload_is_busy(const struct reload *reload);
/* The same, but only for the file: services that come and go with their clients are no reload. */
bool reload_is_of_file(const struct reload *reload);
/* The drain_delay and the drain_timeout in force. */
uint32_t reload_drain_delay_ms(const struct reload *reload);
uint32_t reload_drain_timeout_ms(const struct reload *reload);
/* Writes the main thread's counters to the log, as workers_log_metrics does for the workers. */
void reload_log_metrics(const struct reload *reload);

/* The main thread's counters. */
const struct metrics *reload_metrics(const struct reload *reload);

/* Sets the level and the format of the log. In the environment RATHOLE_URING_LOG wins over
 * RUST_LOG, and both win over the file. */
void reload_configure_log(const struct config_peer *peer);
