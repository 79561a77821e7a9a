#include "client/client.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "client/control.h"
#include "client/data_channel.h"
#include "client/forward.h"
#include "client/reload.h"
#include "config/config_copy.h"
#include "tunnel/make_recipe.h"

static int copy_config(struct client *client, const struct role_options *options)
{
    const struct config_peer *copy;
    int result = config_peer_copy(options->config, &copy);
    if (result < 0)
        return result;
    client->config = copy;
    return recipe_take(CONFIG_CLIENT, options->config, options->recipe, &client->recipe);
}

static int client_make(const struct role_options *options, struct client **ret)
{
    const struct config_peer *config = options->config;
    unsigned int workers = options->workers;
    struct client *client = calloc(1, sizeof(*client));
    if (client == NULL)
        return -ENOMEM;
    client->worker_count = workers;
    dial_memory_init(&client->memory);
    handover_set_phase(&client->handover, HANDOVER_SERVING);
    service_registry_init(&client->services, client_service_free);
    int result = plan_slot_init(&client->plan);
    if (result == 0)
        result = client_fds_init(&client->fds, config, workers);
    if (result == 0)
        result = udp_ports_init(&client->udp_ports);
    if (result == 0)
        result = copy_config(client, options);
    if (result == 0)
        result = client_servers_init(&client->servers);
    if (result == 0)
        client_servers_configure(&client->servers, client->recipe, config);
    for (size_t i = 0; i < config->service_count && result == 0; i++) {
        struct client_service *service; /* owned by the registry */
        result = client_service_create(&client->services, &config->services[i], workers, &service);
        if (result == 0)
            service->worker = client->next_control++ % workers;
    }
    if (result < 0) {
        client_destroy(client);
        return result;
    }
    *ret = client;
    return 0;
}

int client_create(const struct config_peer *config, unsigned int workers, struct client **ret)
{
    const struct role_options options = {.config = config, .workers = workers};
    return client_make(&options, ret);
}

void client_destroy(struct client *client)
{
    if (client == NULL)
        return;
    client_plan_discard(plan_current(&client->plan));
    plan_slot_finish(&client->plan);
    service_registry_finish(&client->services);
    recipe_destroy(client->recipe);
    config_peer_free(client_config(client));
    client_servers_finish(&client->servers);
    dial_memory_finish(&client->memory);
    udp_ports_finish(&client->udp_ports);
    client_fds_finish(&client->fds);
    free(client);
}

/* ---- the worker's part ---- */

/* The control channels end first, so that the server gives this client no more visitors. A parked
 * channel that it gave to one just before still serves that one. The server closes the others when
 * it sees the end; rathole's does not, hence a time limit. */
static void client_drain(struct client_worker *worker)
{
    if (worker->draining)
        return;
    worker->draining = true;
    atomic_store(&worker->client->draining, true); /* before a session ends */
    client_servers_stop(&worker->client->servers, worker->tunnel);
    client_control_close_all(worker);
    data_channel_close_dialing(worker);
    loop_deadline_start(worker->tunnel->loop, &worker->leave_timer, LIMIT_CLIENT_PARTING_MS);
}

static void parting_over(struct client_worker *worker)
{
    loop_timer_stop(worker->tunnel->loop, &worker->leave_timer);
    data_channel_close_unstarted(worker);
    forward_close_all(worker); /* datagrams have no end of stream to wait for */
}

/* ---- a handover (tunnel/handover.h) ---- */

static void leave_over(struct timer *timer)
{
    struct client_worker *worker = container_of(timer, struct client_worker, leave_timer);
    if (worker->draining)
        parting_over(worker);
    else
        client_drain(worker);
}

static void client_leave(struct client_worker *worker)
{
    if (worker->leaving || worker->draining)
        return;
    worker->leaving = true;
    client_servers_stop(&worker->client->servers, worker->tunnel);
    client_control_retire_all(worker);
    loop_deadline_start(worker->tunnel->loop, &worker->leave_timer, LIMIT_UPGRADE_HOLD_MS);
}

