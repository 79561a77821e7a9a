/* Datagrams over a data channel, on the fake loop: every byte for and from the peer is checked, and
 * the bounds of the queue under a virtual clock. */
#include "net/datagram.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "fake_loop.h"
#include "io/socket.h"
#include "testing.h"

enum { RECEIVED_MAX = 100000 };

struct rig {
    struct datagram_channel channel;
    struct datagram_engine engine;
    struct loop *loop;
    struct metrics metrics;
    int peer;
    unsigned int frames, batches, rooms, ends, closes;
    unsigned int enough_every; /* 0 = never */
    int error;
    struct udp_frame_addr last_from;
    uint64_t payload_bytes, payload_sum;
};

static struct rig *rig_of(struct datagram_channel *channel)
{
    return container_of(channel, struct rig, channel);
}

static void on_received(struct datagram_channel *channel, const struct udp_frame *frame)
{
    struct rig *rig = rig_of(channel);
    rig->frames++;
    if (rig->enough_every != 0 && rig->frames % rig->enough_every == 0)
        datagram_enough(channel);
    rig->last_from = frame->from;
    rig->payload_bytes += frame->payload_len;
    for (uint32_t i = 0; i < frame->payload_len; i++)
        rig->payload_sum += frame->payload[i];
}

static void on_batch_end(struct datagram_channel *channel)
{
    rig_of(channel)->batches++;
}

static void on_room(struct datagram_channel *channel)
{
    rig_of(channel)->rooms++;
}

static void on_ended(struct datagram_channel *channel, int error)
{
    struct rig *rig = rig_of(channel);
    rig->ends++;
    rig->error = error;
    datagram_channel_terminate(channel, STREAM_ABORT);
}

static void on_closed(struct datagram_channel *channel)
{
    rig_of(channel)->closes++;
}

static const struct datagram_ops ops = {on_received, on_batch_end, on_room, on_ended, on_closed};

static void rig_init(struct rig *rig, uint64_t seed, int buffer_size, const char *prefix)
{
    int fds[2];
    memset(rig, 0, sizeof(*rig));
    fake_loop_set_seed(seed);
    struct loop_options options = {.metrics = &rig->metrics};
    cr_assert_eq(loop_create(&options, &rig->loop), 0);
    tcp_pair(fds, buffer_size);
    rig->peer = fds[0];
    socket_set_nodelay(rig->peer, true); /* Nagle's algorithm would wait for real time to pass */
    datagram_engine_init(&rig->engine, rig->loop);
    cr_assert_eq(datagram_channel_init(&rig->channel, &rig->engine, &ops), 0);
    stream_init(&rig->channel.stream, rig->loop, fds[1], &datagram_stream_ops);
    datagram_channel_start(&rig->channel, prefix, strlen(prefix));
}

static void turns(struct rig *rig, int count)
{
    while (count-- > 0)
        cr_assert_eq(loop_run_once(rig->loop), 0);
}

static void rig_finish(struct rig *rig)
{
    static const struct fake_faults none;
    fake_loop_set_faults(rig->loop, &none);
    if (rig->closes == 0)
        datagram_channel_terminate(&rig->channel, STREAM_CLEAN);
    for (int i = 0; i < 100 && rig->closes == 0; i++)
        turns(rig, 1);
    cr_assert_eq(rig->closes, 1);
    datagram_engine_finish(&rig->engine);
    loop_destroy(rig->loop);
    (void)close(rig->peer);
}

static const struct udp_frame_addr visitor = {.octets = {127, 0, 0, 1}, .port = 40000};
static const uint8_t head_3[] = {12, 0, 0, 0, 0, 127, 0, 0, 1, 0x40, 0x9c, 3, 0};

static void put(struct rig *rig, const void *data, uint32_t size)
{
    struct udp_arrival arrival = {.data = data, .size = size, .segment_size = size};
    cr_assert_eq(datagram_room(&rig->channel), DATAGRAM_ROOM);
    datagram_put(&rig->channel, &visitor, &arrival);
}

