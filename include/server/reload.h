/* A reload of the server. The main thread binds new addresses and makes new services; each worker
 * then changes over at its safe point, between two turns, a few services at a time:
 *
 *     added    its listeners, or lanes; login finds it
 *     removed  listeners closed, its control channel too; relays go on until they are cut
 *     address  the new sockets are there before the old ones close, save where services want each
 *              other's (reload_ports.c); the session stays
 *     token    the session ends, and its client logs in again
 *
 * Limits and times are read where they are needed: their new object simply takes the old one's
 * place, and the old one is freed when all workers have been at the safe point. */
#pragma once

#include "base/macros.h"
#include "tunnel/plan.h"

struct server_plan;
struct server_worker;

extern const struct reload_ops server_reload_ops;

/* A worker: prepares worker->plan_walk. */
void server_reload_init(struct server_worker *worker);
/* Frees a plan that was never finished; accepts NULL. */
void server_plan_discard(struct server_plan *plan);
/* The process is on its way out, and the plan may never be finished: gives up the addresses that it
 * replaces. Main thread; accepts NULL. */
void server_plan_leave_addresses(struct server_plan *plan);
