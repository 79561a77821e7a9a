/* The relay between the server and the local service: its start, its move to another worker when it
 * becomes bulk (docs/decisions.md, "A relay may move to another worker"), and its end. */
#include <string.h>

#include "base/error.h"
#include "data_channel_priv.h"

/* A relay on its way to another worker. It owns the descriptors and the Noise state. */
struct channel_move {
    struct transport server;
    int local_fd;
    struct client_service *service; /* the channel's use of it moves along */
    bool ended[2];
    bool is_answered; /* the service's first byte has come */
    uint64_t id, begun_at_ns;
};
static_assert(sizeof(struct channel_move) <= MAILBOX_PAYLOAD_SIZE, "travels by value");

static void channel_start_relay(struct data_channel *channel, const struct channel_move *from);

static void data_channel_deliver_move(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct client_worker *worker = tunnel->role;
    struct channel_move move;
    memcpy(&move, payload, sizeof(move));
    struct data_channel *channel = slab_get(&worker->channel_slab);
    if (channel == NULL) {
        metrics_add(&tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        transport_abort(&move.server, tunnel->loop);
        loop_close_fd(tunnel->loop, move.local_fd); /* SO_LINGER makes this a reset */
        client_fds_release(&worker->client->fds, move.service);
        client_service_drop(move.service);
        return;
    }
    metrics_add(&tunnel->metrics, METRIC_RELAYS_MOVED_IN, 1);
    channel->worker = worker;
    channel->session = NULL;
    channel->half_open = false;
    channel->held = true;
    channel->service = move.service;
    channel->id = move.id;
    channel->begun_at_ns = move.begun_at_ns;
    channel->state = CHANNEL_NEW;
    list_init(&channel->node);
    channel_start_relay(channel, &move);
    if (worker->stopping)
        data_channel_close_all(worker);
    else if (atomic_load(&move.service->entry.cut)) /* the service was cut meanwhile */
        data_channel_close_cut(worker);
}

static bool channel_place(struct relay *relay, bool is_new)
{
    struct data_channel *channel = container_of(relay, struct data_channel, relay);
    if (channel->worker->draining || channel->worker->leaving) /* workers without relays end */
        return false;
    channel->move_to = tunnel_place_bulk(channel->worker->tunnel, relay, is_new);
    if (channel->move_to == channel->worker->tunnel)
        return false;
    relay_detach(relay);
    return true;
}

static void channel_relay_closed(struct relay *relay)
{
    struct data_channel *channel = container_of(relay, struct data_channel, relay);
    struct tunnel_worker *own = channel->worker->tunnel;
    struct channel_move move = {.service = channel->service,
                                .id = channel->id,
                                .begun_at_ns = channel->begun_at_ns};
    int fds[2];
    counter_sub(&channel_stats(channel)->open, 1);
    if (relay_detached(relay, fds, move.ended)) {
        move.server = (struct transport){.fd = fds[RELAY_VISITOR_END],
                                         .link = relay_take_link(relay, RELAY_VISITOR_END)};
        move.local_fd = fds[RELAY_SERVICE_END];
        move.is_answered = relay->begun_at_ns == 0;
        if (mailbox_post(channel->move_to->mailbox, own->mailbox, data_channel_deliver_move, &move,
                         sizeof(move)) < 0) {
            relay_engine_stay(&own->relays);
            channel_start_relay(channel, &move);
            return;
        }
        metrics_add(&own->metrics, METRIC_RELAYS_MOVED_OUT, 1);
        data_channel_forget(channel);
    } else {
        static const char *const ends[2] = {"server", "local service"};
        tunnel_log_silent_end(relay, channel_service(channel), channel->id, ends);
        log_conn(LOG_DEBUG, channel_service(channel), channel->id,
                 "relay closed: %llu bytes in, %llu bytes out%s%s",
                 (unsigned long long)relay_bytes(relay, RELAY_VISITOR_END),
                 (unsigned long long)relay_bytes(relay, RELAY_SERVICE_END),
                 relay->error != 0 ? ", " : "", relay->error != 0 ? error_text(relay->error) : "");
        data_channel_drop_service(channel);
        data_channel_forget(channel);
    }
}

static const struct relay_ops channel_relay_ops = {
    .place = channel_place,
    .closed = channel_relay_closed,
};

static void channel_start_relay(struct data_channel *channel, const struct channel_move *from)
{
    struct client_worker *worker = channel->worker;
    struct service_stats *stats = channel_stats(channel);
    struct relay_options options = {
        .engine = &worker->tunnel->relays,
        .ops = &channel_relay_ops,
        .fds = {from->server.fd, from->local_fd},
        .links = {from->server.link, NULL},
        .stats = &stats->relay,
        .begun_at_ns = from->is_answered ? 0 : channel->begun_at_ns,
        .idle_timeout_ms = client_service_config(channel->service)->idle_timeout_ms,
        .doubts = &channel->service->entry.doubts,
        .doubted_end = RELAY_VISITOR_END,
        .ended = {from->ended[0], from->ended[1]},
        .expect_empty = {false, true}, /* most services wait for a request first */
    };
    data_channel_set_state(channel, CHANNEL_RELAYING);
    counter_add(&stats->open, 1);
    log_conn(LOG_DEBUG, channel_service(channel), channel->id, "relay started");
    relay_start(&channel->relay, &options);
}

void data_channel_relay_start(struct data_channel *channel, struct transport server, int local_fd)
{
    const struct channel_move from = {.server = server, .local_fd = local_fd};
    histogram_add(&channel_stats(channel)->connect,
                  loop_now_ns(channel_loop(channel)) - channel->begun_at_ns);
    channel_start_relay(channel, &from);
}
