/* The sockets bound to one address: the control port's, a service's listeners, or those of a UDP
 * service's lanes. Socket i belongs to worker i modulo workers: there may be more of them than
 * workers, or fewer.
 *
 * Sockets that the process was started with (io/inherit.h) are taken before any is bound, and all
 * of them, or what waits in a queue would be lost. Are there fewer than asked for, more join their
 * group; where that can't be (a service manager's, another user's) workers share a listener by
 * duplicates, and a UDP service has fewer lanes.
 *
 * Made and freed by the main thread. A worker that closes a socket of its takes it out of fds. */
#pragma once

#include <stdbool.h>

#include "base/addr.h"
#include "base/macros.h"
#include "io/socket.h"
#include "tunnel/channel_pool.h"

/* The place of a UDP lane in the pool's queue; the lane itself is its worker's (udp_lane.h). */
struct service_lane {
    struct pool_waiter waiter;
    const struct binding *binding;
    unsigned int index; /* in its sockets */
};

struct inherited;

struct binding {
    struct addr addr;
    bool is_udp;
    bool is_inherited; /* taken over, and may hold what arrived before */
    bool is_listening; /* when it was taken over */
    bool is_shared;    /* with a service manager: never shut down (io/inherit.h) */
    bool is_foreign;   /* of no program like this one: what it accepts lacks options */
    unsigned int count;
    unsigned int distinct_count; /* those behind them are duplicates */
    int *fds;                    /* count of them; -1 = closed by its worker */
    struct service_lane *lanes;  /* UDP: one for each socket */
    int claim_fd;                /* socket_claim of addr; -1 = none */
};

struct binding_options {
    const struct host_port *addr; /* a name is looked up, which blocks */
    bool is_udp;
    bool is_claimed;             /* TCP: see socket_claim */
    struct socket_options tcp;   /* accepted sockets inherit these */
    struct inherited *inherited; /* NULL: none */
    unsigned int count;          /* at least so many, where that is possible */
    unsigned int wait_ms;        /* for an address in use */
};

/* Binds, and listens on nothing that did not listen before. -errno or ERR_RESOLVE; nothing is
 * logged. */
MUST_CHECK int binding_create(const struct binding_options *options, struct binding **ret);
/* Closes what is still open. Accepts NULL. */
void binding_destroy(struct binding *binding);
/* Says in the log why an address could not be bound. service may be NULL. Returns the error. */
int binding_log_failed(const char *service, const struct host_port *addr, int error);
