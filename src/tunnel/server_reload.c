#include "tunnel/server_reload.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "config/config_copy.h"
#include "config/config_diff.h"
#include "tunnel/server.h"
#include "tunnel/server_bind.h"
#include "tunnel/server_control.h"
#include "tunnel/server_login.h"
#include "tunnel/server_part.h"
#include "tunnel/server_port.h"

enum step_kind { STEP_ADD, STEP_REMOVE, STEP_CHANGE };

struct server_step {
    enum step_kind kind;
    struct service *service;
    /* Before the plan is posted, what will take the place of the old; then the old. NULL: no
     * change. */
    const struct config_service *config;
    struct binding *binding;
    struct binding *new_binding; /* the service's own by now */
    bool expires;                /* its sessions are over */
};

struct server_plan {
    struct server_step *steps;
    size_t step_count;
    /* Of the server itself: as in a step. */
    unsigned int changes;
    const struct config_peer *config;
    struct binding *control_binding, *new_control_binding;
    bool closes_control; /* the port is given up first, its new address would be in its way */
    struct noise_keys *keys, *new_keys;
    struct noise_engine **engines; /* one for each worker, taken by it if it has none */
};

/* While a plan is prepared. */
struct preparation {
    struct server *server;
    const struct config_peer *wanted;
    struct server_plan *plan;
    struct service_view running;
    struct config_diff diff;
    struct reload_outcome *outcome;
    uint64_t now_ms;
    enum reload_attempt attempt;
};

/* ---- preparing: addresses ---- */

static bool is_same_port(const struct config_service *a, const struct config_service *b)
{
    return a->addr.port == b->addr.port && a->type == b->type;
}

static const struct config_service *find_service(const struct config_peer *peer, const char *name)
{
    for (size_t i = 0; i < peer->service_count; i++) {
        if (strcmp(peer->services[i].name, name) == 0)
            return &peer->services[i];
    }
    return NULL;
}

/* The running service that has the port which that one wants, perhaps on another host. */
static const struct config_service *holder_of(const struct preparation *prep,
                                              const struct config_service *wanted)
{
    const struct config_peer *running = &prep->running.peer;
    for (size_t i = 0; i < running->service_count; i++) {
        if (is_same_port(&running->services[i], wanted))
            return &running->services[i];
    }
    return NULL;
}

/* Where the holder of a port goes: NULL if it is removed, or stays where it is. */
static const struct config_service *destination_of(const struct preparation *prep,
                                                   const struct config_service *holder,
                                                   bool *ret_leaves)
{
    const struct config_service *wanted = find_service(prep->wanted, holder->name);
    *ret_leaves = wanted == NULL || !is_same_port(wanted, holder) ||
                  strcmp(wanted->addr.host, holder->addr.host) != 0;
    return *ret_leaves ? wanted : NULL;
}

/* The address is in use by what is to leave it: a service, or the control port. */
static bool is_given_up(const struct preparation *prep, const struct config_service *config)
{
    const struct config_service *holder = holder_of(prep, config);
    bool leaves = false;
    if (holder != NULL)
        (void)destination_of(prep, holder, &leaves);
    else if (config->type == CONFIG_SERVICE_TCP)
        leaves = prep->running.peer.addr.port == config->addr.port &&
                 (prep->diff.changes & CONFIG_CHANGE_ADDRESS) != 0;
    return leaves;
}

/* Services that want each other's ports, or one its own on another host: none can be first. */
static bool is_in_circle(const struct preparation *prep, const struct config_service *config)
{
    const struct config_service *at = config;
    for (size_t i = 0; i <= prep->running.peer.service_count; i++) {
        const struct config_service *holder = holder_of(prep, at);
        bool leaves;
        if (holder == NULL)
            return false;
        at = destination_of(prep, holder, &leaves);
        if (at == NULL)
            return false;
        if (strcmp(holder->name, config->name) == 0)
            return true;
    }
    return false;
}

static void note_failed(struct preparation *prep, const struct config_service *service, int error,
                        bool is_ours)
{
    struct reload_outcome *outcome = prep->outcome;
    outcome->failed++;
    if (is_ours && error == -EADDRINUSE && prep->attempt == RELOAD_FIRST)
        outcome->deferred++;
    else if (prep->attempt != RELOAD_RETRY)
        (void)binding_log_failed(service != NULL ? service->name : NULL,
                                 service != NULL ? &service->addr : &prep->wanted->addr, error);
}

/* ---- preparing: services ---- */

static struct server_step *add_step(struct preparation *prep, enum step_kind kind,
                                    struct service *service)
{
    struct server_step *step = &prep->plan->steps[prep->plan->step_count++];
    *step = (struct server_step){.kind = kind, .service = service};
    return step;
}