/* Its own frame, in front of the rest of its arrival; too large, it is dropped and counted. */
Test(datagram, a_preface_is_part_of_a_payload)
{
    struct rig rig;
    static uint8_t preface[PROXY_PROTOCOL_V2_MAX], large[UDP_FRAME_PAYLOAD_MAX];
    static unsigned char bytes[UDP_FRAME_PAYLOAD_MAX + 64];
    rig_init(&rig, 1, 0, "");
    cr_assert_eq(datagram_room(&rig.channel), DATAGRAM_ROOM);
    struct udp_arrival run = {.data = (const uint8_t *)"123x", .size = 4, .segment_size = 3};
    memset(preface, 'p', sizeof(preface));
    cr_expect(datagram_put_prefaced(&rig.channel, &visitor, &run, preface, 28));
    struct udp_arrival empty = {.data = large};
    cr_expect(datagram_put_prefaced(&rig.channel, &visitor, &empty, preface, 52));
    datagram_flush(&rig.channel);
    turns(&rig, 2);
    cr_assert_eq(recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT), 13 + 28 + 3 + 13 + 52);
    cr_expect(memcmp(bytes, head_3, sizeof(head_3) - 2) == 0 && bytes[11] == 31);
    cr_expect(memcmp(bytes + 13 + 27, "p123", 4) == 0);
    cr_expect_eq(bytes[13 + 28 + 3 + 11], 52);

    struct udp_arrival largest = {.data = large, .size = sizeof(large), .segment_size = 0};
    largest.segment_size = largest.size;
    cr_assert_eq(datagram_room(&rig.channel), DATAGRAM_ROOM);
    cr_expect_not(datagram_put_prefaced(&rig.channel, &visitor, &largest, preface, 1));
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_UDP_DROPPED_TOO_LARGE), 1);
    rig_finish(&rig);
}

Test(datagram, a_batch_leaves_behind_the_command_in_one_send)
{
    struct rig rig;
    unsigned char bytes[128];
    rig_init(&rig, 1, 0, "CMD!");
    cr_expect_eq(recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT), 4);
    put(&rig, "abc", 3);
    put(&rig, "", 0);
    /* Datagrams joined by UDP_GRO: three, and a shorter one. */
    struct udp_arrival run = {.data = (const uint8_t *)"123456789x", .size = 10, .segment_size = 3};
    datagram_put(&rig.channel, &visitor, &run);
    cr_expect_eq(recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT), -1);
    datagram_flush_soon(&rig.channel);
    turns(&rig, 2);
    ssize_t got = recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT);
    cr_assert_eq(got, 6 * 13 + 3 + 10);
    cr_expect(memcmp(bytes, head_3, sizeof(head_3)) == 0 && memcmp(bytes + 13, "abc", 3) == 0);
    cr_expect_eq(bytes[16 + 11], 0, "an empty datagram");
    cr_expect(memcmp(bytes + 29, head_3, sizeof(head_3)) == 0 && bytes[42] == '1');
    cr_expect_eq(bytes[got - 3], 1);
    cr_expect_eq(bytes[got - 1], 'x');
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_UDP_TO_PEER), 6);
    rig_finish(&rig);
}

Test(datagram, too_large_for_the_peer)
{
    struct rig rig;
    rig_init(&rig, 1, 0, "");
    static unsigned char large[65527];
    put(&rig, large, 65508);
    put(&rig, large, 65507);
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_UDP_DROPPED_TOO_LARGE), 1);
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_UDP_TO_PEER), 1);
    rig_finish(&rig);
}

/* ---- the room for a batch ---- */

/* The largest arrivals that the kernel can make: up to 128 datagrams of one size, and 65,535 bytes.
 */
Test(datagram, every_run_fits_its_reserve)
{
    size_t largest = 0;
    for (uint32_t segment = 1; segment <= UDP_FRAME_PAYLOAD_MAX; segment++) {
        for (uint32_t count = 1; count <= 128 && (count - 1) * segment < 65535; count++) {
            struct udp_arrival arrival = {.size = MIN(count * segment, 65535u),
                                          .segment_size = segment};
            cr_assert_eq(udp_arrival_count(&arrival), count);
            largest = MAX(largest, arrival.size + count * (size_t)UDP_FRAME_HEAD_MAX);
        }
    }
    cr_expect_eq(largest, 65535 + 128 * 25); /* datagrams of 512 bytes, the last one shorter */
    cr_expect_leq(largest, (size_t)DATAGRAM_ARRIVAL_MAX);
}