static void handover_sync(struct client_worker *worker)
{
    enum handover_phase phase = handover_phase(&worker->client->handover);
    switch (phase) {
    case HANDOVER_UNKNOWN:
    case HANDOVER_AWAITED: /* client_control_begin waits */
        break;
    case HANDOVER_SERVING:
        client_control_release_all(worker);
        break;
    case HANDOVER_QUIET:
        client_control_hold_all(worker);
        break;
    case HANDOVER_LEAVING:
        client_leave(worker);
        break;
    case HANDOVER_PHASE_COUNT:
        break;
    }
    handover_reach(&worker->client->handover, worker->tunnel->index, phase);
}

static void client_signalled(struct tunnel_worker *tunnel, uint32_t bits)
{
    struct client_worker *worker = tunnel->role;
    if ((bits & (TUNNEL_SIGNAL_DRAIN | TUNNEL_SIGNAL_STOP)) != 0)
        client_drain(worker);
    if ((bits & TUNNEL_SIGNAL_HANDOVER) != 0)
        handover_sync(worker);
    if ((bits & TUNNEL_SIGNAL_STOP) != 0) {
        worker->stopping = true;
        parting_over(worker);
        data_channel_close_all(worker);
    }
    if ((bits & TUNNEL_SIGNAL_SESSIONS) != 0) {
        if (worker->leaving && atomic_load(&worker->client->sessions) == 0)
            client_drain(worker); /* the successor has logged in everywhere */
        data_channel_close_ended(worker);
    }
    if ((bits & TUNNEL_SIGNAL_PLAN) != 0)
        plan_walk_begin(&worker->plan_walk);
    if ((bits & TUNNEL_SIGNAL_CUT) != 0)
        data_channel_close_cut(worker);
    if ((bits & TUNNEL_SIGNAL_DESCRIPTORS) != 0)
        forward_give_up(worker);
    if ((bits & TUNNEL_SIGNAL_SERVERS) != 0)
        client_control_follow_all(worker);
}

static void client_succeeded(struct tunnel_worker *tunnel, uint64_t login)
{
    client_control_succeeded(tunnel->role, login);
}

static bool client_is_done(const struct tunnel_worker *tunnel)
{
    const struct client_worker *worker = tunnel->role;
    return (worker->draining || worker->leaving) && list_is_empty(&worker->controls) &&
           list_is_empty(&worker->channels) && list_is_empty(&worker->relaying) &&
           list_is_empty(&worker->forwards);
}

static void client_finish(struct tunnel_worker *tunnel)
{
    struct client_worker *worker = tunnel->role;
    if (worker == NULL)
        return;
    loop_timer_stop(tunnel->loop, &worker->leave_timer);
    loop_timer_stop(tunnel->loop, &worker->follow_timer);
    loop_timer_stop(tunnel->loop, &worker->turn_timer);
    slab_finish(&worker->channel_slab);
    slab_finish(&worker->udp_visitor_slab);
    free(worker);
    tunnel->role = NULL;
}

/* Some control channels have begun, and nobody will run this loop for them. Runs it here until all
 * operations in flight have ended, so that nothing is leaked. */
static void abandon_start(struct tunnel_worker *tunnel)
{
    client_signalled(tunnel, TUNNEL_SIGNAL_STOP);
    int result = 0;
    while (result == 0 && !client_is_done(tunnel))
        result = loop_run_once(tunnel->loop);
    if (result == 0)
        client_finish(tunnel);
}

