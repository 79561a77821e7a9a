/* UDP data channels on the client, against a server whose bytes the test writes. */
#include "client/forward.h"

#include <criterion/criterion.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "io/udp_socket.h"
#include "testing.h"
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

/* Returns what the service receives, and the client's port that it came from. */
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
    cr_assert_eq(sendto(local, data, size, 0, &to->any, to->len), (ssize_t)size);
}

Test(forward, each_visitor_has_a_socket_and_is_echoed)
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

Test(forward, all_sizes)
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
        cr_assert_eq(serve(local, bytes, sizeof(bytes), &from), (ssize_t)sizes[i]);
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

Test(forward, any_number_of_channels_each_with_its_own_visitors)
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

Test(forward, silent_visitors_are_forgotten)
{
    struct addr first, second;
    char bytes[16];
    int channel = begin("udp_timeout = 10\n");
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &first), 1);
    udp_rig_advance(&rig, 8000);
    reply(local, &first, "y", 1); /* a datagram in either direction keeps the visitor */
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

/* The service refuses for some time. When it is back, the visitors have kept their sockets and no
 * datagram is lost. */
Test(forward, a_service_that_comes_back)
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

Test(forward, a_bad_frame_ends_its_channel_and_the_session_lives)
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

/* The replies of one turn leave in one write. */
Test(forward, replies_of_many_visitors_in_order)
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

/* Finds the client's socket of a visitor by the address that the service has seen. */
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

/* Several full batches of the largest replies in one turn are more than a buffer holds. */
Test(forward, several_batches_of_the_largest_replies)
{
    enum { REPLIES = 4 * UDP_BATCH_SIZE, SIZE = 65507, ROOM = 64 << 20 };
    static unsigned char data[SIZE];
    struct addr from;
    struct udp_frame frame;
    int channel = begin(""), room = ROOM;
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_assert_eq(serve(local, data, sizeof(data), &from), 1);
    if (setsockopt(socket_of(&from), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0) {
        SKIP_LOUDLY("needs CAP_NET_ADMIN for the receive buffer");
        END(channel, local);
        return;
    }
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

/* ---- making room ---- */

static struct udp_frame_addr numbered(unsigned int number)
{
    return (struct udp_frame_addr){.octets = {10, 0, (uint8_t)(number >> 8), (uint8_t)number},
                                   .port = 1000};
}

/* New visitors send one datagram each, which arrive in one read. The service gets all of them. */
static void flood(int channel, int local, unsigned int first, unsigned int count)
{
    static uint8_t wire[100 * (UDP_FRAME_HEAD_MAX + sizeof(count))];
    static bool seen[100];
    size_t len = 0;
    memset(seen, 0, sizeof(seen));
    cr_assert_leq(count, ARRAY_SIZE(seen));
    for (unsigned int i = 0; i < count; i++) {
        struct udp_frame_addr from = numbered(first + i);
        len += udp_frame_encode_head(&from, sizeof(i), wire + len);
        memcpy(wire + len, &i, sizeof(i));
        len += sizeof(i);
    }
    cr_assert_eq(send(channel, wire, len, MSG_NOSIGNAL), (ssize_t)len);
    for (unsigned int i = 0; i < count; i++) {
        unsigned int number = UINT32_MAX;
        struct addr from;
        cr_assert_eq(serve(local, &number, sizeof(number), &from), sizeof(number), "%u", i);
        cr_assert(number < count && !seen[number], "%u twice", number);
        seen[number] = true;
        cr_assert_leq(rig.client->fds.udp.open, rig.client->fds.udp.max);
    }
}

Test(forward, without_descriptors_the_longest_silent_makes_room)
{
    struct addr from;
    char bytes[16];
    int channel = begin("");
    int local = local_service();
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from), 1);
    int number = socket_of(&from);
    rig.client->fds.max = number + 1;
    udp_rig_advance(&rig, 1);
    udp_rig_send_frame(&rig, channel, &bob, "y", 1);
    cr_expect_eq(serve(local, bytes, sizeof(bytes), &from), 1);
    cr_expect_eq(socket_of(&from), number, "no higher one");
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EVICTED), 1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_NO_LOCAL), 0);
    END(channel, local);
}

/* The same if all of them arrive within one turn, so that evicted visitors have a datagram that is
 * not sent yet. */
Test(forward, a_flood_keeps_to_its_share_and_loses_nothing)
{
    enum { SHARE = 9, COUNT = 100 };
    int channel = begin("");
    int local = local_service();
    size_t fds = open_fd_count();
    udp_share_set(&rig.client->fds.udp, SHARE * 2, 50, UINT16_MAX);
    flood(channel, local, 0, COUNT);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_VISITORS), COUNT);
    cr_expect_geq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EVICTED), COUNT - SHARE);
    cr_expect_leq(udp_rig_count(&rig, METRIC_UDP_VISITORS_EVICTED), COUNT - SHARE + 1);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_NO_LOCAL), 0);
    cr_expect_leq(open_fd_count(), fds + SHARE);
    END(channel, local);
}

