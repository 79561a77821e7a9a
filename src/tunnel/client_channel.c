#include "tunnel/client_channel.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "net/stream.h"
#include "proto/message.h"
#include "tunnel/client.h"
#include "tunnel/udp_forward.h"

enum {
    RETRY_FIRST_MS = 500, /* upstream's: then every 100 ms, each 50 % more or less */
    RETRY_MS = 100,
    DIAL_PAUSE_MS = 20, /* between looks for free descriptors, of all channels that wait for one */
    LOCAL_VALID_MS = 10000,
    DISCARD_BYTES = 4096,
    DISCARDS_MAX = 64, /* bytes thrown away to close with an end of stream instead of a reset */
};

enum channel_state {
    CHANNEL_DIALING, /* connecting, saying hello, or waiting to try again */
    CHANNEL_PARKED,  /* waits for the command */
    CHANNEL_LOCAL,   /* resolving or connecting the local service */
    CHANNEL_RELAYING,
    CHANNEL_CLOSING,
};

struct client_channel {
    union {
        struct {
            struct stream stream; /* to the server */
            struct stream local;
            struct resolver_query *query;
            size_t addr_index;
            uint8_t hello[MESSAGE_HELLO_SIZE];
            uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
        };
        struct relay relay; /* once both ends are there */
    };
    struct list node; /* in worker->channels, or worker->relaying */
    struct client_worker *worker;
    struct client_session *session; /* until the relay starts */
    struct client_service *service; /* used */
    struct timer timer;             /* the limit of the current step, or the end of a wait */
    uint64_t id;
    uint64_t begun_at_ns;
    struct tunnel_worker *move_to;
    uint32_t local_generation; /* when the local service's name was asked for */
    uint8_t state;
    uint8_t streams_open; /* while CLOSING: how many `closed` are still to come */
    bool has_local;
    bool retries;
    bool half_open;
};

static_assert(sizeof(struct client_channel) <= 1024, "the budget of an idle relay");

struct channel_move {
    struct transport server;
    int local_fd;
    struct client_service *service; /* the channel's use of it goes along */
    bool ended[2];
    uint64_t id;
};
static_assert(sizeof(struct channel_move) <= MAILBOX_PAYLOAD_SIZE, "travels by value");

static struct loop *channel_loop(const struct client_channel *channel)
{
    return channel->worker->tunnel->loop;
}

static const char *channel_service(const struct client_channel *channel)
{
    return client_service_name(channel->service);
}

static struct client_local *channel_local(const struct client_channel *channel)
{
    return &channel->service->locals[channel->worker->tunnel->index];
}

static void channel_dial(struct client_channel *channel);

/* ---- the end ---- */

/* A channel that will need a second descriptor, for the local service. */
static void set_half_open(struct client_channel *channel, bool half_open)
{
    _Atomic unsigned int *count = &channel->worker->client->half_open;
    if (channel->half_open == half_open)
        return;
    channel->half_open = half_open;
    (void)atomic_fetch_add(count, half_open ? 1u : UINT32_MAX);
}

static void drop_session(struct client_channel *channel)
{
    set_half_open(channel, false);
    if (channel->session == NULL)
        return;
    (void)atomic_fetch_sub(&channel->session->unstarted, 1);
    client_session_drop(channel->session);
    channel->session = NULL;
}

/* Its use of the service lives on elsewhere, or has ended. */
static void channel_forget(struct client_channel *channel)
{
    list_remove(&channel->node);
    slab_put(&channel->worker->channel_slab, channel);
}

static void channel_free(struct client_channel *channel)
{
    loop_timer_stop(channel_loop(channel), &channel->timer);
    drop_session(channel);
    client_service_drop(channel->service);
    channel_forget(channel);
}

static uint32_t retry_delay_ms(bool first)
{
    uint32_t random;
    keys_random(&random, sizeof(random));
    uint32_t base_ms = first ? RETRY_FIRST_MS : RETRY_MS;
    return base_ms / 2 + random % base_ms;
}

static void channel_retry(struct client_channel *channel)
{
    channel->state = CHANNEL_DIALING;
    bool first = !channel->retries;
    channel->retries = true;
    loop_timer_start(channel_loop(channel), &channel->timer, retry_delay_ms(first));
}

