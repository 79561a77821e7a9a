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
#include "io/socket_life.h"
#include "server/control.h"
#include "server/handover.h"
#include "server/lane.h"
#include "server/listener.h"
#include "server/login.h"
#include "server/reload.h"
#include "server/service_part.h"
#include "server/visitor.h"
#include "tunnel/descriptors.h"

enum { TEND_MS = 1000 };

/* ---- the shared part ---- */

static int make_service(struct server *server, const struct config_service *config)
{
    struct service *service; /* the registry has it */
    resolver_begin(server->resolver, &config->addr);
    return service_create(&server->services, config, server->worker_count, &service);
}

static int make_keys(struct server *server)
{
    const struct config_transport *transport = &server_config(server)->transport;
    if (transport->type != CONFIG_TRANSPORT_NOISE)
        return 0;
    server->noise_keys = calloc(1, sizeof(*server->noise_keys));
    if (server->noise_keys == NULL)
        return -ENOMEM;
    tunnel_noise_keys(server->noise_keys, &transport->noise);
    return 0;
}

void server_limit_strangers(struct server *server, const struct config_peer *config)
{
    int fds = tunnel_fds_for_visitors();
    unsigned int strangers = descriptors_strangers(config, (unsigned int)MAX(fds, 0));
    atomic_store(&server->fd_visitors_max, fds - (int)strangers);
    gate_set_limits(&server->gate, strangers, config->max_pending_handshakes_per_ip);
}

int server_allocate(const struct config_peer *config, unsigned int workers,
                    void (*thread_begins)(void), struct server **ret)
{
    const struct config_peer *copy;
    struct server *server = calloc(1, sizeof(*server));
    if (server == NULL)
        return -ENOMEM;
    int result = config_peer_copy(config, &copy);
    if (result < 0) {
        free(server);
        return result;
    }
    server->config = copy;
    server->worker_count = workers;
    gate_init(&server->gate, config->max_pending_handshakes, config->max_pending_handshakes_per_ip);
    server_limit_strangers(server, config);
    session_table_init(&server->sessions);
    atomic_store(&server->handover.phase, HANDOVER_SERVING);
    service_registry_init(&server->services, service_free);
    result = plan_slot_init(&server->plan);
    if (result == 0)
        result = make_keys(server);
    if (result == 0)
        result = resolver_create_polled(thread_begins, &server->resolver);
    if (result == 0)
        resolver_begin(server->resolver, &config->addr);
    for (size_t i = 0; i < config->service_count && result == 0; i++)
        result = make_service(server, &config->services[i]);
    if (result < 0) {
        log_error("cannot start: %s", error_text(result));
        server_destroy(server);
        return result;
    }
    *ret = server;
    return 0;
}

int server_create(const struct config_peer *config, unsigned int workers,
                  struct inherited *inherited, struct server **ret)
{
    struct server *server;
    int result = server_allocate(config, workers, NULL, &server);
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
    server_plan_discard(server, plan_current(&server->plan));
    plan_slot_finish(&server->plan);
    binding_destroy(server->control_binding);
    resolver_destroy(server->resolver);
    service_registry_finish(&server->services);
    session_table_finish(&server->sessions);
    gate_finish(&server->gate);
    if (server->noise_keys != NULL)
        noise_keys_wipe(server->noise_keys);
    free(server->noise_keys);
    config_peer_free(server_config(server));
    free(server);
}

/* ---- accepting again, after descriptors ran out ---- */

static struct service_part *server_part_of(struct list *node)
{
    return container_of(node, struct service_part, node);
}

/* What a burst has parked must not keep the next visitors out. */
static void shed_parked(struct server_worker *worker)
{
    struct transport shed[LIMIT_POOL_PARKED];
    list_for_each (node, &worker->parts) {
        struct service *service = server_part_of(node)->service;
        size_t count = channel_pool_shed(&service->pool, shed, ARRAY_SIZE(shed));
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, count);
        for (size_t k = 0; k < count; k++)
            transport_close(&shed[k], worker->tunnel->loop);
    }
}

/* The number that the next descriptor would get. */
static int next_fd(void)
{
    int probe = eventfd(0, EFD_CLOEXEC);
    if (probe >= 0)
        (void)close(probe);
    return probe;
}

