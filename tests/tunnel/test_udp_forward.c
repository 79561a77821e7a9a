/* UDP data channels on the client, against a server written by hand.
 * Covers src/tunnel/udp_forward.c and src/tunnel/udp_forward_visitor.c. */
#include "tunnel/udp_forward.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "udp_rig.h"

static struct udp_rig rig;

static const struct udp_frame_addr alice = {.octets = {192, 0, 2, 1}, .port = 1000};
static const struct udp_frame_addr bob = {.octets = {[10] = 0xff, 0xff, 192, 0, 2, 1},
                                          .port = 1000,
                                          .is_v6 = 1};

static int local_service(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, &rig.udp_addr.any, rig.udp_addr.len), 0);
    return fd;
}

static int begin(const char *more)
{
    udp_rig_init_client(&rig, more);
    udp_rig_log_in(&rig);
    return udp_rig_channel(&rig);
}

#define END(...) \
    udp_rig_end(&rig, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

/* What the service gets, and from which port of the client. */
static ssize_t serve(int local, void *out, size_t size, struct addr *ret_from)
{
    for (int turn = 0; turn < 20; turn++) {
        ret_from->len = sizeof(ret_from->v6);
        ssize_t got = recvfrom(local, out, size, MSG_DONTWAIT, &ret_from->any, &ret_from->len);
        if (got >= 0)
            return got;
        udp_rig_settle(&rig, 1);
    }
    return -1;
}

static void reply(int local, const struct addr *to, const void *data, size_t size)
{
    cr_assert_eq(sendto(local, data, size, 0, &to->any, to->len), size);
}

Test(udp_forward, each_visitor_has_a_socket_and_is_echoed)
{
    int channel = begin("");
    int local = local_service();
    struct addr from_alice, from_bob, again;
    struct udp_frame frame;
    char bytes[16];
    udp_rig_send_frame(&rig, channel, &alice, "alice", 5);
    udp_rig_send_frame(&rig, channel, &bob, "bobby", 5);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from_alice), 5);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from_bob), 5);
    cr_expect_not(addr_equal(&from_alice, &from_bob), "mapped or not: another key");
    udp_rig_send_frame(&rig, channel, &alice, "more", 4);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &again), 4);
    cr_expect(addr_equal(&from_alice, &again));

    reply(local, &from_bob, "b", 1);
    cr_assert(udp_rig_get_frame(&rig, channel, &frame));
    cr_expect(udp_frame_addr_equal(&frame.from, &bob));
    cr_expect_eq(frame.payload_len, 1);
    reply(local, &from_alice, "", 0);
    cr_assert(udp_rig_get_frame(&rig, channel, &frame));
    cr_expect(udp_frame_addr_equal(&frame.from, &alice));
    cr_expect_eq(frame.payload_len, 0);
    END(channel, local);
}

Test(udp_forward, all_sizes)
{
    static const size_t sizes[] = {0, 1, 1472, 2047, 2048, 2049, 9000, 65507};
    static unsigned char data[65507], bytes[65507];
    int channel = begin("");
    int local = local_service();
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 13);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct addr from;
        struct udp_frame frame;
        udp_rig_send_frame(&rig, channel, &alice, data, sizes[i]);
        cr_assert_eq(serve(local, bytes, sizeof(bytes), &from), sizes[i]);
        cr_expect(memcmp(bytes, data, sizes[i]) == 0);
        reply(local, &from, data, sizes[i]);
        cr_assert(udp_rig_get_frame(&rig, channel, &frame));
        cr_expect_eq(frame.payload_len, sizes[i]);
        cr_expect(memcmp(frame.payload, data, sizes[i]) == 0);
    }
    static unsigned char too_large[65535];
    udp_rig_send_frame(&rig, channel, &alice, too_large, sizeof(too_large));
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_TOO_LARGE), 1);
    END(channel, local);
}

Test(udp_forward, any_number_of_channels_each_with_its_own_visitors)
{
    struct addr from[2];
    struct udp_frame frame;
    char bytes[16];
    int first = begin(""), second = udp_rig_channel(&rig);
    int local = local_service();
    udp_rig_send_frame(&rig, first, &alice, "1", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from[0]), 1);
    udp_rig_send_frame(&rig, second, &alice, "2", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from[1]), 1);
    cr_expect_not(addr_equal(&from[0], &from[1]));
    reply(local, &from[1], "two", 3);
    cr_assert(udp_rig_get_frame(&rig, second, &frame));
    cr_expect_eq(frame.payload_len, 3);
    (void)close(first);
    udp_rig_settle(&rig, 10);
    reply(local, &from[1], "on", 2);
    cr_assert(udp_rig_get_frame(&rig, second, &frame), "the other ends alone");
    END(second, local);
}

Test(udp_forward, silent_visitors_are_forgotten)
{
    struct addr first, second;
    char bytes[16];
    int channel = begin("udp_timeout = 10\n");
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &first), 1);
    udp_rig_advance(&rig, 8000);
    reply(local, &first, "y", 1); /* either direction keeps it */
    udp_rig_settle(&rig, 4);
    udp_rig_advance(&rig, 8000);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EXPIRED), 0);
    udp_rig_advance(&rig, 8000);
    udp_rig_advance(&rig, 8000);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EXPIRED), 1);
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &second), 1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS), 2);
    END(channel, local);
}

