/* A connection that still speaks messages: logins, control channels, data channels before their
 * relay. Reads exactly or up to a size, writes everything, and closes in order:
 *
 *     open --stream_terminate--> cancel what is in flight --> join --> close --> ops->closed
 *          \-stream_release (nothing in flight)--> the descriptor, for a relay or another worker
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

struct stream;

struct stream_ops {
    /* result: bytes read (the whole size for stream_read), ERR_EOF at the end of the stream, or
     * -errno. */
    void (*read_done)(struct stream *stream, int result);
    /* result: 0 or -errno. */
    void (*write_done)(struct stream *stream, int result);
    void (*connected)(struct stream *stream, int result); /* may be NULL if never dialled */
    void (*closed)(struct stream *stream);
};

enum stream_close {
    STREAM_CLEAN, /* our end of stream follows what was written */
    STREAM_ABORT, /* a reset */
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
MUST_CHECK int stream_release(struct stream *stream);
/* Only with nothing in flight: the connection goes on in *to, with other callbacks; *from is over,
 * without `closed`. */
void stream_move(struct stream *to, struct stream *from, const struct stream_ops *ops);
