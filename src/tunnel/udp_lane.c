#include "tunnel/udp_lane.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "net/datagram.h"
#include "net/udp_table.h"
#include "proto/message.h"
#include "tunnel/server.h"

enum {
    BATCHES_PER_TURN = 4,  /* then it is the turn of others */
    EXPIRY_STEP_MS = 1000, /* visitors are not looked for more often */
    NS_PER_MS = 1000000,
};

struct lane_channel {
    struct datagram_channel base;
    struct udp_lane *lane;
};

struct udp_lane {
    struct list node; /* in worker->lanes */
    struct server_worker *worker;
    struct service *service;
    struct binding *binding;    /* of the service */
    unsigned int index;         /* in the binding */
    unsigned int channel_count; /* of this lane, in use or still being closed */
    struct udp_socket udp;
    struct loop_op poll_op;
    struct lane_channel *channel; /* NULL: waits for one */
    uint64_t channel_since_ns;
    struct timer retry_timer, expiry_timer, pause_timer;
    struct udp_table table;
    struct lane_visitor *last; /* of the last datagram: the next is often its too */
    bool closing;
    bool held; /* taken over: what has arrived waits in the kernel for the first channel */
};

/* Somebody who has sent a datagram. */
struct lane_visitor {
    struct udp_table_entry entry;
    struct datagram_target target;
    struct udp_lane *lane;
    struct udp_route route;
};
static_assert(sizeof(struct lane_visitor) <= 512, "the budget of a UDP visitor");

/* A channel on its way to a lane of another worker. */
struct lane_delivery {
    struct service *service; /* used by the message */
    const struct binding *binding;
    unsigned int lane_index;
    struct transport channel;
};
static_assert(sizeof(struct lane_delivery) <= MAILBOX_PAYLOAD_SIZE, "travels by value");

static struct loop *lane_loop(const struct udp_lane *lane)
{
    return lane->worker->tunnel->loop;
}

static struct datagram_engine *lane_engine(const struct udp_lane *lane)
{
    return &lane->worker->tunnel->datagrams;
}

static void lane_count(const struct udp_lane *lane, enum metric metric, uint64_t amount)
{
    metrics_add(&lane->worker->tunnel->metrics, metric, amount);
}

static struct pool_waiter *lane_waiter(const struct udp_lane *lane)
{
    return &lane->binding->lanes[lane->index].waiter;
}

static void lane_seek_channel(struct udp_lane *lane);
static void lane_join(struct udp_lane *lane);

/* ---- visitors ---- */

static void visitor_remove(struct lane_visitor *visitor)
{
    struct udp_lane *lane = visitor->lane;
    udp_table_remove(&lane->table, &visitor->entry);
    datagram_forget(&visitor->target);
    if (lane->last == visitor)
        lane->last = NULL;
    slab_put(&lane->worker->udp_visitor_slab, visitor);
}

static struct lane_visitor *visitor_of(struct udp_table_entry *entry)
{
    return container_of(entry, struct lane_visitor, entry);
}

static void lane_expire(struct timer *timer)
{
    struct udp_lane *lane = container_of(timer, struct udp_lane, expiry_timer);
    uint64_t now_ns = loop_now_ns(lane_loop(lane));
    uint64_t idle_ns = (uint64_t)service_config(lane->service)->udp_timeout_ms * NS_PER_MS;
    struct udp_table_entry *entry;
    while ((entry = udp_table_expired(&lane->table, now_ns, idle_ns)) != NULL) {
        visitor_remove(visitor_of(entry));
        lane_count(lane, METRIC_UDP_VISITORS_EXPIRED, 1);
    }
    udp_batch_count_overflows(lane_engine(lane)->batch, &lane->udp);
    entry = udp_table_oldest(&lane->table);
    if (entry == NULL)
        return;
    uint64_t left_ms = (entry->active_at_ns + idle_ns - now_ns) / NS_PER_MS + 1;
    loop_timer_start(lane_loop(lane), timer, MAX(left_ms, (uint64_t)EXPIRY_STEP_MS));
}

static uint32_t visitors_max(const struct udp_lane *lane)
{
    return MAX(service_config(lane->service)->max_udp_visitors / lane->binding->count, 1u);
}