static void resume_accepting(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, resume_timer);
    if (worker->draining)
        return;
    bool all = listener_resume_all(&worker->control_ports, true);
    int fd = next_fd();
    bool enough = fd >= 0 && listener_leaves_enough_fds(worker, fd);
    /* A crowd that leaves makes room all the time; one that stays is not worth looking at. */
    worker->pause_ms = enough ? LIMIT_ACCEPT_PAUSE_MIN_MS
                              : MIN(2 * worker->pause_ms, (uint32_t)LIMIT_ACCEPT_PAUSE_MS);
    if (!enough)
        shed_parked(worker);
    list_for_each (node, &worker->parts)
        all &= listener_resume_all(&server_part_of(node)->ports, enough);
    if (!all)
        loop_timer_start(worker->tunnel->loop, timer, worker->pause_ms);
}

/* ---- what the services' state means here ---- */

static void sync_ports(struct server_worker *worker)
{
    list_for_each (node, &worker->parts)
        listener_sync_all(&server_part_of(node)->ports);
}

static void review_waiting(struct server_worker *worker)
{
    visitor_review_waiting(worker);
    lane_review_waiting(worker);
}

static void worker_sync_services(struct server_worker *worker)
{
    sync_ports(worker);
    server_control_close_replaced(worker);
    review_waiting(worker);
}

void server_signal_services(struct server_worker *worker)
{
    struct tunnel_worker *own = worker->tunnel;
    for (unsigned int i = 0; i < own->all->count; i++) {
        if (i != own->index)
            mailbox_signal(own->all->items[i].mailbox, own->mailbox, TUNNEL_SIGNAL_SERVICES);
    }
    /* Here at once: the service listens before its client reads the Ack. */
    sync_ports(worker);
    mailbox_signal(own->mailbox, own->mailbox, TUNNEL_SIGNAL_SERVICES);
}

/* ---- channels ---- */

static void send_requests(const struct service_part *part)
{
    if (part->control != NULL) /* else it has moved or ended, and the next one asks for itself */
        server_control_send_requests(part->control);
}

static void deliver_requests(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct service *service;
    memcpy(&service, payload, sizeof(service));
    send_requests(&service->parts[tunnel->index]);
    service_drop(service);
}

void server_notify_owner(struct server_worker *worker, struct service *service)
{
    struct tunnel_worker *own = worker->tunnel;
    unsigned int owner = atomic_load(&service->owner);
    if (owner == own->index) {
        send_requests(&service->parts[owner]);
        return;
    }
    struct mailbox *to = own->all->items[owner].mailbox;
    service_use(service); /* by the message */
    if (mailbox_post(to, own->mailbox, deliver_requests, &service, sizeof(service)) < 0) {
        service_drop(service);
        mailbox_signal(to, own->mailbox, TUNNEL_SIGNAL_REQUESTS);
    }
}

/* Two questions have gone unanswered by then. */
static uint64_t keepalive_takes_ms(const struct config_peer *own)
{
    const struct config_transport *transport = &own->transport;
    return 1000ull * (transport->tcp_keepalive_secs + 2ull * transport->tcp_keepalive_interval);
}

bool server_channel_is_live(const struct server_worker *worker, const struct pool_channel *channel)
{
    const struct config_peer *own = server_config(worker->server);
    if (socket_peek(channel->transport.fd) < 0)
        return false;
    if (own->transport.tcp_keepalive_secs == 0)
        return true; /* nothing was to be heard */
    uint64_t now_ns = loop_now_ns(worker->tunnel->loop);
    uint64_t takes_ms = keepalive_takes_ms(own);
    struct socket_life life;
    /* The clock of the worker that parked it may be a little ahead. */
    if (now_ns < channel->parked_at_ns + takes_ms * 1000000)
        return true;
    return socket_life(channel->transport.fd, &life) < 0 || life.heard_ms <= takes_ms;
}

void server_offer_channel(struct server_worker *worker, struct service *service,
                          struct transport channel, bool requested, const struct addr_key *client)
{
    struct loop *loop = worker->tunnel->loop;
    if (requested)
        gate_expect(&worker->server->gate, client, -(int)service_answered(service, 1));
    struct pool_offer offer = {
        .transport = channel,
        .requested = requested,
        .may_park = channel.fd < worker->server->fd_visitors_max,
        .now_ns = loop_now_ns(loop),
    };
    struct pool_match match;
    switch (channel_pool_offer(&service->pool, &offer, &match)) {
    case POOL_MATCHED:
        if (service->is_udp)
            lane_deliver(worker, service, &match, channel);
        else
            visitor_deliver(worker, service, &match, channel);
        break;
    case POOL_SURPLUS:
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, 1);
        transport_close(&channel, loop);
        break;
    case POOL_PARKED:
        break;
    }
}

/* ---- the worker's part ---- */

