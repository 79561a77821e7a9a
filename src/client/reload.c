#include "client/reload.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "client/client_worker.h"
#include "client/control.h"
#include "client/data_channel.h"
#include "client/forward.h"
#include "config/config_copy.h"
#include "config/config_diff.h"
#include "tunnel/reload_recipe.h"

struct client_step {
    enum plan_step_kind kind;
    struct client_service *service;
    const struct config_service *config; /* the new one before commit, the old one after it */
    unsigned int changes;                /* enum config_change */
};

struct client_plan {
    struct client_step *steps;
    size_t step_count;
    /* The client's own settings, likewise. */
    unsigned int changes;
    const struct config_peer *config;
    struct reload_recipe recipe;
};

/* ---- preparing ---- */

static int prepare_service(struct client *client, struct client_plan *plan,
                           const struct service_view *running,
                           const struct config_service_diff *item, struct reload_outcome *outcome)
{
    struct client_step *step = &plan->steps[plan->step_count];
    *step = (struct client_step){.changes = item->changes};
    int result = 0;
    if (item->old != NULL)
        step->service = client_service_of(service_view_entry(running, item->old));
    if (item->fate == CONFIG_SERVICE_ADDED) {
        step->kind = PLAN_ADD;
        result = client_service_create(&client->services, item->new, client->worker_count,
                                       &step->service);
        if (result == 0)
            step->service->worker = client->next_control++ % client->worker_count;
        outcome->added++;
    } else if (item->fate == CONFIG_SERVICE_REMOVED) {
        step->kind = PLAN_REMOVE;
        outcome->removed++;
    } else if ((item->changes & CONFIG_CHANGE_TYPE) != 0) {
        step->kind = PLAN_REMOVE; /* a change of type: removed now, added by the next plan */
        outcome->failed++;
        outcome->deferred++;
        outcome->replaced++;
    } else {
        step->kind = PLAN_CHANGE;
        result = config_service_copy(item->new, &step->config);
        outcome->changed++;
    }
    if (result == 0)
        plan->step_count++;
    return result;
}

static int client_prepare_own(const struct client *client, struct client_plan *plan,
                              const struct config_peer *wanted)
{
    int result = reload_recipe_prepare(&plan->recipe, CONFIG_CLIENT, wanted, client->recipe,
                                       client->worker_count, &plan->changes);
    if (plan->changes == 0 || result < 0)
        return result;
    struct config_peer own = *wanted;
    own.threads = client_config(client)->threads;
    return config_peer_copy(&own, &plan->config);
}

static void client_plan_free(struct client_plan *plan)
{
    reload_recipe_finish(&plan->recipe);
    config_peer_free(plan->config);
    for (size_t i = 0; i < plan->step_count; i++)
        config_service_free(plan->steps[i].config);
    free(plan->steps);
    free(plan);
}

/* Frees a plan that was not committed, with the services made for it. */
static void client_plan_abandon(struct client_plan *plan)
{
    for (size_t i = 0; i < plan->step_count; i++) {
        if (plan->steps[i].kind == PLAN_ADD)
            client_service_drop(plan->steps[i].service);
    }
    client_plan_free(plan);
}

/* Makes the prepared changes. Can't fail. */
static void commit(struct client *client, struct client_plan *plan,
                   const struct config_peer *wanted, uint64_t now_ms)
{
    if (plan->config != NULL)
        plan->config = atomic_exchange(&client->config, plan->config);
    client_fds_configure(&client->fds, wanted, client->worker_count);
    reload_recipe_commit(&plan->recipe, &client->recipe);
    for (size_t i = 0; i < plan->step_count; i++) {
        struct client_step *step = &plan->steps[i];
        if (step->kind == PLAN_REMOVE)
            service_base_remove(&step->service->entry, now_ms + wanted->drain_timeout_ms);
        if (step->config != NULL)
            step->config = service_base_set_config(&step->service->entry, step->config);
    }
}

static int client_prepare(struct client *client, const struct config_peer *wanted,
                          struct recipe *recipe, const struct service_view *running,
                          const struct config_diff *diff, struct reload_outcome *outcome,
                          struct client_plan **ret)
{
    struct client_plan *plan = calloc(1, sizeof(*plan));
    if (plan == NULL)
        return -ENOMEM;
    plan->changes = diff->changes & ~(unsigned int)CONFIG_CHANGE_RESTART;
    plan->recipe.offered = recipe;
    plan->steps = calloc(diff->service_count + 1, sizeof(*plan->steps));
    int result = plan->steps != NULL ? client_prepare_own(client, plan, wanted) : -ENOMEM;
    outcome->changes = plan->changes;
    for (size_t i = 0; i < diff->service_count && result == 0; i++)
        result = prepare_service(client, plan, running, &diff->services[i], outcome);
    if (result < 0 || (plan->step_count == 0 && plan->changes == 0)) {
        client_plan_abandon(plan);
        return result;
    }
    *ret = plan;
    return 1;
}

static int client_reload_begin(void *shared, const struct config_peer *wanted,
                               struct recipe *recipe, enum reload_attempt attempt, uint64_t now_ms,
                               struct reload_outcome *ret)
{
    struct client *client = shared;
    struct service_view running;
    struct config_diff diff;
    struct client_plan *plan = NULL;
    *ret = (struct reload_outcome){0};
    int result = service_view_init(&running, &client->services, client_config(client));
    if (result < 0)
        return result;
    result = config_diff(CONFIG_CLIENT, &running.peer, wanted, &diff);
    if (result == 0) {
        result = client_prepare(client, wanted, recipe, &running, &diff, ret, &plan);
        if (plan != NULL)
            commit(client, plan, wanted, now_ms);
        config_diff_finish(&diff);
    }
    service_view_finish(&running);
    if (plan != NULL)
        plan_post(&client->plan, plan, client->worker_count);
    return result;
}

