#include "server/control.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/probe.h"
#include "io/socket.h"
#include "net/recipe.h"
#include "net/stream.h"
#include "proto/server_fsm.h"
#include "server/access.h"
#include "server/control_watch.h"
#include "server/exchange.h"
#include "server/on_login.h"
#include "server/server_worker.h"
#include "server/session.h"

enum { COMMANDS_BYTES = LIMIT_POOL_MAX * MESSAGE_COMMAND_SIZE };

enum server_control_state {
    SERVER_CONTROL_NEW,     /* its session is not registered */
    SERVER_CONTROL_UP,      /* its session is registered, or was replaced by a newer one */
    SERVER_CONTROL_CLOSING, /* the stream is being torn down */
    SERVER_CONTROL_STATE_COUNT,
};

struct server_control {
    struct stream stream;
    struct list node; /* in worker->control_list */
    struct server_worker *worker;
    struct service *service;
    struct server_fsm fsm;
    struct session session;
    struct control_watch watch;
    struct timer heartbeat; /* restarted by every write */
    struct timer flush;     /* sends the requests of one turn in one write */
    uint64_t conn_id;
    uint8_t end;   /* buffer of the read that sees the end */
    uint8_t state; /* enum server_control_state; server_control_set_state changes it */
    bool is_quiet; /* its client does not answer, and the log says so */
    uint8_t out[MESSAGE_ACK_SIZE + COMMANDS_BYTES];
};

static inline void server_control_set_state(struct server_control *control,
                                            enum server_control_state state)
{
    static const bool edges[SERVER_CONTROL_STATE_COUNT][SERVER_CONTROL_STATE_COUNT] = {
        [SERVER_CONTROL_NEW] = {[SERVER_CONTROL_UP] = true, [SERVER_CONTROL_CLOSING] = true},
        [SERVER_CONTROL_UP] = {[SERVER_CONTROL_CLOSING] = true},
    };
    const enum server_control_state old = (enum server_control_state)control->state;
    static const char *const names[] = {
        [SERVER_CONTROL_NEW] = "new",
        [SERVER_CONTROL_UP] = "up",
        [SERVER_CONTROL_CLOSING] = "closing",
    };
    static_assert(ARRAY_SIZE(names) == SERVER_CONTROL_STATE_COUNT, "a name for each state");
    assert(old < SERVER_CONTROL_STATE_COUNT && edges[old][state]);
    control->state = (uint8_t)state;
    PROBE3(server_control_state, service_name(control->service), old, state);
    log_conn(LOG_TRACE, service_name(control->service), control->conn_id,
             "control channel: %s -> %s", names[old], names[state]);
}

static const char *control_name(const struct server_control *control)
{
    return service_name(control->service);
}

static void close_channels(struct server_worker *worker, struct transport *channels, size_t count)
{
    for (size_t i = 0; i < count; i++)
        transport_close(&channels[i], worker->tunnel->loop);
}

static void close_source(struct server_worker *worker, struct pool_source *source)
{
    struct pool_channel channel;
    while (pool_source_unpark(source, &channel))
        transport_close(&channel.transport, worker->tunnel->loop);
    pool_source_finish(source);
}

/* ---- the end ---- */

static void control_terminate(struct server_control *control, int error)
{
    if (control->state != SERVER_CONTROL_UP)
        return;
    server_control_set_state(control, SERVER_CONTROL_CLOSING);
    struct server_worker *worker = control->worker;
    struct service *service = control->service;
    loop_timer_stop(worker->tunnel->loop, &control->heartbeat);
    loop_timer_stop(worker->tunnel->loop, &control->flush);

    struct session_change change;
    session_end(&worker->server->sessions, &control->session, loop_now_ns(worker->tunnel->loop),
                &change);
    list_remove(&control->session.of_part);
    close_source(worker, &control->session.source);
    exchange_notify(worker, service, change.notice);
    if (change.is_down || service->is_udp) /* lanes have a channel of each session */
        exchange_service_changed(worker, service, false);
    else if (!atomic_load(&control->session.replaced))
        exchange_wake_waiters(worker);
    if (change.is_down && service_config(service)->bind == CONFIG_BIND_ON_LOGIN)
        on_login_wake(worker->server);
    /* A client that was switched off has sent no end, and logs in again when it is back. So its
     * relays may be dead in both cases. */
    if (tunnel_is_silence(error) || error == ERR_REPLACED)
        service_base_doubt(&service->entry);
    if (error == ERR_REPLACED || error == ERR_RECONFIGURED) {
        log_conn(LOG_INFO, control_name(control), control->conn_id, "control channel %s",
                 error == ERR_REPLACED ? "replaced by a newer one"
                                       : "closed: the configuration has changed");
    } else {
        metrics_add(&worker->tunnel->metrics, METRIC_CONTROL_CHANNELS_LOST, 1);
        log_conn(LOG_INFO, control_name(control), control->conn_id, "control channel lost: %s",
                 error_text(error));
    }
    stream_terminate(&control->stream, STREAM_CLEAN);
}

