/* One data channel on the client.
 *
 *     DIALING --> PARKED --command--> LOCAL --connected--> RELAYING --> freed
 *        ^ |        |                   |
 *        | fails    ended by either     no local service: closed, which is the visitor's answer
 *        +-(up to 10 s, as upstream)
 *
 * That of a UDP service becomes a forward with its command.
 *
 * Owned by the worker that opened it; as a bulk relay it may move to another. */
#pragma once

struct client_session;
struct client_worker;
struct slab;

void data_channel_open(struct client_worker *worker, struct client_session *session);
/* Resets the channels without a visitor whose session has ended. */
void data_channel_close_ended(struct client_worker *worker);
/* Resets all channels without a visitor. */
void data_channel_close_unstarted(struct client_worker *worker);
/* Resets the relays of services that are cut. */
void data_channel_close_cut(struct client_worker *worker);
/* Resets everything. */
void data_channel_close_all(struct client_worker *worker);
void data_channel_init_slab(struct slab *slab);
