/* A reload of the server. The main thread binds new addresses and makes new services. Each worker
 * then applies the plan between two turns of its loop, a few services at a time:
 *
 *     added    its listeners or lanes start, and logins find it
 *     removed  its listeners and its control channel close; relays go on until they are cut
 *     address  the new sockets open before the old ones close, except where services want each
 *              other's addresses (reload_ports.c); the session stays
 *     token    the session ends, and the client logs in again
 *
 * Limits and times need no step: they are read where they are needed, from a configuration that
 * replaces the old one at once. The old one is freed when all workers have finished the plan
 * (tunnel/plan.h). */
#pragma once

#include "base/macros.h"
#include "tunnel/plan.h"

struct server_plan;
struct server_worker;

extern const struct reload_ops server_reload_ops;

/* For a worker at its start: prepares worker->plan_walk. */
void server_reload_init(struct server_worker *worker);
/* Frees a plan that the workers have not finished. Accepts NULL. */
void server_plan_discard(struct server_plan *plan);
/* Closes the guards of the addresses that the plan replaces, because a process that is about to end
 * may never finish the plan. Main thread. Accepts NULL. */
void server_plan_leave_addresses(struct server_plan *plan);