/* New visitors get only a part of a turn, so that other channels need not wait for all of them. */
Test(forward, a_turn_has_so_many_new_ones)
{
    enum { COUNT = 1000 };
    static uint8_t wire[COUNT * (UDP_FRAME_HEAD_MAX + 1)];
    size_t len = 0;
    uint64_t before = 0, most = 0;
    int channel = begin("");
    int local = local_service();
    for (unsigned int i = 0; i < COUNT; i++) {
        struct udp_frame_addr from = numbered(i);
        len += udp_frame_encode_head(&from, 1, wire + len);
        wire[len++] = 1;
    }
    cr_assert_eq(send(channel, wire, len, MSG_NOSIGNAL), (ssize_t)len);
    for (int turn = 0; turn < 100 && before < COUNT; turn++) {
        udp_rig_settle(&rig, 1);
        uint64_t now = udp_rig_count(&rig, METRIC_UDP_VISITORS);
        most = MAX(most, now - before);
        before = now;
    }
    cr_expect_eq(before, COUNT);
    cr_expect_leq(most, 2 * LIMIT_UDP_NEW_PER_TURN, "%llu in a turn", (unsigned long long)most);
    /* The channel may end in the middle of this. */
    cr_assert_eq(send(channel, wire, len, MSG_NOSIGNAL), (ssize_t)len);
    END(channel, local);
}

Test(forward, those_who_are_busy_stay)
{
    enum { SHARE = 32 };
    struct addr first, again;
    char bytes[16];
    int channel = begin("");
    int local = local_service();
    udp_share_set(&rig.client->fds.udp, SHARE * 2, 50, UINT16_MAX);
    udp_rig_send_frame(&rig, channel, &alice, "x", 1);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &first), 1);
    for (unsigned int i = 0; i < 20; i++) {
        udp_rig_advance(&rig, 1);
        flood(channel, local, i * SHARE / 2, SHARE / 2);
        udp_rig_send_frame(&rig, channel, &alice, "x", 1);
        cr_assert_eq(serve(local, bytes, sizeof(bytes), &again), 1);
        cr_assert(addr_equal(&first, &again), "another socket in round %u", i);
    }
    END(channel, local);
}

/* A flood of one channel evicts none of the few visitors of another, however long these are
 * silent. */
Test(forward, the_channel_with_most_visitors_makes_room)
{
    enum { SHARE = 16 };
    struct addr first, again;
    char bytes[16];
    int quiet = begin(""), loud = udp_rig_channel(&rig);
    int local = local_service();
    udp_share_set(&rig.client->fds.udp, SHARE * 2, 50, UINT16_MAX);
    udp_rig_send_frame(&rig, quiet, &alice, "x", 1);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &first), 1);
    udp_rig_advance(&rig, 1000);
    flood(loud, local, 0, 100);
    udp_rig_send_frame(&rig, quiet, &alice, "x", 1);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &again), 1);
    cr_expect(addr_equal(&first, &again));
    /* And a new visitor of the quiet channel evicts none of that channel. */
    udp_rig_send_frame(&rig, quiet, &bob, "x", 1);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &again), 1);
    cr_expect_not(addr_equal(&first, &again));
    udp_rig_send_frame(&rig, quiet, &alice, "x", 1);
    cr_assert_eq(serve(local, bytes, sizeof(bytes), &again), 1);
    cr_expect(addr_equal(&first, &again));
    END(quiet, loud, local);
}

/* Descriptors that are given up for a connection are free at once. UDP keeps a minimum, however
 * often it is asked. */
Test(forward, some_are_given_up_for_a_connection)
{
    enum { SHARE = 64, KEPT = SHARE / LIMIT_UDP_KEPT_PART };
    int channel = begin("");
    int local = local_service();
    struct client_worker *worker = rig.worker.role;
    struct udp_share *share = &rig.client->fds.udp;
    udp_share_set(share, SHARE * 2, 50, UINT16_MAX);
    cr_expect_not(forward_yield(worker), "there is none");
    cr_expect_eq(udp_share_kept(share), KEPT);
    flood(channel, local, 0, SHARE / 2);
    cr_expect_eq(udp_share_kept(share), 0);
    size_t fds = open_fd_count();
    cr_expect(forward_yield(worker));
    cr_expect_lt(open_fd_count(), fds, "without a turn of the loop");
    for (unsigned int i = 0; i < 2 * SHARE; i++)
        (void)forward_yield(worker);
    cr_expect_eq(share->open, KEPT);
    cr_expect_not(forward_yield(worker));
    /* For another worker: once for each request. */
    share->wanted = 1;
    forward_give_up(worker);
    cr_expect_eq(share->open, KEPT - 1);
    forward_give_up(worker);
    cr_expect_eq(share->open, KEPT - 1);
    flood(channel, local, 1000, SHARE);
    END(channel, local);
}

static bool become_a_small_network(unsigned int ports)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    FILE *file;
    if (unshare(CLONE_NEWNET) < 0)
        return false;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool is_up = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &request) == 0;
    if (fd >= 0)
        (void)close(fd);
    file = is_up ? fopen("/proc/sys/net/ipv4/ip_local_port_range", "we") : NULL;
    if (file == NULL)
        return false;
    (void)fprintf(file, "40000 %u\n", 40000 + ports - 1);
    return fclose(file) == 0;
}

/* The ports run out before the descriptors do. */
Test(forward, without_ports_the_longest_silent_makes_room)
{
    enum { PORTS = 32 };
    if (!become_a_small_network(PORTS)) {
        SKIP_LOUDLY("needs the right to make a network namespace");
        return;
    }
    cr_expect_eq(udp_socket_port_count(), PORTS);
    int channel = begin("");
    int local = local_service();
    cr_expect_eq(rig.client->fds.udp.max, PORTS - PORTS / LIMIT_UDP_PORTS_LEFT_PART);
    flood(channel, local, 0, 100);
    udp_share_set(&rig.client->fds.udp, 1000, 50, UINT16_MAX); /* as if other programs used some */
    flood(channel, local, 100, 100);
    cr_expect_eq(udp_rig_count(&rig, METRIC_UDP_DROPPED_NO_LOCAL), 0);
    END(channel, local);
}

/* The service streams to two visitors and receives nothing. The datagrams of both are gathered. */
Test(forward, a_dense_stream_gathers)
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