/* Closes what is open before the relay: the stream to the server and perhaps the local one. */
static void channel_close(struct client_channel *channel, enum stream_close how)
{
    if (channel->state == CHANNEL_CLOSING)
        return;
    channel->state = CHANNEL_CLOSING;
    loop_timer_stop(channel_loop(channel), &channel->timer);
    resolver_abandon(channel->query);
    channel->query = NULL;
    channel->streams_open = channel->stream.fd >= 0 ? 1 : 0;
    if (channel->has_local) {
        channel->streams_open++;
        stream_terminate(&channel->local, STREAM_ABORT);
    }
    if (channel->stream.fd >= 0)
        stream_terminate(&channel->stream, how);
    if (channel->streams_open == 0)
        channel_free(channel);
}

static void channel_failed(struct client_channel *channel, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    metrics_add(&channel->worker->tunnel->metrics, METRIC_DATA_CHANNELS_FAILED, 1);
    if (log_allowed(&limit, &suppressed))
        log_conn(LOG_WARN, channel_service(channel), channel->id,
                 "data channel failed: %s (%u similar lines suppressed)", error_text(error),
                 suppressed);
    channel_close(channel, STREAM_ABORT);
}

static void channel_stream_closed(struct stream *stream)
{
    struct client_channel *channel = container_of(stream, struct client_channel, stream);
    if (channel->state == CHANNEL_CLOSING) {
        if (--channel->streams_open == 0)
            channel_free(channel);
        return;
    }
    set_half_open(channel, false);
    channel_retry(channel);
}

/* ---- the relay ---- */

static void channel_start_relay(struct client_channel *channel, struct transport server,
                                int local_fd, const bool ended[2]);