/* A deadline: what was asked for and is not here by then is asked for again. */
static void tend_later(struct server_worker *worker)
{
    loop_deadline_start(worker->tunnel->loop, &worker->tend_timer, TEND_MS);
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
    (void)pthread_mutex_lock(&registry->lock); /* nobody changes it; but the other workers read */
    list_for_each (node, &registry->entries) {
        if (result == 0)
            result = service_part_start(worker,
                                        service_of(container_of(node, struct service_base, node)));
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

/* A few steps of a reload's plan at a time, so that no relay waits for long. */
static void server_plan_go_on(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, plan_timer);
    struct plan_slot *slot = &worker->server->plan;
    if (server_reload_step(worker, plan_current(slot), &worker->plan_at))
        plan_done(slot);
    else
        loop_timer_start(worker->tunnel->loop, timer, 0);
}

static void server_plan_begin(struct server_worker *worker)
{
    worker->plan_at = 0;
    server_plan_go_on(&worker->plan_timer);
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
    list_init(&worker->logins);
    list_init(&worker->control_list);
    list_init(&worker->waiting_visitors);
    list_init(&worker->relaying_visitors);
    list_init(&worker->lanes);
    lane_init_slab(&worker->udp_visitor_slab);
    login_init_slab(&worker->login_slab);
    visitor_init_slab(&worker->visitor_slab);
    timer_init(&worker->resume_timer, resume_accepting);
    worker->pause_ms = LIMIT_ACCEPT_PAUSE_MIN_MS;
    timer_init(&worker->tend_timer, tend_due);
    timer_init(&worker->plan_timer, server_plan_go_on);
    tend_later(worker);
    server_handover_init(worker);
    int result = start_parts(worker);
    if (result == 0 && server->noise_keys != NULL)
        result = tunnel_use_noise(tunnel, server->noise_keys);
    if (result == 0)
        result = listener_open_all(worker, NULL, server->control_binding, &worker->control_ports);
    if (result == 0)
        server_handover_sync(worker);
    return result;
}

static void worker_drain(struct server_worker *worker)
{
    worker->draining = true;
    listener_sync_all(&worker->control_ports);
    sync_ports(worker);
    login_close_all(worker);
    server_control_close_all(worker);
    visitor_close_waiting(worker);
    lane_close_all(worker); /* datagrams have no end that could be waited for */
}

static void server_signalled(struct tunnel_worker *tunnel, uint32_t bits)
{
    struct server_worker *worker = tunnel->role;
    if ((bits & (TUNNEL_SIGNAL_DRAIN | TUNNEL_SIGNAL_STOP)) != 0 && !worker->draining)
        worker_drain(worker);
    if ((bits & TUNNEL_SIGNAL_STOP) != 0) {
        worker->stopping = true;
        visitor_close_all(worker);
    }
    if ((bits & TUNNEL_SIGNAL_HANDOVER) != 0)
        server_handover_sync(worker);
    if ((bits & TUNNEL_SIGNAL_EVICTED) != 0)
        login_close_evicted(worker);
    if ((bits & TUNNEL_SIGNAL_SERVICES) != 0)
        worker_sync_services(worker);
    else if ((bits & TUNNEL_SIGNAL_VISITORS) != 0)
        review_waiting(worker);
    if ((bits & TUNNEL_SIGNAL_PLAN) != 0)
        server_plan_begin(worker);
    if ((bits & TUNNEL_SIGNAL_CUT) != 0)
        visitor_close_cut(worker);
    if ((bits & TUNNEL_SIGNAL_REQUESTS) != 0) {
        list_for_each (node, &worker->parts)
            send_requests(server_part_of(node));
    }
}

static bool server_is_done(const struct tunnel_worker *tunnel)
{
    const struct server_worker *worker = tunnel->role;
    /* A visitor that was given up in the queue stays until its match has come or been undone. */
    return worker->draining && list_is_empty(&worker->relaying_visitors) &&
           list_is_empty(&worker->waiting_visitors) && list_is_empty(&worker->control_list) &&
           list_is_empty(&worker->logins) && list_is_empty(&worker->lanes) &&
           list_is_empty(&worker->closing_ports) &&
           !worker->handover_timer.armed; /* the main thread has been told how far it is */
}

static void server_finish(struct tunnel_worker *tunnel)
{
    struct server_worker *worker = tunnel->role;
    if (worker == NULL)
        return;
    server_handover_finish(worker);
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

const struct tunnel_role server_role = {
    .start = server_start,
    .signalled = server_signalled,
    .is_done = server_is_done,
    .finish = server_finish,
};
