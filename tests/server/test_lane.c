/* Lanes of a UDP service on the server. The test plays the client and the visitors. */
#include "server/lane.h"

#include <criterion/criterion.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "proto/proxy_protocol.h"
#include "udp_rig.h"

static struct udp_rig rig;
static unsigned char large[65507];

static struct udp_frame_addr own_address(int fd)
{
    struct addr addr = {.len = sizeof(addr.v6)};
    struct udp_frame_addr ret = {.octets = {0}};
    cr_assert_eq(getsockname(fd, &addr.any, &addr.len), 0);
    memcpy(ret.octets, &addr.v4.sin_addr, 4);
    ret.port = addr_port(&addr);
    return ret;
}

static void expect_frame(int channel, int visitor, const char *payload)
{
    struct udp_frame frame;
    struct udp_frame_addr from = own_address(visitor);
    cr_assert(udp_rig_get_frame(&rig, channel, &frame), "%s", payload);
    cr_expect(udp_frame_addr_equal(&frame.from, &from));
    cr_expect_eq(frame.payload_len, strlen(payload));
    cr_expect(memcmp(frame.payload, payload, strlen(payload)) == 0);
}

static void answer(int channel, int visitor, const char *payload)
{
    struct udp_frame_addr from = own_address(visitor);
    udp_rig_send_frame(&rig, channel, &from, payload, strlen(payload));
}

static int begin(const char *bind_host, const char *more)
{
    udp_rig_init_server(&rig, bind_host, more);
    udp_rig_log_in(&rig);
    return udp_rig_channel(&rig);
}

#define END(...) \
    udp_rig_end(&rig, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

Test(lane, datagrams_pass_whole_both_ways)
{
    static const size_t sizes[] = {0, 1, 1472, 2047, 2048, 2049, 9000, sizeof(large)};
    int channel = begin("127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    struct udp_frame_addr from = own_address(visitor);
    static unsigned char bytes[sizeof(large)];
    for (size_t i = 0; i < sizeof(large); i++)
        large[i] = (unsigned char)(i * 7);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        struct udp_frame frame;
        cr_assert_eq(send(visitor, large, sizes[i], 0), (ssize_t)sizes[i]);
        cr_assert(udp_rig_get_frame(&rig, channel, &frame));
        cr_expect_eq(frame.payload_len, sizes[i]);
        cr_expect(memcmp(frame.payload, large, sizes[i]) == 0);
        udp_rig_send_frame(&rig, channel, &from, large, sizes[i]);
        cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), (ssize_t)sizes[i]);
        cr_expect(memcmp(bytes, large, sizes[i]) == 0);
    }
    END(channel, visitor);
}

/* Each lane asks for one channel, and does so before a visitor has come. */
Test(lane, each_lane_gets_a_channel_and_a_lost_one_is_asked_for)
{
    udp_rig_init_server(&rig, "127.0.0.1", "udp_data_channels = 3\n");
    udp_rig_log_in(&rig);
    cr_expect_eq(udp_rig_requests(&rig), 3);
    int channels[3];
    for (size_t i = 0; i < 3; i++)
        channels[i] = udp_rig_channel(&rig);
    cr_expect_eq(udp_rig_requests(&rig), 0);
    udp_rig_advance(&rig, 2 * LIMIT_UDP_RETRY_MS);
    (void)close(channels[1]);
    cr_expect_eq(udp_rig_requests(&rig), 1, "at once");
    channels[1] = udp_rig_channel(&rig);
    (void)close(channels[1]);
    cr_expect_eq(udp_rig_requests(&rig), 0, "it has not lived for long");
    udp_rig_advance(&rig, LIMIT_UDP_RETRY_MS + 1);
    cr_expect_eq(udp_rig_requests(&rig), 1);
    channels[1] = udp_rig_channel(&rig);
    END(channels[0], channels[1], channels[2]);
}

