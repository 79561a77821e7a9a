/* A connection that still speaks messages: logins, control channels, data channels before their
 * relay. Reads exactly or up to a size, writes everything, and closes in order:
 *
 *     open --stream_terminate--> cancel what is in flight --> join --> close --> ops->closed
 *          \-stream_release (nothing in flight)--> the descriptor, for a relay or another worker
 *
 * Plain, or encrypted with Noise (stream_secure, stream_adopt): reads and writes are then of
 * plaintext, and the first of them runs the handshake, whose failure is the result of the read, or
 * of the write if there is no read.
 *
 * One read and one write at a time. Buffers are the owner's and stay valid until the callback.
 * Embedded in its owner, which may be freed in `closed`, not before; after stream_terminate no
 * other callback comes. Belongs to one worker. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "io/loop.h"
#include "net/transport.h"

struct stream;
struct stream_handshake;

struct stream_ops {
    /* result: bytes read (the whole size for stream_read), ERR_EOF at the end of the stream, or
     * -errno. With Noise also ERR_HANDSHAKE, ERR_TRUNCATED and -EBADMSG. */
    void (*read_done)(struct stream *stream, int result);
    /* result: 0 or -errno. */
    void (*write_done)(struct stream *stream, int result);
    void (*connected)(struct stream *stream, int result); /* may be NULL if never dialled */
    void (*closed)(struct stream *stream);
    /* The first message of a peer's handshake is whole, and what it will cost to answer is not paid
     * yet. False: the handshake fails. May be NULL. */
    bool (*may_handshake)(struct stream *stream);
    /* A message of it was right. Must not end the stream. May be NULL. */
    void (*handshake_begun)(struct stream *stream);
};

enum stream_close {
    STREAM_CLEAN, /* our end of stream follows what was written */
    STREAM_ABORT, /* a reset */
};

struct stream_noise {
    struct noise_engine *engine;        /* NULL: the stream is plain */
    struct noise_link *link;            /* NULL: the handshake is not done */
    struct stream_handshake *handshake; /* while it runs */
    unsigned char *sealed;              /* frames that the socket had no room for */
    uint32_t sealed_size, sealed_sent;
    bool read_waits, write_waits; /* for the handshake */
    bool is_stranger;
    int failed; /* how it ended, if badly */
};

struct stream {
    struct loop *loop;
    const struct stream_ops *ops;
    int fd;
    struct loop_op read_op, write_op;
    unsigned char *read_buffer;
    const unsigned char *write_data;
    uint32_t read_size, read_have;
    uint32_t write_size, write_sent;
    bool read_exactly;
    bool terminating, aborting;
    struct stream_noise noise;
};

/* Takes fd over. */
void stream_init(struct stream *stream, struct loop *loop, int fd, const struct stream_ops *ops);
/* The first thing on a socket that is not connected yet. `connected` may come from inside: over
 * loopback a connection is made within the call. */
void stream_connect(struct stream *stream, const struct addr *addr);
void stream_read(struct stream *stream, void *buffer, size_t size);
/* As stream_read, for bytes that are probably there by now: `read_done` may come from inside. */
void stream_read_now(struct stream *stream, void *buffer, size_t size);
/* At least one byte, at most size. */
void stream_read_some(struct stream *stream, void *buffer, size_t size);
/* Tries at once, so `write_done` may come from inside: whoever reads too starts the read first. */
void stream_write(struct stream *stream, const void *data, size_t size);
bool stream_is_writing(const struct stream *stream);
bool stream_is_reading(const struct stream *stream);
/* Idempotent; a second call may turn a clean end into an abort. The owner hears `closed`, never
 * from inside this call. */
void stream_terminate(struct stream *stream, enum stream_close how);
/* Only with nothing in flight. The stream is over, without `closed`. */
MUST_CHECK struct transport stream_release(struct stream *stream);

/* Before the first read or write: encrypts, beginning with a handshake. keys and engine outlive the
 * stream. -ENOMEM. */
MUST_CHECK int stream_secure(struct stream *stream, struct noise_engine *engine,
                             const struct noise_keys *keys, bool initiator);
/* After stream_secure: until it is released the stream takes small frames only, so that who has not
 * logged in can't make us keep much. */
void stream_distrust(struct stream *stream);
/* Goes on with a connection that another stream has released: takes its Noise state over. A NULL
 * link changes nothing. */
void stream_adopt(struct stream *stream, struct noise_engine *engine, struct noise_link *link);
/* Only with nothing in flight: the connection goes on in *to, with other callbacks; *from is over,
 * without `closed`. */
void stream_move(struct stream *to, struct stream *from, const struct stream_ops *ops);
