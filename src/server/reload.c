#include "server/reload.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "config/config_copy.h"
#include "io/resolver.h"
#include "reload_priv.h"
#include "server/addresses.h"
#include "server/control.h"
#include "server/descriptors.h"
#include "server/lane.h"
#include "server/listener.h"
#include "server/login.h"
#include "server/on_login.h"
#include "server/service_part.h"
#include "server/session.h"
#include "server/visitor.h"

/* ---- preparing: services ---- */

struct server_step *server_reload_add_step(struct preparation *prep, enum plan_step_kind kind,
                                           struct service *service)
{
    struct server_step *step = &prep->plan->steps[prep->plan->step_count++];
    *step = (struct server_step){.kind = kind, .service = service};
    return step;
}

/* A service that comes and goes with its client is no change of the file, nor is a front. NULL:
 * there is none. */
static unsigned int counted(const struct config_service *config)
{
    return config != NULL && config->bind == CONFIG_BIND_ALWAYS && config->routes == NULL;
}

static int prepare_added(struct preparation *prep, const struct config_service_diff *item)
{
    struct service *service;
    int result = service_part_create_all(prep->server, item->new, &service);
    if (result < 0)
        return result;
    struct binding *binding = NULL;
    if (!item->new->is_routed && server_reload_bind(prep, item, service, &binding) == -ENOMEM) {
        service_drop(service);
        return -ENOMEM;
    }
    (void)service_set_binding(service, binding);
    prep->outcome->added += counted(item->new);
    (void)server_reload_add_step(prep, PLAN_ADD, service);
    return 0;
}

static void prepare_removed(struct preparation *prep, const struct config_service_diff *item,
                            struct service *service)
{
    server_reload_leaves(prep, item->old);
    (void)server_reload_add_step(prep, PLAN_REMOVE, service);
}

/* The type or the number of lanes has changed. A service can't change these, so this plan removes
 * it and the next plan adds it. */
static void prepare_replaced(struct preparation *prep, const struct config_service_diff *item,
                             struct service *service)
{
    prep->outcome->deferred++;
    prep->outcome->replaced += counted(item->new);
    prep->outcome->failed++;
    prepare_removed(prep, item, service);
}

static int prepare_changed(struct preparation *prep, const struct config_service_diff *item,
                           struct service *service)
{
    struct binding *binding = NULL;
    unsigned int changes = item->changes;
    assert(service != NULL);
    bool has_place = service->binding != NULL;
    if ((changes & (CONFIG_CHANGE_TYPE | CONFIG_CHANGE_LANES)) != 0) {
        prepare_replaced(prep, item, service);
        return 0;
    }
    if ((changes & CONFIG_CHANGE_ADDRESS) != 0) {
        int result = server_reload_bind(prep, item, service, &binding);
        if (result == -ENOMEM)
            return result;
        /* It stays as it is, also if it gave its address up and may have to take it back. A service
         * that waits for its first address takes the other changes. */
        if (result < 0 && (has_place || service->move.has_given_up))
            return 0;
        if (!has_place &&
            server_reload_is_same_addr(&service_config(service)->addr, &item->new->addr))
            changes &= ~(unsigned int)CONFIG_CHANGE_ADDRESS;
    }
    if (binding == NULL && changes == 0)
        return 0;
    struct server_step *step = server_reload_add_step(prep, PLAN_CHANGE, service);
    step->binding = binding;
    step->rebinds = binding != NULL;
    step->expires = (changes & CONFIG_CHANGE_TOKEN) != 0;
    step->denies = (changes & CONFIG_CHANGE_ACCESS) != 0;
    step->repaces = item->old->bandwidth != item->new->bandwidth ||
                    item->old->connection_bandwidth != item->new->connection_bandwidth;
    if (changes == 0) {
        prep->outcome->bound++;
        return 0;
    }
    prep->outcome->changed += counted(item->new);
    return config_service_copy(item->new, &step->config);
}

/* Removed services first (their `new` is NULL), then in the file's order: of two services with one
 * address the first gets it. */
