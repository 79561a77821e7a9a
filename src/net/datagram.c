#include "net/datagram.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "io/loop.h"
#include "io/socket.h"

enum {
    BATCH_MAX = UDP_BATCH_SIZE * DATAGRAM_ARRIVAL_MAX,
    BUFFER_BYTES = LIMIT_UDP_QUEUE + BATCH_MAX,
    IN_BYTES = LIMIT_UDP_READ + UDP_FRAME_MAX,
    QUEUE_FIRST = 256 << 10,
};
static_assert(LIMIT_UDP_FLUSH <= LIMIT_UDP_QUEUE, "a buffer is flushed before the queue is full");
static_assert(DATAGRAM_ARRIVAL_MAX >= UDP_FRAME_PAYLOAD_MAX + UDP_FRAME_HEAD_MAX &&
                  (int)UDP_ARRIVAL_BYTES_MAX >= (int)UDP_FRAME_PAYLOAD_MAX,
              "room for one datagram of the largest size");
static_assert(BUFFER_BYTES > 0 && BUFFER_BYTES < INT32_MAX / 2, "a write's size fits its type");

/* Packed frames. Mapped for the worst case; pages become resident when they are used. */
struct datagram_buffer {
    size_t used;
    uint64_t oldest_ns;
    unsigned char bytes[BUFFER_BYTES];
};

static void *map_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory != MAP_FAILED ? memory : NULL;
}

/* ---- the engine ---- */

static struct datagram_buffer *buffer_get(struct datagram_engine *engine)
{
    struct datagram_buffer *buffer;
    if (engine->free_count > 0)
        buffer = engine->free[--engine->free_count];
    else
        buffer = map_memory(sizeof(*buffer));
    if (buffer != NULL)
        buffer->used = 0;
    return buffer;
}

static void buffer_put(struct datagram_engine *engine, struct datagram_buffer *buffer)
{
    if (buffer == NULL)
        return;
    if (engine->free_count < DATAGRAM_BUFFERS_KEPT)
        engine->free[engine->free_count++] = buffer;
    else
        (void)munmap(buffer, sizeof(*buffer));
}

static void free_buffers(struct datagram_engine *engine)
{
    while (engine->free_count > 0)
        (void)munmap(engine->free[--engine->free_count], sizeof(struct datagram_buffer));
}

static void trim_channel(struct datagram_channel *channel)
{
    if (channel->in_touched == 0 || channel->in_begin != channel->in_end)
        return;
    (void)madvise(channel->in, IN_BYTES, MADV_DONTNEED); /* harmless to a read that is armed */
    channel->in_touched = 0;
}

static void trim_due(struct timer *timer)
{
    struct datagram_engine *engine = container_of(timer, struct datagram_engine, trim_timer);
    if (engine->used_lately) {
        engine->used_lately = false;
        loop_timer_start(engine->loop, timer, LIMIT_UDP_TRIM_MS);
        return;
    }
    udp_batch_trim(engine->batch);
    free_buffers(engine);
    list_for_each (node, &engine->channels) {
        trim_channel(container_of(node, struct datagram_channel, node));
    }
}

static void note_use(struct datagram_engine *engine)
{
    engine->used_lately = true;
    if (!engine->trim_timer.armed)
        loop_timer_start(engine->loop, &engine->trim_timer, LIMIT_UDP_TRIM_MS);
}

void datagram_engine_init(struct datagram_engine *engine, struct loop *loop)
{
    *engine = (struct datagram_engine){.loop = loop};
    list_init(&engine->channels);
    list_init(&engine->targets);
    timer_init(&engine->trim_timer, trim_due);
}

void datagram_engine_finish(struct datagram_engine *engine)
{
    if (engine->loop == NULL)
        return;
    free_buffers(engine);
    udp_batch_destroy(engine->batch);
    free(engine->aimed);
    engine->loop = NULL;
}

int datagram_engine_prepare(struct datagram_engine *engine)
{
    if (engine->aimed == NULL)
        engine->aimed = calloc(DATAGRAM_AIMED_MAX, sizeof(*engine->aimed));
    if (engine->aimed == NULL)
        return -ENOMEM;
    if (engine->batch != NULL)
        return 0;
    return udp_batch_create(loop_metrics(engine->loop), &engine->batch);
}

/* ---- the channel ---- */

static void channel_fail(struct datagram_channel *channel, int error)
{
    if (channel->ending)
        return;
    channel->ending = true;
    channel->ops->ended(channel, error);
}

