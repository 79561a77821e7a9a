/* One encrypted stream against a peer whose frames the test makes: early bytes, truncated and
 * forged frames, and a stream that is moved. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "alloc.h"
#include "base/error.h"
#include "crypto/keys.h"
#include "io/socket.h"
#include "noise_rig.h"
#include "testing.h"

enum { DATA_SIZE = 100000, PATTERN_COUNT = NOISE_KK + 1 };

static unsigned char data[DATA_SIZE], got[DATA_SIZE];
static struct noise_rig rig;
static struct raw raw;
static struct end *end; /* the stream */

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    keys_random(data, sizeof(data));
}

TestSuite(stream_noise_peer, .init = set_up);

/* Runs the handshake between the stream and the test; the stream has begun to read `size` bytes. */
static void begin(enum noise_pattern pattern, unsigned int stream_end, size_t size)
{
    noise_rig_init(&rig, 1, pattern, 0);
    end = &rig.ends[stream_end];
    cr_assert_eq(noise_rig_stream(&rig, stream_end), 0);
    raw_init(&raw, &rig, 1 - stream_end);
    if (size > 0)
        stream_read(&end->stream, got, size);
    raw_handshake(&raw);
}

static void finish(void)
{
    raw_finish(&raw);
    noise_rig_finish(&rig);
}

static void expect_read(int result)
{
    unsigned int reads = end->reads;
    for (int turn = 0; turn < 20 && end->reads == reads; turn++)
        noise_rig_turns(&rig, 1);
    cr_assert_eq(end->reads, reads + 1, "nothing was read");
    cr_assert_eq(end->read_result, result, "%d instead of %d", end->read_result, result);
}

/* ---- early bytes ---- */

/* The first frames come in one segment with the last handshake message. */
static void run_early(enum noise_pattern pattern, unsigned int stream_end)
{
    static const size_t sizes[] = {5, 100, 1};
    begin(pattern, stream_end, 3);
    raw_send_frames(&raw, data, sizes, ARRAY_SIZE(sizes));
    expect_read(3);
    cr_assert_not_null(end->stream.coding.link->early);
    stream_read_now(&end->stream, got + 3, 2);
    cr_assert_eq(end->read_result, 2, "early bytes need no wait");
    stream_read_some(&end->stream, got + 5, 50);
    expect_read(50);
    stream_read_some(&end->stream, got + 55, 500);
    expect_read(51);
    cr_assert_null(end->stream.coding.link->early);
    cr_assert_arr_eq(got, data, 106);
    /* A read that early bytes satisfy in part waits for the rest. */
    raw_send_frames(&raw, data, sizes, 1);
    stream_read(&end->stream, got, 4);
    expect_read(4);
    stream_read(&end->stream, got + 4, 4);
    noise_rig_turns(&rig, 5);
    cr_assert(stream_is_reading(&end->stream));
    raw_send_frames(&raw, data + 5, sizes, 1);
    expect_read(4);
    cr_assert_arr_eq(got, data, 8);
    finish();
}

Test(stream_noise_peer, bytes_behind_the_last_handshake_message)
{
    run_early(NOISE_NK, 0);
    run_early(NOISE_KK, 0);
    run_early(NOISE_XX, 1);
}

/* ---- ends and errors ---- */

/* Begins with a stream whose handshake is done and that reads 10 bytes. */
static void begin_reading(void)
{
    begin(NOISE_XX, 1, 10);
    raw_send_frames(&raw, NULL, NULL, 0);
    noise_rig_turns(&rig, 3);
    cr_assert_not_null(end->stream.coding.link);
}

static size_t make_frame(unsigned char *out, const void *plain, size_t size)
{
    return noise_ends_frame(raw.link, rig.engines[raw.end], plain, size, out);
}

