/* One control channel on the server, from the login on: the session of one service's client. Sends
 * requests for data channels and heartbeats, reads nothing but the end. Owned by the worker that
 * accepted it. */
#pragma once

#include <stdint.h>

#include "base/addr.h"
#include "net/transport.h"

struct server_control;
struct server_fsm;
struct server_worker;
struct service;

struct server_control_options {
    struct server_worker *worker;
    struct service *service;
    const struct server_fsm *fsm; /* copied */
    const uint8_t *session_key;
    uint32_t epoch; /* the service's, when the login began */
    uint64_t conn_id;
    struct addr_key client;
    struct transport transport; /* taken over */
};

/* Registers the session, replacing the one before, and answers the client. */
void server_control_begin(const struct server_control_options *options);
/* Sends what the service's pool wants by now. */
void server_control_send_requests(struct server_control *control);
/* Closes those of this worker that a newer login has replaced. */
void server_control_close_replaced(struct server_worker *worker);
/* The configuration has changed: ends it; only if its session is over by the service's epoch; or
 * all of this worker's. */
void server_control_close(struct server_control *control);
void server_control_close_if_expired(struct server_control *control);
void server_control_close_reconfigured(struct server_worker *worker);
/* heartbeat_interval has changed. */
void server_control_restart_heartbeats(struct server_worker *worker);
void server_control_close_all(struct server_worker *worker);
/* Looks after the pools of this worker's control channels; about once a second. */
void server_control_tend_pools(struct server_worker *worker);