static struct lane_visitor *visitor_add(struct udp_lane *lane, const struct udp_frame_addr *key)
{
    /* Two, as the limit may have become smaller. */
    for (int i = 0; i < 2 && lane->table.count >= visitors_max(lane); i++) {
        visitor_remove(visitor_of(udp_table_oldest(&lane->table)));
        lane_count(lane, METRIC_UDP_VISITORS_EVICTED, 1);
    }
    struct lane_visitor *visitor = slab_get(&lane->worker->udp_visitor_slab);
    if (visitor == NULL) {
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
        return NULL;
    }
    memset(visitor, 0, sizeof(*visitor));
    visitor->lane = lane;
    visitor->entry.key = *key;
    datagram_target_init(&visitor->target);
    if (udp_table_add(&lane->table, &visitor->entry, loop_now_ns(lane_loop(lane))) < 0) {
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
        slab_put(&lane->worker->udp_visitor_slab, visitor);
        return NULL;
    }
    lane_count(lane, METRIC_UDP_VISITORS, 1);
    if (!lane->expiry_timer.armed)
        loop_timer_start(lane_loop(lane), &lane->expiry_timer,
                         MAX(service_config(lane->service)->udp_timeout_ms,
                             (uint32_t)EXPIRY_STEP_MS));
    return visitor;
}

/* ---- from visitors to the channel ---- */

/* An address as upstream writes it: by the family of the socket, so that an IPv4 visitor of a
 * dual-stack socket is a v4-mapped one. */
static void frame_addr_of(const struct addr *addr, struct udp_frame_addr *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (addr->any.sa_family == AF_INET) {
        memcpy(ret->octets, &addr->v4.sin_addr, sizeof(addr->v4.sin_addr));
    } else {
        memcpy(ret->octets, &addr->v6.sin6_addr, sizeof(ret->octets));
        ret->is_v6 = 1;
    }
    ret->port = addr_port(addr);
}

static struct lane_visitor *visitor_heard(struct udp_lane *lane, const struct udp_arrival *arrival)
{
    struct udp_frame_addr key;
    frame_addr_of(arrival->from, &key);
    struct lane_visitor *visitor = lane->last;
    if (visitor == NULL || !udp_frame_addr_equal(&visitor->entry.key, &key)) {
        struct udp_table_entry *entry = udp_table_find(&lane->table, &key);
        visitor = entry != NULL ? visitor_of(entry) : visitor_add(lane, &key);
        if (visitor == NULL)
            return NULL;
        lane->last = visitor;
    }
    udp_table_touch(&lane->table, &visitor->entry, loop_now_ns(lane_loop(lane)));
    /* Its scope and the address that it has used may change; the latest are right. */
    visitor->route = (struct udp_route){*arrival->from, arrival->to};
    return visitor;
}

/* Datagrams that arrived and have no channel to leave by */
static void lane_drop(const struct udp_lane *lane, unsigned int arrivals)
{
    lane_count(lane,
               lane->channel == NULL ? METRIC_UDP_DROPPED_NO_CHANNEL
                                     : METRIC_UDP_DROPPED_QUEUE_FULL,
               udp_batch_datagrams(lane_engine(lane)->batch, arrivals));
}

static void lane_take(struct udp_lane *lane, const struct udp_arrival *arrival)
{
    if (arrival->data == NULL)
        return;
    if (addr_port(arrival->from) == 0) {
        lane_count(lane, METRIC_UDP_DROPPED_PORT_ZERO,
                   udp_arrival_count(arrival)); /* nobody could answer it */
        return;
    }
    struct lane_visitor *visitor = visitor_heard(lane, arrival);
    if (visitor != NULL)
        datagram_put(&lane->channel->base, &visitor->entry.key, arrival);
}

static void lane_arm(struct udp_lane *lane)
{
    if (!lane->closing && !lane->held && !lane->pause_timer.armed &&
        loop_op_is_idle(&lane->poll_op))
        loop_poll(lane_loop(lane), &lane->poll_op, lane->udp.fd, POLLIN);
}

static void lane_pause(struct udp_lane *lane, uint64_t pause_ns)
{
    loop_timer_start_ns(lane_loop(lane), &lane->pause_timer, pause_ns);
}

/* One batch. How many entries it had; 0: nothing, or no room for it. */
static unsigned int lane_receive_batch(struct udp_lane *lane, enum datagram_room room,
                                       uint32_t *datagrams)
{
    struct udp_batch *batch = lane_engine(lane)->batch;
    int count = udp_batch_receive(batch, &lane->udp);
    if (count <= 0)
        return 0;
    if (room == DATAGRAM_STALE) {
        lane_drop(lane, (unsigned int)count);
        return (unsigned int)count;
    }
    for (unsigned int i = 0; i < (unsigned int)count; i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        *datagrams += udp_arrival_count(arrival);
        lane_take(lane, arrival);
    }
    datagram_flush(&lane->channel->base);
    return (unsigned int)count;
}

