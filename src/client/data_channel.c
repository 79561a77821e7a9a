#include "client/data_channel.h"

#include <errno.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "client/forward.h"
#include "data_channel_priv.h"
#include "net/recipe.h"

enum {
    RETRY_FIRST_MS = 500, /* as rathole: then every 100 ms; each is 50 % more or less at random */
    RETRY_MS = 100,
    DIAL_PAUSE_MS = 20, /* all channels that wait for a descriptor try at most this often */
};

void data_channel_trace(const struct data_channel *channel, enum channel_state old)
{
    static const char *const names[] = {
        [CHANNEL_NEW] = "new",     [CHANNEL_DIALING] = "dialing",   [CHANNEL_PARKED] = "parked",
        [CHANNEL_LOCAL] = "local", [CHANNEL_RELAYING] = "relaying", [CHANNEL_CLOSING] = "closing",
    };
    static_assert(ARRAY_SIZE(names) == CHANNEL_STATE_COUNT, "a name for each state");
    log_write(LOG_TRACE, channel_service(channel), channel->id, "data channel: %s -> %s",
              names[old], names[channel->state]);
}

/* ---- the end ---- */

/* Sets whether the channel is counted as lacking its second descriptor, for the local service. */
static void set_half_open(struct data_channel *channel, bool half_open)
{
    if (channel->half_open == half_open || channel->service->is_udp)
        return;
    channel->half_open = half_open;
    (void)atomic_fetch_add(&channel->worker->client->fds.half_open, half_open ? 1 : -1);
}

static void release(struct data_channel *channel)
{
    if (channel->held)
        client_fds_release(&channel->worker->client->fds, channel->service);
    channel->held = false;
}

void data_channel_drop_session(struct data_channel *channel)
{
    set_half_open(channel, false);
    if (channel->session == NULL)
        return;
    (void)atomic_fetch_sub(&channel->session->unstarted, 1);
    client_session_drop(channel->session);
    channel->session = NULL;
}

void data_channel_drop_service(struct data_channel *channel)
{
    release(channel);
    client_service_drop(channel->service);
}

void data_channel_forget(struct data_channel *channel)
{
    list_remove(&channel->node);
    slab_put(&channel->worker->channel_slab, channel);
}

static void channel_free(struct data_channel *channel)
{
    loop_timer_stop(channel_loop(channel), &channel->timer);
    /* A hello that was never sent holds the session key. */
    keys_wipe(channel->hello, sizeof(channel->hello));
    data_channel_drop_session(channel);
    data_channel_drop_service(channel);
    data_channel_forget(channel);
}

static uint32_t retry_delay_ms(bool first)
{
    uint32_t random;
    keys_random(&random, sizeof(random));
    uint32_t base_ms = first ? RETRY_FIRST_MS : RETRY_MS;
    return base_ms / 2 + random % base_ms;
}

static void channel_failed(struct data_channel *channel, int error);

/* Tries again later, or gives up if the channel is too old. The age is checked when an attempt has
 * failed and not when the next is due, because a process that was stopped in between has not tried
 * for that long. May free the channel. */
static void channel_retry(struct data_channel *channel, int error)
{
    uint64_t age_ms = (loop_now_ns(channel_loop(channel)) - channel->begun_at_ns) / NS_PER_MS;
    if (age_ms >= LIMIT_CHANNEL_RETRY_MS) {
        channel_failed(channel, error);
        return;
    }
    assert(channel->state == CHANNEL_DIALING);
    bool first = !channel->retries;
    channel->retries = true;
    loop_timer_start(channel_loop(channel), &channel->timer, retry_delay_ms(first));
}

void data_channel_close(struct data_channel *channel)
{
    if (channel->state == CHANNEL_CLOSING)
        return;
    data_channel_set_state(channel, CHANNEL_CLOSING);
    loop_timer_stop(channel_loop(channel), &channel->timer);
    resolver_abandon(channel->query);
    channel->query = NULL;
    channel->streams_open = channel->stream.fd >= 0 ? 1 : 0;
    if (channel->has_local) {
        channel->streams_open++;
        stream_terminate(&channel->local, STREAM_ABORT);
    }
    if (channel->stream.fd >= 0)
        stream_terminate(&channel->stream, STREAM_ABORT);
    if (channel->streams_open == 0)
        channel_free(channel);
}

