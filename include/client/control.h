/* One service's control channel on the client, for ever: resolve, connect, log in, take commands;
 * and when it ends, back off and begin again. Every step has a time limit. Owned by one worker. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

struct client_control;
struct client_service;
struct client_worker;

/* Starts the control channel of a service. -ENOMEM. */
MUST_CHECK int client_control_start(struct client_worker *worker, struct client_service *service);
/* Ends it for good. */
void client_control_stop(struct client_control *control);
/* The service's configuration has changed; logs_in: with the next login. */
void client_control_review(struct client_control *control, bool logs_in);
/* All of this worker's: what they have logged in with, or where, has changed. */
void client_control_log_in_all_again(struct client_worker *worker);
/* heartbeat_timeout has changed. */
void client_control_review_heartbeats(struct client_worker *worker);
/* For a handover (handover.h). Hold: no attempt begins, those that are on their way end, and what
 * is up stays. Release: all that were held back begin. Retire: none ever begins again, and what is
 * up stays until the server or client_control_close_all ends it. */
void client_control_hold_all(struct client_worker *worker);
void client_control_release_all(struct client_worker *worker);
void client_control_retire_all(struct client_worker *worker);
/* Ends all of this worker's. */
void client_control_close_all(struct client_worker *worker);