static void lane_receive(struct udp_lane *lane)
{
    uint64_t now_ns = loop_now_ns(lane_loop(lane));
    uint64_t pause_ns = 0;
    uint32_t datagrams = 0;
    for (unsigned int round = 0; round < BATCHES_PER_TURN; round++) {
        enum datagram_room room =
            lane->channel != NULL ? datagram_room(&lane->channel->base) : DATAGRAM_STALE;
        if (room == DATAGRAM_FULL)
            return; /* channel_room goes on */
        if (lane_receive_batch(lane, room, &datagrams) < UDP_BATCH_SIZE)
            break;
    }
    if (lane->channel != NULL) {
        datagram_flush(&lane->channel->base);
        pause_ns = udp_pace_received(&lane->channel->base.pace, datagrams, now_ns);
    }
    if (pause_ns != 0)
        lane_pause(lane, pause_ns);
    else
        lane_arm(lane);
}

static void lane_resume(struct timer *timer)
{
    lane_receive(container_of(timer, struct udp_lane, pause_timer));
}

static void lane_readable(struct loop_op *op, int res, uint32_t flags)
{
    struct udp_lane *lane = container_of(op, struct udp_lane, poll_op);
    uint64_t pause_ns = 0;
    if (lane->closing) {
        lane_join(lane);
        return;
    }
    if (lane->channel != NULL)
        pause_ns = udp_pace_ready(&lane->channel->base.pace, loop_now_ns(lane_loop(lane)));
    if (pause_ns != 0)
        lane_pause(lane, pause_ns);
    else
        lane_receive(lane);
}

/* ---- from the channel to visitors ---- */

static struct udp_socket *visitor_destination(struct datagram_target *target,
                                              const struct udp_route **ret_route)
{
    struct lane_visitor *visitor = container_of(target, struct lane_visitor, target);
    *ret_route = &visitor->route;
    return &visitor->lane->udp;
}

/* As on upstream's server, an IPv4 address means the v4-mapped one on a dual-stack socket. */
static struct udp_frame_addr key_of(const struct udp_lane *lane, const struct udp_frame_addr *from)
{
    struct udp_frame_addr key = *from;
    if (lane->udp.is_v6 && !from->is_v6) {
        memset(key.octets, 0, 10);
        memset(key.octets + 10, 0xff, 2);
        memcpy(key.octets + 12, from->octets, 4);
        key.is_v6 = 1;
    }
    return key;
}

static void channel_received(struct datagram_channel *channel, const struct udp_frame *frame)
{
    struct udp_lane *lane = container_of(channel, struct lane_channel, base)->lane;
    struct lane_visitor *visitor = lane->last;
    struct udp_frame_addr key = key_of(lane, &frame->from);
    if (visitor == NULL || !udp_frame_addr_equal(&visitor->entry.key, &key)) {
        struct udp_table_entry *entry = udp_table_find(&lane->table, &key);
        if (entry == NULL) {
            /* Nobody may use us to send to strangers, not even our client. */
            lane_count(lane, METRIC_UDP_DROPPED_STRANGER, 1);
            return;
        }
        visitor = lane->last = visitor_of(entry);
    }
    udp_table_touch(&lane->table, &visitor->entry, loop_now_ns(lane_loop(lane)));
    datagram_aim_or_fire(channel->engine, &visitor->target, frame, visitor_destination);
}

static void channel_batch_end(struct datagram_channel *channel)
{
    datagram_fire(channel->engine, visitor_destination);
}

static void channel_room(struct datagram_channel *channel)
{
    struct udp_lane *lane = container_of(channel, struct lane_channel, base)->lane;
    lane_arm(lane);
}

/* ---- the channel's life ---- */

static void lane_join(struct udp_lane *lane)
{
    if (lane->channel_count > 0 || !loop_op_is_idle(&lane->poll_op))
        return;
    /* At once, so that whoever waits for the lanes may bind the address again. */
    lane->worker->closing_lanes--;
    lane->binding->fds[lane->index] = -1;
    (void)close(lane->udp.fd);
    list_remove(&lane->node);
    service_drop(lane->service);
    free(lane);
}

static void lane_leave_channel(struct udp_lane *lane)
{
    struct lane_channel *channel = lane->channel;
    if (channel == NULL)
        return;
    lane->channel = NULL;
    datagram_channel_terminate(&channel->base, STREAM_ABORT); /* so that the client's side ends */
    lane_arm(lane);
}

