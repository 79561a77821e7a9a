#include "net/stream.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>

#include "base/error.h"
#include "io/socket.h"
#include "net/handshake.h"
#include "stream_priv.h"

/* An op came back while the stream is being terminated: closes the stream if no op is left.
 * `closed` may free the owner, so it must not run inside stream_terminate. If nothing was in
 * flight, stream_terminate therefore starts a poll without events and cancels it: its completion
 * comes here. */
void stream_join(struct stream *stream)
{
    if (!loop_op_is_idle(&stream->read_op) || !loop_op_is_idle(&stream->write_op))
        return;
    if (!stream->aborting) {
        stream_coding_end(stream);
        socket_close_cleanly(stream->fd);
    }
    loop_close_fd(stream->loop, stream->fd);
    stream->fd = -1;
    stream_coding_finish(stream);
    stream->ops->closed(stream);
}

void stream_read_more(struct stream *stream)
{
    if (stream->coding.engine != NULL) {
        stream_coded_read(stream);
        return;
    }
    loop_recv(stream->loop, &stream->read_op, stream->fd, stream->read_buffer + stream->read_have,
              stream->read_size - stream->read_have);
}

static void stream_read_done(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, read_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (res == -EINTR || res == -EAGAIN) {
        stream_read_more(stream);
        return;
    }
    if (res == 0)
        res = ERR_EOF;
    if (res > 0) {
        stream->read_have += (uint32_t)res;
        if (stream->read_exactly && stream->read_have < stream->read_size) {
            stream_read_more(stream);
            return;
        }
        res = (int)stream->read_have;
    }
    stream->ops->read_done(stream, res);
}

static void stream_write_more(struct stream *stream)
{
    loop_send(stream->loop, &stream->write_op, stream->fd, stream->write_data + stream->write_sent,
              stream->write_size - stream->write_sent);
}

static void stream_write_done(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, write_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (res == -EINTR || res == -EAGAIN)
        res = 0;
    if (res >= 0) {
        stream->write_sent += (uint32_t)res;
        if (stream->write_sent < stream->write_size) {
            stream_write_more(stream);
            return;
        }
        res = 0;
    }
    stream->ops->write_done(stream, res);
}

static void stream_connect_done(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, write_op);
    loop_op_init(op, stream_write_done);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    stream->ops->connected(stream, res < 0 ? res : socket_take_error(stream->fd));
}

void stream_be_plain(struct stream *stream)
{
    stream->coding = (struct stream_coding){.engine = NULL};
    stream->read_op.done = stream_read_done;
    stream->write_op.done = stream_write_done;
}

void stream_init(struct stream *stream, struct loop *loop, int fd, const struct stream_ops *ops)
{
    stream->loop = loop;
    stream->ops = ops;
    stream->fd = fd;
    stream->terminating = stream->aborting = false;
    stream->coding = (struct stream_coding){.engine = NULL};
    loop_op_init(&stream->read_op, stream_read_done);
    loop_op_init(&stream->write_op, stream_write_done);
}

void stream_connect(struct stream *stream, const struct addr *addr)
{
    assert(!stream->terminating && stream->ops->connected != NULL);
    int result = socket_connect_now(stream->fd, addr);
    if (result != -EINPROGRESS) {
        stream->ops->connected(stream, result);
        return;
    }
    loop_op_init(&stream->write_op, stream_connect_done);
    loop_poll(stream->loop, &stream->write_op, stream->fd, POLLOUT);
}

static void read_start(struct stream *stream, void *buffer, size_t size, bool exactly)
{
    assert(!stream->terminating && size > 0 && size <= UINT32_MAX);
    stream->read_buffer = buffer;
    stream->read_size = (uint32_t)size;
    stream->read_have = 0;
    stream->read_exactly = exactly;
}

void stream_read(struct stream *stream, void *buffer, size_t size)
{
    read_start(stream, buffer, size, true);
    stream_read_more(stream);
}