static void server_control_closed(struct stream *stream)
{
    struct server_control *control = container_of(stream, struct server_control, stream);
    list_remove(&control->node);
    server_fsm_finish(&control->fsm);
    keys_wipe(&control->session, sizeof(control->session));
    service_drop(control->service);
    free(control);
}

/* ---- writing ---- */

/* May end the control channel, so the caller returns after this. */
static void control_write(struct server_control *control, size_t size)
{
    uint32_t interval_ms = server_config(control->worker->server)->heartbeat_interval_ms;
    if (interval_ms != 0)
        loop_timer_start(control->worker->tunnel->loop, &control->heartbeat, interval_ms);
    stream_write(&control->stream, control->out, size);
}

/* Claims the channels that the pool wants, and encodes the commands behind the `at` bytes that the
 * buffer already has. Returns the new size. */
static size_t control_fill(struct server_control *control, size_t at)
{
    struct server_worker *worker = control->worker;
    uint32_t count = session_ask(&worker->server->sessions, &control->session,
                                 COMMANDS_BYTES / MESSAGE_COMMAND_SIZE);
    if (count == 0)
        return at;
    metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_REQUESTED, count);
    return at + server_fsm_commands(&control->fsm, MESSAGE_COMMAND_CREATE_CHANNEL, count,
                                    control->out + at, sizeof(control->out) - at);
}

static void control_flush(struct server_control *control)
{
    if (control->state != SERVER_CONTROL_UP || stream_is_writing(&control->stream))
        return; /* server_control_write_done looks again */
    size_t size = control_fill(control, 0);
    if (size > 0)
        control_write(control, size);
}

static void control_flush_due(struct timer *timer)
{
    control_flush(container_of(timer, struct server_control, flush));
}

/* All calls in one turn of the loop lead to one write. */
static void server_control_send_requests(struct session *session)
{
    struct server_control *control = container_of(session, struct server_control, session);
    if (control->state == SERVER_CONTROL_UP)
        loop_timer_start(control->worker->tunnel->loop, &control->flush, 0);
}

static void control_heartbeat_due(struct timer *timer)
{
    struct server_control *control = container_of(timer, struct server_control, heartbeat);
    uint32_t interval_ms = server_config(control->worker->server)->heartbeat_interval_ms;
    if (interval_ms == 0)
        return; /* a reload has switched heartbeats off; this worker has not applied it yet */
    if (stream_is_writing(&control->stream)) {
        /* The client does not read. If it is dead, TCP_USER_TIMEOUT ends the connection. */
        loop_timer_start(control->worker->tunnel->loop, timer, interval_ms);
        return;
    }
    control_write(control, server_fsm_commands(&control->fsm, MESSAGE_COMMAND_HEARTBEAT, 1,
                                               control->out, sizeof(control->out)));
}

static void server_control_write_done(struct stream *stream, int result)
{
    struct server_control *control = container_of(stream, struct server_control, stream);
    if (result < 0)
        control_terminate(control, result);
    else
        control_flush(control);
}

/* ---- reading: only the end ---- */

static void server_control_read_done(struct stream *stream, int result)
{
    struct server_control *control = container_of(stream, struct server_control, stream);
    /* A client sends nothing after its Auth, so a byte is a protocol error. */
    control_terminate(control, result > 0 ? ERR_PROTOCOL : result);
}

static const struct stream_ops control_stream_ops = {
    .read_done = server_control_read_done,
    .write_done = server_control_write_done,
    .closed = server_control_closed,
};

/* ---- the beginning ---- */

/* Ends the control channels of a part that a newer login has replaced, except `newest`. Not the
 * whole worker's: a login must not cost more, the more services there are. */
static void close_replaced(struct service_part *part, const struct server_control *newest)
{
    list_for_each_safe (node, &part->sessions) {
        struct session *session = container_of(node, struct session, of_part);
        struct server_control *control = container_of(session, struct server_control, session);
        if (control != newest && atomic_load(&session->replaced))
            control_terminate(control, ERR_REPLACED);
    }
}

static int control_register(struct server_control *control)
{
    struct server_worker *worker = control->worker;
    struct service *service = control->service;
    struct session_change change;
    int result = session_begin(&worker->server->sessions, &control->session,
                               loop_now_ns(worker->tunnel->loop), &change);
    if (result < 0)
        return result;
    server_control_set_state(control, SERVER_CONTROL_UP);
    struct service_part *part = &service->parts[worker->tunnel->index];
    list_push_back(&part->sessions, &control->session.of_part);
    exchange_notify(worker, service, change.notice);
    /* Those of other workers are signalled below. A login there may have replaced this one already:
     * it stays until that worker's signal comes, because the caller goes on with it. */
    if (change.replaced)
        close_replaced(part, control);
    exchange_service_changed(worker, service, change.replaced);
    return 0;
}

