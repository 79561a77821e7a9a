#include "client/forward.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "forward_priv.h"

enum {
    BATCHES_PER_TURN = 4,  /* receives from one visitor, before it is another's turn */
    LOCAL_RETRY_MS = 1000, /* until a name that was not found is looked up again */
};

/* ---- the local service's address ---- */

static void forward_start(struct forward *forward)
{
    if (forward->started || forward->closing)
        return;
    forward->started = true;
    datagram_channel_start(&forward->channel, NULL, 0);
}

static void forward_resolved(void *asker, const struct resolver_answer *answer)
{
    struct forward *forward = asker;
    struct client_local *local = forward_local(forward);
    uint64_t now_ns = loop_now_ns(forward_loop(forward));
    forward->query = NULL;
    if (answer->error < 0) {
        static struct log_limit limit;
        uint32_t suppressed;
        local->valid_until_ns = now_ns + ms_to_ns(LOCAL_RETRY_MS);
        if (log_allowed(&limit, &suppressed))
            log_service(LOG_WARN, client_service_name(forward->service),
                        "cannot resolve the local service %s: %s (%u similar lines suppressed)",
                        client_service_config(forward->service)->addr.host,
                        error_text(answer->error), suppressed);
    } else {
        client_local_take(local, answer, now_ns);
    }
    forward_start(forward);
}

void forward_resolve(struct forward *forward)
{
    struct client_worker *worker = forward->worker;
    struct client_local *local = forward_local(forward);
    if (forward->query != NULL || local->valid_until_ns > loop_now_ns(forward_loop(forward)))
        return;
    if (addr_from_numeric(&client_service_config(forward->service)->addr,
                          &local->answer.addrs[0])) {
        local->answer.count = 1;
        local->valid_until_ns = UINT64_MAX;
        return;
    }
    bool prefer_ipv6 = client_config(worker->client)->prefer_ipv6 ||
                       client_service_config(forward->service)->prefer_ipv6;
    forward->query =
        resolver_ask(worker->tunnel->all->resolver, &client_service_config(forward->service)->addr,
                     prefer_ipv6, worker->tunnel->mailbox, forward_resolved, forward);
}

void forward_refused(struct forward *forward, const struct forward_visitor *visitor)
{
    struct client_local *local = forward_local(forward);
    if (visitor->local_version == local->version && local->answer.count > 1)
        client_local_rotate(local, loop_now_ns(forward_loop(forward)));
    forward_resolve(forward);
}

/* ---- from the local service to the channel ---- */

static struct forward_visitor *visitor_of_resting(struct list *node)
{
    return container_of(node, struct forward_visitor, resting_node);
}

static uint32_t visitor_take(struct forward_visitor *visitor, enum datagram_room room,
                             unsigned int count)
{
    struct forward *forward = visitor->forward;
    struct udp_batch *batch = forward->channel.engine->batch;
    struct service_stats *stats = forward_stats(forward);
    uint32_t datagrams = 0;
    udp_table_touch(&forward->table, &visitor->entry, loop_now_ns(forward_loop(forward)));
    if (room == DATAGRAM_STALE) {
        forward_count_drop(forward, METRIC_UDP_DROPPED_QUEUE_FULL,
                           udp_batch_datagrams(batch, count));
        return 0;
    }
    for (unsigned int i = 0; i < count; i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        datagrams += udp_arrival_count(arrival);
        if (arrival->data == NULL)
            continue;
        counter_add(&stats->datagrams[1], udp_arrival_count(arrival));
        counter_add(&stats->relay.bytes[1], arrival->size);
        datagram_put(&forward->channel, &visitor->entry.key, arrival);
    }
    return datagrams;
}

