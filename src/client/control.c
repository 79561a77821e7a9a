#include "client/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "client/opening.h"
#include "control_priv.h"

static struct loop *control_loop(const struct client_control *control)
{
    return control->worker->tunnel->loop;
}

void client_control_deadline(struct client_control *control, uint64_t limit_ms)
{
    loop_deadline_start(control_loop(control), &control->timer, limit_ms);
}

void client_control_give_up_turn(struct client_control *control)
{
    if (control->has_turn)
        (void)atomic_fetch_sub(&control->server->logins_in_progress, 1);
    control->has_turn = false;
}

/* ---- the end of an attempt ---- */

/* One control channel of each service is counted as the service's. When it ends, another one takes
 * its place. */
static void control_stop_counting(struct client_control *control)
{
    struct client_control *heir = control;
    list_for_each (node, &control->service->controls) {
        struct client_control *other = container_of(node, struct client_control, service_node);
        if (!control->is_additional && !other->is_additional)
            return;
        if (!control->is_additional)
            heir = other;
    }
    if (heir->is_additional)
        (void)atomic_fetch_sub(&control->worker->client->fds.more_controls, 1);
    heir->is_additional = false;
}

static void control_free(struct client_control *control)
{
    client_control_give_up_turn(control);
    loop_timer_stop(control_loop(control), &control->timer);
    resolver_abandon(control->query);
    client_fsm_finish(&control->fsm);
    list_remove(&control->node);
    list_remove(&control->service_node);
    list_remove(&control->turn_node);
    control_stop_counting(control);
    client_server_drop(control->server);
    client_service_drop(control->service);
    free(control);
}

static void control_wait(struct client_control *control)
{
    uint64_t now_ns = loop_now_ns(control_loop(control));
    uint32_t random;
    keys_random(&random, sizeof(random));
    struct client_attempt attempt = {
        .lived_ms = (now_ns - control->attempt_at_ns) / NS_PER_MS,
        .was_clean = control->was_clean,
    };
    uint64_t wait_ms = client_backoff_next(&control->backoff, &attempt, random);
    control->was_clean = false;
    log_service(LOG_INFO, control_name(control), "next attempt in %llu ms",
                (unsigned long long)wait_ms);
    client_control_set_state(control, CONTROL_WAITING);
    loop_timer_start(control_loop(control), &control->timer, wait_ms);
}

/* The service's peer is one that it still has a session with, if there is any. */
static void control_end_session(struct client_control *control)
{
    struct client_service *service = control->service;
    struct client_session *session = take_ptr(control->session);
    (void)atomic_fetch_sub(&control->worker->client->sessions, 1);
    if (atomic_fetch_sub(&service->servers_up, 1) == 1)
        service_base_note_peer(&service->entry, NULL);
    list_for_each (node, &service->controls) {
        const struct client_session *other =
            container_of(node, struct client_control, service_node)->session;
        if (other != NULL)
            service_base_replace_peer(&service->entry, &session->server, &other->server);
    }
    client_session_end(control->worker, session);
    client_session_drop(session);
}

void client_control_fail(struct client_control *control, int error)
{
    struct tunnel_worker *tunnel = control->worker->tunnel;
    if (!control->stopping && error != -ECANCELED)
        client_control_log_failed(control, error);
    if (error != ERR_RECONFIGURED && error != -ECANCELED) /* those are decisions of ours */
        metrics_add(&tunnel->metrics,
                    control->state == CONTROL_UP ? METRIC_CONTROL_CHANNELS_LOST
                                                 : METRIC_LOGINS_FAILED,
                    1);
    if (control->state == CONTROL_UP && tunnel_is_silence(error))
        service_base_doubt(&control->service->entry);
    control->was_clean = control->state == CONTROL_UP && error == ERR_EOF;
    control->tries_next = client_control_goes_on(control, error);
    if (!control->tries_next)
        client_control_give_up_turn(control);
    loop_timer_stop(tunnel->loop, &control->timer);
    if (control->session != NULL)
        control_end_session(control);
    if (control->has_stream) {
        /* docs/decisions.md, "The control channels of a server that has left are reset" */
        const struct client_worker *worker = control->worker;
        bool is_clean = control->state == CONTROL_UP && error == -ECANCELED &&
                        (worker->draining || worker->leaving);
        client_control_set_state(control, CONTROL_CLOSING);
        stream_terminate(&control->stream, is_clean ? STREAM_CLEAN : STREAM_ABORT);
    } else {
        control_wait(control);
    }
}

