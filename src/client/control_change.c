/* How control channels follow a change. A reload has them log in again, or applies a setting. A
 * handover (tunnel/handover.h) holds, releases or retires them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "control_priv.h"

enum { FOLLOW_AGAIN_MS = 1000 }; /* out of memory */

/* ---- a reload ---- */

static void control_log_in_again(struct client_control *control)
{
    if (control->stopping)
        return;
    switch ((enum control_state)control->state) {
    case CONTROL_WAITING:
        client_control_begin(control);
        break;
    case CONTROL_RESOLVING:
        resolver_abandon(control->query);
        control->query = NULL;
        client_control_give_up_turn(control);
        client_control_begin(control);
        break;
    case CONTROL_CONNECTING:
    case CONTROL_LOGIN:
    case CONTROL_UP:
        control->begins_anew = true;
        client_control_fail(control, ERR_RECONFIGURED);
        break;
    case CONTROL_CLOSING:
        control->begins_anew = true;
        break;
    case CONTROL_STATE_COUNT:
        break;
    }
}

void client_control_review(struct client_service *service, bool logs_in)
{
    list_for_each_safe (node, &service->controls) {
        struct client_control *control = container_of(node, struct client_control, service_node);
        client_backoff_init(&control->backoff, client_service_config(service)->retry_interval_ms);
        if (logs_in)
            control_log_in_again(control);
    }
}

void client_control_leave_removed(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state != CONTROL_UP || control_target(control) == NULL)
            control_log_in_again(control); /* perhaps by another name that has the same address */
    }
}

void client_control_log_in_all_again(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        control_log_in_again(container_of(node, struct client_control, node));
    }
}

void client_control_review_heartbeats(struct client_worker *worker)
{
    list_for_each (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state == CONTROL_UP)
            client_control_watch_heartbeat(control);
    }
}

/* ---- the set of servers ---- */

static bool is_in_set(const struct client_server *server, struct client_server *const *set,
                      size_t count)
{
    bool found = false;
    for (size_t i = 0; i < count; i++)
        found |= set[i] == server;
    return found;
}

/* Whether the control channel is up with this server, though by another entry: `servers` has
 * changed. */
static bool is_up_with(const struct client_control *control, const struct client_server *server)
{
    const struct client_session *session = control->session;
    if (session == NULL || control_target(control) == NULL)
        return false; /* not up, or with a name that was removed */
    if (server->id == 0)
        return true;
    return session->server_id == server->id &&
           (server->addr.len == 0 || addr_equal(&session->server, &server->addr));
}

/* The service's control channel for an entry of the set, perhaps one that is given to it here: of
 * several the one whose name comes first. NULL: there is none. */
static struct client_control *find_control(const struct client_service *service,
                                           struct client_server *server,
                                           struct client_server *const *set, size_t count)
{
    struct client_control *other = NULL;
    list_for_each (node, &service->controls) {
        struct client_control *control = container_of(node, struct client_control, service_node);
        if (control->server == server)
            return control;
        bool is_better = other == NULL || control_target(control) < control_target(other);
        if (is_better && !is_in_set(control->server, set, count) && is_up_with(control, server))
            other = control;
    }
    if (other != NULL) {
        client_server_use(server);
        client_server_drop(other->server);
        other->server = server;
    }
    return other;
}

/* Makes the control channels of a service those of the set. -ENOMEM: some are missing. */
static int control_follow(struct client_worker *worker, struct client_service *service)
{
    struct client_server *set[LIMIT_SERVERS];
    bool is_missing[LIMIT_SERVERS];
    if (worker->draining || worker->leaving)
        return 0;
    size_t count = client_servers_list(&worker->client->servers, set);
    for (size_t i = 0; i < count; i++)
        is_missing[i] = find_control(service, set[i], set, count) == NULL;
    list_for_each_safe (node, &service->controls) {
        struct client_control *control = container_of(node, struct client_control, service_node);
        if (!is_in_set(control->server, set, count))
            client_control_stop(control);
    }
    int result = 0;
    for (size_t i = 0; i < count; i++) {
        if (is_missing[i] && result == 0)
            result = client_control_start(worker, service, set[i]);
        client_server_drop(set[i]);
    }
    return result;
}