static int prepare_added(struct preparation *prep, const struct config_service *config)
{
    struct service *service;
    int result =
        service_create(&prep->server->services, config, prep->server->worker_count, &service);
    if (result < 0)
        return result;
    result = server_bind_service(service, config, prep->wanted, NULL, 0, &service->binding);
    if (result < 0) {
        service_drop(service);
        note_failed(prep, config, result, is_given_up(prep, config));
        return result == -ENOMEM ? result : 0;
    }
    prep->outcome->added++;
    (void)add_step(prep, STEP_ADD, service);
    return 0;
}

static void prepare_removed(struct preparation *prep, struct service *service)
{
    prep->outcome->removed++;
    (void)add_step(prep, STEP_REMOVE, service);
}

/* Another kind of service under the same name, or one of a circle: it goes now, and comes with the
 * plan that follows. */
static void prepare_replaced(struct preparation *prep, struct service *service)
{
    prep->outcome->deferred++;
    prep->outcome->replaced++;
    prep->outcome->failed++;
    (void)add_step(prep, STEP_REMOVE, service);
}

static int prepare_changed(struct preparation *prep, const struct config_service_diff *item,
                           struct service *service)
{
    struct binding *binding = NULL;
    if ((item->changes & (CONFIG_CHANGE_TYPE | CONFIG_CHANGE_LANES)) != 0) {
        prepare_replaced(prep, service);
        return 0;
    }
    if ((item->changes & CONFIG_CHANGE_ADDRESS) != 0) {
        int result = server_bind_service(service, item->new, prep->wanted, NULL, 0, &binding);
        if (result == -EADDRINUSE && is_in_circle(prep, item->new)) {
            prepare_replaced(prep, service);
            return 0;
        }
        if (result < 0) {
            note_failed(prep, item->new, result, is_given_up(prep, item->new));
            return result == -ENOMEM ? result : 0;
        }
    }
    struct server_step *step = add_step(prep, STEP_CHANGE, service);
    step->binding = binding;
    step->expires = (item->changes & CONFIG_CHANGE_TOKEN) != 0;
    prep->outcome->changed++;
    return config_service_copy(item->new, &step->config);
}

static int prepare_services(struct preparation *prep)
{
    int result = 0;
    for (size_t i = 0; i < prep->diff.service_count && result == 0; i++) {
        const struct config_service_diff *item = &prep->diff.services[i];
        struct service *service =
            item->old != NULL ? service_of(service_view_entry(&prep->running, item->old)) : NULL;
        switch (item->fate) {
        case CONFIG_SERVICE_ADDED:
            result = prepare_added(prep, item->new);
            break;
        case CONFIG_SERVICE_REMOVED:
            prepare_removed(prep, service);
            break;
        case CONFIG_SERVICE_CHANGED:
            result = prepare_changed(prep, item, service);
            break;
        }
    }
    return result;
}

/* ---- preparing: the server itself ---- */

static int prepare_keys(struct preparation *prep)
{
    struct server_plan *plan = prep->plan;
    unsigned int workers = prep->server->worker_count;
    if (prep->wanted->transport.type != CONFIG_TRANSPORT_NOISE)
        return 0;
    plan->keys = calloc(1, sizeof(*plan->keys));
    plan->engines = calloc(workers, sizeof(struct noise_engine *));
    if (plan->keys == NULL || plan->engines == NULL)
        return -ENOMEM;
    tunnel_noise_keys(plan->keys, &prep->wanted->transport.noise);
    int result = 0;
    for (unsigned int i = 0; i < workers && result == 0; i++)
        result = noise_engine_create(&plan->engines[i]);
    return result;
}

/* The control port's new address. What fails leaves the old one, and is tried again. */
static void prepare_control_port(struct preparation *prep, unsigned int *changes)
{
    struct server *server = prep->server;
    int result = server_bind_control(prep->wanted, server->worker_count, NULL, 0,
                                     &prep->plan->control_binding);
    if (result == 0)
        return;
    *changes &= ~(unsigned int)CONFIG_CHANGE_ADDRESS;
    bool is_ours = server->control_binding != NULL &&
                   addr_port(&server->control_binding->addr) == prep->wanted->addr.port;
    for (size_t i = 0; i < prep->running.peer.service_count; i++)
        is_ours |= prep->running.peer.services[i].addr.port == prep->wanted->addr.port;
    if (result == -EADDRINUSE && server->control_binding != NULL &&
        addr_port(&server->control_binding->addr) == prep->wanted->addr.port)
        prep->plan->closes_control = true; /* another host, the same port */
    note_failed(prep, NULL, result, is_ours);
}