static void channel_ended(struct datagram_channel *base, int error)
{
    struct lane_channel *channel = container_of(base, struct lane_channel, base);
    struct udp_lane *lane = channel->lane;
    static struct log_limit limit;
    uint32_t suppressed;
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_INFO, service_name(lane->service),
                    "lane %u: data channel ended: %s (%u similar lines suppressed)", lane->index,
                    error_text(error), suppressed);
    if (lane->channel != channel)
        return; /* on its way out already */
    lane_leave_channel(lane);
    lane_seek_channel(lane);
}

static void channel_closed(struct datagram_channel *base)
{
    struct lane_channel *channel = container_of(base, struct lane_channel, base);
    struct udp_lane *lane = channel->lane;
    free(channel);
    lane->channel_count--;
    if (lane->closing)
        lane_join(lane);
}

static const struct datagram_ops lane_channel_ops = {
    .received = channel_received,
    .batch_end = channel_batch_end,
    .room = channel_room,
    .ended = channel_ended,
    .closed = channel_closed,
};

static void lane_use_channel(struct udp_lane *lane, struct transport transport)
{
    struct datagram_engine *engine = lane_engine(lane);
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    struct lane_channel *channel = calloc(1, sizeof(*channel));
    if (channel == NULL || datagram_channel_init(&channel->base, engine, &lane_channel_ops) < 0) {
        free(channel);
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
        transport_close(&transport, lane_loop(lane));
        loop_timer_start(lane_loop(lane), &lane->retry_timer, LIMIT_UDP_RETRY_MS);
        return;
    }
    lane_leave_channel(lane);
    lane->held = false;
    channel->lane = lane;
    lane->channel = channel;
    lane->channel_count++;
    lane->channel_since_ns = loop_now_ns(lane_loop(lane));
    log_service(LOG_DEBUG, service_name(lane->service), "lane %u: data channel", lane->index);
    stream_init(&channel->base.stream, lane_loop(lane), transport.fd, &datagram_stream_ops);
    stream_adopt(&channel->base.stream, lane->worker->tunnel->noise, transport.noise);
    message_data_command_encode(MESSAGE_DATA_START_UDP, command);
    datagram_channel_start(&channel->base, command, sizeof(command));
    lane_arm(lane);
}

/* ---- finding a channel ---- */

static void lane_take_channel(struct udp_lane *lane)
{
    struct channel_pool *pool = &lane->service->pool;
    struct pool_waiter *waiter = lane_waiter(lane);
    for (;;) {
        struct transport channel = {.fd = -1};
        bool notify;
        enum pool_take taken =
            channel_pool_take(pool, waiter, false, loop_now_ns(lane_loop(lane)), &channel, &notify);
        if (notify)
            server_notify_owner(lane->worker, lane->service);
        if (taken != POOL_TAKEN)
            return; /* it comes by udp_lane_deliver */
        int peeked = socket_peek(channel.fd);
        if (peeked >= 0) {
            lane_use_channel(lane, channel);
            return;
        }
        lane_count(lane, METRIC_DATA_CHANNELS_STALE, 1);
        transport_close(&channel, lane_loop(lane));
    }
}

static void lane_retry(struct timer *timer)
{
    struct udp_lane *lane = container_of(timer, struct udp_lane, retry_timer);
    if (lane->channel == NULL)
        lane_take_channel(lane);
}

static void lane_seek_channel(struct udp_lane *lane)
{
    uint64_t lived_ns = loop_now_ns(lane_loop(lane)) - lane->channel_since_ns;
    if (lane->closing)
        return;
    /* Or a client that closes each channel would be asked in a tight circle. */
    if (lane->channel_since_ns != 0 && lived_ns < (uint64_t)LIMIT_UDP_RETRY_MS * NS_PER_MS)
        loop_timer_start(lane_loop(lane), &lane->retry_timer, LIMIT_UDP_RETRY_MS);
    else
        lane_take_channel(lane);
}

static void lane_given(struct server_worker *worker, struct lane_delivery *delivery)
{
    list_for_each (node, &worker->lanes) {
        struct udp_lane *lane = container_of(node, struct udp_lane, node);
        if (lane->binding != delivery->binding || lane->index != delivery->lane_index ||
            lane->closing)
            continue;
        loop_timer_stop(lane_loop(lane), &lane->retry_timer);
        lane_use_channel(lane, delivery->channel);
        return;
    }
    transport_close(&delivery->channel, worker->tunnel->loop);
}

static void deliver_channel(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct lane_delivery delivery;
    memcpy(&delivery, payload, sizeof(delivery));
    lane_given(tunnel->role, &delivery);
    service_drop(delivery.service);
}

