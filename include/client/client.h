/* The client. For each service it keeps one control channel to the server. For each request of the
 * server it opens a data channel, which waits for a visitor and is then joined with the local
 * service.
 *
 *     control --CreateDataChannel--> data_channel (least busy worker, opening.h)
 *          dials, logs in, stays        dials, says hello, parks, gets the command,
 *                                       connects to the local service, relays;
 *                                       or becomes a forward
 *
 * Control channels are spread over the workers. A data channel stays on the worker that opened it,
 * until its relay becomes bulk.
 *
 * This header is the top of the folder: it creates and destroys what client_worker.h declares, and
 * no other file of the client includes it. */
#pragma once

#include "client/client_worker.h"
#include "tunnel/role.h"

/* Creates the client without its workers, and makes its recipe; config is copied. -errno. For
 * tests. */
MUST_CHECK int client_create(const struct config_peer *config, unsigned int workers,
                             struct client **ret);
void client_destroy(struct client *client); /* accepts NULL */
extern const struct role client_role;