static void flush_due(struct timer *timer)
{
    struct datagram_channel *channel = container_of(timer, struct datagram_channel, flush_timer);
    if (channel->writing == NULL) {
        datagram_flush(channel);
    } else if (channel->room_wanted) {
        channel->room_wanted = false;
        channel->ops->room(channel);
    }
}

static void take_due(struct timer *timer);

int datagram_channel_init(struct datagram_channel *channel, struct datagram_engine *engine,
                          const struct datagram_ops *ops)
{
    memset(channel, 0, sizeof(*channel));
    int result = datagram_engine_prepare(engine);
    if (result < 0)
        return result;
    channel->in = map_memory(IN_BYTES);
    channel->filling = buffer_get(engine);
    if (channel->in == NULL || channel->filling == NULL) {
        if (channel->in != NULL)
            (void)munmap(channel->in, IN_BYTES);
        buffer_put(engine, channel->filling);
        return -ENOMEM;
    }
    channel->engine = engine;
    channel->ops = ops;
    channel->queue_limit = QUEUE_FIRST;
    timer_init(&channel->flush_timer, flush_due);
    timer_init(&channel->take_timer, take_due);
    udp_pace_init(&channel->pace, loop_now_ns(engine->loop));
    channel->counted = &channel->pace;
    list_push_back(&engine->channels, &channel->node);
    return 0;
}

static void datagram_read_more(struct datagram_channel *channel)
{
    stream_read_some(&channel->stream, channel->in + channel->in_end, IN_BYTES - channel->in_end);
}

void datagram_channel_start(struct datagram_channel *channel, const void *prefix, size_t prefix_len)
{
    /* Frames are whole messages, so Nagle's algorithm would only delay them. The unsent limit keeps
     * the kernel's queue short: datagrams in it can't be dropped any more when they get too old. */
    socket_set_nodelay(channel->stream.fd, true);
    socket_set_unsent_limit(channel->stream.fd, LIMIT_UDP_UNSENT);
    datagram_read_more(channel);
    if (prefix_len > 0) {
        memcpy(channel->filling->bytes, prefix, prefix_len);
        channel->filling->used = prefix_len;
        channel->filling->oldest_ns = loop_now_ns(channel->engine->loop);
    }
    datagram_flush(channel);
}

void datagram_channel_terminate(struct datagram_channel *channel, enum stream_close how)
{
    channel->ending = true;
    loop_timer_stop(channel->engine->loop, &channel->flush_timer);
    loop_timer_stop(channel->engine->loop, &channel->take_timer);
    stream_terminate(&channel->stream, how);
}

static void datagram_channel_closed(struct stream *stream)
{
    struct datagram_channel *channel = container_of(stream, struct datagram_channel, stream);
    buffer_put(channel->engine, channel->filling);
    buffer_put(channel->engine, channel->writing);
    (void)munmap(channel->in, IN_BYTES);
    list_remove(&channel->node);
    channel->ops->closed(channel);
}

/* ---- towards the peer ---- */

enum datagram_room datagram_room(struct datagram_channel *channel)
{
    struct datagram_engine *engine = channel->engine;
    note_use(engine);
    if (channel->writing != NULL) {
        uint64_t age_ns = loop_now_ns(engine->loop) - channel->oldest_ns;
        uint64_t limit_ns = ms_to_ns(LIMIT_UDP_QUEUE_MS);
        if (age_ns >= limit_ns)
            return DATAGRAM_STALE;
        if (channel->filling != NULL && channel->filling->used >= channel->queue_limit) {
            channel->room_wanted = true;
            loop_timer_start(engine->loop, &channel->flush_timer,
                             (limit_ns - age_ns) / NS_PER_MS + 1);
            return DATAGRAM_FULL;
        }
    }
    if (channel->filling == NULL)
        channel->filling = buffer_get(engine);
    return channel->filling != NULL ? DATAGRAM_ROOM : DATAGRAM_STALE;
}

static struct datagram_buffer *buffer_to_fill(struct datagram_channel *channel, size_t size)
{
    struct datagram_buffer *buffer = channel->filling;
    assert(buffer != NULL && buffer->used + size <= BUFFER_BYTES);
    if (buffer->used == 0)
        buffer->oldest_ns = loop_now_ns(channel->engine->loop);
    return buffer;
}

static void count_put(struct datagram_channel *channel, uint32_t count)
{
    metrics_add(loop_metrics(channel->engine->loop), METRIC_UDP_TO_PEER, count);
    udp_pace_count(channel->counted, count, 0);
}

