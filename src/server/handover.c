#include "server/handover.h"

#include "base/limits.h"
#include "server/control.h"
#include "server/lane.h"
#include "server/listener.h"
#include "server/login.h"
#include "server/reload.h"
#include "server/server_worker.h"
#include "server/visitor.h"
#include "tunnel/handover.h"

enum { STEP_MS = 5 /* between two looks whether this worker has reached the phase */ };

/* ---- the sockets, for the main thread ---- */

/* Lists the sockets of a binding that are shared with a service manager, or those that are not. */
static int list_binding(struct handover_sockets *list, const struct binding *binding,
                        const char *service, bool shared)
{
    if (binding == NULL)
        return 0;
    const char *kind = service == NULL ? "control" : binding->is_udp ? "udp" : "service";
    int result = 0;
    for (unsigned int i = 0;
         i < binding->distinct_count && binding->is_shared == shared && result == 0; i++) {
        if (binding->fds[i] >= 0)
            result = handover_sockets_add(list, binding->fds[i], kind, service);
    }
    return result;
}

static int list_all(struct server *server, struct handover_sockets *list, bool shared)
{
    struct service_registry *registry = &server->services;
    int result = list_binding(list, server->control_binding, NULL, shared);
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service *service = service_of(container_of(node, struct service_base, node));
        if (result == 0)
            result = list_binding(list, service->binding, service_name(service), shared);
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

int server_sockets_list(struct server *server, struct handover_sockets *ret)
{
    *ret = (struct handover_sockets){0};
    int result = list_all(server, ret, true);
    ret->shared_count = ret->count;
    return result < 0 ? result : list_all(server, ret, false);
}

void server_leave_addresses(struct server *server)
{
    struct service_registry *registry = &server->services;
    /* Else another process shares the files of our unix sockets: a successor that has them from now
     * on, or a predecessor that still has them. */
    bool is_alone = handover_phase(&server->handover) == HANDOVER_SERVING;
    binding_leave(server->control_binding);
    server_plan_leave_addresses(plan_current(&server->plan));
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct binding *binding =
            service_of(container_of(node, struct service_base, node))->binding;
        binding_leave(binding);
        if (is_alone)
            binding_remove_file(binding);
    }
    (void)pthread_mutex_unlock(&registry->lock);
}

/* ---- a worker's part ---- */

static struct service_part *handover_part_of(struct list *node)
{
    return container_of(node, struct service_part, node);
}

static void sync_all_ports(struct server_worker *worker)
{
    listener_sync_all(&worker->control_ports);
    list_for_each (node, &worker->parts)
        listener_sync_all(&handover_part_of(node)->ports);
}

/* The clients have had time to log in again: services that are still down refuse now. */
static void hold_over(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, hold_timer);
    list_for_each (node, &worker->parts)
        listener_release_all(&handover_part_of(node)->ports);
    lane_release_all(worker);
    visitor_review_waiting(worker); /* those that await their service's client */
    atomic_store(&worker->server->hold_is_over, true);
}

static void handover_leave(struct server_worker *worker)
{
    worker->draining = true;
    listener_close_all(&worker->control_ports, NULL);
    list_for_each (node, &worker->parts)
        listener_close_all(&handover_part_of(node)->ports, NULL);
    lobby_close_all(&worker->lobby);
    login_close_all(worker);
    server_control_close_all(worker);
    visitor_close_waiting(worker);
    lane_close_all(worker);
}

static bool has_reached(struct server_worker *worker, enum handover_phase phase)
{
    switch (phase) {
    case HANDOVER_UNKNOWN:
    case HANDOVER_AWAITED:
    case HANDOVER_SERVING:
        return true;
    case HANDOVER_QUIET:
        list_for_each (node, &worker->parts) {
            if (!listener_all_rest(&handover_part_of(node)->ports))
                return false;
        }
        return true;
    case HANDOVER_LEAVING:
        return list_is_empty(&worker->closing_ports) && list_is_empty(&worker->lanes);
    case HANDOVER_PHASE_COUNT:
        break;
    }
    return false;
}

static void handover_look_again(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, handover_timer);
    struct handover *handover = &worker->server->handover;
    enum handover_phase phase = handover_phase(handover);
    if (has_reached(worker, phase))
        handover_reach(handover, worker->tunnel->index, phase);
    else
        loop_timer_start(worker->tunnel->loop, timer, STEP_MS);
}

void server_handover_init(struct server_worker *worker)
{
    timer_init(&worker->hold_timer, hold_over);
    timer_init(&worker->handover_timer, handover_look_again);
}

void server_handover_sync(struct server_worker *worker)
{
    struct loop *loop = worker->tunnel->loop;
    switch (handover_phase(&worker->server->handover)) {
    case HANDOVER_UNKNOWN:
    case HANDOVER_AWAITED:
        break;
    case HANDOVER_SERVING:
        loop_deadline_start(loop, &worker->hold_timer, LIMIT_UPGRADE_HOLD_MS);
        sync_all_ports(worker);
        break;
    case HANDOVER_QUIET:
        sync_all_ports(worker);
        break;
    case HANDOVER_LEAVING:
        loop_timer_stop(loop, &worker->hold_timer);
        if (!worker->draining)
            handover_leave(worker);
        break;
    case HANDOVER_PHASE_COUNT:
        break;
    }
    handover_look_again(&worker->handover_timer);
}

void server_handover_finish(struct server_worker *worker)
{
    loop_timer_stop(worker->tunnel->loop, &worker->hold_timer);
    loop_timer_stop(worker->tunnel->loop, &worker->handover_timer);
}
