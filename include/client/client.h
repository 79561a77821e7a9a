/* The client: one control channel per service to the server, and per request of the server a data
 * channel that waits for a visitor and is then joined with the local service.
 *
 *     control --CreateDataChannel--> data_channel (least busy worker, opening.h)
 *          dials, logs in, stays        dials, says hello, parks, gets the command,
 *                                       connects to the local service, relays;
 *                                       or becomes a forward
 *
 * Control channels are spread over the workers; a data channel stays on the worker that opened it
 * until its relay becomes bulk. This is the roof: it starts and ends what client_worker.h has, and
 * nothing below calls it. */
#pragma once

#include "client/client_worker.h"
#include "tunnel/role.h"

/* What is needed of config is copied. -errno. */
MUST_CHECK int client_create(const struct config_peer *config, unsigned int workers,
                             struct client **ret);
void client_destroy(struct client *client); /* accepts NULL */
extern const struct role client_role;
