#include "server/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "config/config_copy.h"
#include "io/resolver.h"
#include "server/addresses.h"
#include "server/arrival.h"
#include "server/control.h"
#include "server/descriptors.h"
#include "server/exchange.h"
#include "server/handover.h"
#include "server/lane.h"
#include "server/listener.h"
#include "server/lobby.h"
#include "server/login.h"
#include "server/on_login.h"
#include "server/reload.h"
#include "server/service_part.h"
#include "server/visitor.h"
#include "tunnel/make_recipe.h"

/* ---- the shared part ---- */

static int make_service(struct server *server, const struct config_service *config)
{
    struct service *service; /* owned by the registry */
    resolver_begin(server->resolver, &config->addr);
    if (config->bind == CONFIG_BIND_ON_LOGIN)
        return 0;
    return service_part_create_all(server, config, &service);
}

static int server_make_ranges(struct server *server, const struct config_peer *config)
{
    struct range_set *set;
    int result = range_set_create(config, 1, &set);
    if (result == 0)
        server->ranges = set;
    return result;
}

int server_allocate(const struct role_options *options, struct server **ret)
{
    const struct config_peer *config = options->config, *copy;
    struct server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return -ENOMEM;
    int result = config_peer_copy(config, &copy);
    if (result < 0) {
        free(server);
        return result;
    }
    server->config = copy;
    server->on_login_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    server->worker_count = options->workers;
    server->file = options->file;
    gate_init(&server->gate, config->max_pending_handshakes, config->max_pending_handshakes_per_ip);
    gate_init(&server->arrivals, LIMIT_VISITORS_ARRIVING, LIMIT_ARRIVING_PER_IP);
    server_fds_limit_strangers(server, config);
    visitor_rate_init(&server->rate);
    session_table_init(&server->sessions, &server->gate);
    handover_set_phase(&server->handover, HANDOVER_SERVING);
    service_registry_init(&server->services, service_free);
    result = plan_slot_init(&server->plan);
    if (result == 0)
        result = exchange_init(server);
    if (server->on_login_fd < 0)
        result = -EMFILE;
    if (result == 0)
        result = server_make_ranges(server, config);
    if (result == 0)
        result = recipe_take(CONFIG_SERVER, config, options->recipe, &server->recipe);
    if (result == 0)
        result = resolver_create_polled(options->thread_begins, &server->resolver);
    if (result == 0)
        resolver_begin(server->resolver, &config->addr);
    for (size_t i = 0; i < config->service_count && result == 0; i++)
        result = make_service(server, &config->services[i]);
    server_fds_count_fixed(server);
    if (result < 0) {
        server_destroy(server);
        return result;
    }
    *ret = server;
    return 0;
}

int server_create(const struct config_peer *config, unsigned int workers,
                  struct inherited *inherited, struct server **ret)
{
    const struct role_options options = {.config = config, .workers = workers};
    struct server *server;
    int result = server_allocate(&options, &server);
    if (result < 0)
        return result;
    result = addresses_bind(server, inherited, UINT32_MAX);
    if (result < 0)
        server_destroy(server);
    else
        *ret = server;
    return result;
}

void server_destroy(struct server *server)
{
    if (server == NULL)
        return;
    server_plan_discard(plan_current(&server->plan));
    plan_slot_finish(&server->plan);
    binding_destroy(server->control_binding);
    resolver_destroy(server->resolver);
    exchange_finish(server);
    service_registry_finish(&server->services);
    session_table_finish(&server->sessions);
    visitor_rate_finish(&server->rate);
    gate_finish(&server->gate);
    gate_finish(&server->arrivals);
    range_set_destroy(server_ranges(server));
    if (server->on_login_fd >= 0)
        (void)close(server->on_login_fd);
    recipe_destroy(server->recipe);
    config_peer_free(server_config(server));
    free(server);
}

/* ---- changes of the services' state ---- */

static struct service_part *server_part_of(struct list *node)
{
    return container_of(node, struct service_part, node);
}

static void review_waiting(struct server_worker *worker)
{
    visitor_review_waiting(worker);
    lane_review_waiting(worker);
}

/* ---- the worker's part ---- */

/* Uses a deadline (io/schedule.h): after an absence, channels that were requested before it may
 * still wait in the accept queue, and must not be requested again. */
static void tend_later(struct server_worker *worker)
{
    loop_deadline_start(worker->tunnel->loop, &worker->tend_timer, SERVER_CONTROL_TEND_MS);
}

static void tend_due(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, tend_timer);
    server_control_tend_pools(worker);
    tend_later(worker);
}

