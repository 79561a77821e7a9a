/* The control channel of one service on the client: resolve, connect, log in, take commands. When
 * it ends, it waits (back-off) and begins again, for ever. Every step has a time limit. It belongs
 * to one worker, whose thread makes all calls below. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct client_control;
struct client_service;
struct client_worker;

/* Starts the control channel of a service, and takes a use of the service. -ENOMEM. */
MUST_CHECK int client_control_start(struct client_worker *worker, struct client_service *service);
/* Ends the control channel for good, and frees it, now or when its connection is closed. */
void client_control_stop(struct client_control *control);
/* Applies a changed configuration of its service. logs_in: also log in again. */
void client_control_review(struct client_control *control, bool logs_in);
/* Has all control channels of the worker log in again, because the server's address or the
 * transport has changed. */
void client_control_log_in_all_again(struct client_worker *worker);
/* Applies a changed heartbeat_timeout to the control channels of the worker. */
void client_control_review_heartbeats(struct client_worker *worker);
/* For a handover (tunnel/handover.h), each for all control channels of the worker.
 *
 * hold: no attempt begins, attempts in progress are given up, established channels stay.
 *
 * release: all attempts that were held begin.
 *
 * retire: no attempt ever begins again, and established channels stay until the server or
 * client_control_close_all ends them. */
void client_control_hold_all(struct client_worker *worker);
void client_control_release_all(struct client_worker *worker);
void client_control_retire_all(struct client_worker *worker);
/* Ends all control channels of the worker for good. */
void client_control_close_all(struct client_worker *worker);