static int prepare_own(struct preparation *prep)
{
    struct server_plan *plan = prep->plan;
    unsigned int changes = prep->diff.changes & ~(unsigned int)CONFIG_CHANGE_RESTART;
    if (prep->server->control_binding == NULL)
        changes |= CONFIG_CHANGE_ADDRESS;
    if ((changes & CONFIG_CHANGE_ADDRESS) != 0)
        prepare_control_port(prep, &changes);
    int result = 0;
    if ((changes & CONFIG_CHANGE_TRANSPORT) != 0)
        result = prepare_keys(prep);
    plan->changes = prep->outcome->changes = changes;
    if (changes == 0 || result < 0)
        return result;
    struct config_peer own = *prep->wanted;
    const struct config_peer *running = server_config(prep->server);
    own.threads = running->threads;
    if ((changes & CONFIG_CHANGE_ADDRESS) == 0)
        own.addr = running->addr;
    return config_peer_copy(&own, &plan->config);
}

/* ---- from here on it can't fail ---- */

static void commit_service(struct preparation *prep, struct server_step *step)
{
    struct service *service = step->service;
    if (step->kind == STEP_REMOVE) {
        service_entry_remove(&service->entry, prep->now_ms + prep->wanted->drain_timeout_ms);
        service_close(service);
    }
    if (step->config != NULL)
        step->config = service_entry_set_config(&service->entry, step->config);
    if (step->binding != NULL) {
        step->new_binding = step->binding;
        step->binding = service_set_binding(service, step->binding);
    }
    if (step->expires)
        service_expire_sessions(service);
    if (step->kind == STEP_CHANGE)
        server_update_service_options(service, prep->wanted);
}

static void commit_own(struct preparation *prep)
{
    struct server *server = prep->server;
    struct server_plan *plan = prep->plan;
    if (plan->config != NULL)
        plan->config = atomic_exchange(&server->config, plan->config);
    if (plan->control_binding != NULL || plan->closes_control) {
        struct binding *old = server->control_binding;
        server->control_binding = plan->control_binding;
        plan->new_control_binding = plan->control_binding;
        plan->control_binding = old;
    }
    if ((plan->changes & CONFIG_CHANGE_TRANSPORT) != 0) {
        struct noise_keys *old = server->noise_keys;
        server->noise_keys = plan->keys;
        plan->new_keys = plan->keys;
        plan->keys = old;
    }
    if ((plan->changes & CONFIG_CHANGE_LIMITS) != 0)
        server_limit_strangers(server, prep->wanted);
    if ((plan->changes & CONFIG_CHANGE_SOCKETS) != 0) {
        server_update_control_options(server->control_binding, prep->wanted);
        for (size_t i = 0; i < prep->running.peer.service_count; i++)
            server_update_service_options(service_of(prep->running.entries[i]), prep->wanted);
    }
}

static void wipe_keys(struct noise_keys *keys)
{
    if (keys != NULL)
        noise_keys_wipe(keys);
    free(keys);
}

static void plan_free(struct server *server, struct server_plan *plan)
{
    for (unsigned int i = 0; plan->engines != NULL && i < server->worker_count; i++)
        noise_engine_destroy(plan->engines[i]);
    free(plan->engines);
    wipe_keys(plan->keys);
    config_peer_free(plan->config);
    binding_destroy(plan->control_binding);
    free(plan->steps);
    free(plan);
}

/* Nothing has been changed: takes back what was made. */
static void abandon(struct preparation *prep)
{
    struct server_plan *plan = prep->plan;
    for (size_t i = 0; i < plan->step_count; i++) {
        struct server_step *step = &plan->steps[i];
        config_service_free(step->config);
        binding_destroy(step->binding);
        if (step->kind == STEP_ADD)
            service_drop(step->service);
    }
    plan_free(prep->server, plan);
}

static int prepare(struct preparation *prep)
{
    struct server_plan *plan = prep->plan = calloc(1, sizeof(*prep->plan));
    if (plan == NULL)
        return -ENOMEM;
    plan->steps = calloc(prep->diff.service_count + 1, sizeof(*plan->steps));
    int result = plan->steps != NULL ? prepare_own(prep) : -ENOMEM;
    if (result == 0)
        result = prepare_services(prep);
    if (result < 0 || (plan->step_count == 0 && plan->changes == 0 && !plan->closes_control)) {
        abandon(prep);
        return result;
    }
    commit_own(prep);
    for (size_t i = 0; i < plan->step_count; i++)
        commit_service(prep, &plan->steps[i]);
    return 1;
}

