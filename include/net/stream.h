/* A connection that still carries messages: a login, a control channel, a data channel before its
 * relay. A stream reads exactly or up to a size, writes everything, and closes in order:
 *
 *     open --stream_terminate--> cancel what is in flight --> join --> close --> ops->closed
 *          \-stream_release (nothing in flight)--> the descriptor, for a relay or another worker
 *
 * A stream is plain or coded (net/link.h). It is prepared by handshakes if it is given some
 * (stream_begin), and the caller reads and writes plaintext all the same. The first read or write
 * runs the handshakes; if one fails, the read fails, or the write if there is no read.
 *
 * There may be one read and one write at a time. Buffers belong to the owner and must stay valid
 * until the callback. A stream is embedded in its owner, which may be freed in `closed`, not
 * before. After stream_terminate no other callback comes. Belongs to one worker, whose thread alone
 * uses it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "io/loop.h"
#include "net/transport.h"

struct stream;
struct handshake;

struct stream_ops {
    /* result: bytes read (the whole size for stream_read), ERR_EOF at the end of the stream, or
     * -errno. A coded stream also gives ERR_HANDSHAKE, ERR_TRUNCATED and -EBADMSG. */
    void (*read_done)(struct stream *stream, int result);
    /* result: 0 or -errno. */
    void (*write_done)(struct stream *stream, int result);
    /* result: 0 or -errno. May be NULL if stream_connect is never called. */
    void (*connected)(struct stream *stream, int result);
    void (*closed)(struct stream *stream);
    /* A handshake message of the peer is complete, and none of the costly work for it is done yet.
     * False: the handshake fails with ERR_LIMIT. May be NULL. docs/decisions.md, "Strangers take
     * Noise handshakes from a budget". */
    bool (*may_handshake)(struct stream *stream);
    /* Only a client of this server could have sent the handshake message that has come. Must not
     * end the stream. May be NULL. */
    void (*handshake_begun)(struct stream *stream);
};

enum stream_close {
    STREAM_CLEAN, /* everything that was written, then our end of stream */
    STREAM_ABORT, /* a reset */
};

struct stream_coding {
    struct link_engine *engine;  /* NULL: the stream is plain */
    struct link *link;           /* NULL: no handshake has made one */
    struct handshake *handshake; /* the next ones; NULL: there is none, or all are done */
    unsigned char *unsent;       /* coded bytes that the socket had no room for */
    uint32_t unsent_size, unsent_sent;
    uint32_t stranger_bytes;      /* received by the link from an unauthenticated peer */
    bool handshake_runs;          /* the first read or write has come */
    bool read_waits, write_waits; /* for the handshakes to end */
    bool is_stranger, has_begun;
    int failed; /* the error of the handshake or of keeping plaintext; 0: none */
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
    struct stream_coding coding;
};

/* Takes fd over. The stream is plain. */
void stream_init(struct stream *stream, struct loop *loop, int fd, const struct stream_ops *ops);
/* Connects a socket from socket_for_dialing; must be the first call after stream_init. `connected`
 * may be called inside, because over loopback a connection is made at once. */
void stream_connect(struct stream *stream, const struct addr *addr);
/* Reads exactly size bytes. */
void stream_read(struct stream *stream, void *buffer, size_t size);
/* Like stream_read, for bytes that have probably arrived: `read_done` may be called inside. */
void stream_read_now(struct stream *stream, void *buffer, size_t size);
/* Reads at least one byte, at most size. */
void stream_read_some(struct stream *stream, void *buffer, size_t size);
/* Writes everything. Sends inline first (docs/decisions.md, "Sends are inline, or together"), so
 * `write_done` may be called inside, and may end the stream. An owner that also reads starts the
 * read first. */
void stream_write(struct stream *stream, const void *data, size_t size);
bool stream_is_writing(const struct stream *stream);
bool stream_is_reading(const struct stream *stream);
/* Cancels what is in flight and closes. Idempotent; a second call may turn a clean end into an
 * abort. `closed` follows, never inside this call. */
void stream_terminate(struct stream *stream, enum stream_close how);
/* Gives the connection to the caller: the descriptor and the link. Nothing may be in flight. The
 * stream ends without `closed`. */
MUST_CHECK struct transport stream_release(struct stream *stream);

/* Has handshakes prepare the stream, and takes them over. To be called before the first read or
 * write. engine is borrowed and outlives the stream. */
void stream_begin(struct stream *stream, struct link_engine *engine, struct handshake *handshake);
/* Whether the dialogue with a proxy is not over yet, or has failed. */
bool stream_is_at_proxy(const struct stream *stream);
/* Whether bytes of the peer wait to be read that do not belong to a handshake. Coded, they need not
 * be plaintext, and a part of a frame counts. */
bool stream_has_unread(const struct stream *stream);
/* Why a handshake has failed, in words (ERR_HANDSHAKE, ERR_PROXY). NULL: nothing to say. */
const char *stream_handshake_why(const struct stream *stream);
/* Limits reads and frames to one 4 KiB read until the stream is released, to bound the buffers of
 * an unauthenticated peer, and what its link takes to LIMIT_STRANGER_BYTES: more is ERR_PROTOCOL.
 * To be called after stream_begin. */
void stream_distrust(struct stream *stream);
/* Continues a connection that another stream has released, after stream_init: takes its link over.
 * A NULL link (a plain connection) changes nothing. */
void stream_adopt(struct stream *stream, struct link_engine *engine, struct link *link);
/* Moves the connection to *to, with other callbacks. Nothing may be in flight. *from ends without
 * `closed`. */
void stream_move(struct stream *to, struct stream *from, const struct stream_ops *ops);
