#include "client/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "client/opening.h"
#include "control_priv.h"

enum { LOGIN_TURN_MS = 50 }; /* between two tries to get a turn to log in */

static void control_try_address(struct client_control *control);

static struct loop *control_loop(const struct client_control *control)
{
    return control->worker->tunnel->loop;
}

/* Starts the time limit of a step. */
static void step_deadline(struct client_control *control, uint64_t limit_ms)
{
    loop_deadline_start(control_loop(control), &control->timer, limit_ms);
}

void client_control_give_up_turn(struct client_control *control)
{
    if (control->has_turn)
        (void)atomic_fetch_sub(&control->worker->client->logins_in_progress, 1);
    control->has_turn = false;
}

/* ---- the end of an attempt ---- */

static void control_free(struct client_control *control)
{
    client_control_give_up_turn(control);
    loop_timer_stop(control_loop(control), &control->timer);
    resolver_abandon(control->query);
    client_fsm_finish(&control->fsm);
    list_remove(&control->node);
    control->service->control = NULL;
    client_service_drop(control->service);
    free(control);
}

/* No attempt begins during a handover. */
static bool may_begin(const struct client_control *control)
{
    return handover_phase(&control->worker->client->handover) == HANDOVER_SERVING;
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

void client_control_fail(struct client_control *control, int error)
{
    struct tunnel_worker *tunnel = control->worker->tunnel;
    if (!control->stopping && error != -ECANCELED)
        client_control_log_failed(control, error);
    if (control->state == CONTROL_UP && error != ERR_RECONFIGURED)
        metrics_add(&tunnel->metrics, METRIC_CONTROL_CHANNELS_LOST, 1);
    else if (error != ERR_RECONFIGURED)
        metrics_add(&tunnel->metrics, METRIC_LOGINS_FAILED, 1);
    if (control->state == CONTROL_UP && tunnel_is_silence(error))
        service_base_doubt(&control->service->entry);
    control->was_clean = control->state == CONTROL_UP && error == ERR_EOF;
    client_control_give_up_turn(control);
    loop_timer_stop(tunnel->loop, &control->timer);
    if (control->session != NULL) {
        service_base_note_peer(&control->service->entry, NULL);
        client_session_end(control->worker, control->session);
        client_session_drop(control->session);
        control->session = NULL;
    }
    if (control->has_stream) {
        bool is_clean = control->state == CONTROL_UP && error == -ECANCELED; /* we stop */
        client_control_set_state(control, CONTROL_CLOSING);
        stream_terminate(&control->stream, is_clean ? STREAM_CLEAN : STREAM_ABORT);
    } else {
        control_wait(control);
    }
}

static void client_control_closed(struct stream *stream)
{
    struct client_control *control = container_of(stream, struct client_control, stream);
    bool tries_next = control->tries_next && may_begin(control);
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
        control_try_address(control);
    else
        control_wait(control);
}

static void log_address_failed(const struct client_control *control, int error)
{
    char text[ADDR_TEXT_SIZE];
    if (control->addrs.count > 1 && control->dial.round == 0)
        log_service(LOG_INFO, control_name(control), "cannot connect to %s: %s",
                    addr_format(&control->addrs.addrs[control->dial.index], text, sizeof(text)),
                    error_text(error));
}

/* Gives up this address; client_control_closed tries the next one. */
static void control_connect_failed(struct client_control *control, int error)
{
    log_address_failed(control, error);
    client_control_set_state(control, CONTROL_CLOSING);
    control->tries_next = true;
    loop_timer_stop(control_loop(control), &control->timer);
    stream_terminate(&control->stream, STREAM_ABORT);
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
            step_deadline(control, config->heartbeat_timeout_ms - silent_ms);
        else
            client_control_fail(control, ERR_DEADLINE);
        break;
    }
    case CONTROL_RESOLVING:
        resolver_abandon(control->query);
        control->query = NULL;
        client_control_fail(control, ERR_DEADLINE);
        break;
    case CONTROL_CONNECTING:
        dial_timed_out(&control->dial);
        control_connect_failed(control, ERR_DEADLINE);
        break;
    case CONTROL_LOGIN:
        /* The proxy's time is over. The login's begins now, if the proxy has kept to it. */
        if (control->awaits_proxy && !stream_is_at_proxy(&control->stream)) {
            control->awaits_proxy = false;
            step_deadline(control, LIMIT_LOGIN_MS);
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
        step_deadline(control, timeout_ms);
    else
        loop_timer_stop(control_loop(control), &control->timer);
}

static void control_up(struct client_control *control)
{
    struct client_worker *worker = control->worker;
    const struct addr *server = &control->addrs.addrs[control->dial.index];
    control->session = client_session_create(control->service, &control_recipe(control)->dialled,
                                             server, client_fsm_session_key(&control->fsm));
    if (control->session == NULL) {
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        client_control_fail(control, -ENOMEM);
        return;
    }
    client_control_give_up_turn(control);
    client_control_set_state(control, CONTROL_UP);
    metrics_add(&worker->tunnel->metrics, METRIC_LOGINS, 1);
    client_control_log_up(control, server);
    service_base_note_peer(&control->service->entry, server);
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
        control_connect_failed(control, result);
        return;
    }
    if (control->dial.index > 0)
        dial_remember(&control->worker->client->memory, &control->addrs.addrs[control->dial.index],
                      loop_now_ns(control_loop(control)));
    client_control_set_state(control, CONTROL_LOGIN);
    control->awaits_proxy = control_recipe(control)->has_proxy;
    step_deadline(control, control->awaits_proxy ? control_config(control)->connect_timeout_ms
                                                 : LIMIT_LOGIN_MS);
    result = tunnel_prepare(control->worker->tunnel, stream);
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

static const struct stream_ops control_stream_ops = {
    .read_done = client_control_read_done,
    .write_done = client_control_write_done,
    .connected = control_connected,
    .closed = client_control_closed,
};

/* ---- the beginning of an attempt ---- */

static void control_connect(struct client_control *control, const struct addr *addr, int fd)
{
    socket_set_nodelay(fd, true);
    step_deadline(control, control->dial.step_ms);
    stream_init(&control->stream, control_loop(control), fd, &control_stream_ops);
    control->has_stream = true;
    stream_connect(&control->stream, addr);
}

/* Connects to the next address that a socket can be made for. */
static void control_try_address(struct client_control *control)
{
    struct socket_options options = control->worker->channel_options;
    options.user_timeout_ms = LIMIT_USER_TIMEOUT_MS;
    options.speaks_first = true;
    client_control_set_state(control, CONTROL_CONNECTING);
    while (dial_next(&control->dial, loop_now_ns(control_loop(control)))) {
        const struct addr *addr = &control->addrs.addrs[control->dial.index];
        int fd = client_fds_dial(control->worker, addr, &options, INT32_MAX);
        if (fd >= 0) {
            control_connect(control, addr, fd);
            return;
        }
        dial_failed(&control->dial, fd);
        log_address_failed(control, fd);
        if (!socket_error_is_of_address(fd))
            break;
    }
    client_control_fail(control, control->dial.error);
}

static void control_resolved(void *asker, const struct resolver_answer *answer)
{
    struct client_control *control = asker;
    control->query = NULL;
    if (answer->error < 0) {
        client_control_fail(control, answer->error);
        return;
    }
    uint64_t now_ns = loop_now_ns(control_loop(control));
    control->addrs = *answer;
    (void)dial_put_first(&control->worker->client->memory, &control->addrs, now_ns);
    dial_begin(&control->dial, control_config(control)->connect_timeout_ms, now_ns);
    dial_addresses(&control->dial, control->addrs.count, now_ns);
    control_try_address(control);
}

/* Limits the logins in progress, so that a client with hundreds of services stays below the
 * server's limit for one address (server/gate.h). */
static bool take_turn(struct client_control *control)
{
    _Atomic unsigned int *in_progress = &control->worker->client->logins_in_progress;
    if (atomic_fetch_add(in_progress, 1) < LIMIT_LOGINS_IN_PROGRESS) {
        control->has_turn = true;
        return true;
    }
    (void)atomic_fetch_sub(in_progress, 1);
    return false;
}

void client_control_begin(struct client_control *control)
{
    struct client_worker *worker = control->worker;
    const struct config_peer *config = control_config(control);
    control->begins_anew = control->tries_next = false;
    client_control_set_state(control, CONTROL_WAITING);
    if (!may_begin(control))
        return; /* client_control_release_all calls again */
    if (!take_turn(control)) {
        loop_timer_start(control_loop(control), &control->timer, LOGIN_TURN_MS);
        return;
    }
    control->attempt_at_ns = loop_now_ns(control_loop(control));
    client_control_set_state(control, CONTROL_RESOLVING);
    /* Not from the configuration, which may already be that of a reload: a password for one proxy
     * must not reach another. */
    const struct host_port *dialled = &control_recipe(control)->dialled;
    struct resolver_answer answer;
    memset(&answer, 0, sizeof(answer));
    if (addr_from_numeric(dialled, &answer.addrs[0])) {
        answer.count = 1;
        control_resolved(control, &answer);
        return;
    }
    step_deadline(control, LIMIT_LOGIN_MS);
    bool prefer_ipv6 = config->prefer_ipv6 || client_service_config(control->service)->prefer_ipv6;
    control->query = resolver_ask(worker->tunnel->all->resolver, dialled, prefer_ipv6,
                                  worker->tunnel->mailbox, control_resolved, control);
    if (control->query == NULL)
        client_control_fail(control, -ENOMEM);
}

int client_control_start(struct client_worker *worker, struct client_service *service)
{
    struct client_control *control = calloc(1, sizeof(*control));
    if (control == NULL)
        return -ENOMEM;
    control->worker = worker;
    control->service = service;
    client_service_use(service);
    service->control = control;
    timer_init(&control->timer, control_timer_expired);
    client_backoff_init(&control->backoff, client_service_config(service)->retry_interval_ms);
    list_push_back(&worker->controls, &control->node);
    client_control_begin(control);
    return 0;
}

void client_control_stop(struct client_control *control)
{
    control->stopping = true;
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
