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
void client_control_close_all(struct client_worker *worker);
