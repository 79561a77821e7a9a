/* Streams on the fake loop that prepare a WebSocket over another link, or have one. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "crypto/keys.h"
#include "fake_loop.h"
#include "net/handshake.h"
#include "net/stream.h"
#include "net/websocket_link.h"
#include "record_link.h"
#include "testing.h"

struct rig {
    struct stream stream;
    struct loop *loop;
    struct metrics metrics;
    struct link_engine *engine;
    int peer;
    char in[4];
    unsigned int closes;
    int read_result; /* 0: none */
};

static void on_read(struct stream *stream, int result)
{
    container_of(stream, struct rig, stream)->read_result = result;
}

static void on_write(struct stream *stream, int result)
{
}

static void on_close(struct stream *stream)
{
    container_of(stream, struct rig, stream)->closes++;
}

static const struct stream_ops rig_ops = {.read_done = on_read,
                                          .write_done = on_write,
                                          .closed = on_close};

static void rig_init(struct rig *rig)
{
    int fds[2];
    memset(rig, 0, sizeof(*rig));
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(link_engine_create(&rig->engine), 0);
    struct loop_options options = {.metrics = &rig->metrics};
    cr_assert_eq(loop_create(&options, &rig->loop), 0);
    tcp_pair(fds, 0);
    rig->peer = fds[0];
    stream_init(&rig->stream, rig->loop, fds[1], &rig_ops);
}

static void rig_turns(struct rig *rig, int turns)
{
    for (int i = 0; i < turns; i++)
        cr_assert_eq(loop_run_once(rig->loop), 0);
}

static void rig_finish(struct rig *rig)
{
    stream_terminate(&rig->stream, STREAM_ABORT);
    rig_turns(rig, 5);
    cr_assert_eq(rig->closes, 1);
    (void)close(rig->peer);
    loop_destroy(rig->loop);
    link_engine_destroy(rig->engine);
}

/* ---- records that carry nothing, as key updates ---- */

static unsigned char records[1 << 16];

/* The peer sends `size` bytes of them where a request for WebSocket, or a Hello, is due. Returns
 * those that are not received after two turns. */
static int send_empty_records(struct rig *rig, size_t size, bool has_upgraded, bool is_stranger)
{
    struct handshake *upgrade = NULL;
    int unread = 0;
    rig_init(rig);
    if (!has_upgraded)
        cr_assert_eq(websocket_handshake_create(NULL, true, &upgrade), 0);
    stream_begin(&rig->stream, rig->engine, upgrade);
    struct link *of_peer = record_link_create(), *own = record_link_create();
    cr_assert(of_peer != NULL && own != NULL);
    rig->stream.coding.link = has_upgraded ? websocket_link_create(own, false, false) : own;
    for (size_t at = 0; at < size;)
        at += record_link_put(of_peer, RECORD_ANSWER, NULL, 0, records + at);
    cr_assert_eq(send(rig->peer, records, size, 0), (ssize_t)size);
    if (is_stranger)
        stream_distrust(&rig->stream);
    stream_read_now(&rig->stream, rig->in, sizeof(rig->in));
    rig_turns(rig, 2);
    cr_assert_eq(ioctl(rig->stream.fd, FIONREAD, &unread), 0);
    link_free(of_peer);
    return unread;
}

/* They must not keep the worker from its other connections, nor from the deadline of this one. */
Test(stream_links, a_handshake_gets_a_part_of_a_turn)
{
    struct rig rig;
    int unread = send_empty_records(&rig, sizeof(records), false, false);
    cr_assert_geq(unread, (int)sizeof(records) - 4 * LINK_DISTRUSTED_FRAME, "only %d bytes wait",
                  unread);
    rig_turns(&rig, 40);
    cr_assert_eq(ioctl(rig.stream.fd, FIONREAD, &unread), 0);
    cr_expect_eq(unread, 0);
    cr_expect_eq(rig.read_result, 0);
    rig_finish(&rig);
}

Test(stream_links, a_stranger_sends_no_more_than_a_login_needs)
{
    for (int has_upgraded = 0; has_upgraded < 2; has_upgraded++) {
        struct rig rig;
        (void)send_empty_records(&rig, LIMIT_STRANGER_BYTES, has_upgraded, true);
        rig_turns(&rig, 20);
        cr_expect_eq(rig.read_result, 0);
        cr_assert_eq(send(rig.peer, "x", 1, 0), 1);
        rig_turns(&rig, 20);
        cr_expect_eq(rig.read_result, ERR_PROTOCOL);
        rig_finish(&rig);
    }
}

/* Our end of stream is said before the socket's, or the peer would take it for a truncation. */
Test(stream_links, an_end_that_is_a_message_comes_before_the_fin)
{
    struct rig rig;
    unsigned char byte;
    rig_init(&rig);
    stream_adopt(&rig.stream, rig.engine, websocket_link_create(NULL, true, false));
    stream_terminate(&rig.stream, STREAM_CLEAN);
    rig_turns(&rig, 5);
    struct link *of_peer = websocket_link_create(NULL, false, false);
    cr_assert_not_null(of_peer);
    while (recv(rig.peer, &byte, 1, MSG_DONTWAIT) == 1)
        cr_assert_eq(link_open(of_peer, rig.engine, &byte, 1), 0);
    cr_assert_eq(recv(rig.peer, &byte, 1, MSG_DONTWAIT), 0, "and then a FIN");
    cr_assert_eq(link_fin(of_peer), ERR_EOF);
    link_free(of_peer);
    rig_finish(&rig);
}

/* ---- a handshake that sends while bytes of the one before wait ---- */

static int speak(struct handshake *handshake, struct link_engine *engine, const unsigned char *in,
                 size_t size, size_t *used, struct handshake_out *out)
{
    int result = handshake_put(out, "said", 4);
    return result < 0 ? result : HANDSHAKE_DONE;
}

static int make_no_link(struct handshake *handshake, struct link_engine *engine, struct link *inner,
                        struct link **ret)
{
    *ret = inner;
    return 0;
}

static void free_speaker(struct handshake *handshake)
{
    free(handshake);
}

static struct handshake *speaker(struct handshake *next)
{
    static const struct handshake_ops ops = {.step = speak,
                                             .finish = make_no_link,
                                             .free = free_speaker};
    struct handshake *handshake = calloc(1, sizeof(*handshake));
    cr_assert_not_null(handshake);
    handshake->ops = &ops;
    handshake->next = next;
    return handshake;
}

/* Two of them speak one after the other, without an answer between, into a socket that is full.
 * Only a peer that asks without reading gets there: one that has read our last flight, as the
 * answer to it shows, has made room. That costs its connection, and nothing else. */
Test(stream_links, two_handshakes_into_a_full_socket)
{
    static const char block[65536];
    for (int is_full = 0; is_full < 2; is_full++) {
        struct rig rig;
        char said[9] = "";
        rig_init(&rig);
        while (is_full && send(rig.stream.fd, block, sizeof(block), MSG_DONTWAIT) > 0)
            ;
        stream_begin(&rig.stream, rig.engine, speaker(speaker(NULL)));
        stream_read(&rig.stream, rig.in, sizeof(rig.in));
        rig_turns(&rig, 5);
        cr_expect_eq(rig.read_result, is_full ? ERR_HANDSHAKE : 0);
        if (!is_full) {
            cr_expect_eq(recv(rig.peer, said, 8, MSG_DONTWAIT), 8);
            cr_expect_str_eq(said, "saidsaid");
        }
        rig_finish(&rig);
    }
}
