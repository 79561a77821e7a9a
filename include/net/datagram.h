/* Datagrams over a data channel. Towards the peer, the frames of a batch are packed into one
 * buffer, which leaves with one send. From the peer, one large read brings many frames; they are
 * sorted by visitor, so that each visitor gets its datagrams with as few system calls as possible.
 *
 *     datagram_put() ... datagram_flush() --> [filling] --> [writing] --> stream --> peer
 *     ops->received() <-- frames <-- [in] <-- stream <-- peer
 *         datagram_aim() ... ops->batch_end(): datagram_fire() --> udp_batch --> sockets
 *
 * The queue towards the peer is bounded in bytes and in time. It holds at most LIMIT_UDP_QUEUE
 * bytes, and at most what the channel carries in LIMIT_UDP_QUEUE_MS, estimated from its last
 * writes. When the oldest bytes have waited for LIMIT_UDP_QUEUE_MS, new datagrams are dropped until
 * those bytes are sent. So the owner asks datagram_room before it receives each batch.
 *
 * The channels of one worker share an engine: the batch, and buffers that a channel holds only
 * while they contain data. A channel belongs to one worker, whose thread alone uses it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"
#include "io/timer.h"
#include "io/udp_batch.h"
#include "net/stream.h"
#include "net/udp_pace.h"
#include "proto/proxy_protocol.h"
#include "proto/udp_frame.h"

struct datagram_buffer;
struct datagram_channel;
struct loop;

enum {
    DATAGRAM_BUFFERS_KEPT = 4,
    DATAGRAM_AIMED_MAX = 512, /* payloads from one datagram_fire to the next */
    /* One arrival, packed: each of its datagrams gets a frame header, and perhaps a preface. */
    DATAGRAM_ARRIVAL_MAX = UDP_ARRIVAL_BYTES_MAX +
                           UDP_ARRIVAL_DATAGRAMS_MAX * (UDP_FRAME_HEAD_MAX + PROXY_PROTOCOL_V2_MAX),
};

/* A payload that waits for datagram_fire. */
struct datagram_aimed {
    const uint8_t *payload;
    uint32_t size;
    uint16_t next; /* index of the target's next payload; DATAGRAM_AIMED_MAX = none */
};

/* The payloads that wait for one visitor; embedded in the visitor. */
struct datagram_target {
    struct list node;     /* in engine->targets while a payload waits */
    uint16_t first, last; /* indexes in engine->aimed */
};

struct datagram_engine {
    struct loop *loop;
    struct udp_batch *batch; /* made by datagram_engine_prepare */
    struct datagram_buffer *free[DATAGRAM_BUFFERS_KEPT];
    unsigned int free_count;
    struct list channels;
    struct timer trim_timer;
    bool used_lately;
    struct list targets;
    unsigned int aimed_count;
    struct datagram_aimed *aimed;
};

struct datagram_ops {
    /* A frame has come. Its payload stays valid until batch_end has returned. */
    void (*received)(struct datagram_channel *channel, const struct udp_frame *frame);
    /* No more frames come in this turn: the owner fires. */
    void (*batch_end)(struct datagram_channel *channel);
    /* datagram_room has returned DATAGRAM_FULL before; now the owner may ask it again. */
    void (*room)(struct datagram_channel *channel);
    /* The channel broke (-errno) or the peer ended it (ERR_EOF). The owner has to terminate it. */
    void (*ended)(struct datagram_channel *channel, int error);
    /* The last callback: the owner may free the channel. */
    void (*closed)(struct datagram_channel *channel);
};

struct datagram_channel {
    struct stream stream;
    struct datagram_engine *engine;
    const struct datagram_ops *ops;
    struct list node; /* in engine->channels */
    struct datagram_buffer *filling, *writing;
    struct timer flush_timer; /* runs at the end of the turn, or when the queue gets too old */
    struct timer take_timer;  /* after datagram_enough: takes the frames that are read already */
    uint64_t write_began_ns;
    uint64_t oldest_ns; /* when the oldest datagram in `writing` was put */
    size_t queue_limit; /* bytes that may wait in `filling` */
    unsigned char *in;
    uint32_t in_begin, in_end;
    uint32_t in_touched;      /* bytes of `in` that are resident since the last trim */
    struct udp_pace pace;     /* when the owner should receive datagrams for this channel */
    struct udp_pace *counted; /* what its datagrams count for: `pace`, or one that the owner shares
                               * among the channels of a socket */
    bool room_wanted;
    bool is_enough;
    bool ending;
};