/* The queue may be one byte below its bound when a batch of the largest arrivals comes. */
static void put_largest_batch(struct rig *rig, uint32_t segment)
{
    static const struct udp_frame_addr from = {.octets = {[15] = 1}, .port = 5, .is_v6 = 1};
    static unsigned char data[65535];
    struct udp_arrival run = {.data = data, .size = 128 * segment, .segment_size = segment};
    memset(data, 7, sizeof(data));
    for (unsigned int i = 0; i < UDP_BATCH_SIZE; i++)
        datagram_put(&rig->channel, &from, &run);
}

Test(datagram, a_batch_of_the_longest_runs_behind_a_full_queue)
{
    enum { SEGMENT = 511, HEAD = 25, FRAMES = UDP_BATCH_SIZE * 128 };
    struct rig rig;
    size_t queued = 0, got = 0, frames = 0;
    rig_init(&rig, 1, 4096, "");
    rig.channel.queue_limit = LIMIT_UDP_QUEUE;
    static unsigned char filler[65507];
    put(&rig, filler, sizeof(filler));
    put(&rig, filler, sizeof(filler));
    datagram_flush(&rig.channel); /* the write stays pending: the peer does not read */
    size_t before = 2 * (sizeof(filler) + 13);
    while (queued + 13 + sizeof(filler) < LIMIT_UDP_QUEUE) {
        put(&rig, filler, sizeof(filler));
        queued += 13 + sizeof(filler);
    }
    uint32_t rest = (uint32_t)(LIMIT_UDP_QUEUE - 1 - queued - 13);
    put(&rig, filler, rest);
    cr_assert_eq(datagram_room(&rig.channel), DATAGRAM_ROOM);
    put_largest_batch(&rig, SEGMENT);
    cr_expect_eq(datagram_room(&rig.channel), DATAGRAM_FULL);

    /* Everything arrives, and no frame is damaged. */
    size_t behind = before + LIMIT_UDP_QUEUE - 1;
    size_t total = behind + (size_t)FRAMES * (SEGMENT + HEAD);
    unsigned char *bytes = malloc(total);
    for (int turn = 0; turn < 200000 && got < total; turn++) {
        ssize_t n = recv(rig.peer, bytes + got, total - got, MSG_DONTWAIT);
        got += n > 0 ? (size_t)n : 0;
        turns(&rig, 1);
    }
    cr_assert_eq(got, total);
    for (size_t at = behind; at < total; frames++) {
        struct udp_frame frame;
        int size = udp_frame_decode(bytes + at, total - at, &frame);
        cr_assert_eq(size, SEGMENT + HEAD, "frame %zu", frames);
        cr_assert_eq(frame.payload_len, SEGMENT);
        cr_assert(frame.payload[0] == 7 && frame.payload[SEGMENT - 1] == 7);
        at += (size_t)size;
    }
    cr_expect_eq(frames, FRAMES);
    cr_expect_eq(metrics_get(&rig.metrics, METRIC_UDP_DROPPED_TOO_LARGE), 0);
    free(bytes);
    rig_finish(&rig);
}

