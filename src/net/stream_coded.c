/* A stream with a link: the handshakes, then coded bytes. A read waits until the socket is
 * readable, receives into the engine's hot buffer and decodes at once, so an idle connection holds
 * no buffer. Plaintext beyond the caller's read stays in the link. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "net/handshake.h"
#include "stream_priv.h"

/* The largest read of an unauthenticated peer: this bounds the memory that it can make us hold. */
enum { STRANGER_READ = LINK_DISTRUSTED_FRAME };

/* Receives of a handshake in one callback: a peer that sends fast must not keep the worker from its
 * other connections and from its deadlines. */
enum { RECEIVES_AT_ONCE = 4 };

static void handshake_run(struct stream *stream, bool reads_now);

/* ---- making and freeing ---- */

static bool stream_may_handshake(void *arg)
{
    struct stream *stream = arg;
    return stream->ops->may_handshake == NULL || stream->ops->may_handshake(stream);
}

void stream_begin(struct stream *stream, struct link_engine *engine, struct handshake *handshake)
{
    stream->coding = (struct stream_coding){.engine = engine, .handshake = handshake};
    for (; handshake != NULL; handshake = handshake->next) {
        handshake->may_begin = stream_may_handshake;
        handshake->may_begin_arg = stream;
    }
}

void stream_adopt(struct stream *stream, struct link_engine *engine, struct link *link)
{
    if (link != NULL)
        stream->coding = (struct stream_coding){.engine = engine, .link = link};
}

void stream_coding_end(struct stream *stream)
{
    const struct stream_coding *coding = &stream->coding;
    if (coding->handshake == NULL && coding->unsent == NULL)
        link_send_end(coding->link, stream->fd);
}

/* ---- coded bytes that the socket has no room for ---- */

/* A proxy's request has a password. */
static void drop_unsent(struct stream_coding *coding)
{
    if (coding->unsent != NULL)
        keys_wipe(coding->unsent, coding->unsent_size);
    free(coding->unsent);
    coding->unsent = NULL;
}

void stream_coding_finish(struct stream *stream)
{
    handshake_free(stream->coding.handshake);
    link_free(stream->coding.link);
    drop_unsent(&stream->coding);
    stream->coding = (struct stream_coding){.engine = NULL};
}

/* Sends `coded` inline. Returns 0 when it is sent, 1 when the rest waits for the socket and `done`
 * is called, or -errno. */
static int send_or_keep(struct stream *stream, const unsigned char *coded, size_t size,
                        void (*done)(struct loop_op *op, int res, uint32_t flags))
{
    struct stream_coding *coding = &stream->coding;
    ssize_t sent = socket_send_now(stream->fd, coded, size);
    if (sent == -EAGAIN || sent == -EINTR)
        sent = 0;
    if (sent < 0 || sent == (ssize_t)size)
        return sent < 0 ? (int)sent : 0;
    size_t left = size - (size_t)sent;
    coding->unsent = malloc(left);
    if (coding->unsent == NULL)
        return -ENOMEM;
    memcpy(coding->unsent, coded + sent, left);
    coding->unsent_size = (uint32_t)left;
    coding->unsent_sent = 0;
    stream->write_op.done = done;
    loop_send(stream->loop, &stream->write_op, stream->fd, coding->unsent, left);
    return 1;
}

/* A send of kept bytes has completed. Returns like send_or_keep. */
static int unsent_sent(struct stream *stream, int res)
{
    struct stream_coding *coding = &stream->coding;
    if (res < 0 && res != -EAGAIN && res != -EINTR)
        return res;
    coding->unsent_sent += res > 0 ? (uint32_t)res : 0;
    if (coding->unsent_sent < coding->unsent_size) {
        loop_send(stream->loop, &stream->write_op, stream->fd, coding->unsent + coding->unsent_sent,
                  coding->unsent_size - coding->unsent_sent);
        return 1;
    }
    drop_unsent(coding);
    return 0;
}

/* ---- the handshakes ---- */

