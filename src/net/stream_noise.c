/* A stream with Noise: the handshake, then frames. Handshake messages have fixed sizes and are read
 * exactly. After the handshake a read waits until the socket is readable, receives into the
 * engine's hot buffer and decrypts at once, so an idle connection holds no buffer. Plaintext beyond
 * the caller's read stays in the link. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "stream_priv.h"

enum {
    HANDSHAKE_BUFFER = NOISE_FRAME_HEADER + NOISE_HANDSHAKE_MESSAGE_MAX,
    /* The largest read, and the largest frame, of an unauthenticated peer: this bounds the memory
     * that it can make us hold. */
    STRANGER_READ = 4096,
};

struct stream_handshake {
    struct noise_handshake state;
    uint32_t in_have;
    uint32_t out_size, out_sent;
    uint8_t in[HANDSHAKE_BUFFER];
    uint8_t out[HANDSHAKE_BUFFER];
};

static void handshake_run(struct stream *stream);
static void stream_noise_write_more(struct stream *stream);

/* ---- making and freeing ---- */

int stream_secure(struct stream *stream, struct noise_engine *engine, const struct noise_keys *keys,
                  bool initiator)
{
    struct stream_handshake *handshake = calloc(1, sizeof(*handshake));
    if (handshake == NULL)
        return -ENOMEM;
    noise_handshake_init(&handshake->state, keys, initiator, NULL, 0);
    stream->noise = (struct stream_noise){.engine = engine, .handshake = handshake};
    return 0;
}

void stream_distrust(struct stream *stream)
{
    stream->noise.is_stranger = true;
}

void stream_adopt(struct stream *stream, struct noise_engine *engine, struct noise_link *link)
{
    if (link != NULL)
        stream->noise = (struct stream_noise){.engine = engine, .link = link};
}

static void handshake_free(struct stream *stream)
{
    struct stream_handshake *handshake = stream->noise.handshake;
    if (handshake == NULL)
        return;
    noise_handshake_wipe(&handshake->state);
    free(handshake);
    stream->noise.handshake = NULL;
}

void stream_noise_finish(struct stream *stream)
{
    handshake_free(stream);
    noise_link_free(stream->noise.link);
    free(stream->noise.sealed);
    stream->noise = (struct stream_noise){.engine = NULL};
}

/* ---- the handshake ---- */

static void failure_due(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, read_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (stream->noise.read_waits) {
        stream->noise.read_waits = false;
        stream->ops->read_done(stream, stream->noise.failed);
    } else {
        stream->noise.write_waits = false;
        stream->ops->write_done(stream, stream->noise.failed);
    }
}

/* Reports the failure in a callback of the next turn, never inside the call that found it. */
static void handshake_fail(struct stream *stream, int error)
{
    bool is_ours = error == -ENOMEM || error == -ECANCELED || error == ERR_LIMIT;
    stream->noise.failed = is_ours ? error : ERR_HANDSHAKE;
    stream->read_op.done = failure_due;
    loop_nop(stream->loop, &stream->read_op);
}

static void handshake_received(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, read_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (res == 0 || (res < 0 && res != -EAGAIN && res != -EINTR)) {
        handshake_fail(stream, res);
        return;
    }
    if (res > 0)
        stream->noise.handshake->in_have += (uint32_t)res;
    handshake_run(stream);
}

static void handshake_sent(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, write_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (res < 0 && res != -EAGAIN && res != -EINTR) {
        handshake_fail(stream, res);
        return;
    }
    if (res > 0)
        stream->noise.handshake->out_sent += (uint32_t)res;
    handshake_run(stream);
}

static void handshake_done(struct stream *stream)
{
    struct stream_noise *noise = &stream->noise;
    noise->link = noise_link_create(&noise->handshake->state);
    if (noise->link == NULL) {
        /* The handshake stays until the failure is reported: a read that begins before needs it. */
        handshake_fail(stream, -ENOMEM);
        return;
    }
    handshake_free(stream);
    /* The write may end the stream inside its call and the read does not, so the read begins
     * first. */
    if (noise->read_waits) {
        noise->read_waits = false;
        stream_noise_read(stream);
    }
    if (noise->write_waits) {
        noise->write_waits = false;
        stream_noise_write_more(stream);
    }
}