/* Closed, so that it comes again later. */
static void note_refused(const struct server_control *control, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    if (error == ERR_RECONFIGURED) /* during the login */
        return;
    metrics_add(&control->worker->tunnel->metrics,
                error == ERR_LIMIT ? METRIC_LOGINS_TOO_MANY : METRIC_OUT_OF_MEMORY, 1);
    if (log_allowed(&limit, &suppressed))
        log_conn(LOG_WARN, control_name(control), control->conn_id,
                 "control channel refused: %s (%u similar lines suppressed)",
                 error == ERR_LIMIT ? "the service has 1024 clients" : error_text(error),
                 suppressed);
}

void server_control_begin(const struct server_control_options *options)
{
    struct server_worker *worker = options->worker;
    struct tunnel_worker *tunnel = worker->tunnel;
    struct server_control *control = calloc(1, sizeof(*control));
    if (control == NULL) {
        metrics_add(&tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        struct transport transport = options->transport;
        transport_close(&transport, tunnel->loop);
        return;
    }
    control->worker = worker;
    control->service = options->service;
    service_use(control->service);
    control->fsm = *options->fsm;
    control->conn_id = options->conn_id;
    control->session.service = options->service;
    control->session.client = options->client;
    if (socket_peer(options->transport.fd, &control->session.peer) < 0)
        control->session.peer = (struct addr){.len = 0};
    control->session.worker_index = tunnel->index;
    control->session.epoch = options->epoch;
    control->session.send_requests = server_control_send_requests;
    list_init(&control->session.node);
    list_init(&control->session.of_service);
    list_init(&control->session.of_part);
    pool_source_init(&control->session.source);
    memcpy(control->session.key, options->session_key, KEYS_DIGEST_SIZE);
    timer_init(&control->heartbeat, control_heartbeat_due);
    timer_init(&control->flush, control_flush_due);
    stream_init(&control->stream, tunnel->loop, options->transport.fd, &control_stream_ops);
    stream_adopt(&control->stream, tunnel->links, options->transport.link);
    list_push_back(&worker->control_list, &control->node);
    socket_set_nodelay(options->transport.fd, true);
    /* RFC 5482. Relays have none: docs/decisions.md, "No TCP_USER_TIMEOUT on relays and TCP data
     * channels". */
    socket_set_user_timeout(options->transport.fd, LIMIT_USER_TIMEOUT_MS);

    /* Register before the Ack leaves, because data channels may follow it at once. */
    int result = control_register(control);
    if (result < 0) {
        note_refused(control, result);
        server_control_set_state(control, SERVER_CONTROL_CLOSING);
        stream_terminate(&control->stream, STREAM_CLEAN);
        return;
    }
    metrics_add(&tunnel->metrics, METRIC_LOGINS, 1);
    log_conn(LOG_INFO, control_name(control), control->conn_id, "control channel established");

    struct server_action action;
    server_fsm_registered(&control->fsm, &action);
    memcpy(control->out, action.bytes, action.len);
    stream_read_some(&control->stream, &control->end, sizeof(control->end));
    control_write(control, control_fill(control, action.len));
}

/* ---- all of a worker's ---- */

void server_control_close_replaced(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->control_list) {
        struct server_control *control = container_of(node, struct server_control, node);
        if (atomic_load(&control->session.replaced))
            control_terminate(control, ERR_REPLACED);
    }
}

void server_control_keep_newest(struct server_worker *worker, struct service *service)
{
    struct session_change change;
    session_keep_newest(&worker->server->sessions, service, loop_now_ns(worker->tunnel->loop),
                        &change);
    exchange_notify(worker, service, change.notice);
    if (!change.replaced)
        return;
    close_replaced(&service->parts[worker->tunnel->index], NULL);
    exchange_service_changed(worker, service, true);
}

void server_control_close_part(struct service_part *part, bool expired)
{
    list_for_each_safe (node, &part->sessions) {
        struct session *session = container_of(node, struct session, of_part);
        if (!expired || session->epoch != atomic_load(&part->service->epoch))
            control_terminate(container_of(session, struct server_control, session),
                              ERR_RECONFIGURED);
    }
}

void server_control_close_reconfigured(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->control_list) {
        control_terminate(container_of(node, struct server_control, node), ERR_RECONFIGURED);
    }
}

