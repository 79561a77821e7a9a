#include "server/lane.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lane_priv.h"

enum { BATCHES_PER_TURN = 4 }; /* so that a busy lane leaves time to others on its worker */

/* ---- what arrives ---- */

/* Counts the datagrams of a batch that is dropped: no channel, or the channel's queue is full. */
static void lane_drop(const struct lane *lane, unsigned int arrivals)
{
    lane_count_drop(lane,
                    lane->in_use == 0 ? METRIC_UDP_DROPPED_NO_CHANNEL
                                      : METRIC_UDP_DROPPED_QUEUE_FULL,
                    udp_batch_datagrams(lane_engine(lane)->batch, arrivals));
}

/* Whether the channel takes datagrams of this batch. Asked once for each batch, which may be for
 * this channel alone. */
static bool lane_has_room(const struct lane *lane, struct lane_channel *channel)
{
    if (channel->batch != lane->batch) {
        channel->batch = lane->batch;
        channel->room = datagram_room(&channel->base);
    }
    return channel->room == DATAGRAM_ROOM;
}

/* The channel for a visitor's datagrams. NULL: they are dropped, and counted. */
static struct lane_channel *lane_channel_for(struct lane_visitor *visitor,
                                             const struct udp_arrival *arrival)
{
    struct lane *lane = visitor->lane;
    struct lane_channel *channel = lane_visitor_channel(visitor);
    if (channel == NULL)
        channel = lane_places_choose(visitor);
    if (channel != NULL && lane_has_room(lane, channel))
        return channel;
    lane_count_drop(lane,
                    channel == NULL ? METRIC_UDP_DROPPED_NO_CHANNEL : METRIC_UDP_DROPPED_QUEUE_FULL,
                    udp_arrival_count(arrival));
    return NULL;
}

static void lane_take(struct lane *lane, const struct udp_arrival *arrival)
{
    if (arrival->data == NULL)
        return;
    if (addr_port(arrival->from) == 0) {
        lane_count_drop(lane, METRIC_UDP_DROPPED_PORT_ZERO,
                        udp_arrival_count(arrival)); /* no answer can be sent to port 0 */
        return;
    }
    struct lane_visitor *visitor = lane_visitor_heard(lane, arrival);
    struct lane_channel *channel = visitor != NULL ? lane_channel_for(visitor, arrival) : NULL;
    if (channel == NULL)
        return;
    struct udp_arrival passed = *arrival;
    passed.size =
        lane_visitor_police(visitor, RELAY_VISITOR_END, arrival->size, arrival->segment_size);
    if (passed.size == 0 && arrival->size != 0)
        return;
    counter_add(&lane->stats->datagrams[0], udp_arrival_count(&passed));
    counter_add(&lane->stats->relay.bytes[0], passed.size);
    if (service_config(lane->service)->proxy_protocol != 0) {
        lane_header_put(visitor, &channel->base, &passed);
        return;
    }
    visitor->header_on = 0; /* a reload may want headers again */
    datagram_put(&channel->base, &visitor->entry.key, &passed);
}

void lane_arm(struct lane *lane)
{
    if (!lane->closing && !lane->held && !lane->pause_timer.armed &&
        loop_op_is_idle(&lane->poll_op))
        loop_poll(lane_loop(lane), &lane->poll_op, lane->udp.fd, POLLIN);
}

static void lane_pause(struct lane *lane, uint64_t pause_ns)
{
    loop_timer_start_ns(lane_loop(lane), &lane->pause_timer, pause_ns);
}

static void lane_flush(struct lane *lane)
{
    for (unsigned int i = 0; i < lane->place_count; i++) {
        if (lane->channels[i] != NULL)
            datagram_flush(&lane->channels[i]->base);
    }
}

/* Whether the next batch is received. If there is one channel, its datagrams wait in the kernel
 * while it is full. Of several none waits for another: who is full loses its own datagrams. */
static enum datagram_room lane_room_for_batch(struct lane *lane)
{
    struct lane_channel *only = lane->only;
    lane->batch++;
    if (only == NULL)
        return lane->in_use > 0 ? DATAGRAM_ROOM : DATAGRAM_STALE;
    only->batch = lane->batch;
    only->room = datagram_room(&only->base);
    return only->room;
}

/* Receives one batch and returns the number of its entries, 0 for none. Adds the datagrams that
 * were sent on to *datagrams. DATAGRAM_STALE: drops the batch. */
static unsigned int lane_receive_batch(struct lane *lane, enum datagram_room room,
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
    lane_flush(lane);
    return (unsigned int)count;
}

static void lane_receive(struct lane *lane)
{
    uint64_t now_ns = loop_now_ns(lane_loop(lane));
    uint64_t pause_ns = 0;
    uint32_t datagrams = 0;
    for (unsigned int round = 0; round < BATCHES_PER_TURN; round++) {
        enum datagram_room room = lane_room_for_batch(lane);
        if (room == DATAGRAM_FULL)
            return; /* lane_channel_room goes on */
        if (lane_receive_batch(lane, room, &datagrams) < UDP_BATCH_SIZE)
            break;
    }
    lane_flush(lane);
    if (lane->in_use > 0)
        pause_ns = udp_pace_received(&lane->pace, datagrams, now_ns);
    if (pause_ns != 0)
        lane_pause(lane, pause_ns);
    else
        lane_arm(lane);
}