bool datagram_put_prefaced(struct datagram_channel *channel, const struct udp_frame_addr *from,
                           const struct udp_arrival *arrival, const uint8_t *preface,
                           size_t preface_size)
{
    size_t size = MIN(arrival->segment_size, arrival->size), sum = preface_size + size;
    if (sum > UDP_FRAME_PAYLOAD_MAX) {
        metrics_add(loop_metrics(channel->engine->loop), METRIC_UDP_DROPPED_TOO_LARGE, 1);
        return false;
    }
    struct datagram_buffer *buffer = buffer_to_fill(channel, UDP_FRAME_HEAD_MAX + sum);
    unsigned char *at = buffer->bytes + buffer->used;
    at += udp_frame_encode_head(from, (uint16_t)sum, at);
    memcpy(at, preface, preface_size);
    memcpy(at + preface_size, arrival->data, size);
    buffer->used = (size_t)(at + sum - buffer->bytes);
    count_put(channel, 1);
    return true;
}

static void put_one(struct datagram_buffer *buffer, const unsigned char *head, size_t head_len,
                    const uint8_t *payload, size_t size)
{
    unsigned char *at = buffer->bytes + buffer->used;
    memcpy(at, head, UDP_FRAME_HEAD_MAX); /* a copy of constant size is faster; there is room */
    memcpy(at + head_len, payload, size);
    buffer->used += head_len + size;
}

void datagram_put(struct datagram_channel *channel, const struct udp_frame_addr *from,
                  const struct udp_arrival *arrival)
{
    unsigned char head[UDP_FRAME_HEAD_MAX] = {0};
    if (arrival->segment_size > UDP_FRAME_PAYLOAD_MAX) {
        metrics_add(loop_metrics(channel->engine->loop), METRIC_UDP_DROPPED_TOO_LARGE, 1);
        return;
    }
    struct datagram_buffer *buffer =
        buffer_to_fill(channel,
                       arrival->size + (size_t)udp_arrival_count(arrival) * UDP_FRAME_HEAD_MAX);
    size_t head_len = udp_frame_encode_head(from, (uint16_t)arrival->segment_size, head);
    uint32_t at = 0, count = 0;
    do { /* also once for an empty datagram */
        uint32_t size = MIN(arrival->segment_size, arrival->size - at);
        if (size != arrival->segment_size)
            head_len = udp_frame_encode_head(from, (uint16_t)size, head);
        put_one(buffer, head, head_len, arrival->data + at, size);
        at += size;
        count++;
    } while (at < arrival->size);
    count_put(channel, count);
}

void datagram_flush(struct datagram_channel *channel)
{
    struct datagram_buffer *buffer = channel->filling;
    if (channel->writing != NULL || buffer == NULL || channel->ending)
        return;
    channel->filling = NULL;
    if (buffer->used == 0) {
        buffer_put(channel->engine, buffer);
        return;
    }
    channel->writing = buffer;
    channel->write_began_ns = loop_now_ns(channel->engine->loop);
    channel->oldest_ns = buffer->oldest_ns;
    stream_write(&channel->stream, buffer->bytes, buffer->used);
}

void datagram_flush_soon(struct datagram_channel *channel)
{
    if (channel->writing != NULL || channel->filling == NULL)
        return;
    if (channel->filling->used >= LIMIT_UDP_FLUSH)
        datagram_flush(channel);
    else if (!channel->flush_timer.armed)
        loop_timer_start(channel->engine->loop, &channel->flush_timer, 0);
}

/* Sets the limit to what the channel carries in LIMIT_UDP_QUEUE_MS, judging by its last write. */
static void adapt_queue_limit(struct datagram_channel *channel, size_t size)
{
    uint64_t took_ns = loop_now_ns(channel->engine->loop) - channel->write_began_ns;
    uint64_t limit_ns = ms_to_ns(LIMIT_UDP_QUEUE_MS);
    if (took_ns > limit_ns)
        channel->queue_limit = MAX((size_t)LIMIT_UDP_QUEUE_MIN, size * limit_ns / took_ns);
    else
        channel->queue_limit = MIN((size_t)LIMIT_UDP_QUEUE, channel->queue_limit * 2);
}

static void channel_write_done(struct stream *stream, int result)
{
    struct datagram_channel *channel = container_of(stream, struct datagram_channel, stream);
    if (result < 0) {
        channel_fail(channel, result); /* `writing` is freed with the channel */
        return;
    }
    adapt_queue_limit(channel, channel->writing->used);
    buffer_put(channel->engine, channel->writing);
    channel->writing = NULL;
    if (channel->filling != NULL)
        datagram_flush(channel);
    if (!channel->room_wanted || channel->ending)
        return;
    channel->room_wanted = false;
    channel->ops->room(channel);
}