/* Frames of all sizes arrive in pieces of random size, and use the whole read buffer many times. */
Test(datagram, frames_in_any_pieces)
{
    for (uint64_t seed = 1; seed < 6; seed++) {
        struct rig rig;
        struct random random = {seed};
        static unsigned char wire[UDP_FRAME_HEAD_MAX + 65535];
        static const struct fake_faults faults = {
            .delay = 200, .reorder = 200, .short_count = 500, .eintr = 50, .eagain = 50};
        unsigned int sent = 0;
        uint64_t bytes = 0, sum = 0;
        rig_init(&rig, seed, 0, "");
        rig.enough_every = seed % 2 * 2; /* 0: the owner takes all frames at once */
        fake_loop_set_faults(rig.loop, &faults);
        while (sent < 300) {
            static const size_t sizes[] = {0, 1, 64, 1200, 2048, 9000, 65507};
            size_t size = sizes[random_below(&random, ARRAY_SIZE(sizes))];
            size_t len = udp_frame_encode_head(&visitor, (uint16_t)size, wire);
            for (size_t i = 0; i < size; i++)
                sum += wire[len + i] = (unsigned char)random_next(&random);
            len += size;
            bytes += size;
            sent++;
            for (size_t at = 0; at < len;) {
                size_t piece = 1 + random_below(&random, 70000);
                piece = MIN(piece, len - at);
                ssize_t n = send(rig.peer, wire + at, piece, MSG_DONTWAIT | MSG_NOSIGNAL);
                cr_assert_eq(rig.ends, 0, "%d after %u frames of %u", rig.error, rig.frames, sent);
                at += n > 0 ? (size_t)n : 0;
                turns(&rig, n > 0 ? 1 : 3);
            }
        }
        for (int i = 0; i < 3000 && rig.frames < sent; i++)
            turns(&rig, 1);
        cr_expect_eq(rig.frames, sent);
        cr_expect_eq(rig.payload_bytes, bytes);
        cr_expect_eq(rig.payload_sum, sum);
        cr_expect(udp_frame_addr_equal(&rig.last_from, &visitor));
        cr_expect_eq(rig.ends, 0);
        rig_finish(&rig);
    }
}

/* The owner says datagram_enough: the remaining frames come in later turns, a few in each. */
Test(datagram, what_is_enough_for_a_turn)
{
    enum { FRAMES = 100, EACH = 5 };
    struct rig rig;
    unsigned char wire[UDP_FRAME_HEAD_MAX];
    unsigned int before = 0, most = 0;
    rig_init(&rig, 1, 0, "");
    rig.enough_every = EACH;
    size_t len = udp_frame_encode_head(&visitor, 0, wire);
    for (int i = 0; i < FRAMES; i++)
        cr_assert_eq(send(rig.peer, wire, len, 0), (ssize_t)len);
    for (int turn = 0; turn < 100 && before < FRAMES; turn++) {
        turns(&rig, 1);
        most = MAX(most, rig.frames - before);
        before = rig.frames;
    }
    cr_expect_eq(rig.frames, FRAMES);
    cr_expect_leq(most, 2 * EACH); /* one batch from the read, one from the timer */
    cr_expect_eq(rig.batches, FRAMES / EACH + 1, "each batch is ended");
    cr_expect_eq(rig.ends, 0);
    for (int i = 0; i < FRAMES; i++)
        cr_assert_eq(send(rig.peer, wire, len, 0), (ssize_t)len);
    turns(&rig, 1);
    rig_finish(&rig); /* while frames are left */
    cr_expect_lt(rig.frames, 2 * FRAMES);
}

Test(datagram, a_bad_frame_ends_the_channel_after_the_good_ones)
{
    struct rig rig;
    unsigned char wire[64];
    rig_init(&rig, 1, 0, "");
    size_t len = udp_frame_encode_head(&visitor, 1, wire);
    wire[len++] = 'x';
    wire[len++] = 11; /* a header that is too short */
    cr_assert_eq(send(rig.peer, wire, len, 0), (ssize_t)len);
    for (int i = 0; i < 50 && rig.closes == 0; i++)
        turns(&rig, 1);
    cr_expect_eq(rig.frames, 1);
    cr_expect_eq(rig.ends, 1);
    cr_expect_eq(rig.error, ERR_PROTOCOL);
    rig_finish(&rig);
}

Test(datagram, the_peers_end_is_reported_once)
{
    struct rig rig;
    rig_init(&rig, 1, 0, "");
    (void)shutdown(rig.peer, SHUT_WR);
    for (int i = 0; i < 50 && rig.closes == 0; i++)
        turns(&rig, 1);
    cr_expect_eq(rig.ends, 1);
    cr_expect_eq(rig.error, ERR_EOF);
    rig_finish(&rig);
}

