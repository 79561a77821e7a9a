/* Streams on the fake loop: exact reads, complete writes, and terminations, which call `closed`
 * exactly once, whatever was in flight. */
#include "net/stream.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/metrics.h"
#include "fake_loop.h"
#include "testing.h"

enum { DATA_SIZE = 300000 };

struct rig {
    struct stream stream;
    struct loop *loop;
    struct metrics metrics;
    int peer;
    int read_result, write_result, connect_result;
    unsigned int reads, writes, connects, closes;
};

static void on_read(struct stream *stream, int result)
{
    struct rig *rig = container_of(stream, struct rig, stream);
    rig->read_result = result;
    rig->reads++;
}

static void on_write(struct stream *stream, int result)
{
    struct rig *rig = container_of(stream, struct rig, stream);
    rig->write_result = result;
    rig->writes++;
}

static void on_connect(struct stream *stream, int result)
{
    struct rig *rig = container_of(stream, struct rig, stream);
    rig->connect_result = result;
    rig->connects++;
}

static void on_close(struct stream *stream)
{
    container_of(stream, struct rig, stream)->closes++;
}

static const struct stream_ops rig_ops = {
    .read_done = on_read, .write_done = on_write, .connected = on_connect, .closed = on_close};

static void rig_init(struct rig *rig, uint64_t seed, const struct fake_faults *faults)
{
    memset(rig, 0, sizeof(*rig));
    fake_loop_set_seed(seed);
    struct loop_options options = {.metrics = &rig->metrics};
    cr_assert_eq(loop_create(&options, &rig->loop), 0);
    fake_loop_set_faults(rig->loop, faults);
    int fds[2];
    tcp_pair(fds, 0);
    rig->peer = fds[0];
    stream_init(&rig->stream, rig->loop, fds[1], &rig_ops);
}

static void rig_finish(struct rig *rig)
{
    if (rig->stream.fd >= 0) {
        stream_terminate(&rig->stream, STREAM_CLEAN);
        for (int i = 0; i < 200 && rig->closes == 0; i++)
            cr_assert_eq(loop_run_once(rig->loop), 0);
        cr_assert_eq(rig->closes, 1);
    }
    loop_destroy(rig->loop);
    (void)close(rig->peer);
}

static const struct fake_faults transient = {.delay = 300,
                                             .reorder = 500,
                                             .short_count = 400,
                                             .eintr = 50,
                                             .eagain = 50,
                                             .lost_cancel = 500};