/* ---- applying, in each worker ---- */

static void client_apply_own(struct client_worker *worker, const struct client_plan *plan)
{
    const unsigned int servers_changes = /* names, their ids, settings */
        CONFIG_CHANGE_TRANSPORT | CONFIG_CHANGE_ADDRESS | CONFIG_CHANGE_LIMITS;
    struct client_servers *servers = &worker->client->servers;
    if ((plan->changes & CONFIG_CHANGE_SOCKETS) != 0)
        client_set_channel_options(worker);
    if ((plan->changes & CONFIG_CHANGE_TRANSPORT) != 0)
        data_channel_close_unstarted(worker); /* they use the old keys */
    reload_recipe_apply(&plan->recipe, worker->tunnel);
    if ((plan->changes & CONFIG_CHANGE_TRANSPORT) != 0)
        client_control_log_in_all_again(worker);
    else if ((plan->changes & CONFIG_CHANGE_ADDRESS) != 0)
        client_control_leave_removed(worker);
    if ((plan->changes & servers_changes) != 0 && worker->tunnel->index == 0 &&
        servers->worker != NULL)
        client_servers_configure(servers, worker->tunnel->recipe, client_config(worker->client));
    if ((plan->changes & CONFIG_CHANGE_HEARTBEAT) != 0)
        client_control_review_heartbeats(worker);
}

static void apply_local_addr(struct client_worker *worker, struct client_service *service)
{
    client_local_forget(&service->locals[worker->tunnel->index]);
    forward_change_local(worker, service);
}

static void client_apply_step(struct client_worker *worker, const struct client_step *step)
{
    struct client_service *service = step->service;
    bool has_control = service->worker == worker->tunnel->index;
    switch (step->kind) {
    case PLAN_ADD:
        if (has_control && client_control_add(worker, service) < 0) {
            metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
            log_service(LOG_ERROR, client_service_name(service),
                        "out of memory: not served until a restart");
        }
        break;
    case PLAN_REMOVE:
        if (has_control)
            client_control_remove(service);
        forward_close_of(worker, service);
        break;
    case PLAN_CHANGE:
        if ((step->changes & CONFIG_CHANGE_ADDRESS) != 0)
            apply_local_addr(worker, service);
        forward_review_timeout(worker, service);
        if (has_control)
            client_control_review(service, (step->changes & CONFIG_CHANGE_TOKEN) != 0);
        break;
    }
}

static bool client_reload_go_on(struct plan_walk *walk)
{
    struct client_worker *worker = container_of(walk, struct client_worker, plan_walk);
    const struct client_plan *plan = plan_current(walk->slot);
    if (worker->draining)
        return true;
    if (walk->at == 0)
        client_apply_own(worker, plan);
    for (unsigned int i = 0; i < PLAN_STEPS_PER_TURN && walk->at < plan->step_count; i++)
        client_apply_step(worker, &plan->steps[walk->at++]);
    return walk->at >= plan->step_count;
}

void client_reload_init(struct client_worker *worker)
{
    plan_walk_init(&worker->plan_walk, &worker->client->plan, worker->tunnel->loop,
                   client_reload_go_on);
}

/* ---- when all workers have applied it ---- */

static bool client_reload_finish(void *shared)
{
    struct client *client = shared;
    struct client_plan *plan = plan_take_finished(&client->plan);
    if (plan == NULL)
        return false;
    service_registry_settle(&client->services);
    for (size_t i = 0; i < plan->step_count; i++) {
        if (plan->steps[i].kind == PLAN_REMOVE)
            client_service_drop(plan->steps[i].service);
    }
    client_plan_free(plan);
    return true;
}

void client_plan_discard(struct client_plan *plan)
{
    if (plan != NULL)
        client_plan_free(plan);
}

static struct plan_slot *client_reload_slot(void *shared)
{
    return &((struct client *)shared)->plan;
}

static bool client_reload_cut_due(void *shared, uint64_t now_ms, uint64_t *ret_next_ms)
{
    return service_registry_cut_due(&((struct client *)shared)->services, now_ms, ret_next_ms);
}

/* ---- names: each worker looks up what it needs ---- */

static void client_reload_look_up(void *shared, const struct config_peer *wanted)
{
}

static bool client_reload_has_looked_up(void *shared)
{
    return true;
}

static int client_reload_names_fd(void *shared)
{
    return -1;
}

/* ---- a client has no services that come and go ---- */

static bool client_on_login_due(void *shared, uint64_t now_ms, uint64_t *ret_next_ms)
{
    *ret_next_ms = UINT64_MAX;
    return false;
}

const struct reload_ops client_reload_ops = {
    .look_up = client_reload_look_up,
    .has_looked_up = client_reload_has_looked_up,
    .names_fd = client_reload_names_fd,
    .begin = client_reload_begin,
    .slot = client_reload_slot,
    .on_login_fd = client_reload_names_fd,
    .on_login_due = client_on_login_due,
    .finish = client_reload_finish,
    .cut_due = client_reload_cut_due,
};