void stream_read_now(struct stream *stream, void *buffer, size_t size)
{
    read_start(stream, buffer, size, true);
    if (stream->coding.engine != NULL) {
        stream_coded_read_now(stream);
        return;
    }
    ssize_t got = socket_recv_now(stream->fd, buffer, size);
    if (got > 0)
        stream->read_have = (uint32_t)got;
    if (got == (ssize_t)size || (got < 0 && got != -EAGAIN && got != -EINTR))
        stream->ops->read_done(stream, (int)got);
    else if (got == 0)
        stream->ops->read_done(stream, ERR_EOF);
    else
        stream_read_more(stream);
}

void stream_read_some(struct stream *stream, void *buffer, size_t size)
{
    read_start(stream, buffer, size, false);
    stream_read_more(stream);
}

void stream_write_now(struct stream *stream)
{
    if (stream->coding.engine != NULL) {
        stream_coded_write(stream);
        return;
    }
    ssize_t sent = socket_send_now(stream->fd, stream->write_data, stream->write_size);
    if (sent == -EAGAIN || sent == -EINTR)
        sent = 0;
    if (sent < 0 || sent == (ssize_t)stream->write_size) {
        stream->ops->write_done(stream, sent < 0 ? (int)sent : 0);
        return;
    }
    stream->write_sent = (uint32_t)sent;
    stream_write_more(stream);
}

void stream_write(struct stream *stream, const void *data, size_t size)
{
    assert(!stream->terminating && size > 0 && size <= UINT32_MAX);
    stream->write_data = data;
    stream->write_size = (uint32_t)size;
    stream->write_sent = 0;
    stream_write_now(stream);
}

bool stream_is_writing(const struct stream *stream)
{
    return !loop_op_is_idle(&stream->write_op) || stream->coding.write_waits;
}

bool stream_is_reading(const struct stream *stream)
{
    return !loop_op_is_idle(&stream->read_op) || stream->coding.read_waits;
}

void stream_terminate(struct stream *stream, enum stream_close how)
{
    if (how == STREAM_ABORT)
        stream->aborting = true;
    if (stream->terminating)
        return;
    stream->terminating = true;
    if (loop_op_is_idle(&stream->read_op) && loop_op_is_idle(&stream->write_op))
        loop_poll(stream->loop, &stream->read_op, stream->fd, 0);
    loop_cancel(stream->loop, &stream->read_op);
    loop_cancel(stream->loop, &stream->write_op);
}

const char *stream_handshake_why(const struct stream *stream)
{
    return stream->coding.handshake != NULL ? stream->coding.handshake->why : NULL;
}

bool stream_is_at_proxy(const struct stream *stream)
{
    return stream->coding.handshake != NULL && stream->coding.handshake->error == ERR_PROXY;
}

bool stream_has_unread(const struct stream *stream)
{
    const struct stream_coding *coding = &stream->coding;
    if (coding->handshake != NULL)
        return false;
    bool has_part = coding->link != NULL && coding->link->ops->is_inside_frame(coding->link);
    return has_part || stream->read_have > 0 || socket_peek(stream->fd) > 0;
}

void stream_distrust(struct stream *stream)
{
    stream->coding.is_stranger = true;
}

struct transport stream_release(struct stream *stream)
{
    assert(!stream->terminating);
    assert(!stream_is_reading(stream) && !stream_is_writing(stream));
    struct transport transport = {.fd = take_fd(&stream->fd), .link = stream->coding.link};

    if (transport.link != NULL)
        transport.link->is_distrusted = false;
    stream->coding.link = NULL;
    stream_coding_finish(stream);
    return transport;
}

void stream_move(struct stream *to, struct stream *from, const struct stream_ops *ops)
{
    struct loop *loop = from->loop;
    struct link_engine *engine = from->coding.engine;
    struct transport transport = stream_release(from);
    stream_init(to, loop, transport.fd, ops);
    stream_adopt(to, engine, transport.link);
}
