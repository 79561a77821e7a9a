#include "noise_rig.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "io/socket.h"
#include "testing.h"

/* ---- ends ---- */

static void read_next(struct end *end)
{
    size_t left = end->in_size - end->in_have;
    if (left == 0 || end->stream.terminating)
        return;
    end->piece = 1 + random_below(end->random, MIN(left, end->piece_max));
    switch (random_below(end->random, 3)) {
    case 0:
        stream_read(&end->stream, end->in + end->in_have, end->piece);
        break;
    case 1:
        stream_read_now(&end->stream, end->in + end->in_have, end->piece);
        break;
    default:
        stream_read_some(&end->stream, end->in + end->in_have, end->piece);
        break;
    }
}

static void write_next(struct end *end)
{
    size_t left = end->out_size - end->out_sent;
    if (left == 0 || end->stream.terminating)
        return;
    size_t piece = 1 + random_below(end->random, left);
    const unsigned char *data = end->out + end->out_sent;
    end->out_sent += piece;
    stream_write(&end->stream, data, piece);
}

static void on_read(struct stream *stream, int result)
{
    struct end *end = container_of(stream, struct end, stream);
    end->read_result = result;
    end->reads++;
    cr_assert(result != 0 && (end->random == NULL || result <= (int)end->piece));
    if (result > 0)
        end->in_have += (size_t)result;
    if (result > 0 && end->random != NULL)
        read_next(end);
}

static void on_write(struct stream *stream, int result)
{
    struct end *end = container_of(stream, struct end, stream);
    end->write_result = result;
    end->writes++;
    cr_assert_leq(result, 0);
    if (result == 0 && end->random != NULL)
        write_next(end);
}

static void on_closed(struct stream *stream)
{
    container_of(stream, struct end, stream)->closes++;
}

static const struct stream_ops end_ops = {.read_done = on_read,
                                          .write_done = on_write,
                                          .closed = on_closed};

void end_begin(struct end *end, struct random *random)
{
    bool read_first = random_permille(random, 500);
    end->random = random;
    if (read_first)
        read_next(end);
    write_next(end);
    if (!read_first && !end_has_failed(end))
        read_next(end);
}

bool end_has_failed(const struct end *end)
{
    return end->read_result < 0 || end->write_result < 0;
}

bool end_is_through(const struct end *end)
{
    return end->in_have == end->in_size && end->out_sent == end->out_size &&
           !stream_is_writing(&end->stream) && !stream_is_reading(&end->stream);
}

/* ---- the rig ---- */

void noise_rig_init(struct noise_rig *rig, uint64_t seed, enum noise_pattern pattern,
                    int buffer_size)
{
    memset(rig, 0, sizeof(*rig));
    rig->fds_before = open_fd_count();
    rig->random.state = seed;
    fake_loop_set_seed(seed);
    struct loop_options options = {.metrics = &rig->metrics, .buffer_count = 4};
    cr_assert_eq(loop_create(&options, &rig->loop), 0);
    noise_ends_keys(rig->keys, pattern);
    tcp_pair(rig->fds, buffer_size);
    tcp_without_pacing(rig->fds);
    for (size_t i = 0; i < 2; i++) {
        socket_set_nodelay(rig->fds[i], true); /* Nagle's algorithm would wait for real time */
        rig->ends[i].stream.fd = -1;
        rig->ends[i].piece_max = SIZE_MAX;
        cr_assert_eq(link_engine_create(&rig->engines[i]), 0);
    }
    alloc_count_begin();
}

int noise_rig_stream(struct noise_rig *rig, unsigned int end)
{
    struct stream *stream = &rig->ends[end].stream;
    stream_init(stream, rig->loop, take_fd(&rig->fds[end]), &end_ops);
    struct handshake *handshake;
    int result = noise_handshake_create(&rig->keys[end], end == 0, &handshake);
    if (result == 0)
        stream_begin(stream, rig->engines[end], handshake);
    return result;
}

/* The hot buffers are valid within one callback only. Overwrites them between turns, so that a
 * stream that uses them for longer corrupts its bytes. */
static void spoil(struct link_engine *engine)
{
    memset(engine->coded, 0xdd, NOISE_BATCH_CODED);
    memset(engine->plain, 0xdd, NOISE_BATCH_CODED);
}

void noise_rig_turns(struct noise_rig *rig, int turns)
{
    for (int i = 0; i < turns; i++) {
        spoil(rig->engines[0]);
        spoil(rig->engines[1]);
        cr_assert_eq(loop_run_once(rig->loop), 0);
    }
}