/* Returns 0 when the message is sent, 1 when the rest waits for the socket, or -errno. */
static int handshake_send(struct stream *stream)
{
    struct stream_handshake *handshake = stream->noise.handshake;
    const uint8_t *data = handshake->out + handshake->out_sent;
    size_t size = handshake->out_size - handshake->out_sent;
    ssize_t sent = socket_send_now(stream->fd, data, size);
    if (sent < 0 && sent != -EAGAIN && sent != -EINTR)
        return (int)sent;
    handshake->out_sent += sent > 0 ? (uint32_t)sent : 0;
    if (handshake->out_sent == handshake->out_size)
        return 0;
    stream->write_op.done = handshake_sent;
    loop_send(stream->loop, &stream->write_op, stream->fd, handshake->out + handshake->out_sent,
              handshake->out_size - handshake->out_sent);
    return 1;
}

static int handshake_write(struct stream *stream)
{
    struct stream_handshake *handshake = stream->noise.handshake;
    int size = noise_handshake_write(&handshake->state, stream->noise.engine->aead, NULL, 0,
                                     handshake->out + NOISE_FRAME_HEADER,
                                     sizeof(handshake->out) - NOISE_FRAME_HEADER);
    if (size < 0)
        return size;
    handshake->out[0] = (uint8_t)size;
    handshake->out[1] = (uint8_t)(size >> 8);
    handshake->out_size = NOISE_FRAME_HEADER + (uint32_t)size;
    handshake->out_sent = 0;
    return handshake_send(stream);
}

/* Returns 0 when a message is read, 1 when its rest waits for the socket, or an error. A wrong
 * length is refused as soon as the header is there, before any costly curve operation. */
static int handshake_read(struct stream *stream)
{
    struct stream_handshake *handshake = stream->noise.handshake;
    size_t length = noise_handshake_message_size(&handshake->state);
    size_t size = NOISE_FRAME_HEADER + length;
    if ((handshake->in_have > 0 && handshake->in[0] != (uint8_t)length) ||
        (handshake->in_have > 1 && handshake->in[1] != (uint8_t)(length >> 8)))
        return -EPROTO;
    if (handshake->in_have == size) {
        if (stream->ops->may_handshake != NULL && !stream->ops->may_handshake(stream))
            return ERR_LIMIT;
        uint8_t payload[NOISE_HANDSHAKE_MESSAGE_MAX];
        int result = noise_handshake_read(&handshake->state, stream->noise.engine->aead,
                                          handshake->in + NOISE_FRAME_HEADER, length, payload);
        handshake->in_have = 0;
        if (result >= 0 && stream->ops->handshake_begun != NULL)
            stream->ops->handshake_begun(stream);
        return result < 0 ? result : 0;
    }
    stream->read_op.done = handshake_received;
    loop_recv(stream->loop, &stream->read_op, stream->fd, handshake->in + handshake->in_have,
              size - handshake->in_have);
    return 1;
}

static void handshake_run(struct stream *stream)
{
    struct stream_handshake *handshake = stream->noise.handshake;
    int result = handshake->out_sent < handshake->out_size ? handshake_send(stream) : 0;
    while (result == 0 && !noise_handshake_done(&handshake->state))
        result = noise_handshake_is_ours(&handshake->state) ? handshake_write(stream)
                                                            : handshake_read(stream);
    if (result < 0)
        handshake_fail(stream, result);
    else if (result == 0)
        handshake_done(stream);
}

/* ---- reading ---- */

static void read_ready(struct loop_op *op, int res, uint32_t flags);

static void read_wait(struct stream *stream)
{
    stream->read_op.done = read_ready;
    if (stream->noise.link->early != NULL)
        loop_nop(stream->loop, &stream->read_op);
    else
        loop_poll(stream->loop, &stream->read_op, stream->fd, POLLIN);
}

static bool read_is_satisfied(const struct stream *stream)
{
    return stream->read_have == stream->read_size ||
           (stream->read_have > 0 && !stream->read_exactly);
}

static void read_take(struct stream *stream, const unsigned char *plain, size_t size)
{
    size_t taken = MIN(size, (size_t)(stream->read_size - stream->read_have));
    memcpy(stream->read_buffer + stream->read_have, plain, taken);
    stream->read_have += (uint32_t)taken;
    if (taken == size)
        return;
    int result = noise_link_keep_early(stream->noise.link, plain + taken, size - taken);
    if (result < 0)
        stream->noise.failed = result;
}