/* Receives from one visitor's socket. Returns the number of datagrams. */
static uint32_t visitor_receive(struct forward_visitor *visitor)
{
    struct forward *forward = visitor->forward;
    uint32_t datagrams = 0;
    for (unsigned int round = 0; round < BATCHES_PER_TURN; round++) {
        enum datagram_room room = datagram_room(&forward->channel);
        if (room == DATAGRAM_FULL) {
            list_push_back(&forward->resting, &visitor->resting_node);
            break;
        }
        int count = udp_batch_receive(forward->channel.engine->batch, &visitor->udp);
        if (count < 0 && count != -EAGAIN && count != -EINTR) {
            /* The error of a datagram sent before; there may be others to receive. */
            visitor->udp.error = count;
            continue;
        }
        if (count > 0) {
            datagrams += visitor_take(visitor, room, (unsigned int)count);
            /* After each batch, because the buffer has room for only one batch beyond what a flush
             * sends at once. */
            datagram_flush_soon(&forward->channel);
        }
        if (count < UDP_BATCH_SIZE || forward->closing)
            break;
    }
    return datagrams;
}

static void forward_pause(struct forward *forward, uint64_t pause_ns)
{
    loop_timer_start_ns(forward_loop(forward), &forward->pause_timer, pause_ns);
}

/* Receives from the visitors in the list, and empties the list. Waits with the visitors that had
 * datagrams if the pace says so (docs/decisions.md, "Dense one-way UDP streams gather for up to 1
 * ms"). */
static void forward_receive(struct forward *forward, struct list *ready)
{
    struct list active;
    struct list *node;
    uint32_t datagrams = 0;
    list_init(&active);
    while ((node = list_pop_front(ready)) != NULL) {
        struct forward_visitor *visitor = visitor_of_resting(node);
        uint32_t received = visitor_receive(visitor);
        if (forward->closing)
            return; /* the visitors are closing too */
        datagrams += received;
        if (received > 0 && list_is_empty(node))
            list_push_back(&active, node);
        else if (list_is_empty(node))
            forward_visitor_arm(visitor);
    }
    uint64_t pause_ns =
        udp_pace_received(&forward->channel.pace, datagrams, loop_now_ns(forward_loop(forward)));
    if (pause_ns != 0)
        forward_pause(forward, pause_ns);
    while ((node = list_pop_front(&active)) != NULL) {
        if (pause_ns != 0)
            list_push_back(&forward->resting, node);
        else
            forward_visitor_arm(visitor_of_resting(node));
    }
}

void forward_ready(struct forward_visitor *visitor)
{
    struct forward *forward = visitor->forward;
    uint64_t pause_ns = 0;
    if (!forward->pause_timer.armed) {
        pause_ns = udp_pace_ready(&forward->channel.pace, loop_now_ns(forward_loop(forward)));
        if (pause_ns != 0)
            forward_pause(forward, pause_ns);
    }
    if (forward->pause_timer.armed) {
        list_push_back(&forward->resting, &visitor->resting_node);
        return;
    }
    struct list alone;
    list_init(&alone);
    list_push_back(&alone, &visitor->resting_node);
    forward_receive(forward, &alone);
}

static void forward_wake(struct forward *forward)
{
    struct list awake; /* forward_receive may put some into `resting` again */
    list_init(&awake);
    list_move_all(&awake, &forward->resting);
    forward_receive(forward, &awake);
}

static void forward_resume(struct timer *timer)
{
    forward_wake(container_of(timer, struct forward, pause_timer));
}

static void forward_room(struct datagram_channel *channel)
{
    forward_wake(container_of(channel, struct forward, channel));
}

/* ---- from the channel to the local service ---- */

static void forward_received(struct datagram_channel *channel, const struct udp_frame *frame)
{
    struct forward *forward = container_of(channel, struct forward, channel);
    struct forward_visitor *visitor = forward_visitor_find(forward, &frame->from);
    if (visitor == NULL) {
        forward_count_drop(forward, METRIC_UDP_DROPPED_NO_LOCAL, 1);
        return;
    }
    struct service_stats *stats = forward_stats(forward);
    counter_add(&stats->datagrams[0], 1);
    counter_add(&stats->relay.bytes[0], frame->payload_len);
    datagram_aim_or_fire(channel->engine, &visitor->target, frame, forward_visitor_destination);
}

static void forward_batch_end(struct datagram_channel *channel)
{
    container_of(channel, struct forward, channel)->new_count = 0;
    datagram_fire(channel->engine, forward_visitor_destination);
}

/* ---- the channel's life ---- */

