/* The server. Clients log in and bring data channels at its control port, and visitors arrive at
 * the services' ports.
 *
 *     control port --accept--> login --+--> control (one per service: its session)
 *                                      +--> channel_pool (a data channel)
 *     service port --accept--> visitor --channel_pool--> relay --> closed
 *     UDP service port --datagrams--> lane --channel_pool--> data channel
 *
 * This header is the top of the folder: it creates and destroys what server_worker.h declares, and
 * no other file of the server includes it. */
#pragma once

#include <stdint.h>

#include "server/server_worker.h"
#include "tunnel/role.h"

struct inherited;

/* Creates the server without its sockets, which addresses_bind (addresses.h) binds, and without its
 * workers. Begins to look up the names in addresses. -errno; logs nothing. */
MUST_CHECK int server_allocate(const struct role_options *options, struct server **ret);
/* server_allocate and addresses_bind in one, without waiting for names or ports. For tests. */
MUST_CHECK int server_create(const struct config_peer *config, unsigned int workers,
                             struct inherited *inherited, struct server **ret);
void server_destroy(struct server *server); /* accepts NULL */
extern const struct role server_role;