/* ---- the bounds of the queue ---- */

/* Puts datagrams until there is no room. Returns the bytes that were queued. */
static size_t fill(struct rig *rig, enum datagram_room *ret_room)
{
    static unsigned char payload[1200];
    struct udp_arrival arrival = {.data = payload, .size = 1200, .segment_size = 1200};
    size_t taken = 0;
    while ((*ret_room = datagram_room(&rig->channel)) == DATAGRAM_ROOM) {
        for (int i = 0; i < UDP_BATCH_SIZE; i++) {
            datagram_put(&rig->channel, &visitor, &arrival);
            taken += 1213;
        }
        datagram_flush(&rig->channel);
        cr_assert_lt(taken, 64u << 20, "no bound");
    }
    return taken;
}

Test(datagram, bounded_in_bytes_then_in_time)
{
    struct rig rig;
    enum datagram_room room;
    rig_init(&rig, 1, 65536, "");
    fake_loop_set_idle_step_ms(rig.loop, 1);
    size_t taken = fill(&rig, &room);
    cr_expect_eq(room, DATAGRAM_FULL);
    cr_expect_lt(taken, (size_t)4 * LIMIT_UDP_QUEUE);
    cr_expect_eq(rig.rooms, 0);
    /* Nothing leaves. After LIMIT_UDP_QUEUE_MS the queue is too old, and `room` is called once. */
    for (int i = 0; i < 2 * LIMIT_UDP_QUEUE_MS && rig.rooms == 0; i++)
        turns(&rig, 1);
    cr_expect_eq(rig.rooms, 1);
    cr_expect_eq(datagram_room(&rig.channel), DATAGRAM_STALE);
    /* The peer reads: everything that was queued arrives, and there is room again. */
    static unsigned char bytes[1 << 20];
    size_t got = 0;
    for (int i = 0; i < 20000 && got < taken; i++) {
        ssize_t n = recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT);
        got += n > 0 ? (size_t)n : 0;
        turns(&rig, 1);
    }
    cr_expect_eq(got, taken);
    cr_expect_eq(datagram_room(&rig.channel), DATAGRAM_ROOM);
    cr_expect_lt(rig.channel.queue_limit, LIMIT_UDP_QUEUE, "a slow channel gets a short queue");
    rig_finish(&rig);
}

Test(datagram, room_is_told_when_the_channel_takes_it)
{
    struct rig rig;
    enum datagram_room room;
    rig_init(&rig, 1, 65536, "");
    fake_loop_set_idle_step_ms(rig.loop, 0);
    (void)fill(&rig, &room);
    cr_expect_eq(room, DATAGRAM_FULL);
    static unsigned char bytes[1 << 20];
    for (int i = 0; i < 2000 && rig.rooms == 0; i++) {
        (void)!recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT);
        turns(&rig, 1);
    }
    cr_expect_eq(rig.rooms, 1);
    rig_finish(&rig);
}

/* ---- pauses ---- */

