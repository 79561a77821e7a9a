/* Starts, changes and stops one worker's part of a service: its listeners or lanes, and its entry
 * in the index where logins look. A part starts with the worker or with a reload, and stops with a
 * reload. All functions but the first are for that worker's thread. */
#pragma once

#include "base/macros.h"

struct binding;
struct config_service;
struct server;
struct server_worker;
struct service;

/* As service_create, with a pool that gives its channels to visitors or lanes. Main thread. The
 * parts are not started yet. */
MUST_CHECK int service_part_create_all(struct server *server, const struct config_service *config,
                                       struct service **ret);
/* Starts the part. A service without an address yet is still found by logins. -ENOMEM: some of its
 * listeners or lanes may be missing. */
MUST_CHECK int service_part_start(struct server_worker *worker, struct service *service);
/* Stops the part: logins do not find the service any more, its sockets close, and its control
 * channels end. Relays go on. */
void service_part_stop(struct server_worker *worker, struct service *service);
/* Starts on the sockets of the new binding (NULL: none), then closes those of any other. -ENOMEM:
 * some of its listeners or lanes may be missing. */
MUST_CHECK int service_part_rebind(struct server_worker *worker, struct service *service,
                                   struct binding *binding);
/* Re-applies settings that were captured at start: the sessions' epoch, clients,
 * udp_timeout. */
void service_part_review(struct server_worker *worker, struct service *service);
/* Logs and counts that this worker has no memory for its sockets. service NULL: of the control
 * port. */
void service_part_log_no_memory(const struct server_worker *worker, const struct service *service);