/* Receives once. Returns 1 when the read is done, 0 when it has to wait for more, or an error. */
static int read_step(struct stream *stream)
{
    struct stream_noise *noise = &stream->noise;
    stream->read_have +=
        (uint32_t)noise_link_take_early(noise->link, stream->read_buffer + stream->read_have,
                                        stream->read_size - stream->read_have);
    if (read_is_satisfied(stream))
        return 1;
    /* Plaintext beyond the caller's read is kept, so a stranger's reads have to be small. */
    size_t room = noise->is_stranger ? STRANGER_READ : NOISE_BATCH_SEALED;
    ssize_t got = socket_recv_now(stream->fd, noise->engine->sealed, room);
    if (got == -EAGAIN || got == -EINTR)
        return 0;
    if (got == 0)
        return noise_link_is_inside_frame(noise->link) ? ERR_TRUNCATED : ERR_EOF;
    if (got < 0)
        return (int)got;
    ssize_t opened =
        noise_link_open(noise->link, noise->engine, noise->engine->sealed, (size_t)got);
    if (opened < 0)
        return (int)opened;
    read_take(stream, noise->engine->plain, (size_t)opened);
    if (noise->failed < 0)
        return noise->failed;
    if (read_is_satisfied(stream))
        return 1;
    return noise->is_stranger && noise->link->partial_size > STRANGER_READ ? -EBADMSG : 0;
}

static void read_result(struct stream *stream, int result)
{
    if (result == 0)
        read_wait(stream);
    else
        stream->ops->read_done(stream, result > 0 ? (int)stream->read_have : result);
}

static void read_ready(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, read_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    read_result(stream, res < 0 ? res : read_step(stream));
}

void stream_noise_read(struct stream *stream)
{
    if (stream->noise.handshake == NULL) {
        read_wait(stream);
        return;
    }
    stream->noise.read_waits = true;
    if (!stream->noise.write_waits)
        handshake_run(stream);
}

void stream_noise_read_now(struct stream *stream)
{
    if (stream->noise.handshake == NULL)
        read_result(stream, read_step(stream));
    else
        stream_noise_read(stream);
}

/* ---- writing ---- */

static void sealed_sent(struct loop_op *op, int res, uint32_t flags);

/* Keeps a copy of the frames that the socket did not take, and sends it when there is room. */
static int keep_sealed(struct stream *stream, const unsigned char *sealed, size_t size)
{
    struct stream_noise *noise = &stream->noise;
    noise->sealed = malloc(size);
    if (noise->sealed == NULL)
        return -ENOMEM;
    memcpy(noise->sealed, sealed, size);
    noise->sealed_size = (uint32_t)size;
    noise->sealed_sent = 0;
    stream->write_op.done = sealed_sent;
    loop_send(stream->loop, &stream->write_op, stream->fd, noise->sealed, size);
    return 0;
}

/* Encrypts and sends the next batch. Returns 0 when it is sent, 1 when the rest waits for the
 * socket, or -errno. */
static int write_batch(struct stream *stream)
{
    struct stream_noise *noise = &stream->noise;
    size_t size = MIN((size_t)(stream->write_size - stream->write_sent), (size_t)NOISE_BATCH_PLAIN);
    unsigned char *out = noise->engine->sealed;
    ssize_t sealed = noise_link_seal(noise->link, noise->engine,
                                     stream->write_data + stream->write_sent, size, out);
    if (sealed < 0)
        return (int)sealed;
    stream->write_sent += (uint32_t)size;
    ssize_t sent = socket_send_now(stream->fd, out, (size_t)sealed);
    if (sent == -EAGAIN || sent == -EINTR)
        sent = 0;
    if (sent < 0 || sent == sealed)
        return sent < 0 ? (int)sent : 0;
    int result = keep_sealed(stream, out + sent, (size_t)(sealed - sent));
    return result < 0 ? result : 1;
}

static void stream_noise_write_more(struct stream *stream)
{
    int result = 0;
    while (result == 0 && stream->write_sent < stream->write_size)
        result = write_batch(stream);
    if (result <= 0)
        stream->ops->write_done(stream, result);
}

static void sealed_sent(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, write_op);
    struct stream_noise *noise = &stream->noise;
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (res < 0 && res != -EAGAIN && res != -EINTR) {
        stream->ops->write_done(stream, res);
        return;
    }
    noise->sealed_sent += res > 0 ? (uint32_t)res : 0;
    if (noise->sealed_sent < noise->sealed_size) {
        loop_send(stream->loop, &stream->write_op, stream->fd, noise->sealed + noise->sealed_sent,
                  noise->sealed_size - noise->sealed_sent);
        return;
    }
    free(noise->sealed);
    noise->sealed = NULL;
    stream_noise_write_more(stream);
}

void stream_noise_write(struct stream *stream)
{
    if (stream->noise.handshake == NULL) {
        stream_noise_write_more(stream);
        return;
    }
    stream->noise.write_waits = true;
    if (!stream->noise.read_waits)
        handshake_run(stream);
}