void data_channel_stream_gone(struct data_channel *channel)
{
    if (--channel->streams_open == 0)
        channel_free(channel);
}

static void channel_failed(struct data_channel *channel, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    metrics_add(&channel->worker->tunnel->metrics, METRIC_DATA_CHANNELS_FAILED, 1);
    if (log_allowed(&limit, &suppressed))
        log_conn(LOG_WARN, channel_service(channel), channel->id,
                 "data channel failed: %s (%u similar lines suppressed)", error_text(error),
                 suppressed);
    data_channel_close(channel);
}

static void channel_stream_closed(struct stream *stream)
{
    struct data_channel *channel = container_of(stream, struct data_channel, stream);
    if (channel->state == CHANNEL_CLOSING) {
        data_channel_stream_gone(channel);
        return;
    }
    set_half_open(channel, false);
    release(channel);
    channel_retry(channel, channel->error);
}

/* ---- UDP: the channel serves many visitors ---- */

static void channel_become_forward(struct data_channel *channel)
{
    loop_timer_stop(channel_loop(channel), &channel->timer);
    int result = forward_begin(channel->worker, channel->service, &channel->stream);
    if (result < 0)
        channel_failed(channel, result);
    else
        channel_free(channel);
}

/* ---- towards the server: dial, hello, park, command ---- */

/* The proxy has not connected to the server: the same as if the server could not be connected to.
 * The next try comes from channel_stream_closed. */
static void channel_proxy_failed(struct data_channel *channel, int error)
{
    log_conn(LOG_DEBUG, channel_service(channel), channel->id, "data channel: connect: %s",
             client_failure_text(&channel->stream, error));
    keys_wipe(channel->hello, sizeof(channel->hello));
    loop_timer_stop(channel_loop(channel), &channel->timer);
    data_channel_set_state(channel, CHANNEL_DIALING);
    channel->error = ERR_PROXY;
    stream_terminate(&channel->stream, STREAM_ABORT);
}

static void channel_begin_visitor(struct data_channel *channel)
{
    channel->begun_at_ns = loop_now_ns(channel_loop(channel));
    counter_add(&channel_stats(channel)->visitors, 1);
    local_service_begin(channel);
}

static void channel_stream_read_done(struct stream *stream, int result)
{
    struct data_channel *channel = container_of(stream, struct data_channel, stream);
    enum message_data_command command;
    if (result == ERR_PROXY) {
        channel_proxy_failed(channel, result);
        return;
    }
    if (result < 0) {
        log_conn(LOG_DEBUG, channel_service(channel), channel->id, "parked channel ended: %s",
                 error_text(result));
        data_channel_close(channel);
        return;
    }
    if (stream_is_writing(stream)) {
        channel_failed(channel, ERR_PROTOCOL); /* the command came before our hello was sent */
        return;
    }
    result = message_data_command_decode(channel->command, (size_t)result, &command);
    /* Which kind of stream the server's visitors use does not matter: local_addr says what is
     * connected here. */
    bool is_udp = channel->service->is_udp;
    if (result == 0 && (command == MESSAGE_DATA_START_UDP) != is_udp)
        result = ERR_PROTOCOL;
    if (result < 0)
        channel_failed(channel, result);
    else if (is_udp)
        channel_become_forward(channel);
    else
        channel_begin_visitor(channel);
}

static void channel_stream_write_done(struct stream *stream, int result)
{
    struct data_channel *channel = container_of(stream, struct data_channel, stream);
    keys_wipe(channel->hello, sizeof(channel->hello));
    if (result < 0) { /* for want of memory, say, which does not end the read */
        channel_failed(channel, result);
        return;
    }
    loop_timer_stop(channel_loop(channel), &channel->timer);
    metrics_add(&channel->worker->tunnel->metrics, METRIC_DATA_CHANNELS, 1);
}

