#include "client/forward.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "forward_priv.h"

enum {
    BATCHES_PER_TURN = 4,  /* of one visitor; then it is the turn of others */
    LOCAL_RETRY_MS = 1000, /* a name that could not be resolved */
    NS_PER_MS = 1000000,
};

/* ---- the local service's address ---- */

static void forward_start(struct udp_forward *forward)
{
    if (forward->started || forward->closing)
        return;
    forward->started = true;
    datagram_channel_start(&forward->channel, NULL, 0);
}

static void forward_resolved(void *asker, const struct resolver_answer *answer)
{
    struct udp_forward *forward = asker;
    struct client_local *local = forward_local(forward);
    uint64_t now_ns = loop_now_ns(forward_loop(forward));
    forward->query = NULL;
    if (answer->error < 0) {
        static struct log_limit limit;
        uint32_t suppressed;
        local->valid_until_ns = now_ns + (uint64_t)LOCAL_RETRY_MS * NS_PER_MS;
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

void udp_forward_resolve(struct udp_forward *forward)
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

void udp_forward_refused(struct udp_forward *forward, const struct forward_visitor *visitor)
{
    struct client_local *local = forward_local(forward);
    if (visitor->local_version == local->version && local->answer.count > 1)
        client_local_rotate(local, loop_now_ns(forward_loop(forward)));
    udp_forward_resolve(forward);
}

/* ---- from the local service to the channel ---- */

static struct forward_visitor *visitor_of_resting(struct list *node)
{
    return container_of(node, struct forward_visitor, resting_node);
}

static uint32_t visitor_take(struct forward_visitor *visitor, enum datagram_room room,
                             unsigned int count)
{
    struct udp_forward *forward = visitor->forward;
    struct udp_batch *batch = forward->channel.engine->batch;
    uint32_t datagrams = 0;
    udp_table_touch(&forward->table, &visitor->entry, loop_now_ns(forward_loop(forward)));
    if (room == DATAGRAM_STALE) {
        forward_count(forward, METRIC_UDP_DROPPED_QUEUE_FULL, udp_batch_datagrams(batch, count));
        return 0;
    }
    for (unsigned int i = 0; i < count; i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        datagrams += udp_arrival_count(arrival);
        if (arrival->data != NULL)
            datagram_put(&forward->channel, &visitor->entry.key, arrival);
    }
    return datagrams;
}

/* How many datagrams there were. */
static uint32_t visitor_receive(struct forward_visitor *visitor)
{
    struct udp_forward *forward = visitor->forward;
    uint32_t datagrams = 0;
    for (unsigned int round = 0; round < BATCHES_PER_TURN; round++) {
        enum datagram_room room = datagram_room(&forward->channel);
        if (room == DATAGRAM_FULL) {
            list_push_back(&forward->resting, &visitor->resting_node);
            break;
        }
        int count = udp_batch_receive(forward->channel.engine->batch, &visitor->udp);
        if (count < 0 && count != -EAGAIN && count != -EINTR) {
            visitor->udp.error = count; /* of a datagram that was sent; there may be others */
            continue;
        }
        if (count > 0) {
            datagrams += visitor_take(visitor, room, (unsigned int)count);
            /* After each batch: a buffer has room for one beyond what is sent at once. */
            datagram_flush_soon(&forward->channel);
        }
        if (count < UDP_BATCH_SIZE || forward->closing)
            break;
    }
    return datagrams;
}

static void forward_pause(struct udp_forward *forward, uint64_t pause_ns)
{
    loop_timer_start_ns(forward_loop(forward), &forward->pause_timer, pause_ns);
}

/* Receives from these visitors, and leaves none of them in the list. */
static void forward_receive(struct udp_forward *forward, struct list *ready)
{
    struct list active;
    struct list *node;
    uint32_t datagrams = 0;
    list_init(&active);
    while ((node = list_pop_front(ready)) != NULL) {
        struct forward_visitor *visitor = visitor_of_resting(node);
        uint32_t received = visitor_receive(visitor);
        if (forward->closing)
            return; /* and so are the visitors */
        datagrams += received;
        if (received > 0 && list_is_empty(node))
            list_push_back(&active, node);
        else if (list_is_empty(node))
            udp_forward_visitor_arm(visitor);
    }
    uint64_t pause_ns =
        udp_pace_received(&forward->channel.pace, datagrams, loop_now_ns(forward_loop(forward)));
    if (pause_ns != 0)
        forward_pause(forward, pause_ns);
    while ((node = list_pop_front(&active)) != NULL) {
        if (pause_ns != 0)
            list_push_back(&forward->resting, node);
        else
            udp_forward_visitor_arm(visitor_of_resting(node));
    }
}

void udp_forward_ready(struct forward_visitor *visitor)
{
    struct udp_forward *forward = visitor->forward;
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

static void forward_wake(struct udp_forward *forward)
{
    struct list awake; /* some may go to rest again */
    list_init(&awake);
    list_move_all(&awake, &forward->resting);
    forward_receive(forward, &awake);
}

static void forward_resume(struct timer *timer)
{
    forward_wake(container_of(timer, struct udp_forward, pause_timer));
}

static void channel_room(struct datagram_channel *channel)
{
    forward_wake(container_of(channel, struct udp_forward, channel));
}

/* ---- from the channel to the local service ---- */

static void channel_received(struct datagram_channel *channel, const struct udp_frame *frame)
{
    struct udp_forward *forward = container_of(channel, struct udp_forward, channel);
    struct forward_visitor *visitor = udp_forward_visitor_find(forward, &frame->from);
    if (visitor == NULL) {
        forward_count(forward, METRIC_UDP_DROPPED_NO_LOCAL, 1);
        return;
    }
    datagram_aim_or_fire(channel->engine, &visitor->target, frame, udp_forward_visitor_destination);
}

static void channel_batch_end(struct datagram_channel *channel)
{
    container_of(channel, struct udp_forward, channel)->new_count = 0;
    datagram_fire(channel->engine, udp_forward_visitor_destination);
}

/* ---- the channel's life ---- */

void udp_forward_join(struct udp_forward *forward)
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

static void forward_close(struct udp_forward *forward, enum stream_close how)
{
    if (forward->closing)
        return;
    forward->closing = true;
    resolver_abandon(forward->query);
    forward->query = NULL;
    datagram_channel_terminate(&forward->channel, how);
    udp_forward_visitor_close_all(forward);
}

static void channel_ended(struct datagram_channel *channel, int error)
{
    struct udp_forward *forward = container_of(channel, struct udp_forward, channel);
    log_service(LOG_DEBUG, client_service_name(forward->service), "UDP data channel ended: %s",
                error_text(error));
    forward_close(forward, error == ERR_EOF ? STREAM_CLEAN : STREAM_ABORT);
}

static void channel_closed(struct datagram_channel *channel)
{
    struct udp_forward *forward = container_of(channel, struct udp_forward, channel);
    forward->channel_closed = true;
    udp_forward_join(forward);
}

static const struct datagram_ops forward_ops = {
    .received = channel_received,
    .batch_end = channel_batch_end,
    .room = channel_room,
    .ended = channel_ended,
    .closed = channel_closed,
};

int udp_forward_begin(struct client_worker *worker, struct client_service *service,
                      struct stream *stream)
{
    struct udp_forward *forward = calloc(1, sizeof(*forward));
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
    timer_init(&forward->expiry_timer, udp_forward_visitor_expire);
    timer_init(&forward->pause_timer, forward_resume);
    list_push_back(&worker->forwards, &forward->node);
    stream_move(&forward->channel.stream, stream, &datagram_stream_ops);
    log_service(LOG_DEBUG, client_service_name(forward->service), "UDP data channel");
    /* Nothing is read before there is somewhere to send it. */
    udp_forward_resolve(forward);
    if (forward->query == NULL || forward_local(forward)->answer.count > 0)
        forward_start(forward);
    return 0;
}

void udp_forward_close_of(struct client_worker *worker, const struct client_service *service)
{
    list_for_each_safe (node, &worker->forwards) {
        struct udp_forward *forward = container_of(node, struct udp_forward, node);
        if (forward->service == service)
            forward_close(forward, STREAM_CLEAN);
    }
}

/* Each visitor gets a new socket with its next datagram. */
static void forward_change_local(struct udp_forward *forward)
{
    if (forward->closing)
        return;
    resolver_abandon(forward->query);
    forward->query = NULL;
    udp_forward_visitor_close_all(forward);
    udp_forward_resolve(forward);
    if (forward->query == NULL)
        forward_start(forward);
}

void udp_forward_change_local(struct client_worker *worker, const struct client_service *service)
{
    list_for_each_safe (node, &worker->forwards) {
        struct udp_forward *forward = container_of(node, struct udp_forward, node);
        if (forward->service == service)
            forward_change_local(forward);
    }
}

void udp_forward_review_timeout(struct client_worker *worker, const struct client_service *service)
{
    list_for_each (node, &worker->forwards) {
        struct udp_forward *forward = container_of(node, struct udp_forward, node);
        if (forward->service == service)
            udp_forward_visitor_review_timeout(forward);
    }
}

void udp_forward_close_all(struct client_worker *worker)
{
    list_for_each_safe (node, &worker->forwards) {
        forward_close(container_of(node, struct udp_forward, node), STREAM_CLEAN);
    }
}

void udp_forward_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct forward_visitor));
}
