/* Sockets that the process was started with, by systemd's convention (LISTEN_PID, LISTEN_FDS,
 * LISTEN_FDNAMES): those of a predecessor on an upgrade, or those of a service manager (socket
 * activation). Whoever would bind an address looks here first and takes the very socket, with all
 * that waits in its queue. They are found
 * by address and type; by name only while a host name cannot be looked up.
 *
 *     environment --inherited_init--> struct inherited --take--> the owner of the port
 *                                            |---- what nobody took: inherited_take_any, close
 *
 * A socket of a service manager is shared with it: shutting it down would end the manager's copy
 * too, so its users only stop accepting. Descriptors belong to struct inherited until they are
 * taken. For the main thread at start. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/addr.h"
#include "base/macros.h"

enum { INHERITED_ALL_SHARED = -1 };

struct inherited_socket {
    int fd;           /* -1: taken */
    int type;         /* SOCK_STREAM or SOCK_DGRAM; 0 = nothing that this program uses */
    struct addr addr; /* len 0: nothing of ours, or an address lock of version 0.1.0 */
    bool is_listening;
    bool is_shared;   /* with a service manager */
    const char *name; /* as passed, "" without; valid until inherited_finish */
};

struct inherited {
    struct inherited_socket *items;
    size_t count;
    char *names;
};

/* Takes over what the environment names, and removes the variables, so that no child is confused:
 * descriptors become close-on-exec, those of TCP blocking and those of UDP non-blocking, as the
 * program makes its own. shared_count: the first so many are shared with a service manager. Without
 * the variables, or when they are for another process, there is nothing to take over, and nothing
 * is touched. -EINVAL: LISTEN_FDS is no number, or above LIMIT_INHERITED; -ENOMEM. */
MUST_CHECK int inherited_init(struct inherited *inherited, int shared_count);
/* Closes what nobody has taken. Accepts a zeroed one. */
void inherited_finish(struct inherited *inherited);

/* How many sockets there are for this address and type; a dual-stack [::] is one for 0.0.0.0 too,
 * if there is none of its own. */
size_t inherited_count(const struct inherited *inherited, const struct addr *addr, int type);
/* Takes the next of them; the descriptor is the caller's. False: there is no more. inherited may be
 * NULL: there is none. */
bool inherited_take(struct inherited *inherited, const struct addr *addr, int type,
                    struct inherited_socket *ret);
/* The address of a socket that was passed by that name (see handover.h), of that type and
 * port: what the predecessor found when it looked a host name up. False: there is none. inherited
 * may be NULL. */
bool inherited_find_named(const struct inherited *inherited, const char *name, int type,
                          uint16_t port, struct addr *ret);
/* Takes whatever is left. */
bool inherited_take_any(struct inherited *inherited, struct inherited_socket *ret);
