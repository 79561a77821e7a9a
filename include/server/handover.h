/* The server's part of an upgrade (tunnel/handover.h): the list of its sockets for the successor,
 * which the main thread asks for, and what each worker does in each phase. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/macros.h"

struct server;
struct server_worker;

/* The sockets bound by a server. Those shared with a service manager come first. Names are
 * "control", "service-NAME" and "udp-NAME". The guards of addresses stay: the successor makes its
 * own. */
struct server_sockets {
    int *fds; /* the server's */
    char **names;
    size_t count, capacity, shared_count;
};

/* Main thread; while no service comes or goes. -ENOMEM. server_sockets_finish in every case. */
MUST_CHECK int server_sockets_list(struct server *server, struct server_sockets *ret);
void server_sockets_finish(struct server_sockets *sockets); /* accepts a zeroed one */
/* Main thread, when all workers have left: what the workers do not hold is closed too. */
void server_leave_addresses(struct server *server);

/* In a worker: timers, before its ports are opened. */
void server_handover_init(struct server_worker *worker);
/* The role has started, or the phase has changed. */
void server_handover_sync(struct server_worker *worker);
void server_handover_finish(struct server_worker *worker);