static void deliver_move(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct client_worker *worker = tunnel->role;
    struct channel_move move;
    memcpy(&move, payload, sizeof(move));
    struct client_channel *channel = slab_get(&worker->channel_slab);
    if (channel == NULL) {
        metrics_add(&tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        transport_abort(&move.server, tunnel->loop);
        socket_set_abort(move.local_fd);
        loop_close_fd(tunnel->loop, move.local_fd);
        client_service_drop(move.service);
        return;
    }
    metrics_add(&tunnel->metrics, METRIC_RELAYS_MOVED_IN, 1);
    channel->worker = worker;
    channel->session = NULL;
    channel->half_open = false;
    channel->service = move.service;
    channel->id = move.id;
    list_init(&channel->node);
    channel_start_relay(channel, move.server, move.local_fd, move.ended);
    if (worker->stopping)
        client_channel_close_all(worker);
    else if (atomic_load(&move.service->entry.cut)) /* while it travelled */
        client_channel_close_cut(worker);
}

static bool channel_became_bulk(struct relay *relay)
{
    struct client_channel *channel = container_of(relay, struct client_channel, relay);
    channel->move_to = tunnel_place_bulk(channel->worker->tunnel);
    if (channel->move_to == channel->worker->tunnel || channel->worker->draining)
        return false;
    relay_detach(relay);
    return true;
}

static void channel_relay_closed(struct relay *relay)
{
    struct client_channel *channel = container_of(relay, struct client_channel, relay);
    struct tunnel_worker *own = channel->worker->tunnel;
    struct channel_move move = {.service = channel->service, .id = channel->id};
    int fds[2];
    if (relay_detached(relay, fds, move.ended)) {
        move.server = (struct transport){.fd = fds[0], .noise = relay_take_noise(relay, 0)};
        move.local_fd = fds[1];
        if (mailbox_post(channel->move_to->mailbox, own->mailbox, deliver_move, &move,
                         sizeof(move)) < 0) {
            channel_start_relay(channel, move.server, move.local_fd, move.ended);
            return;
        }
        metrics_add(&own->metrics, METRIC_RELAYS_MOVED_OUT, 1);
        channel_forget(channel);
    } else {
        log_conn(LOG_DEBUG, channel_service(channel), channel->id,
                 "relay closed: %llu bytes in, %llu bytes out%s%s",
                 (unsigned long long)relay_bytes(relay, 0),
                 (unsigned long long)relay_bytes(relay, 1), relay->error != 0 ? ", " : "",
                 relay->error != 0 ? error_text(relay->error) : "");
        client_service_drop(channel->service);
        channel_forget(channel);
    }
}

static const struct relay_ops channel_relay_ops = {
    .became_bulk = channel_became_bulk,
    .closed = channel_relay_closed,
};

static void channel_start_relay(struct client_channel *channel, struct transport server,
                                int local_fd, const bool ended[2])
{
    struct client_worker *worker = channel->worker;
    struct relay_options options = {
        .engine = &worker->tunnel->relays,
        .ops = &channel_relay_ops,
        .fds = {server.fd, local_fd},
        .noise = {server.noise, NULL},
        .idle_timeout_ms = client_service_config(channel->service)->idle_timeout_ms,
        .ended = {ended[0], ended[1]},
        .quiet = {false, true}, /* a service mostly waits for the request */
    };
    channel->state = CHANNEL_RELAYING;
    list_remove(&channel->node);
    list_push_back(&worker->relaying, &channel->node);
    log_conn(LOG_DEBUG, channel_service(channel), channel->id, "relay started");
    relay_start(&channel->relay, &options);
}

/* ---- the local service ---- */

static void local_begin(struct client_channel *channel);
static void local_try_address(struct client_channel *channel);

/* No local service: the visitor sees an end of stream, as with upstream. Bytes of its that wait
 * unread would turn our close into a reset, so they are thrown away. */
static void local_unavailable(struct client_channel *channel, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    channel_local(channel)->valid_until_ns = 0;
    if (log_allowed(&limit, &suppressed)) {
        char text[ADDR_HOST_SIZE + 8];
        log_conn(LOG_WARN, channel_service(channel), channel->id,
                 "cannot connect to the local service %s: %s (%u similar lines suppressed)",
                 host_port_format(&client_service_config(channel->service)->addr, text,
                                  sizeof(text)),
                 error_text(error), suppressed);
    }
    socket_shutdown_send(channel->stream.fd);
    unsigned char discarded[DISCARD_BYTES];
    for (unsigned int i = 0; i < DISCARDS_MAX; i++) {
        if (socket_recv_now(channel->stream.fd, discarded, sizeof(discarded)) <= 0)
            break;
    }
    channel_close(channel, STREAM_CLEAN);
}

static void local_connected(struct stream *stream, int result)
{
    static const bool none_ended[2] = {false, false};
    struct client_channel *channel = container_of(stream, struct client_channel, local);
    if (result < 0) {
        channel->addr_index++;
        stream_terminate(&channel->local, STREAM_ABORT); /* local_closed goes on */
        return;
    }
    loop_timer_stop(channel_loop(channel), &channel->timer);
    drop_session(channel);
    struct transport server = stream_release(&channel->stream);
    channel_start_relay(channel, server, stream_release(&channel->local).fd, none_ended);
}

static void local_closed(struct stream *stream)
{
    struct client_channel *channel = container_of(stream, struct client_channel, local);
    channel->has_local = false;
    if (channel->state != CHANNEL_CLOSING)
        local_try_address(channel);
    else if (--channel->streams_open == 0)
        channel_free(channel);
}

static void local_unexpected(struct stream *stream, int result)
{
    /* Nothing is read or written before the relay. */
}

static const struct stream_ops local_stream_ops = {
    .read_done = local_unexpected,
    .write_done = local_unexpected,
    .connected = local_connected,
    .closed = local_closed,
};

static void local_try_address(struct client_channel *channel)
{
    struct client_worker *worker = channel->worker;
    const struct resolver_answer *answer = &channel_local(channel)->answer;
    if (channel->addr_index >= answer->count) {
        local_unavailable(channel, -ECONNREFUSED);
        return;
    }
    const struct addr *addr = &answer->addrs[channel->addr_index];
    struct socket_options options = worker->channel_options;
    const struct config_service *config = client_service_config(channel->service);
    if (config->nodelay != CONFIG_UNSET)
        options.nodelay = config->nodelay == CONFIG_TRUE;
    if (addr_is_loopback(addr))
        options.keepalive_secs =
            0; /* this machine can't vanish without a reset: three calls less */
    int fd = socket_for_dialing(addr, &options);
    if (fd < 0) {
        local_unavailable(channel, fd);
        return;
    }
    stream_init(&channel->local, channel_loop(channel), fd, &local_stream_ops);
    channel->has_local = true;
    stream_connect(&channel->local, addr);
}

static void local_resolved(void *asker, const struct resolver_answer *answer)
{
    struct client_channel *channel = asker;
    struct client_local *local = channel_local(channel);
    channel->query = NULL;
    if (local->generation != channel->local_generation) { /* another name by now */
        local_begin(channel);
        return;
    }
    if (answer->error < 0) {
        local_unavailable(channel, answer->error);
        return;
    }
    local->answer = *answer;
    local->valid_until_ns = loop_now_ns(channel_loop(channel)) + LOCAL_VALID_MS * 1000000ull;
    local_try_address(channel);
}

static void local_begin(struct client_channel *channel)
{
    struct client_worker *worker = channel->worker;
    struct client_local *local = channel_local(channel);
    const struct host_port *name = &client_service_config(channel->service)->addr;
    channel->state = CHANNEL_LOCAL;
    channel->addr_index = 0;
    loop_timer_start(channel_loop(channel), &channel->timer,
                     client_config(worker->client)->connect_timeout_ms);
    if (local->valid_until_ns > loop_now_ns(channel_loop(channel))) {
        local_try_address(channel);
        return;
    }
    if (addr_from_numeric(name, &local->answer.addrs[0])) {
        local->answer.count = 1;
        local->valid_until_ns = UINT64_MAX;
        local_try_address(channel);
        return;
    }
    const struct config_service *config = client_service_config(channel->service);
    channel->local_generation = local->generation;
    bool prefer_ipv6 = client_config(worker->client)->prefer_ipv6 || config->prefer_ipv6;
    channel->query = resolver_ask(worker->tunnel->all->resolver, name, prefer_ipv6,
                                  worker->tunnel->mailbox, local_resolved, channel);
    if (channel->query == NULL)
        local_unavailable(channel, -ENOMEM);
}

/* ---- UDP: the channel serves all visitors that the server sends over it ---- */

static void channel_become_forward(struct client_channel *channel)
{
    loop_timer_stop(channel_loop(channel), &channel->timer);
    int result = udp_forward_begin(channel->worker, channel->service, &channel->stream);
    if (result < 0)
        channel_failed(channel, result);
    else
        channel_free(channel);
}

/* ---- the server's side: dial, hello, park, command ---- */

static void channel_stream_read_done(struct stream *stream, int result)
{
    struct client_channel *channel = container_of(stream, struct client_channel, stream);
    enum message_data_command command;
    if (result < 0) {
        log_conn(LOG_DEBUG, channel_service(channel), channel->id, "parked channel ended: %s",
                 error_text(result));
        channel_close(channel, STREAM_ABORT);
        return;
    }
    if (stream_is_writing(stream)) {
        channel_failed(channel, ERR_PROTOCOL); /* a command before our hello is out */
        return;
    }
    result = message_data_command_decode(channel->command, (size_t)result, &command);
    bool is_udp = channel->service->is_udp;
    if (result == 0 && command != (is_udp ? MESSAGE_DATA_START_UDP : MESSAGE_DATA_START_TCP))
        result = ERR_PROTOCOL;
    if (result < 0)
        channel_failed(channel, result);
    else if (is_udp)
        channel_become_forward(channel);
    else
        local_begin(channel);
}

static void channel_stream_write_done(struct stream *stream, int result)
{
    struct client_channel *channel = container_of(stream, struct client_channel, stream);
    keys_wipe(channel->hello, sizeof(channel->hello));
    if (result < 0)
        return; /* the read says the same, and is the one to act */
    loop_timer_stop(channel_loop(channel), &channel->timer);
}

static void channel_connected(struct stream *stream, int result)
{
    struct client_channel *channel = container_of(stream, struct client_channel, stream);
    if (result < 0) {
        log_conn(LOG_DEBUG, channel_service(channel), channel->id, "data channel: connect: %s",
                 error_text(result));
        stream_terminate(&channel->stream, STREAM_ABORT); /* then tries again */
        return;
    }
    const struct config_service *config = client_service_config(channel->service);
    if (config->nodelay != CONFIG_UNSET)
        socket_set_nodelay(stream->fd, config->nodelay == CONFIG_TRUE);
    if (tunnel_secure(channel->worker->tunnel, stream, true) < 0) {
        channel_failed(channel, -ENOMEM);
        return;
    }
    if (channel->worker->tunnel->noise_keys !=
        NULL) /* an old server stalls 5 s for a silent stranger */
        loop_timer_start(channel_loop(channel), &channel->timer, LIMIT_LOGIN_MS);
    channel->state = CHANNEL_PARKED;
    message_hello_encode(MESSAGE_HELLO_DATA, channel->session->key, channel->hello);
    stream_read(&channel->stream, channel->command, sizeof(channel->command));
    stream_write(&channel->stream, channel->hello, sizeof(channel->hello));
    metrics_add(&channel->worker->tunnel->metrics, METRIC_DATA_CHANNELS, 1);
}

static const struct stream_ops channel_stream_ops = {
    .read_done = channel_stream_read_done,
    .write_done = channel_stream_write_done,
    .connected = channel_connected,
    .closed = channel_stream_closed,
};

/* Descriptors are handed out lowest first, so a high number says that nearly all are in use. Each
 * channel without a visitor will need one more, for the local service; without it the visitor
 * would be turned away, while one that finds no channel waits. */
static bool leaves_enough_fds(const struct client_channel *channel, int fd)
{
    unsigned int others =
        atomic_load_explicit(&channel->worker->client->half_open, memory_order_relaxed);
    return fd + (int)others < channel->worker->client->fd_visitors_max;
}

static void channel_dial(struct client_channel *channel)
{
    struct client_worker *worker = channel->worker;
    const struct addr *server = &channel->session->server;
    /* No TCP_USER_TIMEOUT here: that of the control channel ends the session, and a parked channel
     * with it, in the same time, and a relay must not have it. */
    struct socket_options options = worker->channel_options;
    options.speaks_first = true;
    uint64_t now_ns = loop_now_ns(channel_loop(channel));
    int fd = -1;
    if (now_ns >= worker->dial_pause_until_ns) {
        fd = socket_for_dialing(server, &options);
        if (fd >= 0 && !leaves_enough_fds(channel, fd))
            (void)close(take_fd(&fd));
        if (fd < 0) /* one of those that wait finds out for all */
            worker->dial_pause_until_ns = now_ns + DIAL_PAUSE_MS * 1000000ull;
    }
    if (fd < 0) {
        channel_retry(channel);
        return;
    }
    set_half_open(channel, true);
    stream_init(&channel->stream, channel_loop(channel), fd, &channel_stream_ops);
    loop_timer_start(channel_loop(channel), &channel->timer,
                     client_config(worker->client)->connect_timeout_ms);
    stream_connect(&channel->stream, server);
}

static void channel_timer_expired(struct timer *timer)
{
    struct client_channel *channel = container_of(timer, struct client_channel, timer);
    uint64_t age_ms = (loop_now_ns(channel_loop(channel)) - channel->begun_at_ns) / 1000000;
    bool waits_to_dial = channel->state == CHANNEL_DIALING && channel->stream.fd < 0;
    if (waits_to_dial && age_ms < LIMIT_CHANNEL_RETRY_MS)
        channel_dial(channel);
    else if (channel->state == CHANNEL_LOCAL)
        local_unavailable(channel, ERR_DEADLINE);
    else
        channel_failed(channel, ERR_DEADLINE);
}

void client_channel_open(struct client_worker *worker, struct client_session *session)
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
    struct client_channel *channel = slab_get(&worker->channel_slab);
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
    channel->state = CHANNEL_DIALING;
    channel->has_local = channel->retries = channel->half_open = false;
    channel->query = NULL;
    channel->stream.fd = -1;
    timer_init(&channel->timer, channel_timer_expired);
    list_push_back(&worker->channels, &channel->node);
    channel_dial(channel);
}

