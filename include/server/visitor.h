/* A visitor of a TCP service, from accept to the end of its relay. It gets a data channel, which is
 * joined with it by a relay.
 *
 *     ARRIVING --header--> WAITING --channel--> RELAYING --closed--> freed
 *        |                    |
 *        |                    +--10 s, or the service is down--> closed
 *        `--handshake_timeout, no header or name, or the service is down--> closed
 *
 * Only the visitors of a balancer (accept_proxy_protocol), and those of an address that services
 * share, arrive in two steps (server/arrival.h).
 *
 * It belongs to one worker, and frees itself. Its relay may start on another worker, or move there
 * when it becomes bulk (docs/decisions.md, "A relay may move to another worker"): the visitor is
 * then freed here and made anew there. */
#pragma once

#include <stdbool.h>

#include "net/transport.h"

struct server_worker;
struct slab;
struct service;

/* Why a visitor was closed before it got a data channel. */
enum visitor_refusal {
    VISITOR_REFUSED_DENIED,    /* allow, deny */
    VISITOR_REFUSED_RATE,      /* max_new_per_second_per_ip */
    VISITOR_REFUSED_LIMIT,     /* max_connections or max_connections_per_ip */
    VISITOR_REFUSED_QUEUE,     /* too many wait for a data channel */
    VISITOR_REFUSED_NO_CLIENT, /* no control channel is up */
    VISITOR_REFUSED_TIMEOUT,   /* no data channel has come in time */
    VISITOR_REFUSED_NO_MEMORY,
    VISITOR_REFUSED_HEADER,   /* its balancer has sent no PROXY header, or a broken one */
    VISITOR_REFUSED_ARRIVING, /* too many have not sent theirs yet, or their name */
    VISITOR_REFUSED_NAME,     /* no service of a shared address is for it */
    VISITOR_REFUSAL_COUNT,
};

/* A word for users: the name of its counter, without what all have in common. NULL: there are no
 * more. */
const char *visitor_refusal_name(unsigned int why);

/* The listener_accepted of a TCP service: takes fd over. has_left: it is reset, and counted as
 * accepted and as refused for the queue. */
void visitor_begin(struct server_worker *worker, struct service *service, int fd, bool has_left);
/* The `matched` of a TCP service's pool (channel_pool.h): gives a channel to a waiting visitor of
 * this worker. */
struct pool_match;
bool visitor_matched(struct server_worker *worker, struct service *service,
                     const struct pool_match *match, struct transport channel);
/* Closes the worker's arriving and waiting visitors whose service is down. The other ones that wait
 * look for a channel again. */
void visitor_review_waiting(struct server_worker *worker);
/* Closes all visitors of the worker that arrive or wait. */
void visitor_close_waiting(struct server_worker *worker);
/* Ends the worker's relays of services that are cut (service_base.h). */
void visitor_close_cut(struct server_worker *worker);
/* Applies changed limits of the bandwidth to the service's relays of this worker. */
void visitor_review_rates(struct server_worker *worker, struct service *service);
/* Closes all visitors and relays of the worker. */
void visitor_close_all(struct server_worker *worker);
/* Prepares the worker's slab of visitors. */
void visitor_init_slab(struct slab *slab);