/* A client may log in before the second worker has started its lane. */
Test(lane, one_that_starts_late_gets_its_channel_and_no_other)
{
    int channels[2];
    udp_rig_init_server_of_two(&rig, "127.0.0.1", "udp_data_channels = 2\n");
    udp_rig_log_in(&rig);
    cr_expect_eq(udp_rig_requests(&rig), 2);
    for (size_t i = 0; i < 2; i++)
        channels[i] = udp_rig_dial_channel(&rig); /* one is on its way to the second worker */
    udp_rig_start_second(&rig);
    for (size_t i = 0; i < 2; i++)
        udp_rig_await_start(&rig, channels[i]);
    cr_expect_eq(udp_rig_requests(&rig), 0, "a second channel for one lane");
    for (size_t i = 0; i < 2; i++)
        cr_expect_not(udp_rig_has_ended(&rig, channels[i]));
    END(channels[0], channels[1]);
}

Test(lane, without_a_channel_datagrams_are_dropped_and_counted)
{
    udp_rig_init_server(&rig, "127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    cr_assert_eq(send(visitor, "early", 5, 0), 5);
    udp_rig_settle(&rig, 5);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_NO_CHANNEL), 1);
    udp_rig_log_in(&rig);
    int channel = udp_rig_channel(&rig);
    cr_assert_eq(send(visitor, "later", 5, 0), 5);
    expect_frame(channel, visitor, "later");
    END(channel, visitor);
}

/* UDP_GRO may deliver several datagrams as one: each of them is counted. */
Test(lane, joined_datagrams_are_dropped_one_by_one)
{
    int size = 100;
    udp_rig_init_server(&rig, "127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    cr_assert_eq(setsockopt(visitor, IPPROTO_UDP, 103 /* UDP_SEGMENT */, &size, sizeof(size)), 0);
    cr_assert_eq(send(visitor, large, 1950, 0), 1950);
    udp_rig_settle(&rig, 5);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_NO_CHANNEL), 20);
    END(visitor);
}

/* The lane uses the old channel until the new one has come. */
Test(lane, a_new_session_brings_a_new_channel)
{
    int old_channel = begin("127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    udp_rig_log_in(&rig);
    cr_expect_eq(udp_rig_requests(&rig), 1);
    cr_assert_eq(send(visitor, "old", 3, 0), 3);
    expect_frame(old_channel, visitor, "old");
    int channel = udp_rig_channel(&rig);
    cr_expect(udp_rig_has_ended(&rig, old_channel));
    cr_assert_eq(send(visitor, "new", 3, 0), 3);
    expect_frame(channel, visitor, "new");
    char bytes[8];
    answer(channel, visitor, "back");
    cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), 4);
    END(old_channel, channel, visitor);
}

Test(lane, answers_go_to_those_who_have_spoken)
{
    char bytes[8];
    int channel = begin("127.0.0.1", "udp_data_channels = 1\nudp_timeout = 10\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    answer(channel, visitor, "who?");
    cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), -1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_STRANGER), 1);
    cr_assert_eq(send(visitor, "me", 2, 0), 2);
    expect_frame(channel, visitor, "me");
    /* A datagram in either direction keeps the visitor known. */
    for (int i = 0; i < 5; i++) {
        udp_rig_advance(&rig, 8000);
        answer(channel, visitor, "you");
        cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), 3);
    }
    for (int i = 0; i < 3; i++)
        udp_rig_advance(&rig, 8000);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EXPIRED), 1);
    answer(channel, visitor, "gone");
    cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), -1);
    END(channel, visitor);
}

Test(lane, a_full_table_gives_the_place_of_the_longest_silent_away)
{
    char bytes[8];
    int visitors[3];
    int channel = begin("127.0.0.1", "udp_data_channels = 1\nmax_udp_visitors = 2\n");
    for (size_t i = 0; i < 3; i++) {
        visitors[i] = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
        cr_assert_eq(send(visitors[i], "x", 1, 0), 1);
        expect_frame(channel, visitors[i], "x");
        udp_rig_advance(&rig, 1);
        if (i == 1) { /* the first visitor gets an answer, so the second is the oldest now */
            answer(channel, visitors[0], "first");
            cr_expect_eq(udp_rig_receive(&rig, visitors[0], bytes, sizeof(bytes)), 5);
            udp_rig_advance(&rig, 1);
        }
    }
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EVICTED), 1);
    for (size_t i = 0; i < 3; i++) {
        answer(channel, visitors[i], "y");
        cr_expect_eq(udp_rig_receive(&rig, visitors[i], bytes, sizeof(bytes)), i == 1 ? -1 : 1);
    }
    END(channel, visitors[0], visitors[1], visitors[2]);
}

