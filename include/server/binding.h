/* A binding: all sockets of one address, which are listeners of the control port or of a TCP
 * service, or the sockets of a UDP service's lanes. Socket i belongs to worker i modulo the number
 * of workers. There may be more sockets than workers, or fewer.
 *
 * If the process was started with sockets for the address (io/inherit.h), the binding takes all of
 * them: connections or datagrams that wait in a socket left behind would be lost. If that is fewer
 * than wanted, more sockets join their reuseport group. A group of a service manager or of another
 * user can't be joined. Then the workers share listeners by duplicates (F_DUPFD), and a UDP service
 * has fewer lanes.
 *
 * A unix socket has no group: the workers share one by duplicates. It has no guard either, because
 * the kernel says whether somebody is bound to its file (io/unix_socket.h). And it can't stop
 * listening without being closed, so it goes on accepting while its service is down, like the
 * sockets of a service manager; those visitors are closed. Its file is removed with the binding.
 *
 * A service listens only while a client serves it, so its address has a guard that keeps a second
 * server away in between: docs/decisions.md, "A guard keeps a service's address".
 *
 * The main thread makes and frees bindings. A worker that closes one of its sockets sets it to -1
 * in fds. */
#pragma once

#include <stdbool.h>

#include "base/addr.h"
#include "base/macros.h"
#include "io/socket.h"
#include "io/unix_socket.h"
#include "server/channel_pool.h"

/* A UDP lane's places in the pool's queues; the lane itself belongs to its worker (lane.h).
 * Messages name the lane by the visitor_id of its waiters. The id is never used again, is larger in
 * a later binding, and contains the index of the lane's socket in its binding. */
struct service_lane {
    struct pool_waiter waiters[LIMIT_UDP_CHANNELS]; /* the first one alone, unless there are several
                                                     * clients side by side */
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
    bool is_inherited; /* its sockets were taken over, with what already waits in them */
    bool is_listening; /* its sockets were listening when they were taken over */
    bool is_shared;    /* with a service manager: never shut down (io/inherit.h) */
    bool is_foreign;   /* made by another program: accepted sockets lack our options */
    char *path;        /* of a unix socket, whose file has to be removed; NULL: it has none */
    struct unix_file file;
    unsigned int count;
    unsigned int distinct_count; /* the sockets behind these are duplicates */
    int *fds;                    /* -1: closed by its worker */
    struct service_lane *lanes;  /* UDP: one for each socket */
    int guard_fd;                /* -1: none */
};

struct binding_options {
    const struct addr *addr;
    bool is_udp;
    bool is_guarded;           /* TCP: it gets a guard, as it will not listen at once */
    struct socket_options tcp; /* accepted sockets inherit these */
    const char *unix_path;     /* with a unix socket's address */
    struct unix_access unix_access;
    struct inherited *inherited; /* NULL: none */
    unsigned int count;          /* of sockets; more if more are inherited */
};

/* Takes or binds the sockets. Listens on none, except for sockets that join an inherited group that
 * listens. -errno; logs nothing. The caller owns the binding. */
MUST_CHECK int binding_create(const struct binding_options *options, struct binding **ret);
/* Closes the sockets that are still open, removes the file of a unix socket unless somebody else is
 * bound to it by now (a successor, after an upgrade), and frees the binding. Accepts NULL. */
void binding_destroy(struct binding *binding);
/* Removes the file of a unix socket that is still bound, at the end of a process without a
 * successor: what is left of a ring may hold the socket for a moment longer than the process lives.
 * Accepts NULL. */
void binding_remove_file(struct binding *binding);
/* Closes the guard, so that another server may take the address as soon as the workers have closed
 * their sockets. Accepts NULL. */
void binding_leave(struct binding *binding);
