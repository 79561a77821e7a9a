/* The sockets bound to one address: the control port's, a service's listeners, or those of a UDP
 * service's lanes. Socket i belongs to worker i modulo workers: there may be more of them than
 * workers, or fewer.
 *
 * Sockets that the process was started with (io/inherit.h) are taken before any is bound, and all
 * of them, or what waits in a queue would be lost. Are there fewer than asked for, more join their
 * group; where that can't be (a service manager's, another user's) workers share a listener by
 * duplicates, and a UDP service has fewer lanes.
 *
 * A service's address has a guard (socket_guard): it listens only while a client serves it, and no
 * second server may get it in between.
 *
 * Made and freed by the main thread. A worker that closes a socket of its takes it out of fds. */
#pragma once

#include <stdbool.h>

#include "base/addr.h"
#include "base/macros.h"
#include "io/socket.h"
#include "server/channel_pool.h"

/* The place of a UDP lane in the pool's queue; the lane itself is its worker's (lane.h). Its
 * waiter's id is the lane's name: never used again, larger in a later binding, and with the index
 * among the binding's sockets in it. */
struct service_lane {
    struct pool_waiter waiter;
};
enum { LANE_INDEX_BITS = 16 };
static inline unsigned int lane_id_index(uint64_t id)
{
    return (unsigned int)(id & ((1u << LANE_INDEX_BITS) - 1));
}

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
    int guard_fd;                /* -1 = none */
};

struct binding_options {
    const struct addr *addr;
    bool is_udp;
    bool is_guarded;             /* TCP: it will not listen at once */
    struct socket_options tcp;   /* accepted sockets inherit these */
    struct inherited *inherited; /* NULL: none */
    unsigned int count;          /* at least so many, where that is possible */
};

/* Binds, and listens on nothing that did not listen before. -errno; nothing is logged. */
MUST_CHECK int binding_create(const struct binding_options *options, struct binding **ret);
/* Closes what is still open. Accepts NULL. */
void binding_destroy(struct binding *binding);
/* Gives the address up, save for what the workers hold: a successor has it. Accepts NULL. */
void binding_leave(struct binding *binding);
