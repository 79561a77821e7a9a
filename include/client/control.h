/* A control channel of one service on the client, to one server: resolve, connect, log in, take
 * commands. When it ends, it waits (back-off) and begins again, for ever. Every step has a time
 * limit. A service has one for each entry of the client's set of servers (servers.h). All belong to
 * one worker, whose thread makes all calls below. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

struct client_control;
struct client_service;
struct client_worker;

/* The service's control channels become this worker's: begins them. -ENOMEM: there are fewer. */
MUST_CHECK int client_control_add(struct client_worker *worker, struct client_service *service);
/* Ends them for good. */
void client_control_remove(struct client_service *service);
/* Applies a changed configuration of the service. logs_in: also log in again. */
void client_control_review(struct client_service *service, bool logs_in);
/* Of a new worker: those that wait for a turn to log in. */
void client_control_init_turns(struct client_worker *worker);
/* The set of servers has changed: begins and ends control channels, some services in each turn. */
void client_control_init_follow(struct client_worker *worker);
void client_control_follow_all(struct client_worker *worker);
/* Has all control channels of the worker log in again, because the transport has changed. */
void client_control_log_in_all_again(struct client_worker *worker);
/* The list of names has changed: has those log in again whose server's name is not in it. */
void client_control_leave_removed(struct client_worker *worker);
/* Applies a changed heartbeat_timeout to the control channels of the worker. */
void client_control_review_heartbeats(struct client_worker *worker);
/* For a handover (tunnel/handover.h), each for all control channels of the worker.
 *
 * hold: no attempt begins, attempts in progress are given up, established channels stay.
 *
 * release: all attempts that were held begin.
 *
 * retire: no attempt ever begins again, and established channels stay until the server,
 * client_control_succeeded or client_control_close_all ends them.
 *
 * succeeded: ends the retired one whose successor has logged in, if it is this worker's. */
void client_control_hold_all(struct client_worker *worker);
void client_control_release_all(struct client_worker *worker);
void client_control_retire_all(struct client_worker *worker);
void client_control_succeeded(struct client_worker *worker, uint64_t login);
/* Ends all control channels of the worker for good. */
void client_control_close_all(struct client_worker *worker);
