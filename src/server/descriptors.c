#include "server/descriptors.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/limits.h"
#include "server/listener.h"
#include "server/server_worker.h"
#include "tunnel/descriptors.h"

enum { OF_VISITOR = 2 }; /* descriptors: its own, and its channel's */

void server_fds_limit_strangers(struct server *server, const struct config_peer *config)
{
    int fds = tunnel_fds_for_visitors();
    unsigned int strangers = descriptors_strangers(config, (unsigned int)MAX(fds, 0));
    unsigned int may_wait = (unsigned int)MAX(fds, 0) / LIMIT_GATE_WAITING_FDS_PART;
    atomic_store(&server->fd_visitors_max, fds - (int)strangers);
    gate_set_limits(&server->gate, strangers, config->max_pending_handshakes_per_ip,
                    MIN(may_wait, (unsigned int)LIMIT_GATE_WAITING));
    unsigned int arriving = MIN((unsigned int)LIMIT_VISITORS_ARRIVING, MAX(may_wait, 1u));
    gate_set_limits(&server->arrivals, arriving, MAX(arriving / 4, 1u), 0);
}

static struct service_part *fds_part_of(struct list *node)
{
    return container_of(node, struct service_part, node);
}

void server_fds_count_fixed(struct server *server)
{
    struct service_registry *registry = &server->services;
    unsigned int count = descriptors_own(CONFIG_SERVER, server->worker_count);
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service_base *entry = container_of(node, struct service_base, node);
        const struct service *service = container_of(entry, struct service, entry);
        if (!entry->removed)
            count +=
                descriptors_fixed_of(CONFIG_SERVER, service_config(service), server->worker_count);
    }
    (void)pthread_mutex_unlock(&registry->lock);
    atomic_store(&server->fds_fixed, (int)count);
}

/* With `more` descriptors. */
static bool visitors_leave(const struct server *server, int more)
{
    int visitors = (int)atomic_load_explicit(&server->visitors, memory_order_relaxed);
    return server->fds_fixed + OF_VISITOR * visitors + more <= server->fd_visitors_max;
}

bool server_fds_leave_visitor(const struct server *server, int fd)
{
    return visitors_leave(server, OF_VISITOR) &&
           tunnel_leaves_enough_fds(fd, &server->waiting_visitors, server->fd_visitors_max);
}

/* Closes half of the parked channels of each service, because those of an earlier burst must not
 * keep new visitors out. */
static void shed_parked(struct server_worker *worker)
{
    struct transport shed[LIMIT_POOL_PARKED];
    list_for_each (node, &worker->parts) {
        struct service *service = fds_part_of(node)->service;
        size_t count = channel_pool_shed(&service->pool, shed, ARRAY_SIZE(shed));
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, count);
        for (size_t k = 0; k < count; k++)
            transport_close(&shed[k], worker->tunnel->loop);
    }
}

/* The number that the next descriptor would get, or -1 if there is none. */
static int next_fd(void)
{
    int probe = eventfd(0, EFD_CLOEXEC);
    if (probe >= 0)
        (void)close(probe);
    return probe;
}

bool server_fds_are_enough_for(const struct server *server, const struct config_service *config)
{
    unsigned int sockets = config->type == CONFIG_SERVICE_UDP
                               ? descriptors_lanes(config, server->worker_count)
                               : server->worker_count + 1;
    int fd = next_fd();
    return fd >= 0 && fd + (int)sockets < server->fd_visitors_max &&
           visitors_leave(server, (int)sockets);
}

void server_fds_resume(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, resume_timer);
    if (worker->draining)
        return;
    bool all = listener_resume_all(&worker->control_ports, true);
    int fd = next_fd();
    bool enough = fd >= 0 && server_fds_leave_visitor(worker->server, fd);
    /* Look soon while visitors leave, and less often while they stay. */
    worker->pause_ms = enough ? LIMIT_ACCEPT_PAUSE_MIN_MS
                              : MIN(2 * worker->pause_ms, (uint32_t)LIMIT_ACCEPT_PAUSE_MS);
    if (!enough) {
        (void)lobby_relieve(&worker->lobby);
        shed_parked(worker);
    }
    list_for_each (node, &worker->parts)
        all &= listener_resume_all(&fds_part_of(node)->ports, enough);
    if (!all)
        loop_timer_start(worker->tunnel->loop, timer, worker->pause_ms);
}
