/* A listener: a socket of the control port or of a TCP service on one worker. A worker has a
 * listener for each socket of its share of the binding, perhaps none.
 *
 *     open --(the service is up)--> listening <--> paused (out of descriptors)
 *     held --'   \-------- closing: the accept is cancelled, then the socket closed, then freed
 *
 * A service's listener that was taken over while it listened is held: visitors wait in its accept
 * queue until the service is up or LIMIT_UPGRADE_HOLD_MS are over. They are then accepted at the
 * pace at which visitors get channels.
 *
 * While a successor takes over, no listener accepts, except that the control port goes on while
 * visitors wait for channels. A socket that a successor or a service manager shares is never shut
 * down, because that would stop it there too.
 *
 * A listener belongs to its worker, whose thread makes all calls below. */
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

/* Takes over a descriptor that was just accepted. service NULL: on the control port. has_left: a
 * visitor of a crowd that has sent nothing but its end of stream, or has reset; it is to be reset.
 */
typedef void listener_accepted(struct server_worker *worker, struct service *service, int fd,
                               bool has_left);

struct listener {
    struct loop_op accept_op;
    struct list node; /* in service_part.ports, worker->control_ports or closing_ports */
    struct server_worker *worker;
    struct service *service; /* NULL: the control port */
    struct binding *binding;
    unsigned int index; /* in the binding */
    listener_accepted *accepted;
    int fd;
    bool listening, paused, closing, held;
    bool rested; /* did not accept during a handover: many visitors may wait in the queue */
    struct timer pace_timer;
    uint64_t cautious_until_ns; /* until then single accepts: a multishot accept would take the
                                 * whole backlog before the limits are checked */
    uint64_t crowd_until_ns;    /* until then the accept queue may hold a crowd that has left */
};

/* Makes this worker's listeners of a binding and appends them to the list. Those of the control
 * port (service NULL) accept at once. The binding must outlive them. -ENOMEM: none was made. */
MUST_CHECK int listener_open_all(struct server_worker *worker, struct service *service,
                                 struct binding *binding, listener_accepted *accepted,
                                 struct list *ports);
/* Closes the listeners in the list that belong to the binding (NULL: all). worker->closing_ports is
 * empty when they are closed. */
void listener_close_all(struct list *ports, const struct binding *binding);
/* Frees the listeners in the list. For the end of the worker, when its loop does not run any more;
 * the binding closes the sockets. */
void listener_free_all(struct list *ports);
/* Makes each listener do what the state of its service and the phase of the handover say: listen or
 * refuse, accept or rest. */
void listener_sync_all(struct list *ports);
/* Ends the hold of listeners that were taken over. */
void listener_release_all(struct list *ports);
/* True if no listener in the list accepts or is about to. */
bool listener_all_rest(const struct list *ports);
/* Resumes accepting after a pause. enough_fds: there are descriptors for visitors again. False:
 * some listeners still pause; call again later. */
MUST_CHECK bool listener_resume_all(struct list *ports, bool enough_fds);
