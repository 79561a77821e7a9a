/* One service's control channel on the client, for ever: resolve, connect, log in, take commands;
 * and when it ends, back off and begin again. Every step has a time limit. Owned by one worker. */
#pragma once

#include "base/macros.h"

struct client_worker;
struct config_service;

/* Starts the control channel of a service. */
MUST_CHECK int client_control_start(struct client_worker *worker,
                                    const struct config_service *service,
                                    unsigned int service_index);
/* Ends all of this worker's: their parked channels are reset first, then the channels themselves.
 */
/* For a handover (handover.h). Hold: no attempt begins, those that are on their way end, and what
 * is up stays. Release: all that were held back begin. Retire: none ever begins again, and what is
 * up stays until the server or client_control_close_all ends it. */
void client_control_hold_all(struct client_worker *worker);
void client_control_release_all(struct client_worker *worker);
void client_control_retire_all(struct client_worker *worker);
void client_control_close_all(struct client_worker *worker);
