/* A reload of the client. Each worker applies the plan between two turns of its loop, a few
 * services at a time:
 *
 *     added       its control channel begins
 *     removed     its control channel ends; relays go on until they are cut
 *     local_addr  holds for new connections; UDP visitors change over
 *     token       the control channel logs in again, and so do all when remote_addr or the
 *                 transport changes; relays go on
 *
 * Limits and times need no step: they are read where they are needed. tunnel/plan.h has the way of
 * a plan. */
#pragma once

#include "base/macros.h"
#include "tunnel/plan.h"

struct client_plan;
struct client_worker;

extern const struct reload_ops client_reload_ops;

/* For a worker at its start: prepares worker->plan_walk. */
void client_reload_init(struct client_worker *worker);
/* Frees a plan that no worker has finished. Accepts NULL. */
void client_plan_discard(struct client_plan *plan);