/* Refused, for as long as it takes; and its return costs nobody anything. */
Test(udp_forward, a_service_that_comes_back)
{
    struct addr before, after;
    char bytes[16];
    int channel = begin("");
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &before), 1);
    (void)close(local);
    for (int i = 0; i < 20; i++)
        udp_rig_send_frame(&rig, channel, &alice, "lost", 4);
    cr_expect_geq(udp_rig_count(&rig, METRIC_UDP_DROPPED_REFUSED), 10);
    local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "first", 5);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &after), 5, "not one is lost");
    cr_expect(addr_equal(&before, &after), "the same port, so the service knows it again");
    END(channel, local);
}

Test(udp_forward, a_bad_frame_ends_its_channel_and_the_session_lives)
{
    int channel = begin("");
    cr_assert_eq(send(channel, "\x0b", 1, MSG_NOSIGNAL), 1);
    cr_expect(udp_rig_has_ended(&rig, channel));
    cr_expect_not(udp_rig_has_ended(&rig, rig.control));
    int second = udp_rig_channel(&rig);
    int local = local_service();
    struct addr from;
    char bytes[16];
    udp_rig_send_frame(&rig, second, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from), 1);
    END(channel, second, local);
}

/* Many replies of one turn leave together. */
Test(udp_forward, replies_of_many_visitors_in_order)
{
    enum { VISITORS = 50, EACH = 10 };
    struct addr from[VISITORS];
    unsigned int next[VISITORS] = {0};
    char bytes[16];
    int channel = begin("");
    int local = local_service();
    for (uint16_t i = 0; i < VISITORS; i++) {
        struct udp_frame_addr key = {.octets = {10}, .port = (uint16_t)(1000 + i)};
        udp_rig_send_frame(&rig, channel, &key, "x", 1);
        cr_assert_eq(serve(local, bytes, sizeof(bytes), &from[i]), 1);
    }
    for (unsigned char n = 0; n < EACH; n++) {
        for (size_t i = 0; i < VISITORS; i++)
            reply(local, &from[i], &n, 1);
    }
    for (int i = 0; i < VISITORS * EACH; i++) {
        struct udp_frame frame;
        cr_assert(udp_rig_get_frame(&rig, channel, &frame), "%d", i);
        cr_assert_eq(frame.payload[0], next[frame.from.port - 1000]++);
    }
    END(channel, local);
}

/* The visitor's socket in the client, by the address that the service has seen. */
static int socket_of(const struct addr *from)
{
    for (int fd = 0; fd < 1024; fd++) {
        struct addr own = {.len = sizeof(own.v6)};
        if (getsockname(fd, &own.any, &own.len) == 0 && addr_equal(&own, from))
            return fd;
    }
    cr_assert_fail("no such socket");
    return -1;
}

/* Several full batches of the largest replies in one turn: more than a buffer holds. */
Test(udp_forward, several_batches_of_the_largest_replies)
{
    enum { REPLIES = 4 * UDP_BATCH_SIZE, SIZE = 65507, ROOM = 64 << 20 };
    static unsigned char data[SIZE];
    struct addr from;
    struct udp_frame frame;
    int channel = begin(""), room = ROOM;
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_assert_eq(serve(local, data, sizeof(data), &from), 1);
    if (setsockopt(socket_of(&from), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0)
        cr_skip_test("needs CAP_NET_ADMIN for the receive buffer");
    for (unsigned int i = 0; i < REPLIES; i++) {
        data[0] = (unsigned char)i;
        reply(local, &from, data, sizeof(data));
    }
    unsigned int got = 0;
    while (got < REPLIES && udp_rig_get_frame(&rig, channel, &frame)) {
        cr_assert_eq(frame.payload_len, SIZE);
        cr_assert_eq(frame.payload[0], (unsigned char)got++);
    }
    cr_expect_eq(got, REPLIES);
    END(channel, local);
}

Test(udp_forward, without_descriptors_the_longest_silent_makes_room)
{
    struct addr from;
    char bytes[16];
    int channel = begin("");
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from), 1);
    rig.client->fd_visitors_max = 0; /* all that come are too many */
    udp_rig_advance(&rig, 1);
    udp_rig_send_frame(&rig, channel, &bob, "y", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from), 1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EVICTED), 1);
    END(channel, local);
}

/* The service streams to two visitors and hears nothing: what it sends gathers, of both. */
Test(udp_forward, a_dense_stream_gathers)
{
    int channel = begin("");
    int local = local_service();
    struct addr to_alice, to_bob;
    struct udp_frame frame;
    char bytes[16];
    unsigned int sent = 0, got = 0;
    udp_rig_send_frame(&rig, channel, &alice, "play", 4);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &to_alice), 4);
    udp_rig_send_frame(&rig, channel, &bob, "play", 4);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &to_bob), 4);
    for (unsigned int ms = 0; ms < 3 * LIMIT_UDP_PAUSE_QUIET_MS; ms++) {
        for (unsigned int i = 0; i < 10; i++, sent++)
            reply(local, i % 2 == 0 ? &to_alice : &to_bob, "stream", 6);
        udp_rig_advance(&rig, 1);
    }
    uint64_t before = udp_rig_count(&rig, METRIC_UDP_TO_PEER);
    reply(local, &to_alice, "last", 4);
    reply(local, &to_bob, "last", 4);
    sent += 2;
    udp_rig_settle(&rig, 10);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_TO_PEER), before);
    udp_rig_advance(&rig, LIMIT_UDP_PAUSE_US / 1000 + 1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_TO_PEER), sent);
    while (got < sent && udp_rig_get_frame(&rig, channel, &frame))
        got++;
    cr_expect_eq(got, sent);
    END(channel, local);
}