static void failure_due(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, read_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    if (stream->coding.read_waits) {
        stream->coding.read_waits = false;
        stream->ops->read_done(stream, stream->coding.failed);
    } else {
        stream->coding.write_waits = false;
        stream->ops->write_done(stream, stream->coding.failed);
    }
}

static int handshake_error(const struct stream *stream)
{
    const struct handshake *handshake = stream->coding.handshake;
    return handshake != NULL && handshake->error != 0 ? handshake->error : ERR_HANDSHAKE;
}

/* Reports the failure in a callback of the next turn, never inside the call that found it. The
 * handshake stays until then: a read that begins before needs it. */
static void handshake_fail(struct stream *stream, int error)
{
    bool is_ours =
        error == -ENOMEM || error == -ECANCELED || error == ERR_LIMIT || error == ERR_PROTOCOL;
    stream->coding.failed = is_ours ? error : handshake_error(stream);
    stream->read_op.done = failure_due;
    loop_nop(stream->loop, &stream->read_op);
}

/* The handshakes are over. The write may end the stream inside its call and the read does not, so
 * the read begins first. */
static void handshake_done(struct stream *stream)
{
    struct stream_coding *coding = &stream->coding;
    bool reads = coding->read_waits, writes = coding->write_waits;
    coding->read_waits = coding->write_waits = false;
    if (coding->link == NULL)
        stream_be_plain(stream);
    if (reads)
        stream_read_more(stream);
    if (writes)
        stream_write_now(stream);
}

static void handshake_readable(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, read_op);
    if (stream->terminating)
        stream_join(stream);
    else if (res < 0 && res != -EAGAIN && res != -EINTR)
        handshake_fail(stream, res);
    else
        handshake_run(stream, true);
}

static void handshake_unsent_sent(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, write_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    int result = unsent_sent(stream, res);
    if (stream->coding.failed != 0)
        return; /* these were the last bytes of a handshake that has failed */
    if (result < 0)
        handshake_fail(stream, result);
    else if (result == 0 && stream->coding.handshake == NULL)
        handshake_done(stream);
    else if (result == 0)
        handshake_run(stream, false);
}

static int handshake_send(struct stream *stream, const struct handshake_out *out)
{
    struct stream_coding *coding = &stream->coding;
    const unsigned char *bytes = out->data;
    ssize_t size = (ssize_t)out->size;
    if (size == 0)
        return 0;
    if (coding->unsent != NULL)
        return -ENOBUFS; /* what a handshake sends without waiting for an answer fits any socket */
    if (coding->link != NULL) {
        size = link_seal(coding->link, coding->engine, out->data, out->size, coding->engine->coded);
        bytes = coding->engine->coded;
    }
    int result =
        size < 0 ? (int)size : send_or_keep(stream, bytes, (size_t)size, handshake_unsent_sent);
    return MIN(result, 0);
}

/* One step. The buffers: bytes that are received are in engine->coded, and in engine->plain once a
 * link has decoded them. */
static int step(struct stream *stream, const unsigned char *in, size_t size, size_t *used)
{
    struct stream_coding *coding = &stream->coding;
    unsigned char small[LINK_REPLY_MAX];
    struct handshake_out out = {.data = coding->engine->plain, .room = HANDSHAKE_OUT_MAX};
    if (coding->link != NULL)
        out = (struct handshake_out){.data = small, .room = sizeof(small)};
    int result = handshake_step(coding->handshake, coding->engine, in, size, used, &out);
    if (coding->handshake->has_proved && !coding->has_begun) {
        coding->has_begun = true;
        if (stream->ops->handshake_begun != NULL)
            stream->ops->handshake_begun(stream);
    }
    int sent = handshake_send(stream, &out);
    return result < 0 || sent == 0 ? result : sent;
}

