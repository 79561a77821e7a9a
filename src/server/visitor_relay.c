/* The relay of a visitor and its data channel: its start, its move to another worker, its end, and
 * the second channel of a visitor that has lost its first one. docs/decisions.md, "A relay may move
 * to another worker", "A visitor may get a second channel". */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "proto/message.h"
#include "proto/proxy_protocol.h"
#include "server/arrival.h"
#include "server/exchange.h"
#include "server/visitor_limits.h"
#include "visitor_priv.h"

/* A message: a visitor and its channel on their way to another worker. */
struct visitor_move {
    int channel_fd, visitor_fd;
    struct link *channel_link;
    struct pool_handle source; /* of the channel */
    bool ended[2];             /* by end: its stream has ended */
    bool started : 1;          /* the relay was running: the command has been sent */
    bool is_answered : 1;      /* the service's first byte has come */
    bool has_tried_again : 1;  /* visitor.has_tried_again */
    bool has_addresses;        /* from a PROXY header, for the one that the service gets */
    struct service *service;   /* the message has the visitor's use of it */
    uint64_t id;
    union {
        uint64_t begun_at_ns;
        struct visitor_far *far; /* with has_addresses; owned by the message */
    };
    struct addr_key key;
};
static_assert(sizeof(struct visitor_move) <= MAILBOX_PAYLOAD_SIZE, "fits into a message");

/* What does not fit into the message. */
struct visitor_far {
    uint64_t begun_at_ns;
    struct visitor_addresses addresses;
};

static void visitor_start_relay(struct visitor *visitor, const struct visitor_move *from);

static void visitor_deliver_move(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct server_worker *worker = tunnel->role;
    struct visitor_move move;
    memcpy(&move, payload, sizeof(move));
    CLEANUP_FREE struct visitor_far *far = move.has_addresses ? move.far : NULL;
    struct visitor *visitor = visitor_new(worker, move.service);
    if (visitor == NULL) {
        loop_close_fd(tunnel->loop, move.visitor_fd); /* resets the connection (SO_LINGER) */
        transport_abort(&(struct transport){move.channel_fd, move.channel_link}, tunnel->loop);
        visitor_limits_leave(move.service, &move.key);
        channel_pool_left(&move.service->pool, move.source);
        service_drop(move.service);
        return;
    }
    metrics_add(&tunnel->metrics, METRIC_RELAYS_MOVED_IN, 1);
    visitor->id = move.id;
    visitor->begun_at_ns = far != NULL ? far->begun_at_ns : move.begun_at_ns;
    if (far != NULL)
        visitor->start.addresses = far->addresses;
    visitor->key = move.key;
    visitor->fd = move.visitor_fd;
    visitor->source = move.source;
    visitor->has_tried_again = move.has_tried_again;
    visitor_start_relay(visitor, &move);
    if (worker->stopping)
        visitor_close_all(worker);
    else if (atomic_load(&move.service->entry.cut)) /* while the message was on its way */
        visitor_close_cut(worker);
}

/* Sends the visitor to another worker and frees it here. False: that worker's mailbox is full, and
 * the visitor stays. */
static bool visitor_move(struct visitor *visitor, struct tunnel_worker *target,
                         const struct visitor_move *move)
{
    struct tunnel_worker *own = visitor->worker->tunnel;
    if (mailbox_post(target->mailbox, own->mailbox, visitor_deliver_move, move, sizeof(*move)) < 0)
        return false;
    metrics_add(&own->metrics, METRIC_RELAYS_MOVED_OUT, 1);
    visitor_forget(visitor);
    return true;
}

static bool visitor_place(struct relay *relay, bool is_new)
{
    struct visitor *visitor = container_of(relay, struct visitor, relay);
    if (visitor->worker->draining)
        return false;
    visitor->move_to = tunnel_place_bulk(visitor->worker->tunnel, relay, is_new);
    if (visitor->move_to == visitor->worker->tunnel)
        return false;
    relay_detach(relay);
    return true;
}

/* ---- a second channel ---- */

/* The channel has ended, and at most the command and our own header were sent there: another client
 * may serve the visitor as if nothing had been. */
static bool visitor_service_lost(struct relay *relay)
{
    struct visitor *visitor = container_of(relay, struct visitor, relay);
    struct service *service = visitor->service;
    return visitor->may_try_again && !visitor->worker->draining &&
           service_config(service)->clients == CONFIG_CLIENTS_BALANCE &&
           channel_pool_has_other(&service->pool, visitor->source);
}