void udp_lane_deliver(struct server_worker *worker, struct service *service,
                      const struct pool_match *match, struct transport channel)
{
    struct tunnel_worker *own = worker->tunnel;
    struct service_lane *lane = container_of(match->waiter, struct service_lane, waiter);
    struct lane_delivery delivery = {service, lane->binding, lane->index, channel};
    struct tunnel_worker *target = &own->all->items[delivery.lane_index % own->all->count];
    if (target == own) {
        lane_given(worker, &delivery);
        return;
    }
    service_use(service);
    int result =
        mailbox_post(target->mailbox, own->mailbox, deliver_channel, &delivery, sizeof(delivery));
    if (result == 0)
        return;
    service_drop(service);
    if (result == -EPIPE || /* that worker has ended, and its lanes with it */
        !channel_pool_undo(&service->pool, match, channel, loop_now_ns(own->loop)))
        transport_close(&channel, own->loop);
    if (result != -EPIPE)
        mailbox_signal(target->mailbox, own->mailbox, TUNNEL_SIGNAL_VISITORS);
}

/* ---- all of a worker's ---- */

void udp_lane_review_waiting(struct server_worker *worker)
{
    list_for_each (node, &worker->lanes) {
        struct udp_lane *lane = container_of(node, struct udp_lane, node);
        struct pool_waiter *waiter = lane_waiter(lane);
        if (!lane->closing && lane->channel == NULL &&
            channel_pool_leave(&lane->service->pool, waiter))
            lane_take_channel(lane);
    }
}

static void lane_close(struct udp_lane *lane)
{
    if (lane->closing)
        return;
    lane->closing = true;
    lane->worker->closing_lanes++;
    loop_timer_stop(lane_loop(lane), &lane->retry_timer);
    loop_timer_stop(lane_loop(lane), &lane->expiry_timer);
    loop_timer_stop(lane_loop(lane), &lane->pause_timer);
    (void)channel_pool_leave(&lane->service->pool, lane_waiter(lane));
    lane_leave_channel(lane);
    struct udp_table_entry *entry;
    while ((entry = udp_table_oldest(&lane->table)) != NULL)
        visitor_remove(visitor_of(entry));
    udp_table_finish(&lane->table);
    loop_cancel(lane_loop(lane), &lane->poll_op);
    lane_join(lane);
}

void udp_lane_close_all(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->lanes) {
        lane_close(container_of(node, struct udp_lane, node));
    }
}

void udp_lane_release_all(struct server_worker *worker)
{
    list_for_each (node, &worker->lanes) {
        struct udp_lane *lane = container_of(node, struct udp_lane, node);
        lane->held = false;
        lane_arm(lane);
    }
}

void udp_lane_close_others(struct server_worker *worker, const struct service *service,
                           const struct binding *binding)
{
    list_for_each_safe (node, &worker->lanes) {
        struct udp_lane *lane = container_of(node, struct udp_lane, node);
        if (lane->service == service && lane->binding != binding)
            lane_close(lane);
    }
}

void udp_lane_review_timeout(struct server_worker *worker, const struct service *service)
{
    list_for_each (node, &worker->lanes) {
        struct udp_lane *lane = container_of(node, struct udp_lane, node);
        if (lane->service == service && lane->expiry_timer.armed)
            loop_timer_start(lane_loop(lane), &lane->expiry_timer, EXPIRY_STEP_MS);
    }
}

static int lane_start(struct server_worker *worker, struct service *service,
                      struct binding *binding, unsigned int index)
{
    struct udp_lane *lane = calloc(1, sizeof(*lane));
    if (lane == NULL)
        return -ENOMEM;
    lane->worker = worker;
    lane->service = service;
    service_use(service);
    lane->binding = binding;
    lane->index = index;
    lane->held = binding->is_inherited;
    udp_socket_init(&lane->udp, binding->fds[index], &binding->addr);
    udp_table_init(&lane->table);
    loop_op_init(&lane->poll_op, lane_readable);
    timer_init(&lane->retry_timer, lane_retry);
    timer_init(&lane->expiry_timer, lane_expire);
    timer_init(&lane->pause_timer, lane_resume);
    list_push_back(&worker->lanes, &lane->node);
    lane_take_channel(lane);
    lane_arm(lane);
    return 0;
}

int udp_lane_start_all(struct server_worker *worker, struct service *service,
                       struct binding *binding)
{
    const struct tunnel_worker *tunnel = worker->tunnel;
    int result = datagram_engine_prepare(&worker->tunnel->datagrams);
    for (unsigned int i = tunnel->index; i < binding->count && result == 0; i += tunnel->all->count)
        result = lane_start(worker, service, binding, i);
    return result;
}

void udp_lane_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct lane_visitor));
}