/* Makes the link of the handshake that is done, and decodes the bytes that were left for it. */
static int next_handshake(struct stream *stream, const unsigned char **in, size_t *size)
{
    struct stream_coding *coding = &stream->coding;
    struct handshake *done = coding->handshake;
    struct link *inner = coding->link;
    coding->link = NULL;
    int result = handshake_finish(done, coding->engine, inner, &coding->link);
    if (result < 0)
        return result;
    coding->handshake = done->next;
    done->next = NULL;
    handshake_free(done);
    if (coding->link != NULL)
        coding->link->is_distrusted = coding->is_stranger;
    if (*size == 0 || (coding->link == NULL && coding->handshake != NULL))
        return 0;
    if (coding->link == NULL)
        return ERR_PROTOCOL; /* behind a proxy's answer: no server speaks before its client */
    ssize_t opened = link_open(coding->link, coding->engine, *in, *size);
    *in = coding->engine->plain;
    *size = opened > 0 ? (size_t)opened : 0;
    if (opened <= 0 || coding->handshake != NULL)
        return (int)MIN(opened, 0);
    return link_keep_early(coding->link, *in, *size);
}

/* Runs the handshakes with received bytes. Returns 0 if they need more, or an error. When they are
 * over, stream->coding.handshake is NULL. */
static int handshake_take(struct stream *stream, const unsigned char *in, size_t size)
{
    while (stream->coding.handshake != NULL) {
        size_t used;
        int result = step(stream, in, size, &used);
        if (result < 0 || result == HANDSHAKE_MORE)
            return result;
        in += used;
        size -= used;
        result = next_handshake(stream, &in, &size);
        if (result < 0)
            return result;
    }
    return 0;
}

/* Counts what a link decodes. A stranger could send records that carry nothing, without end. */
static int note_received(struct stream_coding *coding, size_t size)
{
    if (!coding->is_stranger)
        return 0;
    coding->stranger_bytes += (uint32_t)size;
    return coding->stranger_bytes > LIMIT_STRANGER_BYTES ? ERR_PROTOCOL : 0;
}

/* Receives once and goes on with the handshakes. Returns 1 when there may be more to receive at
 * once, 0 when not, or an error. */
static int handshake_receive(struct stream *stream)
{
    struct stream_coding *coding = &stream->coding;
    const unsigned char *in = coding->engine->coded;
    ssize_t size = socket_recv_now(stream->fd, coding->engine->coded, STRANGER_READ);
    if (size == -EAGAIN || size == -EINTR)
        return 0;
    if (size <= 0)
        return size == 0 ? ERR_EOF : (int)size;
    bool is_full = size == STRANGER_READ;
    if (coding->link != NULL) {
        int noted = note_received(coding, (size_t)size);
        size = noted < 0 ? noted : link_open(coding->link, coding->engine, in, (size_t)size);
        in = coding->engine->plain;
        is_full = false; /* a link may take any number of records that carry nothing */
        if (size <= 0)
            return (int)size;
    }
    int result = handshake_take(stream, in, (size_t)size);
    return result < 0 ? result : is_full;
}

static void handshake_run(struct stream *stream, bool reads_now)
{
    struct stream_coding *coding = &stream->coding;
    int result = 0;
    if (!coding->handshake_runs) {
        coding->handshake_runs = true;
        result = handshake_take(stream, coding->engine->coded, 0);
    }
    bool may_have_more = reads_now;
    unsigned int left = RECEIVES_AT_ONCE;
    while (result == 0 && may_have_more && coding->handshake != NULL && coding->unsent == NULL &&
           left-- > 0) {
        result = handshake_receive(stream);
        may_have_more = result > 0;
        result = MIN(result, 0);
    }
    if (result < 0) {
        handshake_fail(stream, result);
    } else if (coding->unsent == NULL && coding->handshake == NULL) {
        handshake_done(stream);
    } else if (coding->unsent == NULL) {
        stream->read_op.done = handshake_readable;
        loop_poll(stream->loop, &stream->read_op, stream->fd, POLLIN);
    }
}

/* ---- reading ---- */

static void read_ready(struct loop_op *op, int res, uint32_t flags);