/* ---- all of a worker's ---- */

void client_channel_close_ended(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->channels) {
        struct client_channel *channel = container_of(node, struct client_channel, node);
        bool unstarted = channel->state == CHANNEL_DIALING || channel->state == CHANNEL_PARKED;
        if (!unstarted || !atomic_load(&channel->session->ended))
            continue;
        /* A visitor got this one before the session ended: the command is here, not yet read. */
        bool is_taken = channel->state == CHANNEL_PARKED && socket_peek(channel->stream.fd) > 0;
        if (!is_taken)
            channel_close(channel, STREAM_ABORT);
    }
}

void client_channel_close_unstarted(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->channels) {
        struct client_channel *channel = container_of(node, struct client_channel, node);
        if (channel->state == CHANNEL_DIALING || channel->state == CHANNEL_PARKED)
            channel_close(channel, STREAM_ABORT);
    }
}

void client_channel_close_cut(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->relaying) {
        struct client_channel *channel = container_of(node, struct client_channel, node);
        if (atomic_load(&channel->service->entry.cut))
            relay_terminate(&channel->relay);
    }
}

void client_channel_close_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->channels) {
        channel_close(container_of(node, struct client_channel, node), STREAM_ABORT);
    }
    list_for_each_safe (node, &worker->relaying) {
        relay_terminate(&container_of(node, struct client_channel, node)->relay);
    }
}

void client_channel_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct client_channel));
}