static void data_channel_connected(struct stream *stream, int result)
{
    struct data_channel *channel = container_of(stream, struct data_channel, stream);
    if (result < 0) {
        log_conn(LOG_DEBUG, channel_service(channel), channel->id, "data channel: connect: %s",
                 error_text(result));
        /* The next try comes from channel_stream_closed. */
        channel->error = ERR_DEADLINE;
        stream_terminate(&channel->stream, STREAM_ABORT);
        return;
    }
    const struct config_service *config = client_service_config(channel->service);
    if (config->nodelay != CONFIG_UNSET)
        socket_set_nodelay(stream->fd, config->nodelay == CONFIG_TRUE);
    const struct recipe_server *target = client_session_target(channel->worker, channel->session);
    int prepared = target != NULL ? tunnel_prepare(channel->worker->tunnel, target,
                                                   &channel->session->server, stream)
                                  : ERR_RECONFIGURED;
    if (prepared == ERR_RECONFIGURED) { /* a reload came while it connected */
        channel->error = prepared;
        stream_terminate(&channel->stream, STREAM_ABORT);
        return;
    }
    if (prepared < 0) {
        channel_failed(channel, prepared);
        return;
    }
    /* The hello waits for the handshakes, which a busy server may delay. */
    const struct config_peer *client = client_config(channel->worker->client);
    channel->awaits_proxy = channel->worker->tunnel->recipe->has_proxy;
    if (tunnel_has_handshakes(channel->worker->tunnel))
        loop_deadline_start(channel_loop(channel), &channel->timer,
                            channel->awaits_proxy ? client->connect_timeout_ms : LIMIT_LOGIN_MS);
    data_channel_set_state(channel, CHANNEL_PARKED);
    message_hello_encode(MESSAGE_HELLO_DATA, channel->session->key, channel->hello);
    stream_read(&channel->stream, channel->command, sizeof(channel->command));
    stream_write(&channel->stream, channel->hello, sizeof(channel->hello));
}

static const struct stream_ops channel_stream_ops = {
    .read_done = channel_stream_read_done,
    .write_done = channel_stream_write_done,
    .connected = data_channel_connected,
    .closed = channel_stream_closed,
};

/* Returns a socket for the channel, or -errno. It needs a second descriptor for the local service
 * later. Without that its visitor would be turned away, whereas a visitor without a channel waits.
 * So both are reserved now. */
static int channel_socket(struct data_channel *channel)
{
    struct client_worker *worker = channel->worker;
    struct client_fds *fds = &worker->client->fds;
    uint64_t now_ns = loop_now_ns(channel_loop(channel));
    /* No TCP_USER_TIMEOUT here (docs/decisions.md, "No TCP_USER_TIMEOUT on relays and TCP data
     * channels"). That of the control channel ends the session, and a parked channel with it, in
     * the same time. */
    struct socket_options options = worker->channel_options;
    options.speaks_first = true;
    if (now_ns < worker->dial_pause_until_ns)
        return -EMFILE;
    channel->held = client_fds_hold(fds, channel->service);
    if (!channel->held && forward_yield(worker))
        channel->held = client_fds_hold(fds, channel->service);
    if (!channel->held)
        return -EMFILE;
    int fd = client_fds_dial(worker, &channel->session->server, &options,
                             client_fds_channel_max(fds, channel->service));
    if (fd < 0)
        release(channel);
    /* One channel finds out for all that none are left. An error of the session's address says
     * nothing about others. */
    if (fd < 0 && !socket_error_is_of_address(fd))
        worker->dial_pause_until_ns = now_ns + ms_to_ns(DIAL_PAUSE_MS);
    return fd;
}

static void channel_dial(struct data_channel *channel)
{
    if (client_session_target(channel->worker, channel->session) == NULL) {
        channel_retry(channel, ERR_RECONFIGURED);
        return;
    }
    int fd = channel_socket(channel);
    if (fd < 0) {
        /* Without descriptors it tries again soon, because no server has refused anything. */
        channel->retries |= fd == -EMFILE || fd == -ENFILE;
        channel_retry(channel, fd);
        return;
    }
    set_half_open(channel, true);
    stream_init(&channel->stream, channel_loop(channel), fd, &channel_stream_ops);
    loop_deadline_start(channel_loop(channel), &channel->timer,
                        client_config(channel->worker->client)->connect_timeout_ms);
    stream_connect(&channel->stream, &channel->session->server);
}

/* The proxy's time is over. The time of the other handshakes begins now, if the proxy has kept to
 * it. */
