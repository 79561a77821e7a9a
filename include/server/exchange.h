/* Where visitors and data channels meet across workers: a channel that comes goes to whoever waits
 * for one, on whichever worker, or is parked; who finds none has the owner of the control channel
 * ask for more.
 *
 *     login --exchange_offer--> pool --matched--> visitor, lane    on the waiter's worker
 *     visitor, lane --exchange_notify_owner--> control             on the session's worker
 *
 * The pool's `matched` is called, not visitors and lanes by name: they are above this file. A
 * message to another worker has a use of the service. Any worker, for itself. */
#pragma once

#include <stdbool.h>

#include "base/addr.h"
#include "net/transport.h"
#include "server/channel_pool.h"

struct server_worker;
struct service;
struct service_part;

/* Offers a data channel to those who wait for one; it is taken over in every case. requested: it
 * came from the client; otherwise a visitor of ours has no use for it. */
void exchange_offer(struct server_worker *worker, struct service *service, struct transport channel,
                    bool requested);
/* Whether a channel that was parked may be used: it has not ended, and was heard from within the
 * time that its keepalive takes. */
bool exchange_channel_is_live(const struct server_worker *worker,
                              const struct pool_channel *channel);
/* Tells the owner of the service's control channel that its pool wants channels. */
void exchange_notify_owner(struct server_worker *worker, struct service *service);
/* The same, on the owner's worker. */
void exchange_send_requests(const struct service_part *part);

/* Has all workers look at the services' state; this one's listeners do at once. */
void exchange_signal_services(struct server_worker *worker);
/* Listeners of this worker accept or refuse as their services' state says. */
void exchange_sync_ports(struct server_worker *worker);
