/* Streams on the fake loop that prepare a WebSocket over another link, or have one. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/metrics.h"
#include "crypto/keys.h"
#include "fake_loop.h"
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
};

static void on_done(struct stream *stream, int result)
{
}

static void on_close(struct stream *stream)
{
    container_of(stream, struct rig, stream)->closes++;
}

static const struct stream_ops rig_ops = {.read_done = on_done,
                                          .write_done = on_done,
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

/* Our end of stream is said before the socket's, or the peer would take it for a truncation. */
Test(stream_links, an_end_that_is_a_message_comes_before_the_fin)
{
    struct rig rig;
    unsigned char byte;
    rig_init(&rig);
    stream_adopt(&rig.stream, rig.engine, websocket_link_create(NULL, true, false));
    stream_end_writing(&rig.stream);
    struct link *of_peer = websocket_link_create(NULL, false, false);
    cr_assert_not_null(of_peer);
    while (recv(rig.peer, &byte, 1, MSG_DONTWAIT) == 1)
        cr_assert_eq(link_open(of_peer, rig.engine, &byte, 1), 0);
    cr_assert_eq(recv(rig.peer, &byte, 1, MSG_DONTWAIT), 0, "and then a FIN");
    cr_assert_eq(link_fin(of_peer), ERR_EOF);
    link_free(of_peer);
    rig_finish(&rig);
}
