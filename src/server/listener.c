#include "server/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "io/socket.h"
#include "server/binding.h"
#include "server/descriptors.h"
#include "server/server_worker.h"

enum { CAUTIOUS_MS = 2000 }; /* single accepts for this long after a pause */

static struct loop *port_loop(const struct listener *port)
{
    return port->worker->tunnel->loop;
}

static struct listener *port_of(struct list *node)
{
    return container_of(node, struct listener, node);
}

/* ---- accepting ---- */

/* No listener accepts while a successor takes over, except that the control port goes on while
 * visitors still wait for data channels. */
static bool may_accept(const struct listener *port)
{
    enum handover_phase phase = handover_phase(&port->worker->server->handover);
    return phase == HANDOVER_SERVING || (phase == HANDOVER_QUIET && port->service == NULL);
}

/* After an upgrade the accept queue may hold more visitors than may wait for a channel; those
 * beyond would be refused. */
static bool is_pool_crowded(const struct listener *port)
{
    if (port->service == NULL)
        return false;
    uint32_t waiting = service_is_front(port->service)
                           ? atomic_load(&port->worker->server->awaiting_visitors)
                           : channel_pool_waiting(&port->service->pool);
    return waiting >= LIMIT_UPGRADE_PACE_VISITORS;
}

static void port_arm(struct listener *port)
{
    struct loop *loop = port_loop(port);
    if (!loop_op_is_idle(&port->accept_op) || port->held || !port->listening || !may_accept(port))
        return;
    if (loop_now_ns(loop) >= port->cautious_until_ns)
        loop_accept_multishot(loop, &port->accept_op, port->fd);
    else if (is_pool_crowded(port))
        loop_timer_start(loop, &port->pace_timer, LIMIT_UPGRADE_PACE_MS);
    else
        loop_accept(loop, &port->accept_op, port->fd);
}

static void port_pace_due(struct timer *timer)
{
    struct listener *port = container_of(timer, struct listener, pace_timer);
    if (port->listening && !port->paused)
        port_arm(port);
}

/* Descriptors have run out. New connections wait in the backlog until server_fds_resume finds
 * descriptors. Newcomers in the lobby leave first. At the control port only a newcomer makes the
 * gate evict, and none can come in. So silent strangers leave now, or logins would wait for their
 * deadline. */
static void port_pause(struct listener *port)
{
    static struct log_limit limit;
    uint32_t suppressed;
    struct server_worker *worker = port->worker;
    struct loop *loop = port_loop(port);
    port->paused = true;
    loop_cancel(loop, &port->accept_op);
    metrics_add(&worker->tunnel->metrics, METRIC_ACCEPT_PAUSED, 1);
    if (!lobby_relieve(&worker->lobby) && port->service == NULL)
        gate_relieve(&worker->server->gate, &worker->gate_desk, loop_now_ns(loop));
    gate_relieve(&worker->server->arrivals, &worker->arrivals_desk, loop_now_ns(loop));
    if (!worker->resume_timer.armed)
        loop_timer_start(loop, &worker->resume_timer, worker->pause_ms);
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_WARN, port->service != NULL ? service_name(port->service) : NULL,
                    "accepting pauses: out of file descriptors; raise the limit (ulimit -n) "
                    "(%u similar lines suppressed)",
                    suppressed);
}

static bool out_of_fds(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOBUFS || error == -ENOMEM;
}

static bool port_is_wanted(const struct listener *port)
{
    return port->listening && !port->closing;
}

/* A visitor that has connected just before a server began to refuse visitors is still welcome. */
static bool port_takes_last(const struct listener *port)
{
    return port->service != NULL && !port->closing && port->worker->refusing &&
           !port->worker->draining;
}

/* After a pause the accept queue is full of those who came meanwhile, and most may have given up.
 * Each would cost a data channel and a connection to the service, and who comes next would wait.
 * So a connection that has sent nothing but its end of stream is reset. That also hits a visitor
 * that sends nothing but wants an answer; its next attempt is behind the crowd. At a unix socket a
 * close is no reset: it would get an end of stream, which looks like an empty answer. */
static bool has_left(const struct listener *port, int fd)
{
    return loop_now_ns(port_loop(port)) < port->crowd_until_ns &&
           !addr_is_unix(&port->binding->addr) && socket_peek(fd) < 0;
}