static void lane_resume(struct timer *timer)
{
    lane_receive(container_of(timer, struct lane, pause_timer));
}

static void lane_readable(struct loop_op *op, int res, uint32_t flags)
{
    struct lane *lane = container_of(op, struct lane, poll_op);
    uint64_t pause_ns = 0;
    if (lane->closing) {
        lane_join(lane);
        return;
    }
    if (lane->in_use > 0)
        pause_ns = udp_pace_ready(&lane->pace, loop_now_ns(lane_loop(lane)));
    if (pause_ns != 0)
        lane_pause(lane, pause_ns);
    else
        lane_receive(lane);
}

/* ---- a lane's life ---- */

void lane_join(struct lane *lane)
{
    if (lane->channel_count > 0 || !loop_op_is_idle(&lane->poll_op))
        return;
    /* Close synchronously: when closing_lanes is 0, the main thread may bind the address again. */
    lane->worker->closing_lanes--;
    lane->binding->fds[lane->index] = -1;
    (void)close(lane->udp.fd);
    list_remove(&lane->node);
    service_drop(lane->service);
    free(lane);
}

static void lane_close(struct lane *lane)
{
    if (lane->closing)
        return;
    lane->closing = true;
    lane->worker->closing_lanes++;
    loop_timer_stop(lane_loop(lane), &lane->retry_timer);
    loop_timer_stop(lane_loop(lane), &lane->pause_timer);
    lane_places_finish(lane);
    lane_channel_finish(lane);
    lane_visitor_finish(lane);
    loop_cancel(lane_loop(lane), &lane->poll_op);
    lane_join(lane);
}

static int lane_start(struct server_worker *worker, struct service *service,
                      struct binding *binding, unsigned int index)
{
    struct lane *lane = calloc(1, sizeof(*lane));
    if (lane == NULL)
        return -ENOMEM;
    lane->worker = worker;
    lane->service = service;
    service_use(service);
    lane->binding = binding;
    lane->index = index;
    lane->stats = service_worker_stats(service, worker->tunnel->index);
    lane->held = binding->is_inherited;
    udp_socket_init(&lane->udp, binding->fds[index], &binding->addr);
    udp_table_init(&lane->table);
    udp_pace_init(&lane->pace, loop_now_ns(worker->tunnel->loop));
    list_init(&lane->retired);
    loop_op_init(&lane->poll_op, lane_readable);
    timer_init(&lane->retry_timer, lane_places_retry);
    timer_init(&lane->expiry_timer, lane_visitor_expire);
    timer_init(&lane->pause_timer, lane_resume);
    list_push_back(&worker->lanes, &lane->node);
    lane_places_review(lane);
    lane_arm(lane);
    return 0;
}

/* ---- all of a worker's ---- */

int lane_start_all(struct server_worker *worker, struct service *service, struct binding *binding)
{
    const struct tunnel_worker *tunnel = worker->tunnel;
    int result = datagram_engine_prepare(&worker->tunnel->datagrams);
    for (unsigned int i = tunnel->index; i < binding->count && result == 0; i += tunnel->all->count)
        result = lane_start(worker, service, binding, i);
    return result;
}

void lane_review_waiting(struct server_worker *worker)
{
    list_for_each (node, &worker->lanes) {
        struct lane *lane = container_of(node, struct lane, node);
        if (!lane->closing)
            lane_places_review(lane);
    }
}

void lane_close_all(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->lanes) {
        lane_close(container_of(node, struct lane, node));
    }
}

void lane_release_all(struct server_worker *worker)
{
    list_for_each (node, &worker->lanes) {
        struct lane *lane = container_of(node, struct lane, node);
        lane->held = false;
        lane_arm(lane);
    }
}

void lane_close_others(struct server_worker *worker, const struct service *service,
                       const struct binding *binding)
{
    list_for_each_safe (node, &worker->lanes) {
        struct lane *lane = container_of(node, struct lane, node);
        if (lane->service == service && lane->binding != binding)
            lane_close(lane);
    }
}

void lane_review_timeout(struct server_worker *worker, const struct service *service)
{
    list_for_each (node, &worker->lanes) {
        struct lane *lane = container_of(node, struct lane, node);
        if (lane->service != service || lane->closing)
            continue;
        lane_visitor_review_timeout(lane);
        lane_places_review(lane);
    }
}

void lane_review_access(struct server_worker *worker, const struct service *service)
{
    list_for_each (node, &worker->lanes) {
        struct lane *lane = container_of(node, struct lane, node);
        if (lane->service == service)
            lane_visitor_review_access(lane);
    }
}

void lane_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct lane_visitor));
}
