/* A visitor of a TCP service, from accept to the end of its relay: finds it a data channel, places
 * the relay.
 *
 *     WAITING --channel--> RELAYING --closed--> freed
 *        |
 *        +--10 s, or the service is down--> closed
 *
 * Owned by one worker at a time; a relay may move to another worker when it starts and when it
 * becomes bulk, which makes a new visitor there. */
#pragma once

#include <stdbool.h>

#include "net/transport.h"

struct server_worker;
struct slab;
struct service;

/* Takes a just accepted descriptor over. */
void visitor_begin(struct server_worker *worker, struct service *service, int fd);
/* A channel for a visitor of this worker that waits: the `matched` of a TCP service's pool. */
struct pool_match;
bool visitor_matched(struct server_worker *worker, const struct pool_match *match,
                     struct transport channel);
/* Visitors that wait for services that are down are closed; all others look for a channel again. */
void visitor_review_waiting(struct server_worker *worker);
void visitor_close_waiting(struct server_worker *worker);
/* Ends the relays of services that are cut. */
void visitor_close_cut(struct server_worker *worker);
void visitor_close_all(struct server_worker *worker);
/* Prepares the worker's slab of these. */
void visitor_init_slab(struct slab *slab);
