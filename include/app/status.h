/* The status of the process over HTTP, for [status]: metrics, JSON, health, a page.
 *
 * One thread of its own serves it with poll(2), so that a slow or hostile reader costs nothing
 * else. It reads the workers' counters, which are atomic, and takes the short locks of services; it
 * never waits for a worker, nor a worker for it. At most STATUS_CONNECTIONS readers at a time: a
 * newcomer replaces the one that has been there for longest, so that silent ones can't keep others
 * out. Each has a time limit for its request and for its answer.
 *
 * The main thread makes all calls here. It binds, also again after a reload; a bind that fails is
 * tried again every second, while the old address is kept. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "config/config.h"
#include "tunnel/role.h"

struct handover_sockets;
struct inherited;
struct metrics;
struct status;
struct workers;

struct status_options {
    const struct role *role;
    void *shared; /* of the role; must outlive the status */
    unsigned int workers;
    void (*thread_begins)(void); /* the thread calls it first; may be NULL */
    bool has_predecessor;        /* which answers until status_set(STATUS_READY) */
};

/* What /readyz says. */
enum status_state {
    STATUS_STARTING, /* not ready yet */
    STATUS_AWAITING, /* the same, and a predecessor answers in its place */
    STATUS_READY,
    STATUS_DRAINING, /* not ready any more */
    STATUS_LEFT,     /* a successor has the address: no new readers here */
};

/* -errno. Listens nowhere yet. */
MUST_CHECK int status_create(const struct status_options *options, struct status **ret);
void status_destroy(struct status *status); /* accepts NULL */
/* Applies [status]; config NULL or without an address: off. True: it is another than before. A bind
 * that fails is logged. inherited may be NULL. */
bool status_configure(struct status *status, const struct config_status *config,
                      struct inherited *inherited);
/* Where the counters are, once they exist. */
void status_watch(struct status *status, const struct workers *workers,
                  const struct metrics *main_thread);
void status_set(struct status *status, enum status_state state);
/* Tries again what is due. */
void status_turn(struct status *status, uint64_t now_ms);
int status_timeout_ms(const struct status *status, uint64_t now_ms); /* -1: never */
/* Adds the socket to those that a successor gets. -ENOMEM. */
MUST_CHECK int status_list_socket(const struct status *status, struct handover_sockets *sockets);