static void channel_proxy_expired(struct data_channel *channel)
{
    channel->awaits_proxy = false;
    if (stream_is_at_proxy(&channel->stream))
        channel_proxy_failed(channel, ERR_DEADLINE);
    else
        loop_deadline_start(channel_loop(channel), &channel->timer, LIMIT_LOGIN_MS);
}

static void channel_timer_expired(struct timer *timer)
{
    struct data_channel *channel = container_of(timer, struct data_channel, timer);
    bool waits_to_dial = channel->state == CHANNEL_DIALING && channel->stream.fd < 0;
    if (waits_to_dial)
        channel_dial(channel);
    else if (channel->state == CHANNEL_LOCAL)
        local_service_expired(channel);
    else if (channel->state == CHANNEL_PARKED && channel->awaits_proxy)
        channel_proxy_expired(channel);
    else
        channel_failed(channel, ERR_DEADLINE);
}

void data_channel_open(struct client_worker *worker, struct client_session *session)
{
    static struct log_limit limit;
    uint32_t suppressed;
    struct tunnel_worker *tunnel = worker->tunnel;
    if (worker->draining || atomic_load(&session->ended))
        return;
    if (atomic_fetch_add(&session->unstarted, 1) >= LIMIT_CLIENT_CHANNELS_PENDING) {
        (void)atomic_fetch_sub(&session->unstarted, 1);
        if (log_allowed(&limit, &suppressed))
            log_service(LOG_WARN, client_service_name(session->service),
                        "the server asks for too many data channels (%u similar lines suppressed)",
                        suppressed);
        return;
    }
    struct data_channel *channel = slab_get(&worker->channel_slab);
    if (channel == NULL) {
        metrics_add(&tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        (void)atomic_fetch_sub(&session->unstarted, 1);
        return;
    }
    client_session_use(session);
    channel->worker = worker;
    channel->session = session;
    channel->service = session->service;
    client_service_use(channel->service);
    channel->id = tunnel_next_conn_id(tunnel);
    channel->begun_at_ns = loop_now_ns(tunnel->loop);
    channel->state = CHANNEL_NEW;
    channel->has_local = channel->retries = channel->half_open = channel->held = false;
    channel->waits_for_queue = false;
    channel->query = NULL;
    channel->stream.fd = -1;
    timer_init(&channel->timer, channel_timer_expired);
    list_init(&channel->node);
    data_channel_set_state(channel, CHANNEL_DIALING);
    channel_dial(channel);
}

/* ---- all channels of a worker ---- */

void data_channel_close_ended(struct client_worker *worker)
{
    /* The server closes them, or uses them for visitors it has already taken. This worker may not
     * have been told yet that the client drains. */
    if (atomic_load(&worker->client->draining))
        return;
    list_for_each_safe (node, &worker->channels) {
        struct data_channel *channel = container_of(node, struct data_channel, node);
        bool unstarted = channel->state == CHANNEL_DIALING || channel->state == CHANNEL_PARKED;
        if (!unstarted || !atomic_load(&channel->session->ended))
            continue;
        if (worker->leaving && channel->state == CHANNEL_PARKED)
            continue; /* as if draining, which begins with the end of the last session */
        /* A visitor got this channel before the session ended: the command has come, but is not
         * read yet. No command comes before the handshakes are over. */
        bool is_taken = channel->state == CHANNEL_PARKED && stream_has_unread(&channel->stream);
        if (!is_taken)
            data_channel_close(channel);
    }
}

void data_channel_close_dialing(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->channels) {
        struct data_channel *channel = container_of(node, struct data_channel, node);
        if (channel->state == CHANNEL_DIALING)
            data_channel_close(channel);
    }
}

void data_channel_close_unstarted(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->channels) {
        struct data_channel *channel = container_of(node, struct data_channel, node);
        if (channel->state == CHANNEL_DIALING || channel->state == CHANNEL_PARKED)
            data_channel_close(channel);
    }
}

void data_channel_close_cut(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->relaying) {
        struct data_channel *channel = container_of(node, struct data_channel, node);
        if (atomic_load(&channel->service->entry.cut))
            relay_terminate(&channel->relay);
    }
}

void data_channel_close_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->channels) {
        data_channel_close(container_of(node, struct data_channel, node));
    }
    list_for_each_safe (node, &worker->relaying) {
        relay_terminate(&container_of(node, struct data_channel, node)->relay);
    }
}

void data_channel_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct data_channel));
}