static int start_controls(struct client_worker *worker)
{
    struct service_registry *registry = &worker->client->services;
    int result = 0;
    (void)pthread_mutex_lock(&registry->lock); /* no reload yet, but other workers read the list */
    list_for_each (node, &registry->entries) {
        struct client_service *service =
            client_service_of(container_of(node, struct service_base, node));
        if (result == 0 && service->worker == worker->tunnel->index)
            result = client_control_add(worker, service);
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return result;
}

static int client_start(void *shared, struct tunnel_worker *tunnel)
{
    struct client *client = shared;
    struct client_worker *worker = calloc(1, sizeof(*worker));
    if (worker == NULL)
        return -ENOMEM;
    worker->client = client;
    worker->tunnel = tunnel;
    client_set_channel_options(worker);
    client_reload_init(worker);
    list_init(&worker->services);
    list_init(&worker->controls);
    client_control_init_turns(worker);
    list_init(&worker->channels);
    list_init(&worker->relaying);
    list_init(&worker->forwards);
    timer_init(&worker->leave_timer, leave_over);
    client_control_init_follow(worker);
    data_channel_init_slab(&worker->channel_slab);
    forward_init_slab(&worker->udp_visitor_slab);
    tunnel->role = worker;
    int result = tunnel_use_recipe(tunnel, client->recipe);
    if (result == 0)
        result = start_controls(worker);
    if (result == 0 && tunnel->index == 0)
        client_servers_begin(&client->servers, tunnel);
    if (result < 0)
        abandon_start(tunnel);
    else
        handover_reach(&client->handover, tunnel->index, handover_phase(&client->handover));
    return result;
}

/* ---- struct role: a client binds nothing, and no visitor waits in it ---- */

static int client_role_create(const struct role_options *options, void **ret)
{
    struct client *client;
    int result = client_make(options, &client);
    if (result == 0)
        *ret = client;
    return result;
}

static void client_role_destroy(void *shared)
{
    client_destroy(shared);
}

static int client_role_bind(void *shared, struct inherited *inherited, uint32_t waited_ms)
{
    return 0;
}

static struct role_status client_role_status(void *shared)
{
    return (struct role_status){0};
}

static struct handover *client_role_handover(void *shared)
{
    return &((struct client *)shared)->handover;
}

static int client_role_list_sockets(void *shared, struct handover_sockets *ret)
{
    *ret = (struct handover_sockets){0};
    return 0;
}

static void client_role_leave_addresses(void *shared)
{
}

static void client_tell_service(struct client_service *service, service_report_fn *tell, void *arg)
{
    struct service_report report = {.config = client_service_config(service), .has_address = true};
    report.is_up = service_base_peer(&service->entry, &report.peer, &report.up_since_s);
    report.servers_up = atomic_load(&service->servers_up);
    report.clients = report.servers_up;
    for (unsigned int i = 0; i < service->worker_count; i++)
        service_stats_sum(&service->locals[i].stats, &report.totals);
    tell(arg, &report);
}

static void client_role_list_services(void *shared, service_report_fn *tell, void *arg)
{
    struct service_registry *registry = &((struct client *)shared)->services;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service_base *entry = container_of(node, struct service_base, node);
        if (!entry->removed)
            client_tell_service(client_service_of(entry), tell, arg);
    }
    (void)pthread_mutex_unlock(&registry->lock);
}

static const char *client_refusal_name(unsigned int why)
{
    return why == CLIENT_REFUSED_UNREACHABLE ? "unreachable" : NULL;
}

const struct role client_role = {
    .half = CONFIG_CLIENT,
    .name = "client",
    .start_text = "client of",
    .create = client_role_create,
    .destroy = client_role_destroy,
    .bind = client_role_bind,
    .status = client_role_status,
    .reload = &client_reload_ops,
    .handover = client_role_handover,
    .list_sockets = client_role_list_sockets,
    .leave_addresses = client_role_leave_addresses,
    .list_services = client_role_list_services,
    .refusal_name = client_refusal_name,
    .start = client_start,
    .signalled = client_signalled,
    .succeeded = client_succeeded,
    .is_done = client_is_done,
    .finish = client_finish,
};
