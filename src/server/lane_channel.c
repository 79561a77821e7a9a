#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "lane_priv.h"
#include "proto/message.h"
#include "server/exchange.h"

/* ---- finding one ---- */

void lane_channel_take(struct lane *lane)
{
    struct channel_pool *pool = &lane->service->pool;
    struct pool_waiter *waiter = lane_waiter(lane);
    for (;;) {
        struct pool_channel channel = {.transport.fd = -1};
        pool_notice notice;
        enum pool_take taken =
            channel_pool_take(pool, waiter, false, loop_now_ns(lane_loop(lane)), &channel, &notice);
        exchange_notify(lane->worker, lane->service, notice);
        if (taken != POOL_TAKEN)
            return; /* the channel comes by lane_matched */
        if (exchange_channel_is_live(lane->worker, &channel)) {
            lane_channel_use(lane, channel.transport);
            return;
        }
        lane_count(lane, METRIC_DATA_CHANNELS_STALE, 1);
        transport_abort(&channel.transport, lane_loop(lane));
    }
}

void lane_channel_retry(struct timer *timer)
{
    struct lane *lane = container_of(timer, struct lane, retry_timer);
    if (lane->channel == NULL)
        lane_channel_take(lane);
}

static void channel_seek(struct lane *lane)
{
    uint64_t lived_ns = loop_now_ns(lane_loop(lane)) - lane->channel_since_ns;
    if (lane->closing)
        return;
    /* Without a pause, a client that closes each channel at once would be asked in a tight loop. */
    if (lane->channel_since_ns != 0 && lived_ns < ms_to_ns(LIMIT_UDP_RETRY_MS))
        loop_timer_start(lane_loop(lane), &lane->retry_timer, LIMIT_UDP_RETRY_MS);
    else
        lane_channel_take(lane);
}

/* ---- answers from the client ---- */

static void lane_received(struct datagram_channel *channel, const struct udp_frame *frame)
{
    struct lane *lane = container_of(channel, struct lane_channel, base)->lane;
    struct lane_visitor *visitor = lane_visitor_answered(lane, &frame->from);
    if (visitor == NULL || lane_visitor_police(visitor, RELAY_SERVICE_END, frame->payload_len,
                                               frame->payload_len) != frame->payload_len)
        return;
    counter_add(&lane->stats->datagrams[1], 1);
    counter_add(&lane->stats->relay.bytes[1], frame->payload_len);
    datagram_aim_or_fire(channel->engine, &visitor->target, frame, lane_visitor_destination);
}

static void lane_batch_end(struct datagram_channel *channel)
{
    datagram_fire(channel->engine, lane_visitor_destination);
}

static void lane_room(struct datagram_channel *channel)
{
    struct lane *lane = container_of(channel, struct lane_channel, base)->lane;
    lane_arm(lane);
}

/* ---- its life ---- */

void lane_channel_leave(struct lane *lane)
{
    struct lane_channel *channel = lane->channel;
    if (channel == NULL)
        return;
    lane->channel = NULL;
    datagram_channel_terminate(&channel->base, STREAM_ABORT); /* a reset ends the client's side */
    lane_arm(lane);
}

static void lane_channel_ended(struct datagram_channel *base, int error)
{
    struct lane_channel *channel = container_of(base, struct lane_channel, base);
    struct lane *lane = channel->lane;
    static struct log_limit limit;
    uint32_t suppressed;
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_INFO, service_name(lane->service),
                    "lane %u: data channel ended: %s (%u similar lines suppressed)", lane->index,
                    error_text(error), suppressed);
    if (lane->channel != channel)
        return; /* the lane has left it already */
    lane_channel_leave(lane);
    channel_seek(lane);
}

static void lane_channel_closed(struct datagram_channel *base)
{
    struct lane_channel *channel = container_of(base, struct lane_channel, base);
    struct lane *lane = channel->lane;
    free(channel);
    lane->channel_count--;
    if (lane->closing)
        lane_join(lane);
}

static const struct datagram_ops lane_channel_ops = {
    .received = lane_received,
    .batch_end = lane_batch_end,
    .room = lane_room,
    .ended = lane_channel_ended,
    .closed = lane_channel_closed,
};

void lane_channel_use(struct lane *lane, struct transport transport)
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
    lane_channel_leave(lane);
    lane->held = false;
    channel->lane = lane;
    lane->channel = channel;
    lane->channel_count++;
    lane->channel_number++;
    lane->channel_since_ns = loop_now_ns(lane_loop(lane));
    log_service(LOG_DEBUG, service_name(lane->service), "lane %u: data channel in use",
                lane->index);
    /* Detects a dead client, so that the lane asks for another channel. */
    socket_set_user_timeout(transport.fd, LIMIT_USER_TIMEOUT_MS);
    stream_init(&channel->base.stream, lane_loop(lane), transport.fd, &datagram_stream_ops);
    stream_adopt(&channel->base.stream, lane->worker->tunnel->links, transport.link);
    message_data_command_encode(MESSAGE_DATA_START_UDP, command);
    datagram_channel_start(&channel->base, command, sizeof(command));
    lane_arm(lane);
}
