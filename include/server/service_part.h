/* A worker's part of a service: its listeners or lanes, and its place among those that login finds.
 * It comes at the start or with a reload, and goes with one. */
#pragma once

#include "base/macros.h"

struct binding;
struct config_service;
struct server;
struct server_worker;
struct service;

/* Makes a service of the server, with a part for each worker that is not started yet, and who is to
 * be given its channels. As service_create. */
MUST_CHECK int service_part_create_all(struct server *server, const struct config_service *config,
                                       struct service **ret);
/* A service without an address is found by login all the same. -ENOMEM: some of it may be missing.
 */
MUST_CHECK int service_part_start(struct server_worker *worker, struct service *service);
/* Login does not find it any more, its port is closed, its control channel ends. Relays go on. */
void service_part_stop(struct server_worker *worker, struct service *service);
/* Opens the sockets of the new binding (NULL: of none), then closes those of any other. -ENOMEM:
 * the same. */
MUST_CHECK int service_part_rebind(struct server_worker *worker, struct service *service,
                                   struct binding *binding);
/* Its configuration has changed: what was settled by the old one is looked at again. */
void service_part_review(struct server_worker *worker, struct service *service);
void service_part_log_no_memory(const struct server_worker *worker, const struct service *service);