Test(stream_noise_peer, an_end_within_a_frame_is_a_truncation)
{
    unsigned char wire[100];
    for (size_t cut = 0; cut < 23; cut++) {
        begin_reading();
        size_t size = make_frame(wire, data, 5);
        cr_assert_eq(size, 23);
        if (cut > 0)
            raw_send(&raw, wire, cut);
        noise_rig_turns(&rig, 3);
        (void)shutdown(rig.fds[raw.end], SHUT_WR);
        expect_read(cut == 0 ? ERR_EOF : ERR_TRUNCATED);
        finish();
    }
    begin_reading(); /* an end between two frames, before 10 bytes have come */
    raw_send_frames(&raw, data, (size_t[]){9}, 1);
    (void)shutdown(rig.fds[raw.end], SHUT_WR);
    expect_read(ERR_EOF);
    finish();
    begin_reading();
    tcp_abort_on_close(rig.fds[raw.end]);
    (void)close(rig.fds[raw.end]);
    rig.fds[raw.end] = -1;
    expect_read(-ECONNRESET);
    finish();
}

Test(stream_noise_peer, what_is_not_genuine_is_refused)
{
    static const unsigned char empty[18] = {16};
    unsigned char wire[100];
    for (size_t bit = 0; bit < (size_t)28 * 8; bit += 5) {
        begin_reading();
        size_t size = make_frame(wire, data, 10);
        wire[bit / 8] ^= (unsigned char)(1u << bit % 8);
        raw_send(&raw, wire, size);
        if (bit < 16) { /* a bit of the length: perhaps more bytes are awaited */
            noise_rig_turns(&rig, 5);
            (void)shutdown(rig.fds[raw.end], SHUT_WR);
        }
        noise_rig_turns(&rig, 5);
        cr_assert_eq(end->reads, 1);
        cr_assert(end->read_result == -EBADMSG || (bit < 16 && end->read_result == ERR_TRUNCATED));
        finish();
    }
    begin_reading();
    raw_send(&raw, empty, sizeof(empty));
    expect_read(-EBADMSG);
    finish();
    begin_reading(); /* the peer sends plaintext */
    raw_send(&raw, "\0\0\0\0hello", 9);
    expect_read(-EBADMSG);
    finish();
}

/* ---- writing ---- */

/* Decrypts what the stream has sent, as the peer does. */
static size_t peer_reads(unsigned char *out, size_t size)
{
    static unsigned char wire[NOISE_BATCH_CODED];
    size_t have = 0;
    for (int turn = 0; turn < 3000 && have < size; turn++) {
        noise_rig_turns(&rig, 1);
        ssize_t result = recv(rig.fds[raw.end], wire, sizeof(wire), MSG_DONTWAIT);
        if (result <= 0)
            continue;
        struct link_engine *engine = rig.engines[raw.end];
        ssize_t opened = link_open(raw.link, engine, wire, (size_t)result);
        cr_assert(opened >= 0 && have + (size_t)opened <= size);
        memcpy(out + have, engine->plain, (size_t)opened);
        have += (size_t)opened;
    }
    return have;
}

/* A write of more than a batch, to a peer that does not read at first. Afterwards the stream holds
 * no buffer. */
Test(stream_noise_peer, a_write_larger_than_a_batch_and_the_socket)
{
    static unsigned char out[2 << 20], in[2 << 20];
    keys_random(out, sizeof(out));
    for (int small = 0; small < 2; small++) {
        noise_rig_init(&rig, 1, NOISE_NK, small ? 4096 : 65536);
        end = &rig.ends[0];
        cr_assert_eq(noise_rig_stream(&rig, 0), 0);
        raw_init(&raw, &rig, 1);
        size_t size = small ? 200000 : sizeof(out);
        stream_write(&end->stream, out, size);
        raw_handshake(&raw);
        raw_send_frames(&raw, NULL, NULL, 0);
        noise_rig_turns(&rig, 10);
        cr_assert(stream_is_writing(&end->stream));
        cr_assert_leq(alloc_bytes(), NOISE_BATCH_CODED + 1000, "more than a batch is kept");
        cr_assert_eq(peer_reads(in, size), size);
        noise_rig_turns(&rig, 3);
        cr_assert(end->writes == 1 && end->write_result == 0);
        cr_assert(memcmp(in, out, size) == 0);
        cr_assert_null(end->stream.coding.unsent);
        finish();
    }
}

