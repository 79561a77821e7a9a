#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "lane_priv.h"
#include "proto/message.h"

/* ---- answers from the client ---- */

/* Whether the visitor may get answers from this channel: not if it has another one, save late ones
 * of a session that has ended. */
static bool lane_channel_serves(const struct lane_channel *channel,
                                const struct lane_visitor *visitor)
{
    const struct lane_channel *own = channel->lane->channels[visitor->place];
    return own == channel || channel->is_retired || lane_visitor_channel(visitor) == NULL;
}

static void lane_received(struct datagram_channel *channel, const struct udp_frame *frame)
{
    const struct lane_channel *from = container_of(channel, struct lane_channel, base);
    struct lane *lane = from->lane;
    struct lane_visitor *visitor = lane_visitor_answered(lane, &frame->from);
    if (visitor != NULL && !lane_channel_serves(from, visitor)) {
        lane_count_drop(lane, METRIC_UDP_DROPPED_STRANGER, 1);
        return;
    }
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

static void lane_channel_room(struct datagram_channel *channel)
{
    struct lane *lane = container_of(channel, struct lane_channel, base)->lane;
    lane_arm(lane);
}

/* ---- its life ---- */

static bool lane_channel_has_place(const struct lane_channel *channel)
{
    return channel->lane->channels[channel->place] == channel;
}

/* A reset ends the client's side. */
static void lane_channel_abort(struct lane_channel *channel)
{
    loop_timer_stop(lane_loop(channel->lane), &channel->retire_timer);
    datagram_channel_terminate(&channel->base, STREAM_ABORT);
}

static struct lane_channel *lane_channel_displace(struct lane *lane, unsigned int place)
{
    struct lane_channel *channel = lane->channels[place];
    lane->channels[place] = NULL;
    lane_places_count(lane);
    return channel;
}

void lane_channel_leave(struct lane *lane, unsigned int place)
{
    if (lane->channels[place] == NULL)
        return;
    lane_channel_abort(lane_channel_displace(lane, place));
    lane_arm(lane);
}

static void lane_channel_retired(struct timer *timer)
{
    lane_channel_abort(container_of(timer, struct lane_channel, retire_timer));
}

void lane_channel_retire(struct lane *lane, unsigned int place)
{
    struct lane_channel *channel = lane_channel_displace(lane, place);
    channel->is_retired = true;
    list_push_back(&lane->retired, &channel->node);
    loop_timer_start(lane_loop(lane), &channel->retire_timer, LIMIT_UDP_RETIRE_MS);
    lane_arm(lane);
}

void lane_channel_finish(struct lane *lane)
{
    for (unsigned int i = 0; i < lane->place_count; i++)
        lane_channel_leave(lane, i);
    list_for_each (node, &lane->retired)
        lane_channel_abort(container_of(node, struct lane_channel, node));
}

static void lane_channel_ended(struct datagram_channel *base, int error)
{
    struct lane_channel *channel = container_of(base, struct lane_channel, base);
    struct lane *lane = channel->lane;
    static struct log_limit limit;
    uint32_t suppressed;
    if (error != ERR_EOF) /* datagrams may be lost with it */
        metrics_add(&lane->worker->tunnel->metrics, METRIC_DATA_CHANNELS_FAILED, 1);
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_INFO, service_name(lane->service),
                    "lane %u: data channel ended: %s (%u similar lines suppressed)", lane->index,
                    error_text(error), suppressed);
    if (!lane_channel_has_place(channel)) {
        lane_channel_abort(channel);
        return;
    }
    uint64_t lived_ns = loop_now_ns(lane_loop(lane)) - channel->since_ns;
    /* Without a pause, a client that closes each channel at once would be asked in a tight loop. */
    if (lived_ns < ms_to_ns(LIMIT_UDP_RETRY_MS))
        lane_places_pause(lane, channel->place);
    lane_channel_leave(lane, channel->place);
    if (!lane->closing)
        lane_places_review(lane);
}

static void lane_channel_closed(struct datagram_channel *base)
{
    struct lane_channel *channel = container_of(base, struct lane_channel, base);
    struct lane *lane = channel->lane;
    list_remove(&channel->node);
    free(channel);
    lane->channel_count--;
    if (lane->closing)
        lane_join(lane);
}

static const struct datagram_ops lane_channel_ops = {
    .received = lane_received,
    .batch_end = lane_batch_end,
    .room = lane_channel_room,
    .ended = lane_channel_ended,
    .closed = lane_channel_closed,
};

static struct lane_channel *lane_channel_new(struct lane *lane)
{
    struct lane_channel *channel = calloc(1, sizeof(*channel));
    if (channel == NULL)
        return NULL;
    if (datagram_channel_init(&channel->base, lane_engine(lane), &lane_channel_ops) < 0) {
        free(channel);
        return NULL;
    }
    channel->lane = lane;
    channel->base.counted = &lane->pace;
    channel->number = ++lane->channel_number;
    channel->since_ns = loop_now_ns(lane_loop(lane));
    timer_init(&channel->retire_timer, lane_channel_retired);
    list_init(&channel->node);
    lane->channel_count++;
    return channel;
}

void lane_channel_use(struct lane *lane, unsigned int place, struct transport transport,
                      struct pool_handle source)
{
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    struct lane_channel *channel = lane_channel_new(lane);
    if (channel == NULL) {
        lane_count(lane, METRIC_OUT_OF_MEMORY, 1);
        transport_close(&transport, lane_loop(lane));
        lane_places_pause(lane, place);
        return;
    }
    for (unsigned int i = 0; i < lane->place_count; i++) {
        if (i == place || !lane->is_balanced)
            lane_channel_leave(lane, i);
    }
    lane->held = false;
    channel->place = (uint8_t)place;
    channel->source = source;
    lane->channels[place] = channel;
    lane_places_count(lane);
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
