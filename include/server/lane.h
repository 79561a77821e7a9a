/* A lane of a UDP service on the server: one socket of the service's reuseport group, one table of
 * visitors and one data channel, all owned by one worker, so that no datagram crosses threads. The
 * kernel keeps a visitor on its lane.
 *
 *     visitor --> socket --> table --> frames --> data channel --> client
 *     visitor <-- socket <-- table <-- frames <--      "
 *
 * A lane lives as long as its socket is wanted. Without a channel it waits for one in the service's
 * pool, and drops and counts meanwhile. A channel that has ended is asked for again at once; one
 * that did not live for LIMIT_UDP_RETRY_MS, after that time. A new session brings each lane a new
 * channel, which takes the place of the old one.
 *
 * Visitors are remembered for udp_timeout and only they get answers, from the address that they
 * have sent to. When max_udp_visitors / lanes are there, a new one takes the place of the one that
 * has been silent for longest. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"
#include "net/transport.h"

struct pool_match;
struct server_worker;
struct service;
struct slab;

struct binding;
/* Starts this worker's lanes on the sockets of a binding of the service. */
MUST_CHECK int lane_start_all(struct server_worker *worker, struct service *service,
                              struct binding *binding);
/* Closes this worker's lanes of the service on other sockets than those of the binding (NULL: on
 * any); worker->closing_lanes is 0 when that is done. */
void lane_close_others(struct server_worker *worker, const struct service *service,
                       const struct binding *binding);
/* udp_timeout may have changed. */
void lane_review_timeout(struct server_worker *worker, const struct service *service);
/* A channel for a lane of this worker that waits: the `matched` of a UDP service's pool. */
bool lane_matched(struct server_worker *worker, const struct pool_match *match,
                  struct transport channel);
/* Lanes that wait look for parked channels again. */
void lane_review_waiting(struct server_worker *worker);
/* Lanes whose sockets were taken over receive, whether they have a channel by now or not. */
void lane_release_all(struct server_worker *worker);
/* Closes this worker's lanes and their sockets; worker->lanes is empty when all of it is done. */
void lane_close_all(struct server_worker *worker);
/* Prepares the worker's slab of visitors. */
void lane_init_slab(struct slab *slab);