static int compare_places(const void *a, const void *b)
{
    const struct config_service *left = ((const struct config_service_diff *)a)->new;
    const struct config_service *right = ((const struct config_service_diff *)b)->new;
    return (left > right) - (left < right);
}

static int prepare_services(struct preparation *prep)
{
    int result = 0;
    qsort(prep->diff.services, prep->diff.service_count, sizeof(*prep->diff.services),
          compare_places);
    for (size_t i = 0; i < prep->diff.service_count && result == 0; i++) {
        const struct config_service_diff *item = &prep->diff.services[i];
        struct service *service =
            item->old != NULL ? service_of(service_view_entry(&prep->running, item->old)) : NULL;
        switch (item->fate) {
        case CONFIG_SERVICE_ADDED:
            result = prepare_added(prep, item);
            break;
        case CONFIG_SERVICE_REMOVED:
            prep->outcome->removed += counted(item->old);
            prepare_removed(prep, item, service);
            break;
        case CONFIG_SERVICE_CHANGED:
            result = prepare_changed(prep, item, service);
            break;
        }
    }
    return result;
}

/* ---- preparing: the server itself ---- */

static int server_prepare_own(struct preparation *prep)
{
    struct server_plan *plan = prep->plan;
    unsigned int changes = prep->diff.changes & ~(unsigned int)CONFIG_CHANGE_RESTART;
    if (prep->server->control_binding == NULL)
        changes |= CONFIG_CHANGE_ADDRESS;
    if ((changes & CONFIG_CHANGE_ADDRESS) != 0 && !server_reload_bind_control(prep))
        changes &= ~(unsigned int)CONFIG_CHANGE_ADDRESS;
    plan->recipe.offered = prep->recipe;
    int result = reload_recipe_prepare(&plan->recipe, CONFIG_SERVER, prep->wanted,
                                       prep->server->recipe, prep->server->worker_count, &changes);
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

/* ---- committing, which can't fail ---- */

static void log_on_login(const struct server_step *step)
{
    const struct service *service = step->service;
    char text[ADDR_TEXT_SIZE];
    if (service_config(service)->bind != CONFIG_BIND_ON_LOGIN || service->binding == NULL ||
        step->kind == PLAN_CHANGE)
        return;
    log_service(LOG_INFO, service_name(service), "bind_addr %s: %s",
                addr_format(&service->binding->addr, text, sizeof(text)),
                step->kind == PLAN_ADD ? "bound for its client" : "given up: it has no client");
}

static void commit_service(struct preparation *prep, struct server_step *step)
{
    struct service *service = step->service;
    log_on_login(step);
    if (step->kind == PLAN_REMOVE) {
        service_base_remove(&service->entry, prep->now_ms + prep->wanted->drain_timeout_ms);
        session_refuse_all(service);
    }
    if (step->config != NULL)
        step->config = service_base_set_config(&service->entry, step->config);
    if (step->repaces)
        service_update_rates(service);
    if (step->binding != NULL)
        addresses_bind_succeeded(service_config(service), step->binding, &service->failures_said);
    if (step->rebinds) {
        service->move.has_given_up = step->binding == NULL;
        step->new_binding = step->binding;
        step->binding = service_set_binding(service, step->binding);
    }
    if (step->expires)
        session_expire_all(service);
    if (step->kind == PLAN_CHANGE)
        server_update_service_options(service, prep->wanted);
}

static void commit_own(struct preparation *prep)
{
    struct server *server = prep->server;
    struct server_plan *plan = prep->plan;
    if (plan->config != NULL)
        plan->config = atomic_exchange(&server->config, plan->config);
    /* Before any epoch changes: login.c reads the epoch first, and then the set's generation. */
    if (plan->ranges != NULL) {
        plan->ranges = atomic_exchange(&server->ranges, plan->ranges);
        on_login_wake(server); /* a service without a client may be bound on login from now on */
    }
    if (plan->control_binding != NULL)
        addresses_bind_succeeded(NULL, plan->control_binding, &server->control_failures_said);
    if (plan->control_binding != NULL || plan->closes_control) {
        struct binding *old = server->control_binding;
        server->control_move.has_given_up = plan->closes_control;
        server->control_binding = plan->control_binding;
        plan->new_control_binding = plan->control_binding;
        plan->control_binding = old;
    }
    reload_recipe_commit(&plan->recipe, &server->recipe);
    if ((plan->changes & CONFIG_CHANGE_LIMITS) != 0)
        server_fds_limit_strangers(server, prep->wanted);
    if ((plan->changes & CONFIG_CHANGE_SOCKETS) != 0) {
        server_update_control_options(server->control_binding, prep->wanted);
        for (size_t i = 0; i < prep->running.peer.service_count; i++)
            server_update_service_options(service_of(prep->running.entries[i]), prep->wanted);
    }
}

static void server_plan_free(struct server_plan *plan)
{
    reload_recipe_finish(&plan->recipe);
    config_peer_free(plan->config);
    binding_destroy(plan->control_binding);
    range_set_destroy(plan->ranges);
    free(plan->steps);
    free(plan);
}

/* Frees a plan that was not committed, with everything that was made for it. */
static void server_plan_abandon(struct preparation *prep)
{
    struct server_plan *plan = prep->plan;
    for (size_t i = 0; i < plan->step_count; i++) {
        struct server_step *step = &plan->steps[i];
        config_service_free(step->config);
        binding_destroy(step->binding);
        if (step->kind == PLAN_ADD)
            service_drop(step->service);
    }
    server_plan_free(plan);
}

static int server_prepare(struct preparation *prep)
{
    struct server_plan *plan = prep->plan = calloc(1, sizeof(*prep->plan));
    if (plan == NULL)
        return -ENOMEM;
    plan->ranges = prep->new_ranges;
    prep->new_ranges = NULL;
    plan->steps = calloc(prep->diff.service_count + 1, sizeof(*plan->steps));
    int result = plan->steps != NULL ? server_reload_begin_places(prep) : -ENOMEM;
    if (result == 0)
        result = server_prepare_own(prep);
    if (result == 0)
        result = prepare_services(prep);
    if (result == 0)
        server_reload_settle(prep);
    bool is_empty = plan->step_count == 0 && plan->changes == 0 && !plan->closes_control &&
                    plan->control_binding == NULL && plan->ranges == NULL;
    /* An empty plan that defers something would be followed by the same plan, without end. */
    assert(result < 0 || !is_empty || prep->outcome->deferred == 0);
    if (result < 0 || is_empty)
        server_plan_abandon(prep);
    if (result < 0)
        return result;
    if (!is_empty) {
        commit_own(prep);
        for (size_t i = 0; i < plan->step_count; i++)
            commit_service(prep, &plan->steps[i]);
    }
    server_reload_log_failures(prep);
    return !is_empty;
}

static int server_reload_begin(void *shared, const struct config_peer *wanted,
                               struct recipe *recipe, enum reload_attempt attempt, uint64_t now_ms,
                               struct reload_outcome *ret)
{
    struct server *server = shared;
    struct preparation prep = {
        .server = server,
        .wanted = wanted,
        .recipe = recipe,
        .outcome = ret,
        .now_ms = now_ms,
        .attempt = attempt,
    };
    *ret = (struct reload_outcome){0};
    int result = on_login_prepare(server, wanted, ret, &prep.new_ranges);
    if (result == 0)
        result = server_reload_compare(&prep, true);
    if (result < 0)
        return result;
    result = server_prepare(&prep);
    free(prep.places);
    server_reload_compared(&prep);
    server_count_unbound(server);
    server_fds_count_fixed(server);
    if (result > 0)
        plan_post(&server->plan, prep.plan, server->worker_count);
    return result;
}

/* ---- applying, in each worker ---- */

static void server_apply_own(struct server_worker *worker, const struct server_plan *plan)
{
    if (plan->new_control_binding != NULL &&
        listener_open_all(worker, NULL, plan->new_control_binding, login_begin,
                          &worker->control_ports) < 0)
        service_part_log_no_memory(worker, NULL);
    if (plan->control_binding != NULL)
        listener_close_all(&worker->control_ports, plan->control_binding);
    if ((plan->changes & CONFIG_CHANGE_TRANSPORT) != 0) {
        /* These logins and control channels have begun with the old keys. */
        login_close_all(worker);
        server_control_close_reconfigured(worker);
    }
    reload_recipe_apply(&plan->recipe, worker->tunnel);
    if ((plan->changes & CONFIG_CHANGE_HEARTBEAT) != 0)
        server_control_restart_heartbeats(worker);
    if ((plan->changes & CONFIG_CHANGE_ACCESS) != 0)
        server_control_close_denied(worker);
}

static void server_apply_step(struct server_worker *worker, const struct server_step *step)
{
    switch (step->kind) {
    case PLAN_ADD:
        if (service_part_start(worker, step->service) < 0)
            service_part_log_no_memory(worker, step->service);
        break;
    case PLAN_REMOVE:
        service_part_stop(worker, step->service);
        break;
    case PLAN_CHANGE:
        if (step->rebinds && service_part_rebind(worker, step->service, step->new_binding) < 0)
            service_part_log_no_memory(worker, step->service);
        service_part_review(worker, step->service);
        if (step->denies)
            lane_review_access(worker, step->service);
        if (step->repaces)
            visitor_review_rates(worker, step->service);
        break;
    }
}

static bool server_reload_go_on(struct plan_walk *walk)
{
    struct server_worker *worker = container_of(walk, struct server_worker, plan_walk);
    const struct server_plan *plan = plan_current(walk->slot);
    if (worker->draining) /* draining closes everything anyway */
        return true;
    if (walk->at == 0)
        server_apply_own(worker, plan);
    bool is_new = walk->at == 0 || walk->at < plan->step_count;
    for (unsigned int i = 0; i < PLAN_STEPS_PER_TURN && walk->at < plan->step_count; i++)
        server_apply_step(worker, &plan->steps[walk->at++]);
    if (plan->step_count == 0)
        walk->at = 1; /* server_apply_own must not run again */
    if (is_new && walk->at >= plan->step_count)
        login_review_awaiting(worker); /* their services may exist now */
    return walk->at >= plan->step_count && list_is_empty(&worker->closing_ports) &&
           worker->closing_lanes == 0;
}

void server_reload_init(struct server_worker *worker)
{
    plan_walk_init(&worker->plan_walk, &worker->server->plan, worker->tunnel->loop,
                   server_reload_go_on);
}

/* ---- when all workers have finished the plan ---- */

static bool server_reload_finish(void *shared)
{
    struct server *server = shared;
    struct server_plan *plan = plan_take_finished(&server->plan);
    if (plan == NULL)
        return false;
    service_registry_settle(&server->services);
    for (size_t i = 0; i < plan->step_count; i++) {
        struct server_step *step = &plan->steps[i];
        config_service_free(step->config);
        service_release_binding(step->service, step->binding);
        if (step->kind == PLAN_REMOVE) {
            service_release_binding(step->service, service_set_binding(step->service, NULL));
            service_drop(step->service);
        }
    }
    server_plan_free(plan);
    return true;
}

void server_plan_discard(struct server_plan *plan)
{
    if (plan == NULL)
        return;
    for (size_t i = 0; i < plan->step_count; i++) {
        config_service_free(plan->steps[i].config);
        service_release_binding(plan->steps[i].service, plan->steps[i].binding);
    }
    server_plan_free(plan);
}

void server_plan_leave_addresses(struct server_plan *plan)
{
    if (plan == NULL)
        return;
    binding_leave(plan->control_binding);
    for (size_t i = 0; i < plan->step_count; i++)
        binding_leave(plan->steps[i].binding);
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
    .look_up = server_reload_look_up,
    .has_looked_up = server_reload_has_looked_up,
    .names_fd = server_reload_names_fd,
    .begin = server_reload_begin,
    .slot = server_reload_slot,
    .on_login_fd = on_login_fd,
    .on_login_due = on_login_due,
    .finish = server_reload_finish,
    .cut_due = server_reload_cut_due,
};
