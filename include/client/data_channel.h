/* One data channel on the client.
 *
 *     DIALING --> PARKED --command--> LOCAL --connected--> RELAYING --> freed
 *        ^ |        |                   |
 *        | fails    ended by either     no local service: closed, and the visitor sees the end
 *        +-(for 10 s, as rathole does)
 *
 * The data channel of a UDP service becomes a forward (forward.h) when its command has come.
 *
 * It belongs to the worker that opened it, and frees itself. A bulk relay may move to another
 * worker (docs/decisions.md, "A relay may move to another worker"). */
#pragma once

struct client_session;
struct client_worker;
struct slab;

/* Opens a data channel for the session and takes a use of it. Nothing is opened if the session has
 * ended or has too many channels without a visitor; failures are logged and counted. */
void data_channel_open(struct client_worker *worker, struct client_session *session);
/* Resets the worker's channels that have no visitor and whose session has ended. Does nothing in a
 * client that drains. */
void data_channel_close_ended(struct client_worker *worker);
/* Resets all channels of the worker that are not connected yet. */
void data_channel_close_dialing(struct client_worker *worker);
/* Resets all channels of the worker that have no visitor. */
void data_channel_close_unstarted(struct client_worker *worker);
/* Resets the worker's relays of services that are cut (service_base.h). */
void data_channel_close_cut(struct client_worker *worker);
/* Resets all channels and relays of the worker. */
void data_channel_close_all(struct client_worker *worker);
void data_channel_init_slab(struct slab *slab);