static int start_parts(struct server_worker *worker)
{
    struct service_registry *registry = &worker->server->services;
    int result = 0;
    (void)pthread_mutex_lock(&registry->lock); /* the list's lock, as for every walk through it */
    list_for_each (node, &registry->entries) {
        if (result == 0)
            result = service_part_start(worker,
                                        service_of(container_of(node, struct service_base, node)));
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

static int server_start(void *shared, struct tunnel_worker *tunnel)
{
    struct server *server = shared;
    struct server_worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return -ENOMEM;
    worker->server = server;
    worker->tunnel = tunnel;
    tunnel->role = worker;
    list_init(&worker->control_ports);
    list_init(&worker->closing_ports);
    list_init(&worker->parts);
    gate_desk_init(&worker->gate_desk, tunnel);
    gate_desk_init(&worker->arrivals_desk, tunnel);
    lobby_init(&worker->lobby, tunnel, &server->gate, login_enter);
    list_init(&worker->logins);
    list_init(&worker->awaiting_logins);
    list_init(&worker->control_list);
    list_init(&worker->waiting_visitors);
    list_init(&worker->relaying_visitors);
    list_init(&worker->lanes);
    lane_init_slab(&worker->udp_visitor_slab);
    login_init_slab(&worker->login_slab);
    visitor_init_slab(&worker->visitor_slab);
    timer_init(&worker->resume_timer, server_fds_resume);
    worker->pause_ms = LIMIT_ACCEPT_PAUSE_MIN_MS;
    timer_init(&worker->tend_timer, tend_due);
    server_reload_init(worker);
    tend_later(worker);
    server_handover_init(worker);
    int result = start_parts(worker);
    if (result == 0)
        result = tunnel_use_recipe(tunnel, server->recipe);
    if (result == 0)
        result = listener_open_all(worker, NULL, server->control_binding, login_begin,
                                   &worker->control_ports);
    if (result == 0)
        server_handover_sync(worker);
    return result;
}

static void worker_drain(struct server_worker *worker)
{
    worker->draining = true;
    listener_sync_all(&worker->control_ports);
    exchange_sync_ports(worker);
    lobby_close_all(&worker->lobby);
    login_close_all(worker);
    server_control_close_all(worker);
    visitor_close_waiting(worker);
    lane_close_all(worker); /* UDP has no end of stream to wait for */
}

static void server_signalled(struct tunnel_worker *tunnel, uint32_t bits)
{
    struct server_worker *worker = tunnel->role;
    if ((bits & TUNNEL_SIGNAL_REFUSE) != 0) {
        worker->refusing = true;
        exchange_sync_ports(worker);
    }
    if ((bits & (TUNNEL_SIGNAL_DRAIN | TUNNEL_SIGNAL_STOP)) != 0 && !worker->draining)
        worker_drain(worker);
    if ((bits & TUNNEL_SIGNAL_STOP) != 0) {
        worker->stopping = true;
        visitor_close_all(worker);
    }
    if ((bits & TUNNEL_SIGNAL_HANDOVER) != 0)
        server_handover_sync(worker);
    if ((bits & TUNNEL_SIGNAL_EVICTED) != 0) {
        login_close_evicted(worker);
        arrival_close_evicted(worker);
    }
    if ((bits & TUNNEL_SIGNAL_REPLACED) != 0)
        server_control_close_replaced(worker);
    if ((bits & TUNNEL_SIGNAL_SERVICES) != 0)
        exchange_sync_changed(worker);
    if ((bits & TUNNEL_SIGNAL_VISITORS) != 0)
        review_waiting(worker);
    if ((bits & TUNNEL_SIGNAL_PLAN) != 0)
        plan_walk_begin(&worker->plan_walk);
    if ((bits & TUNNEL_SIGNAL_CUT) != 0)
        visitor_close_cut(worker);
    if ((bits & TUNNEL_SIGNAL_REQUESTS) != 0) {
        list_for_each (node, &worker->parts)
            exchange_send_requests(server_part_of(node));
    }
}

/* A server has no logins of its own. */
static void server_succeeded(struct tunnel_worker *tunnel, uint64_t login)
{
}

static bool server_is_done(const struct tunnel_worker *tunnel)
{
    const struct server_worker *worker = tunnel->role;
    /* waiting_visitors also has closed visitors (GONE) until their match arrives or is undone. */
    return worker->draining && list_is_empty(&worker->relaying_visitors) &&
           list_is_empty(&worker->waiting_visitors) && list_is_empty(&worker->control_list) &&
           list_is_empty(&worker->logins) && list_is_empty(&worker->lanes) &&
           list_is_empty(&worker->closing_ports) &&
           !worker->handover_timer.armed; /* this worker has reported its phase */
}

static void server_finish(struct tunnel_worker *tunnel)
{
    struct server_worker *worker = tunnel->role;
    if (worker == NULL)
        return;
    server_handover_finish(worker);
    lobby_finish(&worker->lobby);
    slab_finish(&worker->login_slab);
    slab_finish(&worker->visitor_slab);
    slab_finish(&worker->udp_visitor_slab);
    listener_free_all(&worker->control_ports);
    listener_free_all(&worker->closing_ports);
    list_for_each_safe (node, &worker->parts) {
        listener_free_all(&server_part_of(node)->ports);
        service_index_remove(&worker->services, server_part_of(node));
        list_remove(node);
    }
    free(worker);
    tunnel->role = NULL;
}

/* ---- struct role, for app/ ---- */

static int server_role_create(const struct role_options *options, void **ret)
{
    struct server *server;
    int result = server_allocate(options, &server);
    if (result == 0)
        *ret = server;
    return result;
}

static void server_role_destroy(void *shared)
{
    server_destroy(shared);
}

static int server_role_bind(void *shared, struct inherited *inherited, uint32_t waited_ms)
{
    return addresses_bind(shared, inherited, waited_ms);
}

static struct role_status server_role_status(void *shared)
{
    const struct server *server = shared;
    return (struct role_status){
        .unbound_services = atomic_load(&server->unbound_count),
        .waiting_visitors = atomic_load(&server->waiting_visitors),
    };
}

static struct handover *server_role_handover(void *shared)
{
    return &((struct server *)shared)->handover;
}

static int server_role_list_sockets(void *shared, struct handover_sockets *ret)
{
    return server_sockets_list(shared, ret);
}

static void server_role_leave_addresses(void *shared)
{
    server_leave_addresses(shared);
}

/* Its listeners were taken over while they listened, and are held (listener.h); or the successor is
 * about to take them. */
static bool waits_for_its_client(const struct service *service, const struct server *server)
{
    if (service->binding == NULL)
        return false;
    bool has_had_one = atomic_load(&service->sessions) != 0;
    if (handover_phase(&server->handover) == HANDOVER_LEAVING)
        return has_had_one;
    return service->binding->is_listening && !has_had_one && !atomic_load(&server->hold_is_over);
}

/* The front of a routed service's address; NULL: it is about to come or has gone. The caller holds
 * the registry's lock. known: that of another service, mostly the same; may be NULL. */
static struct service *front_of(struct server *server, const struct service *service,
                                struct service *known)
{
    const struct host_port *addr = &service_config(service)->addr;
    if (known != NULL && config_is_same_addr(&service_config(known)->addr, addr))
        return known;
    list_for_each (node, &server->services.entries) {
        struct service_base *entry = container_of(node, struct service_base, node);
        struct service *front = service_of(entry);
        if (!entry->removed && service_is_front(front) &&
            config_is_same_addr(&service_config(front)->addr, addr))
            return front;
    }
    return NULL;
}

static bool service_has_address(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    bool has_address = service->binding != NULL;
    (void)pthread_mutex_unlock(&service->lock);
    return has_address;
}

/* front: of a routed service. */
static void tell_service(const struct server *server, struct service *service,
                         struct service *front, service_report_fn *tell, void *arg)
{
    struct service_report report = {.config = service_config(service),
                                    .is_up = atomic_load(&service->up)};
    (void)service_base_peer(&service->entry, &report.peer, &report.up_since_s);
    report.has_address = service_has_address(front != NULL ? front : service);
    (void)pthread_mutex_lock(&service->lock);
    report.is_awaited = waits_for_its_client(service, server);
    (void)pthread_mutex_unlock(&service->lock);
    report.waiting = service->is_udp ? 0 : channel_pool_waiting(&service->pool);
    report.parked = channel_pool_parked(&service->pool);
    report.clients = channel_pool_sources(&service->pool);
    for (unsigned int i = 0; i < service->worker_count; i++)
        service_stats_sum(&service->parts[i].stats, &report.totals);
    tell(arg, &report);
}

static void server_role_list_services(void *shared, service_report_fn *tell, void *arg)
{
    struct server *server = shared;
    struct service_registry *registry = &server->services;
    struct service *front = NULL;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service_base *entry = container_of(node, struct service_base, node);
        struct service *service = service_of(entry);
        if (entry->removed)
            continue;
        if (service_is_routed(service))
            front = front_of(server, service, front);
        tell_service(server, service, service_is_routed(service) ? front : NULL, tell, arg);
    }
    (void)pthread_mutex_unlock(&registry->lock);
}

const struct role server_role = {
    .half = CONFIG_SERVER,
    .name = "server",
    .start_text = "server on",
    .has_addresses = true,
    .create = server_role_create,
    .destroy = server_role_destroy,
    .bind = server_role_bind,
    .status = server_role_status,
    .reload = &server_reload_ops,
    .handover = server_role_handover,
    .list_sockets = server_role_list_sockets,
    .leave_addresses = server_role_leave_addresses,
    .list_services = server_role_list_services,
    .refusal_name = visitor_refusal_name,
    .start = server_start,
    .signalled = server_signalled,
    .succeeded = server_succeeded,
    .is_done = server_is_done,
    .finish = server_finish,
};
