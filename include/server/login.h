/* A login: a connection to the control port until it is authenticated. It costs one struct of fixed
 * size, has one deadline for all of its messages, and holds a place at the gate. It becomes a
 * control channel or a data channel, or is closed.
 *
 * A login for a service that exists only while a client serves it (on_login.h) begins with what the
 * range set knows of it. Once it is authenticated it waits for the service, under the same
 * deadline, and becomes its control channel.
 *
 * It belongs to the worker that accepted it, and frees itself. */
#pragma once

#include <stdint.h>

#include "base/macros.h"
#include "server/lobby.h"

struct server_worker;
struct service;
struct slab;

/* The listener_accepted of the control port: takes fd over. service is NULL, and
 * has_left false. */
void login_begin(struct server_worker *worker, struct service *service, int fd, bool has_left);
/* For the lobby (lobby_enter_fn). */
MUST_CHECK int login_enter(struct tunnel_worker *tunnel, int fd, const struct addr_key *key,
                           enum login_entry how, enum gate_answer kind);
/* A service has come or gone, or its token has changed: looks again for the services of the logins
 * that wait for one. */
void login_review_awaiting(struct server_worker *worker);
/* Resets the worker's logins that the gate has evicted. */
void login_close_evicted(struct server_worker *worker);
/* Resets all logins of the worker. */
void login_close_all(struct server_worker *worker);
/* Prepares the worker's slab of logins. */
void login_init_slab(struct slab *slab);
