/* A listening socket of one worker: of the control port, or of a TCP service. A worker has as many
 * as its share of the binding's sockets, perhaps none.
 *
 *     open --(the service is up)--> listening <--> paused (out of descriptors)
 *     held --'   \-------- closing: the accept is cancelled, then the socket closed, then freed
 *
 * A socket that was taken over while it listened is held: it goes on listening, and visitors wait
 * in its queue, until the service is up or LIMIT_UPGRADE_HOLD_MS are over. What has gathered there
 * is then accepted at the pace at which the visitors get channels.
 *
 * While a successor takes over, nothing accepts; and a socket that was handed over, or is a service
 * manager's, is never shut down: it is theirs as well. Owned by its worker. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"
#include "io/loop.h"
#include "io/timer.h"

struct binding;
struct server_worker;
struct service;

/* Takes a just accepted descriptor over; service NULL: of the control port. */
typedef void listener_accepted(struct server_worker *worker, struct service *service, int fd);

struct listener {
    struct loop_op accept_op;
    struct list node; /* in the service's part, in worker->control_ports or closing_ports */
    struct server_worker *worker;
    struct service *service; /* NULL: the control port */
    struct binding *binding;
    unsigned int index; /* in the binding */
    listener_accepted *accepted;
    int fd;
    bool listening, paused, closing, held;
    bool rested; /* for a handover: a crowd may have gathered */
    struct timer pace_timer;
    uint64_t cautious_until_ns; /* after a pause: one connection at a time, or the backlog would
                                 * take all descriptors again before we can look */
};

/* Makes this worker's ports of a binding, behind those in the list. Ports of the control port
 * (service NULL) accept at once. -ENOMEM: none of them is there. */
MUST_CHECK int listener_open_all(struct server_worker *worker, struct service *service,
                                 struct binding *binding, listener_accepted *accepted,
                                 struct list *ports);
/* Closes those ports in the list that belong to the binding (NULL: all); worker->closing_ports is
 * empty when that is done. */
void listener_close_all(struct list *ports, const struct binding *binding);
/* Frees them without ceremony, when the loop does not turn any more. */
void listener_free_all(struct list *ports);
/* A service's port refuses while no client serves it; and the worker's phase of a handover says
 * whether it accepts. */
void listener_sync_all(struct list *ports);
/* Those that are held are no longer. */
void listener_release_all(struct list *ports);
/* None of them accepts, nor is about to. */
bool listener_all_rest(const struct list *ports);
/* After a pause: looks whether there are descriptors again. False: call again in a while. */
MUST_CHECK bool listener_resume_all(struct list *ports, bool enough_fds);
/* Whether a visitor may have that descriptor; those above are kept for control channels. */
bool listener_leaves_enough_fds(const struct server_worker *worker, int fd);
