/* The server's part of an upgrade (tunnel/handover.h): the list of its sockets for the successor,
 * which the main thread asks for, and what each worker does in each phase. */
#pragma once

#include "base/macros.h"

struct handover_sockets;
struct server;
struct server_worker;

/* Main thread; while no service comes or goes. The guards of addresses are not listed: the
 * successor makes its own. -ENOMEM. handover_sockets_finish in every case. */
MUST_CHECK int server_sockets_list(struct server *server, struct handover_sockets *ret);
/* Main thread, when all workers have left: what the workers do not hold is closed too. */
void server_leave_addresses(struct server *server);

/* In a worker: timers, before its ports are opened. */
void server_handover_init(struct server_worker *worker);
/* The role has started, or the phase has changed. */
void server_handover_sync(struct server_worker *worker);
void server_handover_finish(struct server_worker *worker);