/* IPv4 visitors are v4-mapped in frames, as rathole writes them, and answers leave from the address
 * that the visitor has sent to. */
Test(lane, dual_stack)
{
    struct udp_frame frame;
    char bytes[8];
    int channel = begin("[::]", "udp_data_channels = 1\n");
    struct addr other = rig.udp_addr;
    other.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 41);
    int visitor = udp_rig_visitor("127.0.0.5", &other);
    cr_assert_eq(send(visitor, "x", 1, 0), 1);
    cr_assert(udp_rig_get_frame(&rig, channel, &frame));
    static const uint8_t mapped[16] = {[10] = 0xff, 0xff, 127, 0, 0, 5};
    cr_expect(frame.from.is_v6);
    cr_expect(memcmp(frame.from.octets, mapped, sizeof(mapped)) == 0);
    struct udp_frame_addr from = frame.from;
    udp_rig_send_frame(&rig, channel, &from, "a", 1);
    cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), 1);
    answer(channel, visitor, "v4"); /* a plain IPv4 address means the same visitor */
    cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), 2);
    END(channel, visitor);
}

Test(lane, a_bad_frame_costs_the_channel_alone)
{
    int channel = begin("127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    udp_rig_advance(&rig, 2 * LIMIT_UDP_RETRY_MS);
    (void)udp_rig_requests(&rig);
    cr_assert_eq(send(channel, "\0", 1, MSG_NOSIGNAL), 1);
    cr_expect(udp_rig_has_ended(&rig, channel));
    cr_expect_eq(udp_rig_requests(&rig), 1, "the session lives");
    int second = udp_rig_channel(&rig);
    cr_assert_eq(send(visitor, "on", 2, 0), 2);
    expect_frame(second, visitor, "on");
    END(channel, second, visitor);
}

/* The service survives answers that cannot be sent. */
Test(lane, answers_that_cannot_be_sent)
{
    char bytes[8];
    int channel = begin("127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    cr_assert_eq(send(visitor, "x", 1, 0), 1);
    expect_frame(channel, visitor, "x");
    struct udp_frame_addr from = {.octets = {127, 0, 0, 1}};
    udp_rig_send_frame(&rig, channel, &from, "port 0", 6);
    from = (struct udp_frame_addr){.octets = {255, 255, 255, 255}, .port = 9};
    udp_rig_send_frame(&rig, channel, &from, "broadcast", 9);
    from = (struct udp_frame_addr){.octets = {[15] = 1}, .port = 9, .is_v6 = 1};
    udp_rig_send_frame(&rig, channel, &from, "v6", 2);
    static unsigned char too_large[65535];
    from = own_address(visitor);
    udp_rig_send_frame(&rig, channel, &from, too_large, sizeof(too_large));
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_STRANGER), 3);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_TOO_LARGE), 1);
    answer(channel, visitor, "fine");
    cr_expect_eq(udp_rig_receive(&rig, visitor, bytes, sizeof(bytes)), 4);
    END(channel, visitor);
}

/* The lane lets a dense stream without answers gather, and all of it arrives. docs/decisions.md,
 * "Dense one-way UDP streams gather for up to 1 ms". */
Test(lane, a_dense_stream_gathers)
{
    int channel = begin("127.0.0.1", "udp_data_channels = 1\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    struct udp_frame frame;
    unsigned int sent = 0, got = 0;
    for (unsigned int ms = 0; ms < 3 * LIMIT_UDP_PAUSE_QUIET_MS; ms++) {
        for (unsigned int i = 0; i < 10; i++, sent++)
            cr_assert_eq(send(visitor, "stream", 6, 0), 6);
        udp_rig_advance(&rig, 1);
    }
    uint64_t before = udp_rig_count(&rig, METRIC_UDP_TO_PEER);
    cr_assert_eq(send(visitor, "last", 4, 0), 4);
    sent++;
    udp_rig_settle(&rig, 10);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_TO_PEER), before);
    udp_rig_advance(&rig, LIMIT_UDP_PAUSE_US / 1000 + 1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_TO_PEER), sent);
    while (got < sent && udp_rig_get_frame(&rig, channel, &frame))
        got++;
    cr_expect_eq(got, sent);
    END(channel, visitor);
}

