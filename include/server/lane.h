/* A lane of a UDP service on the server: one socket of the service's reuseport group, one table of
 * visitors and one data channel, or with `clients = balance` one of each session, at most
 * LIMIT_UDP_CHANNELS. One worker owns all of it, so no datagram crosses threads. The
 * kernel chooses the socket by a hash of the addresses (SO_REUSEPORT, socket(7)), so a visitor
 * stays on its lane.
 *
 *     visitor --> socket --> table --> frames --> data channel --> client
 *     visitor <-- socket <-- table <-- frames <--      "
 *
 * A lane lives as long as its binding is in use. Without a channel it waits for one in the
 * service's pool; meanwhile it drops datagrams and counts them. If its channel ends, the lane asks
 * for another: at once, or after LIMIT_UDP_RETRY_MS if the channel lived for less than that. A new
 * session brings each lane a new channel, which replaces the old one.
 *
 * With `clients = balance` a new visitor gets the channel of the session that has the fewest UDP
 * visitors of the service, and stays with it as long as it lives. Then its next datagram gets it
 * another one; what the lost client had not answered is lost. A client that dies without a word
 * keeps its visitors until its session ends (control_watch.h).
 *
 * A lane remembers visitors for udp_timeout. Only they get answers, from the address that they have
 * sent to. A lane with max_udp_visitors / lanes visitors forgets the longest silent one for a new
 * one. */
#pragma once

#include <stdbool.h>

#include "base/macros.h"
#include "net/transport.h"

struct pool_match;
struct server_worker;
struct service;
struct slab;

struct binding;
/* Starts this worker's lanes on the sockets of a binding of the service. The lanes own the sockets.
 * -errno: some lanes may be missing. */
MUST_CHECK int lane_start_all(struct server_worker *worker, struct service *service,
                              struct binding *binding);
/* Closes the service's lanes of this worker, except for those of the binding (NULL: all).
 * worker->closing_lanes is 0 when they are closed. */
void lane_close_others(struct server_worker *worker, const struct service *service,
                       const struct binding *binding);
/* Applies changes of udp_timeout and clients. */
void lane_review_timeout(struct server_worker *worker, const struct service *service);
/* Applies changed lists of addresses: forgets visitors that may not come any more. */
void lane_review_access(struct server_worker *worker, const struct service *service);
/* The `matched` of a UDP service's pool (channel_pool.h): gives a channel to a lane of this worker.
 * Takes the channel over in every case. */
bool lane_matched(struct server_worker *worker, struct service *service,
                  const struct pool_match *match, struct transport channel);
/* Has the worker's waiting lanes look for parked channels again. */
void lane_review_waiting(struct server_worker *worker);
/* Has lanes whose sockets were taken over receive, even if they have no channel yet. */
void lane_release_all(struct server_worker *worker);
/* Closes all lanes of the worker. worker->lanes is empty when they are closed. */
void lane_close_all(struct server_worker *worker);
/* Prepares the worker's slab of UDP visitors. */
void lane_init_slab(struct slab *slab);