/* Hands an accepted connection on, or closes it for want of descriptors. Then accepts again, or
 * pauses. */
static void port_take(struct listener *port, int fd)
{
    struct server_worker *worker = port->worker;
    if (port->service == NULL) {
        port->accepted(worker, NULL, fd, false);
    } else if (has_left(port, fd)) {
        port->accepted(worker, port->service, fd, true);
    } else if (!server_fds_leave_visitor(worker->server, fd)) {
        loop_close_fd(port_loop(port), fd); /* see visitor_reset */
        if (!port->paused)
            port_pause(port);
    } else {
        port->accepted(worker, port->service, fd, false);
    }
    if (port->paused || !loop_op_is_idle(&port->accept_op))
        return;
    /* Descriptors are numbered lowest first, so the next one gets at most fd + 1. */
    if (port->service != NULL && !server_fds_leave_visitor(worker->server, fd + 1))
        port_pause(port);
    else
        port_arm(port);
}

static void port_join(struct listener *port);

static void port_prepare(const struct listener *port, int fd)
{
    if (addr_is_unix(&port->binding->addr))
        unix_socket_prepare_accepted(fd);
    else if (port->binding->is_foreign)
        socket_prepare_accepted(fd);
}

static void port_accepted(struct loop_op *op, int res, uint32_t flags)
{
    struct listener *port = container_of(op, struct listener, accept_op);
    bool wanted = port_is_wanted(port);
    if (res >= 0)
        port_prepare(port, res);
    if (res >= 0 && (wanted || port_takes_last(port)))
        port_take(port, res);
    else if (res >= 0)
        loop_close_fd(port_loop(port), res);
    else if (wanted && out_of_fds(res))
        port_pause(port);
    else if (wanted && !port->paused && loop_op_is_idle(op))
        port_arm(port); /* the connection was aborted (accept(2)), or the multishot has ended */
    if (port->closing)
        port_join(port);
}

/* ---- listening ---- */

/* Whether the port never listens again. While a server refuses visitors, its control port goes on,
 * so that those who wait get their channels. */
static bool port_ends(const struct listener *port)
{
    return port->closing || port->worker->draining ||
           (port->worker->refusing && port->service != NULL);
}

static void port_stop_accepting(struct listener *port)
{
    loop_timer_stop(port_loop(port), &port->pace_timer);
    loop_cancel(port_loop(port), &port->accept_op);
}

static void port_listen(struct listener *port)
{
    int result = port->listening ? 0 : socket_listen(port->fd);
    if (result < 0) {
        log_service(LOG_ERROR, port->service != NULL ? service_name(port->service) : NULL,
                    "listen: %s", error_text(result));
        return;
    }
    port->rested |= port->held;
    port->held = false;
    port->listening = true;
}

/* Accepts what waits in the queue, which the end of the listener would reset. */
static void port_take_rest(struct listener *port)
{
    port->listening = false; /* nothing is armed again */
    for (int left = SOCKET_BACKLOG; left > 0; left--) {
        int fd = socket_accept_last(port->fd);
        if (fd < 0)
            return;
        port_prepare(port, fd);
        port_take(port, fd);
    }
}

static void port_refuse(struct listener *port)
{
    bool ends = port_ends(port);
    if (port->held && !ends)
        return;
    port->held = false;
    /* A unix socket that is shut down once can't listen again. */
    bool may_unlisten = ends || !addr_is_unix(&port->binding->addr);
    if (may_unlisten && !port->binding->is_shared) {
        if (port_takes_last(port))
            port_take_rest(port);
        port->listening = false;
        socket_unlisten(port->fd); /* this also ends the accept */
    } else if (ends) {
        port->listening = false;
        port_stop_accepting(port);
    } /* otherwise it goes on accepting, and visitors are closed while there is no client */
}

static void port_accept_or_rest(struct listener *port)
{
    if (!may_accept(port)) {
        port->rested = true;
        port_stop_accepting(port);
        return;
    }
    if (!port->listening || port->paused || port->held)
        return;
    if (port->rested) {
        port->rested = false;
        port->cautious_until_ns = loop_now_ns(port_loop(port)) + ms_to_ns(LIMIT_UPGRADE_HOLD_MS);
    }
    port_arm(port);
}