static void run_exchange(uint64_t seed)
{
    static unsigned char out[DATA_SIZE], in[DATA_SIZE], got[DATA_SIZE];
    struct rig rig;
    rig_init(&rig, seed, &transient);
    for (size_t i = 0; i < DATA_SIZE; i++)
        out[i] = (unsigned char)(i * 7 + i / 251 + seed);
    memset(in, 0, sizeof(in));
    stream_read(&rig.stream, in, DATA_SIZE);
    stream_write(&rig.stream, out, DATA_SIZE);
    size_t sent = 0, received = 0;
    for (int i = 0; i < 20000 && (rig.reads == 0 || received < DATA_SIZE); i++) {
        cr_assert_eq(loop_run_once(rig.loop), 0);
        ssize_t result = send(rig.peer, out + sent, DATA_SIZE - sent, MSG_DONTWAIT);
        sent += result > 0 ? (size_t)result : 0;
        result = recv(rig.peer, got + received, DATA_SIZE - received, MSG_DONTWAIT);
        received += result > 0 ? (size_t)result : 0;
        cr_assert(rig.reads == 0 || sent == DATA_SIZE);
    }
    for (int i = 0; i < 200 && rig.writes == 0; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_assert_eq(rig.read_result, DATA_SIZE);
    cr_assert(rig.writes == 1 && rig.write_result == 0);
    cr_assert_arr_eq(in, out, DATA_SIZE);
    cr_assert_arr_eq(got, out, DATA_SIZE);
    rig_finish(&rig);
}

Test(stream, whole_reads_and_writes)
{
    for (uint64_t seed = 1; seed <= 60; seed++)
        run_exchange(seed);
}

/* Terminates at a random moment: `closed` is called once, there is no other callback, and the peer
 * sees a reset if one was asked for. */
static void run_termination(uint64_t seed)
{
    static unsigned char out[DATA_SIZE], in[64];
    struct rig rig;
    struct random random = {seed};
    rig_init(&rig, seed, &transient);
    bool abort = random_permille(&random, 500);
    if (random_permille(&random, 600))
        stream_read(&rig.stream, in, sizeof(in));
    if (random_permille(&random, 600))
        stream_write(&rig.stream, out, random_permille(&random, 500) ? 100 : DATA_SIZE);
    size_t turns = random_below(&random, 5);
    for (size_t i = 0; i < turns; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    if (random_permille(&random, 500))
        cr_assert_eq(send(rig.peer, out, sizeof(in), 0), (ssize_t)sizeof(in));
    unsigned int calls = rig.reads + rig.writes;
    stream_terminate(&rig.stream, abort ? STREAM_ABORT : STREAM_CLEAN);
    stream_terminate(&rig.stream, abort ? STREAM_CLEAN : STREAM_CLEAN);
    cr_assert_eq(rig.closes, 0, "closed inside stream_terminate");
    for (int i = 0; i < 200 && rig.closes == 0; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_assert_eq(rig.closes, 1);
    cr_assert_eq(rig.reads + rig.writes, calls);
    cr_assert_eq(loop_run_once(rig.loop), 0); /* submits the close */
    cr_assert_eq(fake_loop_in_flight(rig.loop), 0);
    ssize_t got;
    while ((got = recv(rig.peer, out, sizeof(out), MSG_DONTWAIT)) > 0)
        ;
    if (abort)
        cr_assert(got < 0 && errno == ECONNRESET);
    rig_finish(&rig);
}

Test(stream, termination)
{
    size_t fds = open_fd_count();
    for (uint64_t seed = 1; seed <= 1000; seed++)
        run_termination(seed);
    cr_assert_eq(open_fd_count(), fds);
}

Test(stream, ends_and_errors)
{
    static const struct fake_faults none;
    unsigned char in[10];
    struct rig rig;
    rig_init(&rig, 1, &none);
    stream_read(&rig.stream, in, sizeof(in));
    cr_assert_eq(send(rig.peer, "half", 4, 0), 4);
    (void)shutdown(rig.peer, SHUT_WR);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_assert(rig.reads == 1 && rig.read_result == ERR_EOF);
    rig_finish(&rig);

    rig_init(&rig, 1, &none);
    stream_read_some(&rig.stream, in, sizeof(in));
    cr_assert_eq(send(rig.peer, "half", 4, 0), 4);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_assert(rig.reads == 1 && rig.read_result == 4);
    tcp_abort_on_close(rig.peer);
    (void)close(rig.peer);
    rig.peer = -1;
    stream_read(&rig.stream, in, sizeof(in));
    for (int i = 0; i < 5; i++)
        cr_assert_eq(loop_run_once(rig.loop), 0);
    cr_assert(rig.reads == 2 && rig.read_result == -ECONNRESET);
    int fd = stream_release(&rig.stream).fd;
    cr_assert(fd >= 0 && rig.stream.fd == -1);
    (void)close(fd);
    rig_finish(&rig);
}

Test(stream, connect)
{
    struct rig rig;
    static const struct fake_faults none;
    rig_init(&rig, 1, &none);
    rig_finish(&rig);
    struct addr addr;
    for (int refused = 0; refused < 2; refused++) {
        rig_init(&rig, 1, &none);
        (void)close(stream_release(&rig.stream).fd);
        int listener = tcp_listener(&addr);
        if (refused)
            (void)close(listener);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        stream_init(&rig.stream, rig.loop, fd, &rig_ops);
        stream_connect(&rig.stream, &addr);
        for (int i = 0; i < 50 && rig.connects == 0; i++)
            cr_assert_eq(loop_run_once(rig.loop), 0);
        cr_assert_eq(rig.connects, 1);
        cr_assert_eq(rig.connect_result, refused ? -ECONNREFUSED : 0);
        rig_finish(&rig);
        if (!refused)
            (void)close(listener);
    }
}