static void stream_of(struct rig *rig, unsigned int per_ms, unsigned int answers, int ms)
{
    unsigned char frame[UDP_FRAME_HEAD_MAX];
    size_t len = udp_frame_encode_head(&visitor, 0, frame);
    static unsigned char bytes[1 << 16];
    while (ms-- > 0) {
        for (unsigned int i = 0; i < per_ms; i++)
            put(rig, "x", 1);
        datagram_flush(&rig->channel);
        for (unsigned int i = 0; i < answers; i++)
            cr_assert_eq(send(rig->peer, frame, len, 0), (ssize_t)len);
        fake_loop_advance_ms(rig->loop, 1);
        turns(rig, 3);
        while (recv(rig->peer, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
            ;
    }
}

/* The pause that the channel's owner would get. */
static uint64_t pause_ns(struct rig *rig)
{
    uint64_t now_ns = loop_now_ns(rig->loop);
    (void)udp_pace_received(&rig->channel.pace, 0, now_ns);
    return udp_pace_ready(&rig->channel.pace, now_ns);
}

Test(datagram, both_directions_count_for_the_pace)
{
    struct rig rig;
    rig_init(&rig, 1, 0, "");
    fake_loop_set_idle_step_ms(rig.loop, 0);
    cr_expect_eq(pause_ns(&rig), 0);
    stream_of(&rig, 60, 60, 30);
    cr_expect_eq(pause_ns(&rig), 0, "a peer waits for each answer");
    stream_of(&rig, 60, 2, 30);
    (void)pause_ns(&rig); /* this measurement includes the answers of before */
    stream_of(&rig, 60, 2, 30);
    cr_expect_gt(pause_ns(&rig), 0);
    rig_finish(&rig);
}

/* ---- towards visitors ---- */

struct aim {
    struct datagram_target target;
    struct udp_socket udp;
    int receiver;
};

static struct udp_socket *aim_destination(struct datagram_target *target,
                                          const struct udp_route **ret_route)
{
    *ret_route = NULL;
    return &container_of(target, struct aim, target)->udp;
}

Test(datagram, payloads_are_fired_by_target_in_order)
{
    struct rig rig;
    struct aim aims[3];
    static uint8_t numbers[DATAGRAM_AIMED_MAX];
    rig_init(&rig, 1, 0, "");
    for (size_t i = 0; i < 3; i++) {
        struct addr addr = {.len = sizeof(addr.v4), .v4.sin_family = AF_INET};
        addr.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        addr.v4.sin_port = htons(free_port());
        cr_assert_eq(udp_socket_bind_group(&addr, &aims[i].receiver, 1), 0);
        int off = 0;
        (void)setsockopt(aims[i].receiver, IPPROTO_UDP, 104 /* UDP_GRO */, &off, sizeof(off));
        cr_assert_eq(udp_socket_connect(&addr, &aims[i].udp), 0);
        datagram_target_init(&aims[i].target);
    }
    for (unsigned int i = 0; i < DATAGRAM_AIMED_MAX; i++) {
        numbers[i] = (uint8_t)i;
        struct udp_frame frame = {.payload = &numbers[i], .payload_len = 1};
        cr_assert(datagram_aim(&rig.engine, &aims[i % 3].target, &frame));
    }
    struct udp_frame more = {.payload = numbers, .payload_len = 1};
    cr_expect_not(datagram_aim(&rig.engine, &aims[0].target, &more), "the queue is full");
    datagram_forget(&aims[2].target);
    datagram_fire(&rig.engine, aim_destination);
    for (unsigned int i = 0; i < DATAGRAM_AIMED_MAX; i++) {
        uint8_t byte;
        if (i % 3 == 2)
            continue;
        cr_assert_eq(recv(aims[i % 3].receiver, &byte, 1, MSG_DONTWAIT), 1, "%u", i);
        cr_assert_eq(byte, numbers[i]);
    }
    cr_expect(datagram_aim(&rig.engine, &aims[0].target, &more));
    datagram_fire(&rig.engine, aim_destination);
    for (size_t i = 0; i < 3; i++) {
        (void)close(aims[i].receiver);
        (void)close(aims[i].udp.fd);
    }
    rig_finish(&rig);
}

/* The memory of a burst is freed when nothing moves for a while, and the channel still works. */
Test(datagram, trims_when_quiet)
{
    struct rig rig;
    unsigned char bytes[64];
    rig_init(&rig, 1, 0, "");
    put(&rig, "abc", 3);
    datagram_flush(&rig.channel);
    cr_expect_eq(rig.engine.free_count, 1);
    for (int i = 0; i < 4; i++) {
        fake_loop_advance_ms(rig.loop, LIMIT_UDP_TRIM_MS + 1);
        turns(&rig, 2);
    }
    cr_expect_eq(rig.engine.free_count, 0);
    cr_expect_not(rig.engine.trim_timer.armed, "an idle engine sleeps");
    cr_expect_eq(recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT), 16);
    put(&rig, "abc", 3);
    datagram_flush(&rig.channel);
    cr_expect_eq(recv(rig.peer, bytes, sizeof(bytes), MSG_DONTWAIT), 16);
    rig_finish(&rig);
}