int client_control_add(struct client_worker *worker, struct client_service *service)
{
    list_push_back(&worker->services, &service->worker_node);
    return control_follow(worker, service);
}

void client_control_remove(struct client_service *service)
{
    list_remove(&service->worker_node);
    list_for_each_safe (node, &service->controls) {
        client_control_stop(container_of(node, struct client_control, service_node));
    }
}

static void follow_next(struct timer *timer)
{
    struct client_worker *worker = container_of(timer, struct client_worker, follow_timer);
    uint64_t delay_ms = 0;
    for (unsigned int i = 0; i < PLAN_STEPS_PER_TURN && worker->follow_left > 0; i++) {
        struct list *node = list_pop_front(&worker->services);
        if (node == NULL)
            worker->follow_left = 1; /* services were removed meanwhile */
        else
            list_push_back(&worker->services, node); /* so that the next one comes next */
        worker->follow_left--;
        if (node == NULL ||
            control_follow(worker, container_of(node, struct client_service, worker_node)) == 0)
            continue;
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        list_remove(node);
        list_push_front(&worker->services, node); /* once more */
        worker->follow_left++;
        delay_ms = FOLLOW_AGAIN_MS;
        break;
    }
    if (worker->follow_left > 0)
        loop_timer_start(worker->tunnel->loop, &worker->follow_timer, delay_ms);
}

void client_control_init_follow(struct client_worker *worker)
{
    timer_init(&worker->follow_timer, follow_next);
}

void client_control_follow_all(struct client_worker *worker)
{
    worker->follow_left = 0;
    list_for_each (node, &worker->services)
        worker->follow_left++;
    follow_next(&worker->follow_timer);
}

/* ---- a handover ---- */

/* Gives up an attempt in progress. The state becomes WAITING, and client_control_begin does nothing
 * until the handover is over. */
static void control_hold(struct client_control *control)
{
    switch ((enum control_state)control->state) {
    case CONTROL_RESOLVING:
        resolver_abandon(control->query);
        control->query = NULL;
        client_control_fail(control, -ECANCELED);
        break;
    case CONTROL_CONNECTING:
    case CONTROL_LOGIN:
        client_control_fail(control, -ECANCELED);
        break;
    case CONTROL_WAITING:
    case CONTROL_UP:
    case CONTROL_CLOSING:
    case CONTROL_STATE_COUNT:
        break;
    }
}

void client_control_hold_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        control_hold(container_of(node, struct client_control, node));
    }
}

void client_control_release_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state == CONTROL_WAITING && !control->timer.armed)
            client_control_begin(control);
    }
}

/* The service and the server, alike in two processes. With servers = first any server counts: a
 * client is at one. */
static uint64_t login_of(const struct client_control *control)
{
    uint8_t digest[KEYS_DIGEST_SIZE];
    char text[KEYS_DIGEST_SIZE + ADDR_HOST_SIZE + ADDR_TEXT_SIZE] = {0};
    char *server = text + KEYS_DIGEST_SIZE;
    size_t room = sizeof(text) - KEYS_DIGEST_SIZE;
    const char *name = control_name(control);
    const struct recipe_server *target = control_target(control);
    uint64_t login;
    keys_service_digest(name, strlen(name), (uint8_t *)text);
    if (control->server->addr.len != 0)
        (void)addr_format(&control->server->addr, server, room);
    else if (control->server->id != 0 && target != NULL) /* a name that only the proxy looks up */
        (void)host_port_format(&target->addr, server, room);
    keys_service_digest(text, sizeof(text), digest);
    memcpy(&login, digest, sizeof(login));
    return login;
}

void client_control_tell_login(const struct client_control *control)
{
    const struct handover *handover = &control->worker->client->handover;
    handover_tell_login(handover, login_of(control));
}

void client_control_retire_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state != CONTROL_UP) {
            client_control_stop(control);
            continue;
        }
        control->stopping = true;
        control->login = login_of(control);
    }
}

void client_control_succeeded(struct client_worker *worker, uint64_t login)
{
    list_for_each_safe (node, &worker->controls) {
        struct client_control *control = container_of(node, struct client_control, node);
        if (control->state == CONTROL_UP && control->stopping && control->login == login)
            client_control_stop(control);
    }
}