static void port_sync(struct listener *port)
{
    bool up = !port_ends(port) && (port->service == NULL || atomic_load(&port->service->up));
    switch (handover_phase(&port->worker->server->handover)) {
    case HANDOVER_UNKNOWN:
    case HANDOVER_AWAITED:
    case HANDOVER_SERVING:
        if (up)
            port_listen(port);
        else if (port->listening)
            port_refuse(port);
        break;
    case HANDOVER_QUIET:
    case HANDOVER_LEAVING:
    case HANDOVER_PHASE_COUNT:
        break; /* the successor shares the sockets */
    }
    port_accept_or_rest(port);
}

void listener_sync_all(struct list *ports)
{
    list_for_each (node, ports)
        port_sync(port_of(node));
}

void listener_release_all(struct list *ports)
{
    list_for_each (node, ports) {
        struct listener *port = port_of(node);
        port->held = false;
        port_sync(port);
    }
}

bool listener_all_rest(const struct list *ports)
{
    list_for_each (node, ports) {
        const struct listener *port = port_of(node);
        if (!loop_op_is_idle(&port->accept_op) || port->pace_timer.armed)
            return false;
    }
    return true;
}

static bool port_resume(struct listener *port, bool enough_fds)
{
    if (!port->paused)
        return true;
    if (!enough_fds || !loop_op_is_idle(&port->accept_op))
        return false;
    port->paused = false;
    if (port->service != NULL)
        port->cautious_until_ns = port->crowd_until_ns =
            loop_now_ns(port_loop(port)) + ms_to_ns(CAUTIOUS_MS);
    if (port->listening)
        port_arm(port);
    return true;
}

bool listener_resume_all(struct list *ports, bool enough_fds)
{
    bool all = true;
    list_for_each (node, ports)
        all &= port_resume(port_of(node), enough_fds);
    return all;
}

/* ---- opening and closing ---- */

static struct listener *port_open(struct server_worker *worker, struct service *service,
                                  struct binding *binding, unsigned int index,
                                  listener_accepted *accepted)
{
    struct listener *port = calloc(1, sizeof(*port));
    if (port == NULL)
        return NULL;
    port->worker = worker;
    port->service = service;
    port->binding = binding;
    port->index = index;
    port->accepted = accepted;
    port->fd = binding->fds[index];
    port->listening = binding->is_listening;
    port->held = binding->is_listening && service != NULL;
    timer_init(&port->pace_timer, port_pace_due);
    loop_op_init(&port->accept_op, port_accepted);
    return port;
}

int listener_open_all(struct server_worker *worker, struct service *service,
                      struct binding *binding, listener_accepted *accepted, struct list *ports)
{
    struct list opened;
    list_init(&opened);
    for (unsigned int i = worker->tunnel->index; i < binding->count;
         i += worker->tunnel->all->count) {
        struct listener *port = port_open(worker, service, binding, i, accepted);
        if (port == NULL) {
            listener_free_all(&opened);
            return -ENOMEM;
        }
        list_push_back(&opened, &port->node);
    }
    struct list *node;
    while ((node = list_pop_front(&opened)) != NULL) {
        list_push_back(ports, node);
        port_sync(port_of(node));
    }
    return 0;
}

static void port_free(struct listener *port)
{
    loop_timer_stop(port_loop(port), &port->pace_timer);
    list_remove(&port->node);
    free(port);
}

static void port_join(struct listener *port)
{
    if (!loop_op_is_idle(&port->accept_op))
        return;
    /* Close synchronously: when closing_ports is empty, the main thread may bind the address. */
    port->binding->fds[port->index] = -1;
    (void)close(port->fd);
    port_free(port);
}

void listener_close_all(struct list *ports, const struct binding *binding)
{
    list_for_each_safe (node, ports) {
        struct listener *port = port_of(node);
        if (binding != NULL && port->binding != binding)
            continue;
        port->closing = true;
        port_sync(port);
        list_remove(&port->node);
        list_push_back(&port->worker->closing_ports, &port->node);
        port_stop_accepting(port);
        port_join(port);
    }
}

void listener_free_all(struct list *ports)
{
    list_for_each_safe (node, ports) {
        port_free(port_of(node));
    }
}
