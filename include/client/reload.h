/* A reload of the client. Each worker changes over at its safe point, between two turns, a few
 * services at a time:
 *
 *     added       its control channel begins
 *     removed     its control channel ends; relays go on until they are cut
 *     local_addr  for what is connected from now on; visitors of UDP change over
 *     token       the control channel logs in again, and so do all when remote_addr or the
 *                 transport changes; relays go on
 *
 * Limits and times are read where they are needed, see reload.h. */
#pragma once

#include "base/macros.h"
#include "tunnel/plan.h"

struct client_plan;
struct client_worker;

extern const struct reload_ops client_reload_ops;

/* A worker: prepares worker->plan_walk. */
void client_reload_init(struct client_worker *worker);
/* Frees a plan that was never finished; accepts NULL. */
void client_plan_discard(struct client_plan *plan);