void server_control_close_denied(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->control_list) {
        struct server_control *control = container_of(node, struct server_control, node);
        if (access_denies_now(worker->server, control->stream.fd))
            control_terminate(control, ERR_RECONFIGURED);
    }
}

void server_control_restart_heartbeats(struct server_worker *worker)
{
    uint32_t interval_ms = server_config(worker->server)->heartbeat_interval_ms;
    list_for_each (node, &worker->control_list) {
        struct server_control *control = container_of(node, struct server_control, node);
        if (control->state != SERVER_CONTROL_UP)
            continue;
        if (interval_ms != 0)
            loop_timer_start(worker->tunnel->loop, &control->heartbeat, interval_ms);
        else
            loop_timer_stop(worker->tunnel->loop, &control->heartbeat);
    }
}

void server_control_close_all(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->control_list) {
        control_terminate(container_of(node, struct server_control, node), -ECANCELED);
    }
}

/* Reads what has come on a parked channel: a Ping, which is answered, or an end. Nobody else reads
 * there before a visitor takes the channel, and a CDN in between may count the answers. */
static bool parked_is_kept(void *arg, const struct transport *channel)
{
    struct tunnel_worker *tunnel = arg;
    struct link_engine *engine = tunnel->links;
    struct link *link = channel->link;
    if (link == NULL)
        return true; /* parked before a reload turned WebSocket on */
    ssize_t got = socket_recv_now(channel->fd, engine->coded, LINK_DISTRUSTED_FRAME);
    if (got == -EAGAIN || got == -EINTR)
        return true;
    ssize_t opened = got > 0 ? link_open(link, engine, engine->coded, (size_t)got) : -EPIPE;
    if (opened < 0 || link->has_ended)
        return false;
    link_send_reply(link, channel->fd);
    return opened == 0 ||
           (link->early == NULL && link_keep_early(link, engine->plain, (size_t)opened) == 0);
}

static void answer_parked(struct server_control *control)
{
    struct server_worker *worker = control->worker;
    struct transport channels[LIMIT_POOL_MAX];
    if (!worker->tunnel->recipe->is_websocket)
        return;
    size_t dead =
        channel_pool_review(&control->service->pool, &control->session.source, parked_is_kept,
                            worker->tunnel, channels, ARRAY_SIZE(channels));
    close_channels(worker, channels, dead);
}

static void tend_pool(struct server_control *control)
{
    struct server_worker *worker = control->worker;
    struct transport channels[LIMIT_POOL_MAX];
    uint32_t lost;
    pool_notice notice;
    answer_parked(control);
    size_t surplus = channel_pool_tend(&control->service->pool, &control->session.source,
                                       loop_now_ns(worker->tunnel->loop), channels,
                                       ARRAY_SIZE(channels), &lost, &notice);
    close_channels(worker, channels, surplus);
    metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, surplus);
    if (lost > 0) {
        static struct log_limit limit;
        uint32_t suppressed;
        session_give_up(&worker->server->sessions, &control->session, lost);
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_FAILED, lost);
        if (log_allowed(&limit, &suppressed))
            log_service(LOG_WARN, control_name(control),
                        "%u requested data channels did not come; the client's log may say why "
                        "(%u similar lines suppressed)",
                        lost, suppressed);
    }
    exchange_notify(worker, control->service, notice);
}

/* Where other clients can take its visitors, one that has gone must be found soon. May end the
 * control channel: false. */
static bool look_at_client(struct server_control *control)
{
    struct server_worker *worker = control->worker;
    struct service *service = control->service;
    bool is_quiet;
    if (service_config(service)->clients != CONFIG_CLIENTS_BALANCE) {
        control_watch_end(&control->watch, control->stream.fd);
        return true;
    }
    bool doubted = atomic_exchange(&control->session.doubted, false);
    int error = control_watch_look(&control->watch, control->stream.fd, doubted,
                                   SERVER_CONTROL_TEND_MS, &is_quiet);
    if (error < 0) {
        control_terminate(control, error);
        return false;
    }
    if (is_quiet != control->is_quiet) /* a failed channel is a doubt too */
        log_conn(LOG_INFO, control_name(control), control->conn_id,
                 is_quiet ? "the client does not answer: no new visitors for it"
                          : "the client answers again");
    control->is_quiet = is_quiet;
    pool_notice notice;
    if (!channel_pool_doubt(&service->pool, &control->session.source, is_quiet,
                            loop_now_ns(worker->tunnel->loop), &notice))
        return true;
    exchange_notify(worker, service, notice);
    exchange_wake_waiters(worker);
    return true;
}

void server_control_tend_pools(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->control_list) {
        struct server_control *control = container_of(node, struct server_control, node);
        if (control->state == SERVER_CONTROL_UP && !atomic_load(&control->session.replaced) &&
            look_at_client(control))
            tend_pool(control);
    }
}
