/* Sockets that the process was started with, by systemd's convention (LISTEN_PID, LISTEN_FDS,
 * LISTEN_FDNAMES; sd_listen_fds(3)). Either a predecessor passed them in an upgrade, or a service
 * manager did (socket activation). docs/decisions.md, "LISTEN_FDS carries the sockets of an
 * upgrade", says why one convention serves both.
 *
 * Code that is about to bind an address looks here first, and takes the inherited socket with its
 * accept queue. Sockets are found by address and type. They are found by name only while a host
 * name cannot be looked up.
 *
 *     environment --inherited_init--> struct inherited --take--> the owner of the port
 *                                            |---- what nobody took: inherited_take_any, close
 *
 * The service manager keeps a copy of each socket that it passes. shutdown(2) would end that copy
 * too, so users of a shared socket only stop accepting. Descriptors belong to struct inherited
 * until they are taken. Used by the main thread alone, at the start. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/addr.h"
#include "base/macros.h"

enum { INHERITED_ALL_SHARED = -1 };

struct inherited_socket {
    int fd;           /* -1: taken */
    int type;         /* SOCK_STREAM or SOCK_DGRAM; 0 = of no use to this program */
    struct addr addr; /* len 0: of no use, or an address lock of version 0.1.0 (a unix socket) */
    bool is_listening;
    bool is_shared;   /* with a service manager */
    const char *name; /* from LISTEN_FDNAMES, "" without; valid until inherited_finish */
};

struct inherited {
    struct inherited_socket *items;
    size_t count;
    char *names;
};

/* Takes over the descriptors that the environment names, and unsets the variables so that no child
 * process uses them. The descriptors become close-on-exec; TCP sockets become blocking and UDP
 * sockets non-blocking, like the sockets that this program makes itself. The first shared_count of
 * them are shared with a service manager (INHERITED_ALL_SHARED: all are). Without the variables, or
 * when LISTEN_PID names another process, no descriptor is touched and the result is 0. Errors:
 * -EINVAL (LISTEN_FDS is not a number, or above LIMIT_INHERITED), -ENOMEM. */
MUST_CHECK int inherited_init(struct inherited *inherited, int shared_count);
/* Closes the sockets that nobody has taken. Accepts a zeroed object. */
void inherited_finish(struct inherited *inherited);

/* The number of sockets for this address and type. A dual-stack socket on [::] also counts for
 * 0.0.0.0 if 0.0.0.0 has no socket of its own. inherited may be NULL. */
size_t inherited_count(const struct inherited *inherited, const struct addr *addr, int type);
/* Takes the next of them; the caller owns the descriptor. False: there are no more. inherited may
 * be NULL. */
bool inherited_take(struct inherited *inherited, const struct addr *addr, int type,
                    struct inherited_socket *ret);
/* The address of a socket that was passed under this name (server/handover.h), with this type and
 * port: the address that the predecessor got when it looked its host name up. False: there is none.
 * inherited may be NULL. */
bool inherited_find_named(const struct inherited *inherited, const char *name, int type,
                          uint16_t port, struct addr *ret);
/* Takes any socket that is left. False: all are taken. */
bool inherited_take_any(struct inherited *inherited, struct inherited_socket *ret);