/* ---- from the peer ---- */

/* Makes room behind the incomplete frame at the end of `in`. The frame moves to the front only when
 * less than two whole frames fit from its beginning on. At the front there is room for all of it,
 * so a frame is moved at most once. */
static void make_read_room(struct datagram_channel *channel)
{
    uint32_t left = channel->in_end - channel->in_begin;
    if (left == 0) {
        channel->in_begin = channel->in_end = 0;
    } else if (channel->in_begin > IN_BYTES - 2 * UDP_FRAME_MAX) {
        memmove(channel->in, channel->in + channel->in_begin, left);
        channel->in_begin = 0;
        channel->in_end = left;
    }
}

static void take_frames(struct datagram_channel *channel)
{
    struct udp_frame frame;
    int size = 0;
    channel->is_enough = false;
    while (!channel->is_enough &&
           (size = udp_frame_decode(channel->in + channel->in_begin,
                                    channel->in_end - channel->in_begin, &frame)) > 0) {
        channel->in_begin += (uint32_t)size;
        udp_pace_count(channel->counted, 0, 1);
        channel->ops->received(channel, &frame);
    }
    channel->ops->batch_end(channel);
    if (size < 0) {
        channel_fail(channel, size);
        return;
    }
    if (channel->ending)
        return;
    if (channel->is_enough) {
        loop_timer_start(channel->engine->loop, &channel->take_timer, 0);
        return;
    }
    make_read_room(channel);
    datagram_read_more(channel);
}

static void take_due(struct timer *timer)
{
    take_frames(container_of(timer, struct datagram_channel, take_timer));
}

void datagram_enough(struct datagram_channel *channel)
{
    channel->is_enough = true;
}

static void channel_read_done(struct stream *stream, int result)
{
    struct datagram_channel *channel = container_of(stream, struct datagram_channel, stream);
    if (result < 0) {
        channel_fail(channel, result);
        return;
    }
    note_use(channel->engine);
    channel->in_end += (uint32_t)result;
    channel->in_touched = MAX(channel->in_touched, channel->in_end);
    take_frames(channel);
}

static void datagram_channel_connected(struct stream *stream, int result)
{
    /* Datagram channels are connected by their former stream. */
}

const struct stream_ops datagram_stream_ops = {
    .read_done = channel_read_done,
    .write_done = channel_write_done,
    .connected = datagram_channel_connected,
    .closed = datagram_channel_closed,
};

/* ---- towards the visitors ---- */

bool datagram_aim(struct datagram_engine *engine, struct datagram_target *target,
                  const struct udp_frame *frame)
{
    if (engine->aimed_count == DATAGRAM_AIMED_MAX)
        return false;
    uint16_t index = (uint16_t)engine->aimed_count++;
    engine->aimed[index] = (struct datagram_aimed){
        .payload = frame->payload,
        .size = frame->payload_len,
        .next = DATAGRAM_AIMED_MAX,
    };
    if (list_is_empty(&target->node)) {
        list_push_back(&engine->targets, &target->node);
        target->first = index;
    } else {
        engine->aimed[target->last].next = index;
    }
    target->last = index;
    return true;
}

void datagram_aim_or_fire(struct datagram_engine *engine, struct datagram_target *target,
                          const struct udp_frame *frame, datagram_fire_fn *destination)
{
    if (datagram_aim(engine, target, frame))
        return;
    datagram_fire(engine, destination);
    bool aimed = datagram_aim(engine, target, frame);
    assert(aimed);
    (void)aimed;
}

void datagram_forget(struct datagram_target *target)
{
    list_remove(&target->node);
}

void datagram_fire(struct datagram_engine *engine, datagram_fire_fn *destination)
{
    struct list *node;
    while ((node = list_pop_front(&engine->targets)) != NULL) {
        struct datagram_target *target = container_of(node, struct datagram_target, node);
        const struct udp_route *route = NULL;
        struct udp_socket *udp = destination(target, &route);
        for (uint16_t at = target->first; at != DATAGRAM_AIMED_MAX; at = engine->aimed[at].next)
            udp_batch_send(engine->batch, udp, route, engine->aimed[at].payload,
                           engine->aimed[at].size);
    }
    udp_batch_flush(engine->batch);
    metrics_add(loop_metrics(engine->loop), METRIC_UDP_FROM_PEER, engine->aimed_count);
    engine->aimed_count = 0;
}