void forward_join(struct forward *forward)
{
    if (!forward->channel_closed || forward->visitor_count > 0)
        return;
    (void)atomic_fetch_sub(&forward_share(forward)->channels, 1);
    loop_timer_stop(forward_loop(forward), &forward->expiry_timer);
    loop_timer_stop(forward_loop(forward), &forward->pause_timer);
    udp_table_finish(&forward->table);
    list_remove(&forward->node);
    client_service_drop(forward->service);
    free(forward);
}

static void forward_close(struct forward *forward, enum stream_close how)
{
    if (forward->closing)
        return;
    forward->closing = true;
    resolver_abandon(forward->query);
    forward->query = NULL;
    datagram_channel_terminate(&forward->channel, how);
    forward_visitor_close_all(forward);
}

static void forward_channel_ended(struct datagram_channel *channel, int error)
{
    struct forward *forward = container_of(channel, struct forward, channel);
    if (error != ERR_EOF) /* datagrams may be lost with it */
        metrics_add(&forward->worker->tunnel->metrics, METRIC_DATA_CHANNELS_FAILED, 1);
    log_service(LOG_DEBUG, client_service_name(forward->service), "UDP data channel ended: %s",
                error_text(error));
    forward_close(forward, error == ERR_EOF ? STREAM_CLEAN : STREAM_ABORT);
}

static void forward_channel_closed(struct datagram_channel *channel)
{
    struct forward *forward = container_of(channel, struct forward, channel);
    forward->channel_closed = true;
    forward_join(forward);
}

static const struct datagram_ops forward_ops = {
    .received = forward_received,
    .batch_end = forward_batch_end,
    .room = forward_room,
    .ended = forward_channel_ended,
    .closed = forward_channel_closed,
};

int forward_begin(struct client_worker *worker, struct client_service *service,
                  struct stream *stream)
{
    struct forward *forward = calloc(1, sizeof(*forward));
    if (forward == NULL)
        return -ENOMEM;
    int result = datagram_channel_init(&forward->channel, &worker->tunnel->datagrams, &forward_ops);
    if (result < 0) {
        free(forward);
        return result;
    }
    forward->worker = worker;
    forward->service = service;
    client_service_use(service);
    (void)atomic_fetch_add(&forward_share(forward)->channels, 1);
    udp_table_init(&forward->table);
    list_init(&forward->resting);
    timer_init(&forward->expiry_timer, forward_visitor_expire);
    timer_init(&forward->pause_timer, forward_resume);
    list_push_back(&worker->forwards, &forward->node);
    stream_move(&forward->channel.stream, stream, &datagram_stream_ops);
    log_service(LOG_DEBUG, client_service_name(forward->service), "UDP data channel");
    /* Reads no frames until there is an address to send them to. */
    forward_resolve(forward);
    if (forward->query == NULL || forward_local(forward)->answer.count > 0)
        forward_start(forward);
    return 0;
}

void forward_close_of(struct client_worker *worker, const struct client_service *service)
{
    list_for_each_safe (node, &worker->forwards) {
        struct forward *forward = container_of(node, struct forward, node);
        if (forward->service == service)
            forward_close(forward, STREAM_CLEAN);
    }
}

/* Closes all sockets; each visitor gets a new one, to the new address, with its next datagram. */
static void forward_move_local(struct forward *forward)
{
    if (forward->closing)
        return;
    resolver_abandon(forward->query);
    forward->query = NULL;
    forward_visitor_close_all(forward);
    forward_resolve(forward);
    if (forward->query == NULL)
        forward_start(forward);
}

void forward_change_local(struct client_worker *worker, const struct client_service *service)
{
    list_for_each_safe (node, &worker->forwards) {
        struct forward *forward = container_of(node, struct forward, node);
        if (forward->service == service)
            forward_move_local(forward);
    }
}

void forward_review_timeout(struct client_worker *worker, const struct client_service *service)
{
    list_for_each (node, &worker->forwards) {
        struct forward *forward = container_of(node, struct forward, node);
        if (forward->service == service)
            forward_visitor_review_timeout(forward);
    }
}

void forward_close_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->forwards) {
        forward_close(container_of(node, struct forward, node), STREAM_CLEAN);
    }
}

void forward_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct forward_visitor));
}
