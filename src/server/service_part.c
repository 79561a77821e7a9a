#include "server/service_part.h"

#include "base/log.h"
#include "server/control.h"
#include "server/lane.h"
#include "server/listener.h"
#include "server/server_worker.h"
#include "server/visitor.h"

static struct service_part *service_part_of(const struct server_worker *worker,
                                            struct service *service)
{
    return &service->parts[worker->tunnel->index];
}

int service_part_create_all(struct server *server, const struct config_service *config,
                            struct service **ret)
{
    int result = service_create(&server->services, config, server->worker_count, ret);
    if (result == 0)
        (*ret)->pool.matched = (*ret)->is_udp ? lane_matched : visitor_matched;
    return result;
}

int service_part_start(struct server_worker *worker, struct service *service)
{
    struct service_part *part = service_part_of(worker, service);
    list_push_back(&worker->parts, &part->node);
    if (!service_is_front(service)) /* no client logs in for it */
        service_index_add(&worker->services, part);
    if (service->binding == NULL) /* a reload binds its address later */
        return 0;
    if (service->is_udp)
        return lane_start_all(worker, service, service->binding);
    return listener_open_all(worker, service, service->binding, visitor_begin, &part->ports);
}

void service_part_stop(struct server_worker *worker, struct service *service)
{
    struct service_part *part = service_part_of(worker, service);
    list_remove(&part->node);
    service_index_remove(&worker->services, part);
    listener_close_all(&part->ports, NULL);
    lane_close_others(worker, service, NULL);
    server_control_close_part(part, false);
}

int service_part_rebind(struct server_worker *worker, struct service *service,
                        struct binding *binding)
{
    struct service_part *part = service_part_of(worker, service);
    int result = 0;
    if (service->is_udp) {
        if (binding != NULL)
            result = lane_start_all(worker, service, binding);
        lane_close_others(worker, service, binding);
    } else {
        struct list old;
        list_init(&old);
        struct list *node;
        while ((node = list_pop_front(&part->ports)) != NULL)
            list_push_back(&old, node);
        if (binding != NULL)
            result = listener_open_all(worker, service, binding, visitor_begin, &part->ports);
        listener_close_all(&old, NULL);
    }
    return result;
}

void service_part_review(struct server_worker *worker, struct service *service)
{
    server_control_close_part(service_part_of(worker, service), true);
    server_control_keep_newest(worker, service);
    lane_review_timeout(worker, service);
}

void service_part_log_no_memory(const struct server_worker *worker, const struct service *service)
{
    metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
    log_service(LOG_ERROR, service != NULL ? service_name(service) : NULL,
                "out of memory: worker %u does not serve all of its sockets of %s; restart the "
                "server when there is memory",
                worker->tunnel->index, service != NULL ? "this service" : "the control port");
}