static void client_control_closed(struct stream *stream)
{
    struct client_control *control = container_of(stream, struct client_control, stream);
    bool tries_next = control->tries_next && client_control_may_begin(control);
    client_fsm_finish(&control->fsm);
    keys_wipe(&control->action, sizeof(control->action));
    control->has_stream = control->tries_next = false;
    if (!tries_next || control->begins_anew)
        client_control_give_up_turn(control);
    if (control->stopping)
        control_free(control);
    else if (control->begins_anew)
        client_control_begin(control);
    else if (tries_next)
        client_control_try_address(control);
    else
        control_wait(control);
}

static void control_timer_expired(struct timer *timer)
{
    struct client_control *control = container_of(timer, struct client_control, timer);
    const struct config_peer *config = control_config(control);
    switch ((enum control_state)control->state) {
    case CONTROL_WAITING:
        client_control_begin(control);
        break;
    case CONTROL_UP: {
        if (config->heartbeat_timeout_ms == 0)
            break; /* a reload has just set it to 0; this worker has not applied it yet */
        uint64_t silent_ms =
            (loop_now_ns(control_loop(control)) - control->heard_at_ns) / NS_PER_MS;
        if (silent_ms < config->heartbeat_timeout_ms)
            client_control_deadline(control, config->heartbeat_timeout_ms - silent_ms);
        else
            client_control_fail(control, ERR_DEADLINE);
        break;
    }
    case CONTROL_RESOLVING:
        resolver_abandon(control->query);
        control->query = NULL;
        client_control_name_failed(control, ERR_DEADLINE);
        break;
    case CONTROL_CONNECTING:
        control->has_timed_out = true;
        dial_timed_out(&control->dial);
        client_control_connect_failed(control, ERR_DEADLINE);
        break;
    case CONTROL_LOGIN:
        /* The proxy's time is over. The login's begins now, if the proxy has kept to it. */
        if (control->awaits_proxy && !stream_is_at_proxy(&control->stream)) {
            control->awaits_proxy = false;
            client_control_deadline(control, LIMIT_LOGIN_MS);
            break;
        }
        client_control_fail(control, ERR_DEADLINE);
        break;
    case CONTROL_CLOSING:
    case CONTROL_STATE_COUNT:
        break;
    }
}

/* ---- up: commands ---- */

static void control_read_commands(struct client_control *control)
{
    stream_read_some(&control->stream, control->in, sizeof(control->in));
}

static void control_commands(struct client_control *control, size_t size)
{
    struct client_commands commands;
    int result = client_fsm_commands(&control->fsm, control->in, size, &commands);
    if (result < 0) {
        client_control_fail(control, result);
        return;
    }
    if (commands.channels + commands.heartbeats > 0)
        control->heard_at_ns = loop_now_ns(control_loop(control));
    if (commands.channels > 0)
        client_open_channels(control->worker, control->session, commands.channels);
    control_read_commands(control);
}

void client_control_watch_heartbeat(struct client_control *control)
{
    uint32_t timeout_ms = control_config(control)->heartbeat_timeout_ms;
    if (timeout_ms != 0)
        client_control_deadline(control, timeout_ms);
    else
        loop_timer_stop(control_loop(control), &control->timer);
}

static void control_up(struct client_control *control)
{
    struct client_worker *worker = control->worker;
    const struct addr *server = &control->addrs.addrs[control->dial.index];
    control->session = client_session_create(control->service, control->target_id, server,
                                             client_fsm_session_key(&control->fsm));
    if (control->session == NULL) {
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        client_control_fail(control, -ENOMEM);
        return;
    }
    client_control_give_up_turn(control);
    client_control_set_state(control, CONTROL_UP);
    metrics_add(&worker->tunnel->metrics, METRIC_LOGINS, 1);
    client_control_log_up(control, server);
    (void)atomic_fetch_add(&worker->client->sessions, 1);
    client_control_tell_login(control);
    if (atomic_fetch_add(&control->service->servers_up, 1) == 0)
        service_base_note_peer(&control->service->entry, server);
    if (control->server->id == 0)
        client_servers_prefer(&worker->client->servers, control_recipe(control), control->target_id,
                              loop_now_ns(control_loop(control)));
    control->heard_at_ns = loop_now_ns(control_loop(control));
    client_control_watch_heartbeat(control);
    control_read_commands(control);
}

/* ---- login ---- */

