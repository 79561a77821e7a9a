#include "tunnel/visitor.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "proto/message.h"
#include "tunnel/server.h"

enum visitor_state {
    VISITOR_WAITING, /* for a channel, in the pool's queue */
    VISITOR_GONE,    /* closed while a channel is on its way to it: freed when that arrives */
    VISITOR_RELAYING,
};

struct visitor {
    struct relay relay; /* while RELAYING; when a channel is lost it waits in here */
    struct pool_waiter waiter;
    struct list node; /* in worker->waiting_visitors or relaying_visitors */
    struct server_worker *worker;
    struct service *service;
    struct timer wait_timer;
    struct addr_key key;
    uint64_t id;
    int fd; /* until the relay has it */
    uint8_t state;
    uint8_t rebinds;
    bool has_relay; /* waits for a replacement */
    struct tunnel_worker *move_to;
};

static_assert(sizeof(struct visitor) <= 1024, "the budget of an idle relay");

/* A visitor on its way to another worker. */
struct visitor_move {
    struct transport channel;
    int visitor_fd;
    struct service *service; /* the visitor's use of it goes along */
    bool ended[2];
    bool started; /* the command has been sent and bytes may have moved */
    uint64_t id;
    struct addr_key key;
};
static_assert(sizeof(struct visitor_move) <= MAILBOX_PAYLOAD_SIZE, "travels by value");

/* A channel on its way to a visitor of another worker. */
struct visitor_delivery {
    struct pool_match match;
    struct transport channel;
};
static_assert(sizeof(struct visitor_delivery) <= MAILBOX_PAYLOAD_SIZE, "travels by value");

static struct loop *visitor_loop(const struct visitor *visitor)
{
    return visitor->worker->tunnel->loop;
}

static const char *visitor_service(const struct visitor *visitor)
{
    return service_name(visitor->service);
}

/* ---- making and freeing ---- */

/* The caller's use of the service becomes the visitor's, if there is one. */
static struct visitor *visitor_new(struct server_worker *worker, struct service *service)
{
    struct visitor *visitor = slab_get(&worker->visitor_slab);
    if (visitor == NULL) {
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        return NULL;
    }
    visitor->worker = worker;
    visitor->service = service;
    visitor->waiter.waiting = false;
    visitor->fd = -1;
    visitor->rebinds = 0;
    visitor->has_relay = false;
    visitor->move_to = NULL;
    list_init(&visitor->node);
    list_init(&visitor->waiter.node);
    return visitor;
}

/* Its use of the service lives on elsewhere. */
static void visitor_forget(struct visitor *visitor)
{
    list_remove(&visitor->node);
    slab_put(&visitor->worker->visitor_slab, visitor);
}

static void visitor_free(struct visitor *visitor)
{
    struct service *service = visitor->service;
    visitor_forget(visitor);
    service_drop(service);
}

/* The visitor is no more: it does not count, and nothing of it is open. */
static void visitor_finish(struct visitor *visitor)
{
    service_leave(visitor->service, &visitor->key);
    visitor_free(visitor);
}

static void stop_waiting(struct visitor *visitor)
{
    loop_timer_stop(visitor_loop(visitor), &visitor->wait_timer);
    (void)atomic_fetch_sub(&visitor->worker->server->waiting_visitors, 1);
}

/* Closes a visitor that waits, or whose relay does. */
static void visitor_give_up(struct visitor *visitor)
{
    assert(visitor->state == VISITOR_WAITING);
    if (visitor->has_relay) {
        relay_terminate(&visitor->relay); /* ends in visitor_relay_closed */
        return;
    }
    stop_waiting(visitor);
    loop_close_fd(visitor_loop(visitor), take_fd(&visitor->fd));
    service_leave(visitor->service, &visitor->key);
    if (channel_pool_leave(&visitor->service->pool, &visitor->waiter))
        visitor_free(visitor);
    else
        visitor->state = VISITOR_GONE;
}

static void visitor_wait_expired(struct timer *timer)
{
    static struct log_limit limit;
    uint32_t suppressed;
    struct visitor *visitor = container_of(timer, struct visitor, wait_timer);
    metrics_add(&visitor->worker->tunnel->metrics, METRIC_VISITORS_TIMED_OUT, 1);
    if (log_allowed(&limit, &suppressed))
        log_conn(LOG_WARN, visitor_service(visitor), visitor->id,
                 "no data channel for a visitor in %d s (%u similar lines suppressed)",
                 LIMIT_VISITOR_WAIT_MS / 1000, suppressed);
    visitor_give_up(visitor);
}

/* ---- the relay ---- */

static bool visitor_seek(struct visitor *visitor, bool first);
static void visitor_start_relay(struct visitor *visitor, struct transport channel, bool started,
                                const bool ended[2]);