/* Keeps what another relay's start needs and the relay overwrites. False: there is no memory. */
static bool keep_addresses(struct visitor *visitor, const struct config_service *config)
{
    const struct visitor_addresses *addresses = &visitor->start.addresses;
    if (!addresses->are_given || config->proxy_protocol == 0)
        return true;
    visitor->far = malloc(sizeof(*visitor->far));
    if (visitor->far != NULL)
        *visitor->far = (struct visitor_far){.addresses = *addresses};
    return visitor->far != NULL;
}

/* A client of several that fails without an answer gets no more visitors until a channel of it
 * comes, or its control channel says that it is well. */
static void visitor_doubt_client(struct visitor *visitor)
{
    const struct relay *relay = &visitor->relay;
    struct service *service = visitor->service;
    bool is_unanswered = relay->begun_at_ns != 0;
    if (relay->error == 0 || relay->failed_end != RELAY_SERVICE_END || !is_unanswered ||
        service_config(service)->clients != CONFIG_CLIENTS_BALANCE)
        return;
    pool_notice notice;
    if (!channel_pool_lost(&service->pool, visitor->source, loop_now_ns(visitor_loop(visitor)),
                           &notice))
        return;
    exchange_notify(visitor->worker, service, notice);
    exchange_wake_waiters(visitor->worker);
}

/* The relay has closed the lost channel. */
static void visitor_try_again(struct visitor *visitor, int fd)
{
    struct service *service = visitor->service;
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id,
             "data channel lost before any byte passed (%s); one more attempt",
             visitor->relay.error != 0 ? error_text(visitor->relay.error) : "end of stream");
    metrics_add(&visitor->worker->tunnel->metrics, METRIC_VISITORS_TRIED_AGAIN, 1);
    visitor_set_state(visitor, VISITOR_SEEKING);
    channel_pool_left(&service->pool, visitor->source);
    arrival_init(visitor); /* in the relay's place */
    visitor->start.seeks_since_ns = loop_now_ns(visitor_loop(visitor));
    if (visitor->far != NULL)
        visitor->start.addresses = visitor->far->addresses;
    visitor->fd = fd;
    visitor->waiter.avoid = visitor->source;
    visitor->source = (struct pool_handle){.generation = 0};
    visitor->has_tried_again = true;
    if (visitor_seek(visitor, false))
        return;
    visitor_reset(visitor);
    visitor_finish(visitor);
}

/* ---- the end ---- */

static void log_relay_closed(const struct visitor *visitor)
{
    static const char *const ends[2] = {"visitor", "client"};
    const struct relay *relay = &visitor->relay;
    tunnel_log_silent_end(relay, visitor_service(visitor), visitor->id, ends);
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id,
             "relay closed: %llu bytes in, %llu bytes out%s%s",
             (unsigned long long)relay_bytes(relay, RELAY_VISITOR_END),
             (unsigned long long)relay_bytes(relay, RELAY_SERVICE_END),
             relay->error != 0 ? ", " : "", relay->error != 0 ? error_text(relay->error) : "");
}

static void visitor_relay_closed(struct relay *relay)
{
    struct visitor *visitor = container_of(relay, struct visitor, relay);
    struct visitor_move move = {
        .service = visitor->service,
        .started = true,
        .id = visitor->id,
        .begun_at_ns = visitor->begun_at_ns,
        .key = visitor->key,
        .source = visitor->source,
        .has_tried_again = visitor->has_tried_again,
    };
    int fds[2];
    counter_sub(&visitor_stats(visitor)->open, 1);
    if (relay_detached(relay, fds, move.ended)) {
        move.visitor_fd = visitor->fd = fds[RELAY_VISITOR_END];
        move.channel_fd = fds[RELAY_SERVICE_END];
        move.channel_link = relay_take_link(relay, RELAY_SERVICE_END);
        move.is_answered = relay->begun_at_ns == 0;
        if (!visitor_move(visitor, visitor->move_to, &move)) {
            relay_engine_stay(&visitor->worker->tunnel->relays);
            visitor_start_relay(visitor, &move);
        }
        return;
    }
    visitor_doubt_client(visitor);
    if (relay_spared(relay, &fds[RELAY_VISITOR_END])) {
        visitor_try_again(visitor, fds[RELAY_VISITOR_END]);
        return;
    }
    log_relay_closed(visitor);
    visitor_finish(visitor);
}

static const struct relay_ops visitor_relay_ops = {
    .place = visitor_place,
    .service_lost = visitor_service_lost,
    .closed = visitor_relay_closed,
};

/* ---- the start ---- */

/* The PROXY header for the service. The addresses are those of the visitor's own PROXY header, or
 * else the kernel is asked for them: it knows them on every worker. */