/* A read may begin after the handshake has failed and before the write reports it. */
Test(stream_noise_peer, a_read_between_a_failure_and_its_report)
{
    noise_rig_init(&rig, 1, NOISE_NK, 0);
    end = &rig.ends[0];
    cr_assert_eq(noise_rig_stream(&rig, 0), 0);
    raw_init(&raw, &rig, 1);
    stream_write(&end->stream, data, 10);
    raw_handshake(&raw);
    alloc_fail_nth(1); /* the allocation of the link */
    raw_send_frames(&raw, NULL, NULL, 0);
    for (int turn = 0; turn < 20 && !alloc_has_failed(); turn++)
        noise_rig_turns(&rig, 1);
    cr_assert(alloc_has_failed() && end->writes == 0);
    stream_read(&end->stream, got, 10);
    expect_read(-ENOMEM);
    cr_assert_eq(end->writes, 0, "the read has reported it");
    finish();
}

/* ---- moving a stream ---- */

static void other_read(struct stream *stream, int result)
{
    *(int *)(stream + 1) = result;
}

/* A released stream continues as another one, as on another worker, with everything that it has
 * received: the rest of a frame that was read in part, and the beginning of the next. */
Test(stream_noise_peer, release_and_adopt)
{
    static const struct stream_ops other_ops = {.read_done = other_read};
    struct {
        struct stream stream;
        int result;
    } other = {.result = 0};
    unsigned char wire[100];
    begin(NOISE_XX, 1, 3);
    raw_send_frames(&raw, data, (size_t[]){20}, 1);
    size_t size = make_frame(wire, data + 20, 30);
    raw_send(&raw, wire, size - 7);
    expect_read(3);
    noise_rig_turns(&rig, 3);
    struct transport transport = stream_release(&end->stream);
    cr_assert(transport.fd >= 0 && transport.link != NULL && end->stream.fd < 0);
    cr_assert_null(end->stream.coding.link);

    struct loop *loop;
    struct loop_options options = {.metrics = &rig.metrics};
    cr_assert_eq(loop_create(&options, &loop), 0);
    stream_init(&other.stream, loop, transport.fd, &other_ops);
    stream_adopt(&other.stream, rig.engines[raw.end], transport.link);
    stream_read(&other.stream, got + 3, 17 + 30);
    for (int turn = 0; turn < 5; turn++)
        cr_assert_eq(loop_run_once(loop), 0);
    cr_assert_eq(other.result, 0);
    raw_send(&raw, wire + size - 7, 7);
    for (int turn = 0; turn < 5; turn++)
        cr_assert_eq(loop_run_once(loop), 0);
    cr_assert_eq(other.result, 47);
    cr_assert_arr_eq(got, data, 50);
    transport = stream_release(&other.stream);
    transport_abort(&transport, loop);
    cr_assert(transport.fd < 0 && transport.link == NULL);
    transport_close(&transport, loop); /* does nothing: its descriptor is -1 */
    cr_assert_eq(loop_run_once(loop), 0);
    loop_destroy(loop);
    finish();
}

/* Adopting nothing leaves a plain stream. */
Test(stream_noise_peer, a_plain_stream_adopts_nothing)
{
    noise_rig_init(&rig, 1, NOISE_NK, 0);
    end = &rig.ends[0];
    cr_assert_eq(noise_rig_stream(&rig, 0), 0);
    struct transport transport = stream_release(&end->stream); /* before its first byte */
    cr_assert_null(transport.link);
    stream_init(&end->stream, rig.loop, transport.fd, end->stream.ops);
    stream_adopt(&end->stream, rig.engines[0], NULL);
    stream_read(&end->stream, got, 5);
    cr_assert_eq(send(rig.fds[1], "hello", 5, 0), 5);
    expect_read(5);
    cr_assert_arr_eq(got, "hello", 5);
    noise_rig_finish(&rig);
}