static void deliver_move(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct server_worker *worker = tunnel->role;
    struct visitor_move move;
    memcpy(&move, payload, sizeof(move));
    struct visitor *visitor = visitor_new(worker, move.service);
    if (visitor == NULL) {
        socket_set_abort(move.visitor_fd);
        loop_close_fd(tunnel->loop, move.visitor_fd);
        transport_abort(&move.channel, tunnel->loop);
        service_leave(move.service, &move.key);
        service_drop(move.service);
        return;
    }
    metrics_add(&tunnel->metrics, METRIC_RELAYS_MOVED_IN, 1);
    visitor->id = move.id;
    visitor->key = move.key;
    visitor->fd = move.visitor_fd;
    visitor_start_relay(visitor, move.channel, move.started, move.ended);
    if (worker->stopping)
        visitor_close_all(worker);
    else if (atomic_load(&move.service->entry.cut)) /* while it travelled */
        visitor_close_cut(worker);
}

/* False: the other worker's mailbox is full, the visitor stays. */
static bool visitor_move(struct visitor *visitor, struct tunnel_worker *target,
                         const struct visitor_move *move)
{
    struct tunnel_worker *own = visitor->worker->tunnel;
    if (mailbox_post(target->mailbox, own->mailbox, deliver_move, move, sizeof(*move)) < 0)
        return false;
    metrics_add(&own->metrics, METRIC_RELAYS_MOVED_OUT, 1);
    visitor_forget(visitor);
    return true;
}

static bool visitor_became_bulk(struct relay *relay)
{
    struct visitor *visitor = container_of(relay, struct visitor, relay);
    visitor->move_to = tunnel_place_bulk(visitor->worker->tunnel);
    if (visitor->move_to == visitor->worker->tunnel || visitor->worker->draining)
        return false;
    relay_detach(relay);
    return true;
}

/* The channel was reset before its first byte back: the visitor gets another one. */
static bool visitor_end1_lost(struct relay *relay)
{
    struct visitor *visitor = container_of(relay, struct visitor, relay);
    if (visitor->rebinds == LIMIT_REBINDS || visitor->worker->draining)
        return false;
    visitor->rebinds++;
    visitor->has_relay = true;
    metrics_add(&visitor->worker->tunnel->metrics, METRIC_VISITORS_REBOUND, 1);
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id, "data channel lost, taking another");
    return visitor_seek(visitor, false);
}

static void log_relay_closed(const struct visitor *visitor)
{
    const struct relay *relay = &visitor->relay;
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id,
             "relay closed: %llu bytes in, %llu bytes out%s%s",
             (unsigned long long)relay_bytes(relay, 0), (unsigned long long)relay_bytes(relay, 1),
             relay->error != 0 ? ", " : "", relay->error != 0 ? error_text(relay->error) : "");
}

static void visitor_relay_closed(struct relay *relay)
{
    struct visitor *visitor = container_of(relay, struct visitor, relay);
    struct visitor_move move = {
        .service = visitor->service,
        .started = true,
        .id = visitor->id,
        .key = visitor->key,
    };
    int fds[2];
    if (relay_detached(relay, fds, move.ended)) {
        move.visitor_fd = visitor->fd = fds[0];
        move.channel = (struct transport){.fd = fds[1], .noise = relay_take_noise(relay, 1)};
        if (!visitor_move(visitor, visitor->move_to, &move))
            visitor_start_relay(visitor, move.channel, true, move.ended);
        return;
    }
    log_relay_closed(visitor);
    if (visitor->state ==
        VISITOR_WAITING) { /* for the channel that would have replaced a lost one */
        stop_waiting(visitor);
        visitor->has_relay = false;
        if (!channel_pool_leave(&visitor->service->pool, &visitor->waiter)) {
            service_leave(visitor->service, &visitor->key);
            visitor->state = VISITOR_GONE;
            return;
        }
    }
    visitor_finish(visitor);
}

static const struct relay_ops visitor_relay_ops = {
    .end1_lost = visitor_end1_lost,
    .became_bulk = visitor_became_bulk,
    .closed = visitor_relay_closed,
};

