/* Datagrams over a data channel: frames of a batch are packed into one buffer and leave with one
 * send; what one large read brings is unpacked and handed out by visitor, so that each gets its
 * datagrams with as few calls as possible.
 *
 *     datagram_put() ... datagram_flush() --> [filling] --> [writing] --> stream --> peer
 *     ops->received() <-- frames <-- [in] <-- stream <-- peer
 *         datagram_aim() ... ops->batch_end(): datagram_fire() --> udp_batch --> sockets
 *
 * The queue towards the peer is bounded. In bytes: by LIMIT_UDP_QUEUE, and by what the channel
 * carries within LIMIT_UDP_QUEUE_MS, as its last writes have shown. In time: when the oldest bytes
 * have waited for LIMIT_UDP_QUEUE_MS, whatever comes is dropped until they are gone. Hence
 * datagram_room, to be asked before each batch is received.
 *
 * The engine is what the channels of one worker share: the batch, and buffers that are held only
 * while there is something in them. A channel belongs to one worker. */
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
#include "proto/udp_frame.h"

struct datagram_buffer;
struct datagram_channel;
struct loop;

enum {
    DATAGRAM_BUFFERS_KEPT = 4,
    DATAGRAM_AIMED_MAX = 512, /* payloads between two firings */
    /* One arrival, packed: each of its datagrams gets a head of its own. */
    DATAGRAM_ARRIVAL_MAX = UDP_ARRIVAL_BYTES_MAX + UDP_ARRIVAL_DATAGRAMS_MAX * UDP_FRAME_HEAD_MAX,
};

/* A payload that waits to be fired. */
struct datagram_aimed {
    const uint8_t *payload;
    uint32_t size;
    uint16_t next; /* of the same target; DATAGRAM_AIMED_MAX = none */
};

/* Where payloads are collected for one visitor; embedded in it. */
struct datagram_target {
    struct list node; /* in engine->targets while it has any */
    uint16_t first, last;
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
    /* A frame. The payload stays where it is until batch_end has returned. */
    void (*received)(struct datagram_channel *channel, const struct udp_frame *frame);
    /* That was all for the moment. */
    void (*batch_end)(struct datagram_channel *channel);
    /* After datagram_room said DATAGRAM_FULL: ask again. */
    void (*room)(struct datagram_channel *channel);
    /* The channel broke, or was ended by the peer (ERR_EOF): the owner terminates it. */
    void (*ended)(struct datagram_channel *channel, int error);
    /* The last callback: the owner may free it. */
    void (*closed)(struct datagram_channel *channel);
};

struct datagram_channel {
    struct stream stream;
    struct datagram_engine *engine;
    const struct datagram_ops *ops;
    struct list node; /* in engine->channels */
    struct datagram_buffer *filling, *writing;
    struct timer flush_timer; /* at the end of the turn, or when the queue gets too old */
    struct timer take_timer;  /* goes on with what has been read, after datagram_enough */
    uint64_t write_began_ns;
    uint64_t oldest_ns; /* in writing */
    size_t queue_limit; /* bytes that may wait in filling */
    unsigned char *in;
    uint32_t in_begin, in_end;
    uint32_t in_touched;  /* since the last trim */
    struct udp_pace pace; /* of what is put; its owner asks it when to receive */
    bool room_wanted;
    bool is_enough;
    bool ending;
};

void datagram_engine_init(struct datagram_engine *engine, struct loop *loop);
/* Makes what all channels need; done by datagram_channel_init too. */
MUST_CHECK int datagram_engine_prepare(struct datagram_engine *engine);
void datagram_engine_finish(struct datagram_engine *engine); /* accepts a zeroed engine */

/* Prepares a channel and its buffers. -ENOMEM: nothing is left to undo. After it, the stream is the
 * owner's to open: stream_init with datagram_stream_ops, or stream_move into it; then
 * datagram_channel_start. */
MUST_CHECK int datagram_channel_init(struct datagram_channel *channel,
                                     struct datagram_engine *engine,
                                     const struct datagram_ops *ops);
extern const struct stream_ops datagram_stream_ops;
/* Starts reading, after `prefix` has been queued to be sent first. */
void datagram_channel_start(struct datagram_channel *channel, const void *prefix,
                            size_t prefix_len);
/* Idempotent. `closed` follows, never from inside. */
void datagram_channel_terminate(struct datagram_channel *channel, enum stream_close how);

/* ---- towards the peer ---- */

enum datagram_room {
    DATAGRAM_ROOM,  /* for a whole batch */
    DATAGRAM_FULL,  /* leave datagrams where they are; ops->room follows */
    DATAGRAM_STALE, /* receive them and drop them */
};
enum datagram_room datagram_room(struct datagram_channel *channel);
/* Packs what one receive brought; there is room, see above. */
void datagram_put(struct datagram_channel *channel, const struct udp_frame_addr *from,
                  const struct udp_arrival *arrival);
/* Sends what is packed, now or when what is on its way has left. May end the channel. */
void datagram_flush(struct datagram_channel *channel);
/* The same at the end of this turn, or now if it is much. */
void datagram_flush_soon(struct datagram_channel *channel);

/* From `received`: that was much work. batch_end follows, the rest comes in the next turn of the
 * loop, and nothing is read meanwhile. */
void datagram_enough(struct datagram_channel *channel);

/* ---- towards the visitors ---- */

static inline void datagram_target_init(struct datagram_target *target)
{
    list_init(&target->node);
}

/* Adds a payload for the target; false: no place, fire first. */
MUST_CHECK bool datagram_aim(struct datagram_engine *engine, struct datagram_target *target,
                             const struct udp_frame *frame);
/* Takes a target with its payloads out again; for one that goes away. */
void datagram_forget(struct datagram_target *target);
/* Where a target's payloads go. */
typedef struct udp_socket *datagram_fire_fn(struct datagram_target *target,
                                            const struct udp_route **ret_route);
/* As datagram_aim, and when there is no place what was aimed before is fired first. */
void datagram_aim_or_fire(struct datagram_engine *engine, struct datagram_target *target,
                          const struct udp_frame *frame, datagram_fire_fn *destination);
/* Sends everything that was aimed. */
void datagram_fire(struct datagram_engine *engine, datagram_fire_fn *destination);
