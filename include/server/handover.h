/* The server's part in a handover (tunnel/handover.h): the main thread lists the sockets for the
 * successor, and each worker does its part of each phase. docs/decisions.md, "LISTEN_FDS carries
 * the sockets of an upgrade". */
#pragma once

#include "base/macros.h"

struct handover_sockets;
struct server;
struct server_worker;

/* Lists the sockets of the server. Guards are not listed, because the successor makes its own. Main
 * thread, not while a reload is being applied. -ENOMEM. The caller calls handover_sockets_finish in
 * every case. */
MUST_CHECK int server_sockets_list(struct server *server, struct handover_sockets *ret);
/* Closes the guards of all addresses, so that the next server can have them while relays go on
 * here. Main thread, when the process stops or a successor has taken over. */
void server_leave_addresses(struct server *server);

/* Prepares the worker's timers. To be called before its listeners are opened. */
void server_handover_init(struct server_worker *worker);
/* Does the worker's part of the phase. To be called at its start and when the phase has changed. */
void server_handover_sync(struct server_worker *worker);
void server_handover_finish(struct server_worker *worker);