static int server_reload_begin(void *shared, const struct config_peer *wanted,
                               enum reload_attempt attempt, uint64_t now_ms,
                               struct reload_outcome *ret)
{
    struct server *server = shared;
    struct preparation prep = {
        .server = server,
        .wanted = wanted,
        .outcome = ret,
        .now_ms = now_ms,
        .attempt = attempt,
    };
    *ret = (struct reload_outcome){0};
    int result = service_view_init(&prep.running, &server->services, server_config(server));
    if (result < 0)
        return result;
    result = config_diff(CONFIG_SERVER, &prep.running.peer, wanted, &prep.diff);
    if (result == 0) {
        result = prepare(&prep);
        config_diff_finish(&prep.diff);
    }
    service_view_finish(&prep.running);
    if (result > 0)
        plan_post(&server->plan, prep.plan, server->worker_count);
    return result;
}

/* ---- applying, in each worker ---- */

static void apply_own(struct server_worker *worker, const struct server_plan *plan)
{
    struct tunnel_worker *tunnel = worker->tunnel;
    if (plan->new_control_binding != NULL &&
        server_port_open_all(worker, NULL, plan->new_control_binding, &worker->control_ports) < 0)
        server_part_log_no_memory(worker, NULL);
    if (plan->control_binding != NULL)
        server_port_close_all(&worker->control_ports, plan->control_binding);
    tunnel_use_zerocopy(tunnel, server_config(worker->server)->transport.noise.zerocopy_send);
    if ((plan->changes & CONFIG_CHANGE_TRANSPORT) != 0) {
        /* What has begun here until now has begun with the old keys. */
        server_login_close_all(worker);
        server_control_close_reconfigured(worker);
        tunnel_change_noise(tunnel, plan->new_keys,
                            plan->engines != NULL ? &plan->engines[tunnel->index] : NULL);
    }
    if ((plan->changes & CONFIG_CHANGE_HEARTBEAT) != 0)
        server_control_restart_heartbeats(worker);
}

static void apply_step(struct server_worker *worker, const struct server_step *step)
{
    switch (step->kind) {
    case STEP_ADD:
        if (server_part_start(worker, step->service) < 0)
            server_part_log_no_memory(worker, step->service);
        break;
    case STEP_REMOVE:
        server_part_stop(worker, step->service);
        break;
    case STEP_CHANGE:
        if (step->new_binding != NULL &&
            server_part_rebind(worker, step->service, step->new_binding) < 0)
            server_part_log_no_memory(worker, step->service);
        server_part_review(worker, step->service);
        break;
    }
}

bool server_reload_step(struct server_worker *worker, const struct server_plan *plan, size_t *at)
{
    if (worker->draining) /* which closes all of it */
        return true;
    if (*at == 0)
        apply_own(worker, plan);
    for (unsigned int i = 0; i < PLAN_STEPS_PER_TURN && *at < plan->step_count; i++)
        apply_step(worker, &plan->steps[(*at)++]);
    if (plan->step_count == 0)
        *at = 1; /* not again */
    return *at >= plan->step_count && list_is_empty(&worker->closing_ports) &&
           worker->closing_lanes == 0;
}

/* ---- and afterwards ---- */

static bool server_reload_finish(void *shared)
{
    struct server *server = shared;
    struct server_plan *plan = plan_take_finished(&server->plan);
    if (plan == NULL)
        return false;
    for (size_t i = 0; i < plan->step_count; i++) {
        struct server_step *step = &plan->steps[i];
        config_service_free(step->config);
        service_release_binding(step->service, step->binding);
        if (step->kind == STEP_REMOVE) {
            service_release_binding(step->service, service_set_binding(step->service, NULL));
            service_drop(step->service);
        }
    }
    plan_free(server, plan);
    return true;
}

void server_plan_discard(struct server *server, struct server_plan *plan)
{
    if (plan == NULL)
        return;
    for (size_t i = 0; i < plan->step_count; i++) {
        config_service_free(plan->steps[i].config);
        service_release_binding(plan->steps[i].service, plan->steps[i].binding);
    }
    plan_free(server, plan);
}

static struct plan_slot *server_reload_slot(void *shared)
{
    return &((struct server *)shared)->plan;
}

static bool server_reload_cut_due(void *shared, uint64_t now_ms, uint64_t *ret_next_ms)
{
    return service_registry_cut_due(&((struct server *)shared)->services, now_ms, ret_next_ms);
}

const struct reload_ops server_reload_ops = {
    .begin = server_reload_begin,
    .slot = server_reload_slot,
    .finish = server_reload_finish,
    .cut_due = server_reload_cut_due,
};