static void visitor_start_relay(struct visitor *visitor, struct transport channel, bool started,
                                const bool ended[2])
{
    struct server_worker *worker = visitor->worker;
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    struct relay_options options = {
        .engine = &worker->tunnel->relays,
        .ops = &visitor_relay_ops,
        .fds = {take_fd(&visitor->fd), channel.fd},
        .noise = {NULL, channel.noise},
        .prefix = command,
        .prefix_len = started ? 0 : sizeof(command),
        .idle_timeout_ms = service_config(visitor->service)->idle_timeout_ms,
        .replay = !started,
        .ended = {ended[0], ended[1]},
        .quiet = {false, !started}, /* nothing comes back before the command has gone out */
    };
    /* It watched over the parked channel; on a relay it would also fire on a live peer that has
     * closed its window. */
    if (!started)
        socket_set_user_timeout(channel.fd, 0);
    visitor->state = VISITOR_RELAYING;
    list_remove(&visitor->node);
    list_push_back(&worker->relaying_visitors, &visitor->node);
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id, "relay started");
    relay_start(&visitor->relay, &options);
}

/* ---- finding a channel ---- */

static void visitor_bind(struct visitor *visitor, struct transport channel)
{
    static const bool none_ended[2] = {false, false};
    struct server_worker *worker = visitor->worker;
    if (visitor->has_relay) {
        visitor->has_relay = false;
        visitor->state = VISITOR_RELAYING;
        list_remove(&visitor->node);
        list_push_back(&worker->relaying_visitors, &visitor->node);
        socket_set_user_timeout(channel.fd, 0);
        relay_rebind(&visitor->relay, channel);
        return;
    }
    struct tunnel_worker *target = tunnel_place_relay(worker->tunnel);
    struct visitor_move move = {
        .visitor_fd = visitor->fd,
        .channel = channel,
        .service = visitor->service,
        .id = visitor->id,
        .key = visitor->key,
    };
    if (target == worker->tunnel || !visitor_move(visitor, target, &move))
        visitor_start_relay(visitor, channel, false, none_ended);
}

static void log_refused(const struct visitor *visitor, const char *why)
{
    static struct log_limit limit;
    uint32_t suppressed;
    metrics_add(&visitor->worker->tunnel->metrics, METRIC_VISITORS_REFUSED_LIMIT, 1);
    if (log_allowed(&limit, &suppressed))
        log_conn(LOG_WARN, visitor_service(visitor), visitor->id,
                 "visitor refused: %s (%u similar lines suppressed)", why, suppressed);
}

/* The oldest parked channel that is still alive, if there is one; the take's result in *ret. */
static struct transport take_live_channel(struct visitor *visitor, bool first, enum pool_take *ret)
{
    struct server_worker *worker = visitor->worker;
    struct loop *loop = visitor_loop(visitor);
    for (;;) {
        struct transport channel = {.fd = -1};
        bool notify;
        *ret = channel_pool_take(&visitor->service->pool, &visitor->waiter, first,
                                 loop_now_ns(loop), &channel, &notify);
        if (notify)
            server_notify_owner(worker, visitor->service);
        if (*ret != POOL_TAKEN || socket_peek(channel.fd) >= 0)
            return channel;
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_STALE, 1);
        transport_close(&channel, loop);
        first = false;
    }
}

/* Finds a channel, or a place in the queue for one. False: neither is to be had; the visitor, or
 * its relay, is the caller's to close. */
static bool visitor_seek(struct visitor *visitor, bool first)
{
    struct server_worker *worker = visitor->worker;
    visitor->waiter.worker = worker->tunnel;
    visitor->waiter.visitor_id = visitor->id;
    enum pool_take result;
    struct transport channel = take_live_channel(visitor, first, &result);
    switch (result) {
    case POOL_TAKEN:
        visitor_bind(visitor, channel);
        return true;
    case POOL_WAITING:
        visitor->state = VISITOR_WAITING;
        list_remove(&visitor->node);
        list_push_back(&worker->waiting_visitors, &visitor->node);
        timer_init(&visitor->wait_timer, visitor_wait_expired);
        loop_timer_start(visitor_loop(visitor), &visitor->wait_timer, LIMIT_VISITOR_WAIT_MS);
        (void)atomic_fetch_add(&worker->server->waiting_visitors, 1);
        return true;
    case POOL_FULL:
        log_refused(visitor, "too many visitors wait for a data channel");
        return false;
    case POOL_CLOSED:
        log_refused(visitor, "no control channel");
        return false;
    }
    return false;
}

/* A channel has come for a visitor of this worker. */
static void visitor_matched(struct visitor *visitor, struct transport channel)
{
    struct server_worker *worker = visitor->worker;
    if (visitor->state == VISITOR_GONE) {
        server_offer_channel(worker, visitor->service, channel, false, NULL);
        visitor_free(visitor);
        return;
    }
    assert(visitor->state == VISITOR_WAITING);
    stop_waiting(visitor);
    int peeked = visitor->has_relay ? 0 : socket_peek(visitor->fd); /* takes the error: only once */
    if (peeked < 0 && peeked != ERR_EOF) {
        /* It has reset its connection while it waited: the channel is too good for it. */
        loop_close_fd(visitor_loop(visitor), take_fd(&visitor->fd));
        server_offer_channel(worker, visitor->service, channel, false, NULL);
        visitor_finish(visitor);
        return;
    }
    visitor_bind(visitor, channel);
}

