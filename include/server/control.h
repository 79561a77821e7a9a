/* A control channel on the server: the session of one service's client, from its login on. It sends
 * heartbeats and requests for data channels, and reads only to see the end: a client sends nothing.
 *
 * It belongs to the worker that accepted it, and frees itself. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "net/transport.h"

struct server_fsm;
struct server_worker;
struct service;
struct service_part;

struct server_control_options {
    struct server_worker *worker;
    struct service *service;
    const struct server_fsm *fsm; /* copied */
    const uint8_t *session_key;   /* KEYS_DIGEST_SIZE bytes; copied */
    uint32_t epoch;               /* the service's, when the login began */
    uint64_t conn_id;
    struct addr_key client;
    struct transport transport; /* taken over */
};

/* Registers the session, in place of the one before, and answers the client. Closes the connection
 * instead if the service was reconfigured during the login, or memory is short. */
void server_control_begin(const struct server_control_options *options);
/* Ends the worker's control channels that a newer login has replaced. */
void server_control_close_replaced(struct server_worker *worker);
/* Ends the control channels of all sessions but the newest, unless the service has clients =
 * balance. */
void server_control_keep_newest(struct server_worker *worker, struct service *service);
/* A reload ends control channels: those of a worker's part of a service, all or (expired) those
 * whose logins began before the service's epoch; all of the worker. */
void server_control_close_part(struct service_part *part, bool expired);
void server_control_close_reconfigured(struct server_worker *worker);
/* Ends the worker's control channels from addresses that a reload of server.allow and .deny keeps
 * out: their data channels could not come any more. */
void server_control_close_denied(struct server_worker *worker);
/* Applies a changed heartbeat_interval to the worker's control channels. */
void server_control_restart_heartbeats(struct server_worker *worker);
/* Ends all control channels of the worker. */
void server_control_close_all(struct server_worker *worker);
enum { SERVER_CONTROL_TEND_MS = 1000 };
/* To be called so often: tends the pools of this worker's control channels (channel_pool_tend), and
 * looks whether their clients are still there (control_watch.h). */
void server_control_tend_pools(struct server_worker *worker);