static void control_act(struct client_control *control)
{
    switch (control->action.type) {
    case CLIENT_ACTION_SEND:
        stream_read(&control->stream, control->in, client_fsm_wanted(&control->fsm));
        stream_write(&control->stream, control->action.bytes, control->action.len);
        break;
    case CLIENT_ACTION_UP:
        control_up(control);
        break;
    case CLIENT_ACTION_CLOSE:
        client_control_fail(control, control->action.error);
        break;
    case CLIENT_ACTION_COUNT:
        break;
    }
}

static void client_control_read_done(struct stream *stream, int result)
{
    struct client_control *control = container_of(stream, struct client_control, stream);
    if (result < 0) {
        if (control->state == CONTROL_LOGIN && result != ERR_HANDSHAKE)
            result = client_fsm_ended(&control->fsm, result);
        client_control_fail(control, result);
    } else if (control->state == CONTROL_UP) {
        control_commands(control, (size_t)result);
    } else if (stream_is_writing(stream)) {
        /* An answer to a message that is not sent yet. */
        client_control_fail(control, ERR_PROTOCOL);
    } else {
        client_fsm_received(&control->fsm, control->in, (size_t)result, &control->action);
        control_act(control);
    }
}

static void client_control_write_done(struct stream *stream, int result)
{
    struct client_control *control = container_of(stream, struct client_control, stream);
    /* The server may have closed after an Ack that says why; the read finds that. */
    if (result < 0 && !client_fsm_send_failed(&control->fsm, result))
        client_control_fail(control, result);
}

static void control_connected(struct stream *stream, int result)
{
    struct client_control *control = container_of(stream, struct client_control, stream);
    if (result < 0) {
        dial_failed(&control->dial, result);
        client_control_connect_failed(control, result);
        return;
    }
    if (control->dial.index > 0)
        dial_remember(&control->worker->client->memory, &control->addrs.addrs[control->dial.index],
                      loop_now_ns(control_loop(control)));
    client_control_set_state(control, CONTROL_LOGIN);
    control->awaits_proxy = control_recipe(control)->has_proxy;
    client_control_deadline(control, control->awaits_proxy
                                         ? control_config(control)->connect_timeout_ms
                                         : LIMIT_LOGIN_MS);
    const struct recipe_server *target = control_target(control);
    const struct addr *peer = &control->addrs.addrs[control->dial.index];
    result = target != NULL ? tunnel_prepare(control->worker->tunnel, target, peer, stream)
                            : ERR_RECONFIGURED;
    if (result < 0) {
        client_control_fail(control, result);
        return;
    }
    client_fsm_init(&control->fsm);
    const struct config_service *service = client_service_config(control->service);
    client_fsm_start(&control->fsm, service->name, strlen(service->name), service->token,
                     strlen(service->token), &control->action);
    control_act(control);
}

const struct stream_ops client_control_stream_ops = {
    .read_done = client_control_read_done,
    .write_done = client_control_write_done,
    .connected = control_connected,
    .closed = client_control_closed,
};

int client_control_start(struct client_worker *worker, struct client_service *service,
                         struct client_server *server)
{
    struct client_control *control = calloc(1, sizeof(*control));
    if (control == NULL)
        return -ENOMEM;
    control->worker = worker;
    control->service = service;
    control->server = server;
    client_service_use(service);
    client_server_use(server);
    control->is_additional = !list_is_empty(&service->controls);
    if (control->is_additional)
        (void)atomic_fetch_add(&worker->client->fds.more_controls, 1);
    list_push_back(&service->controls, &control->service_node);
    list_init(&control->turn_node);
    timer_init(&control->timer, control_timer_expired);
    client_backoff_init(&control->backoff, client_service_config(service)->retry_interval_ms);
    list_push_back(&worker->controls, &control->node);
    if (server->id == 0) {
        client_control_begin(control);
    } else {
        uint32_t random;
        keys_random(&random, sizeof(random));
        loop_timer_start(control_loop(control), &control->timer, random % LIMIT_LOGIN_SPREAD_MS);
    }
    return 0;
}

void client_control_stop(struct client_control *control)
{
    control->stopping = true;
    list_remove(&control->service_node);
    switch ((enum control_state)control->state) {
    case CONTROL_WAITING:
    case CONTROL_RESOLVING:
        client_control_give_up_turn(control);
        control_free(control);
        break;
    case CONTROL_CONNECTING:
    case CONTROL_LOGIN:
    case CONTROL_UP:
        client_control_fail(control, -ECANCELED);
        break;
    case CONTROL_CLOSING:
    case CONTROL_STATE_COUNT:
        break;
    }
}

void client_control_close_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->controls) {
        client_control_stop(container_of(node, struct client_control, node));
    }
}