void noise_rig_finish(struct noise_rig *rig)
{
    for (size_t i = 0; i < 2; i++) {
        struct end *end = &rig->ends[i];
        if (end->stream.fd >= 0)
            stream_terminate(&end->stream, STREAM_CLEAN);
        for (int turn = 0; turn < 300 && end->stream.fd >= 0; turn++)
            noise_rig_turns(rig, 1);
        cr_assert_lt(end->stream.fd, 0);
        cr_assert_leq(end->closes, 1);
        if (rig->fds[i] >= 0)
            (void)close(rig->fds[i]);
    }
    noise_rig_turns(rig, 1); /* submits the closes */
    cr_assert_eq(fake_loop_in_flight(rig->loop), 0);
    cr_assert_eq(alloc_blocks(), 0, "memory is leaked");
    for (size_t i = 0; i < 2; i++)
        link_engine_destroy(rig->engines[i]);
    loop_destroy(rig->loop);
    cr_assert_eq(open_fd_count(), rig->fds_before, "descriptors are leaked");
}

/* ---- the test as an end ---- */

void raw_init(struct raw *raw, struct noise_rig *rig, unsigned int end)
{
    *raw = (struct raw){.rig = rig, .end = end};
    noise_handshake_init(&raw->handshake, &rig->keys[end], end == 0, NULL, 0);
}

void raw_send(struct raw *raw, const void *bytes, size_t size)
{
    cr_assert_eq(send(raw->rig->fds[raw->end], bytes, size, MSG_NOSIGNAL), (ssize_t)size);
}

void raw_write_message(struct raw *raw)
{
    int size = noise_handshake_write(&raw->handshake, raw->rig->engines[raw->end]->aead, NULL, 0,
                                     raw->last + NOISE_FRAME_HEADER, NOISE_HANDSHAKE_MESSAGE_MAX);
    cr_assert_gt(size, 0);
    raw->last[0] = (unsigned char)size;
    raw->last[1] = (unsigned char)(size >> 8);
    raw->last_size = NOISE_FRAME_HEADER + (size_t)size;
}

static void raw_read_message(struct raw *raw)
{
    unsigned char message[NOISE_FRAME_HEADER + NOISE_HANDSHAKE_MESSAGE_MAX];
    unsigned char payload[NOISE_HANDSHAKE_MESSAGE_MAX];
    size_t length = noise_handshake_message_size(&raw->handshake), have = 0;
    for (int turn = 0; turn < 100 && have < NOISE_FRAME_HEADER + length; turn++) {
        noise_rig_turns(raw->rig, 1);
        ssize_t got = recv(raw->rig->fds[raw->end], message + have,
                           NOISE_FRAME_HEADER + length - have, MSG_DONTWAIT);
        have += got > 0 ? (size_t)got : 0;
    }
    cr_assert_eq(have, NOISE_FRAME_HEADER + length);
    cr_assert(message[0] == length && message[1] == 0);
    cr_assert_eq(noise_handshake_read(&raw->handshake, raw->rig->engines[raw->end]->aead,
                                      message + NOISE_FRAME_HEADER, length, payload),
                 0);
}

void raw_handshake(struct raw *raw)
{
    while (!noise_handshake_done(&raw->handshake)) {
        if (!noise_handshake_is_ours(&raw->handshake)) {
            raw_read_message(raw);
            continue;
        }
        raw_write_message(raw);
        if (!noise_handshake_done(&raw->handshake)) {
            raw_send(raw, raw->last, raw->last_size);
            raw->last_size = 0;
        }
    }
    raw->link = noise_link_create(&raw->handshake);
    cr_assert_not_null(raw->link);
}

void raw_send_frames(struct raw *raw, const unsigned char *plain, const size_t *sizes, size_t count)
{
    static unsigned char wire[256 + 2 * NOISE_MESSAGE_MAX];
    size_t size = raw->last_size;
    memcpy(wire, raw->last, size);
    raw->last_size = 0;
    for (size_t i = 0; i < count; i++) {
        cr_assert_leq(size + sizes[i] + NOISE_FRAME_OVERHEAD, sizeof(wire));
        size +=
            noise_ends_frame(raw->link, raw->rig->engines[raw->end], plain, sizes[i], wire + size);
        plain += sizes[i];
    }
    raw_send(raw, wire, size);
}

void raw_finish(struct raw *raw)
{
    noise_handshake_wipe(&raw->handshake);
    link_free(raw->link);
    raw->link = NULL;
}