static size_t make_header(const struct visitor *visitor, unsigned int version,
                          uint8_t out[static PROXY_PROTOCOL_MAX])
{
    struct visitor_addresses own = visitor->start.addresses;
    if (!own.are_given && socket_peer(visitor->fd, &own.from) < 0)
        own.from.len = 0; /* it has reset its connection */
    if (!own.are_given && socket_local(visitor->fd, &own.to) < 0)
        own.to.len = 0;
    return proxy_protocol_encode(version, false, &own.from, &own.to, out);
}

/* What a data channel begins with: the command, and perhaps a PROXY header, which any client passes
 * on as the visitor's first bytes. */
static size_t make_prefix(const struct visitor *visitor, const struct config_service *config,
                          uint8_t out[static RELAY_PREFIX_SIZE])
{
    static_assert((int)MESSAGE_DATA_COMMAND_SIZE + (int)PROXY_PROTOCOL_MAX <=
                      (int)RELAY_PREFIX_SIZE,
                  "room for both");
    message_data_command_encode(config->type == CONFIG_SERVICE_SOCKET_STREAM
                                    ? MESSAGE_DATA_START_SOCKET_STREAM
                                    : MESSAGE_DATA_START_TCP,
                                out);
    size_t size = MESSAGE_DATA_COMMAND_SIZE;
    if (config->proxy_protocol != 0)
        size += make_header(visitor, config->proxy_protocol, out + size);
    return size;
}

/* The visitor has its descriptor. Of `from` the relay takes the channel, and how far it was. */
static void visitor_start_relay(struct visitor *visitor, const struct visitor_move *from)
{
    struct server_worker *worker = visitor->worker;
    struct service_stats *stats = visitor_stats(visitor);
    uint8_t prefix[RELAY_PREFIX_SIZE];
    const struct config_service *config = service_config(visitor->service);
    size_t prefix_len = from->started ? 0 : make_prefix(visitor, config, prefix);
    visitor->may_try_again = !from->started && !visitor->has_tried_again &&
                             config->clients == CONFIG_CLIENTS_BALANCE &&
                             keep_addresses(visitor, config);
    struct relay_options options = {
        .engine = &worker->tunnel->relays,
        .ops = &visitor_relay_ops,
        .fds = {take_fd(&visitor->fd), from->channel_fd},
        .links = {NULL, from->channel_link},
        .stats = &stats->relay,
        .begun_at_ns = from->is_answered ? 0 : visitor->begun_at_ns,
        .prefix = prefix,
        .prefix_len = prefix_len,
        .idle_timeout_ms = config->idle_timeout_ms,
        .half_close_timeout_ms = server_config(worker->server)->half_close_timeout_ms,
        .rates = &visitor->service->rates,
        .doubts = &visitor->service->entry.doubts,
        .doubted_end = RELAY_SERVICE_END,
        .ended = {from->ended[0], from->ended[1]},
        .expect_empty = {false,
                         !from->started}, /* the client sends nothing before it gets the command */
    };
    visitor_set_state(visitor, VISITOR_RELAYING);
    counter_add(&stats->open, 1);
    uint64_t now_ns = loop_now_ns(visitor_loop(visitor));
    if (!from->started &&
        !visitor
             ->has_tried_again) /* the clock of the worker that accepted it may be a little ahead */
        histogram_add(&stats->connect, now_ns - MIN(now_ns, visitor->begun_at_ns));
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id, "relay started");
    relay_start(&visitor->relay, &options);
}

/* Puts the addresses of the visitor's PROXY header into the message. False: there is no memory. */
static bool visitor_pack_addresses(const struct visitor *visitor, struct visitor_move *move)
{
    const struct visitor_addresses *addresses = &visitor->start.addresses;
    if (!addresses->are_given)
        return true;
    struct visitor_far *far = malloc(sizeof(*far));
    if (far == NULL)
        return false;
    *far = (struct visitor_far){visitor->begun_at_ns, *addresses};
    move->far = far;
    move->has_addresses = true;
    return true;
}

void visitor_relay_bind(struct visitor *visitor, struct transport channel)
{
    struct server_worker *worker = visitor->worker;
    struct tunnel_worker *target = tunnel_place_relay(worker->tunnel);
    struct visitor_move move = {
        .visitor_fd = visitor->fd,
        .channel_fd = channel.fd,
        .channel_link = channel.link,
        .source = visitor->source,
        .service = visitor->service,
        .id = visitor->id,
        .begun_at_ns = visitor->begun_at_ns,
        .key = visitor->key,
        .has_tried_again = visitor->has_tried_again,
    };
    if (target != worker->tunnel && visitor_pack_addresses(visitor, &move)) {
        struct visitor_far *far = move.has_addresses ? move.far : NULL;
        if (visitor_move(visitor, target, &move))
            return;
        free(far);
    }
    visitor_start_relay(visitor, &move);
}