static void read_wait(struct stream *stream)
{
    stream->read_op.done = read_ready;
    if (stream->coding.link->early != NULL || stream->coding.link->has_ended)
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
    int result = link_keep_early(stream->coding.link, plain + taken, size - taken);
    if (result < 0)
        stream->coding.failed = result;
}

/* Receives once. Returns 1 when the read is done, 0 when it has to wait for more, or an error. */
static int read_step(struct stream *stream)
{
    struct stream_coding *coding = &stream->coding;
    stream->read_have +=
        (uint32_t)link_take_early(coding->link, stream->read_buffer + stream->read_have,
                                  stream->read_size - stream->read_have);
    if (read_is_satisfied(stream))
        return 1;
    if (coding->link->has_ended)
        return ERR_EOF;
    /* Plaintext beyond the caller's read is kept, so a stranger's reads have to be small. */
    size_t room = coding->is_stranger ? (size_t)STRANGER_READ : link_read_size(coding->link);
    ssize_t got = socket_recv_now(stream->fd, coding->engine->coded, room);
    if (got == -EAGAIN || got == -EINTR)
        return 0;
    if (got <= 0)
        return got == 0 ? link_fin(coding->link) : (int)got;
    if (note_received(coding, (size_t)got) < 0)
        return ERR_PROTOCOL;
    ssize_t opened = link_open(coding->link, coding->engine, coding->engine->coded, (size_t)got);
    if (coding->unsent == NULL)
        link_send_reply(coding->link, stream->fd); /* after an error this is an alert */
    if (opened < 0)
        return (int)opened;
    read_take(stream, coding->engine->plain, (size_t)opened);
    if (coding->failed < 0)
        return coding->failed;
    if (read_is_satisfied(stream))
        return 1;
    return coding->link->has_ended ? ERR_EOF : 0;
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

static void read_or_run(struct stream *stream, bool now)
{
    struct stream_coding *coding = &stream->coding;
    if (coding->failed == 0 && coding->handshake == NULL) {
        if (now)
            read_result(stream, read_step(stream));
        else
            read_wait(stream);
        return;
    }
    coding->read_waits = true;
    if (coding->failed == 0 && !coding->write_waits)
        handshake_run(stream, now);
}

void stream_coded_read(struct stream *stream)
{
    read_or_run(stream, false);
}

void stream_coded_read_now(struct stream *stream)
{
    read_or_run(stream, true);
}

/* ---- writing ---- */

static void batch_sent(struct loop_op *op, int res, uint32_t flags);

/* Encodes and sends the next batch. Returns like send_or_keep. */
static int write_batch(struct stream *stream)
{
    struct stream_coding *coding = &stream->coding;
    size_t size = MIN((size_t)(stream->write_size - stream->write_sent), (size_t)LINK_BATCH_PLAIN);
    ssize_t sealed =
        link_seal(coding->link, coding->engine, stream->write_data + stream->write_sent, size,
                  coding->engine->coded);
    if (sealed < 0)
        return (int)sealed;
    stream->write_sent += (uint32_t)size;
    return send_or_keep(stream, coding->engine->coded, (size_t)sealed, batch_sent);
}

static void write_more(struct stream *stream)
{
    int result = 0;
    while (result == 0 && stream->write_sent < stream->write_size)
        result = write_batch(stream);
    if (result <= 0)
        stream->ops->write_done(stream, result);
}

static void batch_sent(struct loop_op *op, int res, uint32_t flags)
{
    struct stream *stream = container_of(op, struct stream, write_op);
    if (stream->terminating) {
        stream_join(stream);
        return;
    }
    int result = unsent_sent(stream, res);
    if (result < 0)
        stream->ops->write_done(stream, result);
    else if (result == 0)
        write_more(stream);
}

void stream_coded_write(struct stream *stream)
{
    struct stream_coding *coding = &stream->coding;
    if (coding->failed == 0 && coding->handshake == NULL && coding->unsent == NULL) {
        write_more(stream);
        return;
    }
    coding->write_waits = true;
    if (coding->failed == 0 && coding->handshake != NULL && !coding->read_waits)
        handshake_run(stream, false);
}