/* ---- PROXY headers ---- */

/* A frame with a v2 header for this visitor in front of the payload. */
static void expect_header(int channel, int visitor, const char *payload)
{
    struct udp_frame frame;
    struct proxy_header header;
    struct udp_frame_addr from = own_address(visitor);
    const char *why;
    cr_assert(udp_rig_get_frame(&rig, channel, &frame), "%s", payload);
    cr_expect(udp_frame_addr_equal(&frame.from, &from));
    cr_assert_eq(proxy_protocol_decode(frame.payload, frame.payload_len, &header, &why), 1, "%s",
                 why);
    cr_expect(header.has_addresses && header.version == 2);
    cr_expect(memcmp(&header.from.v4.sin_addr, from.octets, 4) == 0);
    cr_expect_eq(addr_port(&header.from), from.port);
    cr_expect(addr_equal(&header.to, &rig.udp_addr));
    cr_expect_eq(frame.payload_len, header.size + strlen(payload));
    cr_expect(memcmp(frame.payload + header.size, payload, strlen(payload)) == 0);
}

Test(lane, a_header_in_the_first_datagram_on_each_channel)
{
    int channel = begin("127.0.0.1", "udp_data_channels = 1\nproxy_protocol = v2\n");
    int a = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    int b = udp_rig_visitor("127.0.0.2", &rig.udp_addr);
    cr_assert_eq(send(a, "one", 3, 0), 3);
    expect_header(channel, a, "one");
    cr_assert_eq(send(a, "two", 3, 0), 3);
    expect_frame(channel, a, "two");
    cr_assert_eq(send(b, "", 0, 0), 0);
    expect_header(channel, b, "");
    answer(channel, a, "back");
    char bytes[8];
    cr_expect_eq(udp_rig_receive(&rig, a, bytes, sizeof(bytes)), 4);
    udp_rig_advance(&rig, 2 * LIMIT_UDP_RETRY_MS);
    (void)close(channel);
    udp_rig_settle(&rig, 5);
    channel = udp_rig_channel(&rig);
    cr_assert_eq(send(a, "three", 5, 0), 5);
    expect_header(channel, a, "three");
    cr_assert_eq(send(a, "four", 4, 0), 4);
    expect_frame(channel, a, "four");
    END(channel, a, b);
}

Test(lane, a_header_in_each_datagram)
{
    int size = 4, channel = begin("0.0.0.0", "udp_data_channels = 1\nproxy_protocol = v2\n"
                                             "proxy_protocol_udp = always\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(send(visitor, "one", 3, 0), 3);
        expect_header(channel, visitor, "one");
    }
    cr_assert_eq(setsockopt(visitor, IPPROTO_UDP, 103 /* UDP_SEGMENT */, &size, sizeof(size)), 0);
    cr_assert_eq(send(visitor, "aaaabbbbc", 9, 0), 9);
    expect_header(channel, visitor, "aaaa");
    expect_header(channel, visitor, "bbbb");
    expect_header(channel, visitor, "c");
    END(channel, visitor);
}

/* Too large with its header, it is dropped; the header is still due. */
Test(lane, a_header_does_not_fit)
{
    int channel = begin("127.0.0.1", "udp_data_channels = 1\nproxy_protocol = v2\n");
    int visitor = udp_rig_visitor("127.0.0.1", &rig.udp_addr);
    cr_assert_eq(send(visitor, large, sizeof(large), 0), sizeof(large));
    udp_rig_settle(&rig, 5);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_TOO_LARGE), 1);
    cr_assert_eq(send(visitor, "small", 5, 0), 5);
    expect_header(channel, visitor, "small");
    END(channel, visitor);
}
