/* The exchange, where visitors and data channels of all workers meet. A new channel goes to a
 * visitor or lane that waits, on any worker, or is parked. A visitor that finds no channel has the
 * workers of the control channels request more.
 *
 *     login --exchange_offer--> pool --matched--> visitor, lane    on the waiter's worker
 *     visitor, lane --exchange_notify--> control                   on the sessions' workers
 *
 * This file calls the pool's `matched` and not visitors and lanes by name, because those are above
 * it. A message to another worker holds a use of the service. Each function is for the thread of
 * the worker that it is given. */
#pragma once

#include <stdbool.h>

#include "base/addr.h"
#include "net/transport.h"
#include "server/channel_pool.h"

struct server;
struct server_worker;
struct service;
struct service_part;

/* Makes the lists of changed services, one for each worker. -ENOMEM. */
MUST_CHECK int exchange_init(struct server *server);
void exchange_finish(struct server *server); /* when the workers have ended */

/* Gives a data channel to the first visitor that waits, parks it, or closes it. The channel is
 * taken over in every case. requested: it comes from the client; false: a visitor had no use for
 * it. */
void exchange_offer(struct server_worker *worker, struct service *service, struct transport channel,
                    struct pool_handle source, bool requested);
/* True if a channel that was parked may be used: it has not ended, and the client's kernel was
 * heard from within the time that TCP keepalive takes. Clears the socket's SO_ERROR. */
bool exchange_channel_is_live(const struct server_worker *worker,
                              const struct pool_channel *channel);
/* Has the workers of a notice send the requests that the pool wants, if there are any. */
void exchange_notify(struct server_worker *worker, struct service *service, pool_notice notice);
/* The same on such a worker itself. Control channels that are not there any more do nothing. */
void exchange_send_requests(const struct service_part *part);

/* A channel may be parked while visitors wait, perhaps on other workers: after an undone match,
 * whose visitor may go before it takes the channel, and after the end of a session, if a visitor
 * waits for a channel of another one than those that are left. So every worker looks. */
void exchange_wake_waiters(const struct server_worker *worker);

/* A service has come up or gone down: tells all workers. This worker's listeners change at once.
 * replaced: control channels of the service were replaced, and the other workers have to close
 * theirs; the caller has closed those of this worker. The cost
 * does not depend on the number of services: each worker has a list of those that have changed. */
void exchange_service_changed(struct server_worker *worker, struct service *service, bool replaced);
/* Looks at the services that other workers have changed (TUNNEL_SIGNAL_SERVICES). */
void exchange_sync_changed(struct server_worker *worker);
/* Makes all of this worker's listeners listen or refuse, as the state of their services says. */
void exchange_sync_ports(struct server_worker *worker);