void datagram_engine_init(struct datagram_engine *engine, struct loop *loop);
/* Allocates what all channels need, once. datagram_channel_init calls it too. -ENOMEM. */
MUST_CHECK int datagram_engine_prepare(struct datagram_engine *engine);
void datagram_engine_finish(struct datagram_engine *engine); /* accepts a zeroed engine */

/* Prepares a channel and its buffers. -ENOMEM: nothing has to be undone. The owner then opens
 * channel->stream, by stream_init with datagram_stream_ops or by stream_move, and calls
 * datagram_channel_start. */
MUST_CHECK int datagram_channel_init(struct datagram_channel *channel,
                                     struct datagram_engine *engine,
                                     const struct datagram_ops *ops);
extern const struct stream_ops datagram_stream_ops;
/* Starts reading, and sends `prefix` before everything else. The prefix is copied. */
void datagram_channel_start(struct datagram_channel *channel, const void *prefix,
                            size_t prefix_len);
/* Idempotent. `closed` follows, never inside this call. */
void datagram_channel_terminate(struct datagram_channel *channel, enum stream_close how);

/* ---- towards the peer ---- */

enum datagram_room {
    DATAGRAM_ROOM,  /* there is room for a whole batch */
    DATAGRAM_FULL,  /* leave datagrams in the socket; ops->room follows */
    DATAGRAM_STALE, /* receive datagrams and drop them */
};
enum datagram_room datagram_room(struct datagram_channel *channel);
/* Packs one arrival, or the end of one. datagram_room must have returned DATAGRAM_ROOM for its
 * batch. */
void datagram_put(struct datagram_channel *channel, const struct udp_frame_addr *from,
                  const struct udp_arrival *arrival);
/* Packs the first datagram of an arrival with a preface in front of its payload, at most
 * PROXY_PROTOCOL_V2_MAX bytes. False: it would be too large, and is dropped and counted. */
bool datagram_put_prefaced(struct datagram_channel *channel, const struct udp_frame_addr *from,
                           const struct udp_arrival *arrival, const uint8_t *preface,
                           size_t preface_size);
/* Sends the packed frames, now or as soon as the write that is under way is done. May end the
 * channel. */
void datagram_flush(struct datagram_channel *channel);
/* The same at the end of this turn, or at once if LIMIT_UDP_FLUSH bytes are packed. */
void datagram_flush_soon(struct datagram_channel *channel);

/* To be called in `received` after costly work, so that other channels get their turn. batch_end
 * follows at once; the remaining frames come in the next turn of the loop, and nothing is read from
 * the channel before. */
void datagram_enough(struct datagram_channel *channel);

/* ---- towards the visitors ---- */

static inline void datagram_target_init(struct datagram_target *target)
{
    list_init(&target->node);
}

/* Queues a payload for the target; it is not copied. False: the queue is full, fire first. */
MUST_CHECK bool datagram_aim(struct datagram_engine *engine, struct datagram_target *target,
                             const struct udp_frame *frame);
/* Drops the queued payloads of a target that is about to be freed. */
void datagram_forget(struct datagram_target *target);
/* Returns the socket, and in *ret_route the route, for a target's payloads. */
typedef struct udp_socket *datagram_fire_fn(struct datagram_target *target,
                                            const struct udp_route **ret_route);
/* Like datagram_aim, but fires first if the queue is full. */
void datagram_aim_or_fire(struct datagram_engine *engine, struct datagram_target *target,
                          const struct udp_frame *frame, datagram_fire_fn *destination);
/* Sends all queued payloads. */
void datagram_fire(struct datagram_engine *engine, datagram_fire_fn *destination);