static void deliver_channel(void *owner, const void *payload)
{
    struct visitor_delivery delivery;
    memcpy(&delivery, payload, sizeof(delivery));
    visitor_matched(container_of(delivery.match.waiter, struct visitor, waiter), delivery.channel);
}

void visitor_deliver(struct server_worker *worker, struct service *service,
                     const struct pool_match *match, struct transport channel)
{
    struct tunnel_worker *own = worker->tunnel;
    if (match->worker == own) {
        visitor_matched(container_of(match->waiter, struct visitor, waiter), channel);
        return;
    }
    struct visitor_delivery delivery = {.match = *match, .channel = channel};
    int result = mailbox_post(match->worker->mailbox, own->mailbox, deliver_channel, &delivery,
                              sizeof(delivery));
    if (result == 0)
        return;
    if (result == -EPIPE) { /* that worker has ended, and its visitors with it */
        transport_close(&channel, own->loop);
        return;
    }
    if (!channel_pool_undo(&service->pool, match, channel, loop_now_ns(own->loop)))
        transport_close(&channel, own->loop);
    mailbox_signal(match->worker->mailbox, own->mailbox, TUNNEL_SIGNAL_VISITORS);
}

/* ---- the beginning ---- */

void visitor_begin(struct server_worker *worker, struct service *service, int fd)
{
    struct tunnel_worker *tunnel = worker->tunnel;
    metrics_add(&tunnel->metrics, METRIC_VISITORS_ACCEPTED, 1);
    struct visitor *visitor = visitor_new(worker, service);
    if (visitor == NULL) {
        loop_close_fd(tunnel->loop, fd);
        return;
    }
    service_use(service);
    visitor->id = tunnel_next_conn_id(tunnel);
    memset(&visitor->key, 0, sizeof(visitor->key));
    struct addr peer;
    if (service_config(service)->max_connections_per_ip != 0 && socket_peer(fd, &peer) == 0)
        visitor->key = addr_key(&peer);
    int result = service_enter(service, &visitor->key);
    if (result < 0) {
        log_refused(visitor, error_text(result));
        loop_close_fd(tunnel->loop, fd);
        visitor_free(visitor);
        return;
    }
    visitor->fd = fd;
    if (!visitor_seek(visitor, true)) {
        loop_close_fd(tunnel->loop, take_fd(&visitor->fd));
        visitor_finish(visitor);
    }
}

/* ---- all of a worker's ---- */

static void review(struct visitor *visitor)
{
    if (visitor->state == VISITOR_GONE) {
        if (channel_pool_leave(&visitor->service->pool, &visitor->waiter))
            visitor_free(visitor);
        return;
    }
    if (!atomic_load(&visitor->service->up)) {
        visitor_give_up(visitor);
        return;
    }
    if (!channel_pool_leave(&visitor->service->pool, &visitor->waiter))
        return; /* a channel is on its way */
    stop_waiting(visitor);
    visitor->state = VISITOR_RELAYING; /* or about to be */
    if (visitor_seek(visitor, false))
        return;
    if (visitor->has_relay) {
        relay_terminate(&visitor->relay);
        return;
    }
    loop_close_fd(visitor_loop(visitor), take_fd(&visitor->fd));
    visitor_finish(visitor);
}

void visitor_review_waiting(struct server_worker *worker)
{
    struct list queue; /* who goes on waiting is put back at the end of the worker's list */
    list_init(&queue);
    struct list *node;
    while ((node = list_pop_front(&worker->waiting_visitors)) != NULL)
        list_push_back(&queue, node);
    while ((node = list_pop_front(&queue)) != NULL) {
        list_push_back(&worker->waiting_visitors, node);
        review(container_of(node, struct visitor, node));
    }
}

void visitor_close_waiting(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->waiting_visitors) {
        struct visitor *visitor = container_of(node, struct visitor, node);
        if (visitor->state == VISITOR_WAITING)
            visitor_give_up(visitor);
    }
}

void visitor_close_cut(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->relaying_visitors) {
        struct visitor *visitor = container_of(node, struct visitor, node);
        if (atomic_load(&visitor->service->entry.cut))
            relay_terminate(&visitor->relay);
    }
}

void visitor_close_all(struct server_worker *worker)
{
    visitor_close_waiting(worker);
    list_for_each_safe (node, &worker->relaying_visitors) {
        relay_terminate(&container_of(node, struct visitor, node)->relay);
    }
}

void visitor_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct visitor));
}
