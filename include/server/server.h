/* The server: the control port where clients log in and bring data channels, and the services'
 * ports where visitors arrive.
 *
 *     control port --accept--> login --+--> control (one per service: its session)
 *                                      +--> channel_pool (a data channel)
 *     service port --accept--> visitor --channel_pool--> relay --> closed
 *     UDP service port --datagrams--> lane --channel_pool--> data channel
 *
 * This is the roof: it starts and ends what server_worker.h has, and nothing below calls it. */
#pragma once

#include <stdint.h>

#include "server/server_worker.h"
#include "tunnel/role.h"

struct inherited;

/* Makes all but the sockets, which addresses_bind (addresses.h) is for, and begins to look up the
 * names of addresses. What is needed of config is copied. thread_begins: see
 * resolver_create_polled. -errno; nothing is logged. */
MUST_CHECK int server_allocate(const struct config_peer *config, unsigned int workers,
                               void (*thread_begins)(void), struct server **ret);
/* Both, without waiting for anything. */
MUST_CHECK int server_create(const struct config_peer *config, unsigned int workers,
                             struct inherited *inherited, struct server **ret);
void server_destroy(struct server *server); /* accepts NULL */
extern const struct role server_role;
