/* Batches on real loopback sockets. The linker wraps sendmmsg and sendmsg, so that the test can
 * refuse any message with any error, and recvmmsg, so that it can join more datagrams than today's
 * kernels do. */
#include "io/udp_batch.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "testing.h"

enum { LARGEST = 65507 };

static struct metrics metrics;
static struct udp_batch *batch;
static struct udp_socket server; /* unconnected */
static struct udp_socket peer;   /* connected to it */
static struct addr server_addr, peer_addr;
static unsigned char large[LARGEST];

/* ---- refusals ---- */

/* Refuses messages whose first byte is `byte`, `times` times. */
static struct {
    int error, byte, times;
    bool cut_only; /* only messages with several datagrams */
} refusal;
static unsigned int calls;

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);

static bool refuses(const struct msghdr *message)
{
    if (refusal.times == 0 || (refusal.cut_only && message->msg_iovlen < 2))
        return false;
    const struct iovec *first = message->msg_iov;
    if (first->iov_len == 0 || *(const unsigned char *)first->iov_base != refusal.byte)
        return false;
    refusal.times--;
    errno = refusal.error;
    return true;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    calls++;
    for (unsigned int i = 0; i < count; i++) {
        if (refuses(&messages[i].msg_hdr))
            return i > 0 ? (refusal.times++, __real_sendmmsg(fd, messages, i, flags)) : -1;
    }
    return __real_sendmmsg(fd, messages, count, flags);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    calls++;
    return refuses(message) ? -1 : __real_sendmsg(fd, message, flags);
}

/* ---- a kernel that joins more datagrams ---- */

static int finer_segment; /* the segment size that is reported; 0: the kernel's */

int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout);

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
                    struct timespec *timeout)
{
    int got = __real_recvmmsg(fd, messages, count, flags, timeout);
    for (int i = 0; i < got && finer_segment != 0; i++) {
        struct msghdr *message = &messages[i].msg_hdr;
        struct cmsghdr *header = message->msg_control;
        header->cmsg_level = IPPROTO_UDP;
        header->cmsg_type = 104; /* UDP_GRO */
        header->cmsg_len = CMSG_LEN(sizeof(finer_segment));
        memcpy(CMSG_DATA(header), &finer_segment, sizeof(finer_segment));
        message->msg_controllen = CMSG_SPACE(sizeof(finer_segment));
    }
    return got;
}

/* ---- the rig ---- */

static struct addr address_of(const char *host, uint16_t port)
{
    struct host_port name = {.port = port};
    struct addr addr;
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    cr_assert(addr_from_numeric(&name, &addr));
    return addr;
}

static void open_server(const char *bind_to, const char *dial)
{
    int fd;
    struct addr bound = address_of(bind_to, free_port());
    cr_assert_eq(udp_socket_bind_group(&bound, &fd, 1), 0);
    udp_socket_init(&server, fd, &bound);
    server_addr = address_of(dial, addr_port(&bound));
    cr_assert_eq(udp_socket_connect(&server_addr, &peer), 0);
    peer_addr.len = sizeof(peer_addr.v6);
    cr_assert_eq(getsockname(peer.fd, &peer_addr.any, &peer_addr.len), 0);
}

static void close_server(void)
{
    (void)close(server.fd);
    (void)close(peer.fd);
}

static void set_up(void)
{
    memset(&metrics, 0, sizeof(metrics));
    refusal.times = 0;
    for (size_t i = 0; i < sizeof(large); i++)
        large[i] = (unsigned char)(i * 31 + i / 256);
    cr_assert_eq(udp_batch_create(&metrics, &batch), 0);
    open_server("127.0.0.1", "127.0.0.1");
    calls = 0;
}

static void tear_down(void)
{
    close_server();
    udp_batch_destroy(batch);
}

TestSuite(udp_batch, .init = set_up, .fini = tear_down);

static uint64_t count_of(enum metric metric)
{
    return metrics_get(&metrics, metric);
}

static ssize_t receive_one(int fd, void *out, size_t size)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    if (poll(&pollfd, 1, 200) != 1)
        return -1;
    return recv(fd, out, size, MSG_DONTWAIT);
}

/* ---- receiving ---- */

Test(udp_batch, receives_whole_datagrams_of_all_sizes)
{
    static const size_t sizes[] = {0, 1, 1472, 2047, 2048, 2049, 9000, LARGEST};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        cr_assert_eq(send(peer.fd, large, sizes[i], 0), (ssize_t)sizes[i]);
    cr_assert_eq(udp_batch_receive(batch, &server), ARRAY_SIZE(sizes));
    for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        cr_expect_eq(arrival->size, sizes[i]);
        cr_expect_eq(arrival->segment_size, sizes[i]);
        cr_expect(memcmp(arrival->data, large, sizes[i]) == 0);
        cr_expect(addr_equal(arrival->from, &peer_addr));
    }
    cr_expect_eq(udp_batch_receive(batch, &server), -EAGAIN);
    udp_batch_trim(batch); /* receiving must still work */
    cr_assert_eq(send(peer.fd, large, 100, 0), 100);
    cr_assert_eq(udp_batch_receive(batch, &server), 1);
    cr_expect(memcmp(udp_batch_arrival(batch, 0)->data, large, 100) == 0);
}

Test(udp_batch, at_most_a_batch_at_a_time)
{
    for (int i = 0; i < UDP_BATCH_SIZE + 10; i++)
        cr_assert_eq(send(peer.fd, &i, sizeof(i), 0), sizeof(i));
    cr_expect_eq(udp_batch_receive(batch, &server), UDP_BATCH_SIZE);
    cr_expect_eq(udp_batch_receive(batch, &server), 10);
    int number;
    memcpy(&number, udp_batch_arrival(batch, 9)->data, sizeof(number));
    cr_expect_eq(number, UDP_BATCH_SIZE + 9, "in order");
}

/* Datagrams that leave as one message arrive joined (UDP_GRO) or one by one; both are right. */
Test(udp_batch, runs_of_one_size_come_together_or_one_by_one)
{
    for (int i = 0; i < 10; i++)
        udp_batch_send(batch, &peer, NULL, large + (size_t)i * 100, i < 9 ? 100 : 40);
    udp_batch_flush(batch);
    cr_expect_eq(calls, 1);
    size_t total = 0;
    unsigned int datagrams = 0;
    int count = udp_batch_receive(batch, &server);
    cr_assert_gt(count, 0);
    for (unsigned int i = 0; i < (unsigned int)count; i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        cr_expect(memcmp(arrival->data, large + total, arrival->size) == 0);
        total += arrival->size;
        datagrams += udp_arrival_count(arrival);
    }
    cr_expect_eq(udp_batch_datagrams(batch, (unsigned int)count), 10);
    cr_expect_eq(total, 940);
    cr_expect_eq(datagrams, 10);
}

/* The largest number of datagrams that this kernel cuts, over IPv6, whose frame headers are the
 * longest. */
Test(udp_batch, the_longest_run_comes_whole)
{
    enum { SEGMENT = 511 };
    close_server();
    open_server("::1", "::1");
    unsigned int count = UDP_ARRIVAL_DATAGRAMS_MAX;
    int segment = SEGMENT;
    (void)setsockopt(peer.fd, IPPROTO_UDP, 103 /* UDP_SEGMENT */, &segment, sizeof(segment));
    while (count > 1 && send(peer.fd, large, (size_t)count * SEGMENT, 0) < 0)
        count /= 2; /* 64 before Linux 6.9 */
    unsigned int datagrams = 0;
    int got = udp_batch_receive(batch, &server);
    cr_assert_gt(got, 0);
    for (unsigned int i = 0; i < (unsigned int)got; i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        cr_assert_not_null(arrival->data);
        cr_expect_leq(arrival->size, (uint32_t)UDP_ARRIVAL_BYTES_MAX);
        datagrams += udp_arrival_count(arrival);
    }
    cr_expect_eq(datagrams, count);
    cr_expect_eq(count_of(METRIC_UDP_DROPPED_TOO_LARGE), 0);
}

/* An arrival of too many datagrams has no room once it is packed: it is dropped whole, and counted.
 */
Test(udp_batch, a_run_of_too_many_is_dropped)
{
    enum { SIZE = 1000 };
    for (int segment = SIZE; segment >= 1; segment--) {
        unsigned int count = (unsigned int)((SIZE + segment - 1) / segment);
        uint64_t before = count_of(METRIC_UDP_DROPPED_TOO_LARGE);
        bool fits = count <= UDP_ARRIVAL_DATAGRAMS_MAX;
        finer_segment = segment;
        cr_assert_eq(send(peer.fd, large, SIZE, 0), SIZE);
        cr_assert_eq(udp_batch_receive(batch, &server), 1);
        finer_segment = 0;
        const struct udp_arrival *arrival = udp_batch_arrival(batch, 0);
        cr_assert_eq(arrival->data != NULL, fits, "%u datagrams", count);
        cr_assert_eq(udp_batch_datagrams(batch, 1), fits ? count : 0);
        cr_assert_eq(count_of(METRIC_UDP_DROPPED_TOO_LARGE) - before, fits ? 0 : count);
    }
}

/* ---- sending ---- */

Test(udp_batch, sends_to_several_routes_in_order)
{
    struct udp_socket other;
    struct udp_route routes[2] = {{.to = peer_addr}};
    cr_assert_eq(udp_socket_connect(&server_addr, &other), 0);
    routes[1].to.len = sizeof(routes[1].to.v6);
    cr_assert_eq(getsockname(other.fd, &routes[1].to.any, &routes[1].to.len), 0);
    static const size_t sizes[] = {50, 50, 50, 20, 50, 0, 0, 70, 50, LARGEST, LARGEST, 1};
    for (unsigned int round = 0; round < 20; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
            udp_batch_send(batch, &server, &routes[round % 2], large, sizes[i]);
    }
    udp_batch_flush(batch);
    unsigned char bytes[LARGEST];
    for (unsigned int round = 0; round < 20; round++) {
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            int fd = round % 2 == 0 ? peer.fd : other.fd;
            int off = 0;
            (void)setsockopt(fd, IPPROTO_UDP, 104 /* UDP_GRO */, &off, sizeof(off));
            ssize_t got = receive_one(fd, bytes, sizeof(bytes));
            if (round == 0 && i == 0 && got == 170)
                return (void)close(other.fd); /* joined before UDP_GRO was switched off */
            cr_assert_eq(got, (ssize_t)sizes[i], "round %u, %zu: %zd", round, i, got);
            cr_assert(memcmp(bytes, large, sizes[i]) == 0);
        }
    }
    (void)close(other.fd);
}

Test(udp_batch, answers_leave_from_the_address_that_was_asked)
{
    static const char *const binds[] = {"0.0.0.0", "::"};
    for (size_t i = 0; i < 2; i++) {
        close_server();
        open_server(binds[i], "127.0.0.77");
        struct udp_route route;
        char bytes[8];
        cr_assert_eq(send(peer.fd, "ask", 3, 0), 3);
        cr_assert_eq(udp_batch_receive(batch, &server), 1);
        const struct udp_arrival *arrival = udp_batch_arrival(batch, 0);
        route = (struct udp_route){*arrival->from, arrival->to};
        udp_batch_send(batch, &server, &route, "answer", 6);
        udp_batch_send(batch, &server, &route, "second", 6); /* one message with the first */
        udp_batch_flush(batch);
        /* A connected socket receives only from the address that it is connected to. */
        cr_expect_eq(receive_one(peer.fd, bytes, 6), 6, "%s", binds[i]);
    }
}

/* ---- errors cost one datagram ---- */

static void expect_only_the_bad_one_lost(int error, enum metric reason, int times)
{
    struct udp_route route = {.to = peer_addr};
    uint64_t before = count_of(reason);
    unsigned char bytes[8];
    refusal = (typeof(refusal)){.error = error, .byte = 'b', .times = times};
    udp_batch_send(batch, &server, &route, "a", 1);
    udp_batch_send(batch, &server, &route, "bad", 3); /* longer than "a": a message of its own */
    udp_batch_send(batch, &server, &route, "cccc", 4);
    udp_batch_flush(batch);
    cr_expect_eq(receive_one(peer.fd, bytes, sizeof(bytes)), 1, "%s", strerror(error));
    cr_expect_eq(receive_one(peer.fd, bytes, sizeof(bytes)), 4, "%s", strerror(error));
    cr_expect_eq(count_of(reason), before + 1, "%s", strerror(error));
    cr_expect_eq(server.error, -error);
    refusal.times = 0;
}

Test(udp_batch, each_error_is_counted_by_its_reason)
{
    expect_only_the_bad_one_lost(EPERM, METRIC_UDP_DROPPED_DENIED, 1);
    expect_only_the_bad_one_lost(EACCES, METRIC_UDP_DROPPED_DENIED, 1);
    expect_only_the_bad_one_lost(ENOBUFS, METRIC_UDP_DROPPED_NO_BUFFERS, 1);
    expect_only_the_bad_one_lost(ENOMEM, METRIC_UDP_DROPPED_NO_BUFFERS, 1);
    expect_only_the_bad_one_lost(EAGAIN, METRIC_UDP_DROPPED_NO_BUFFERS, 1);
    expect_only_the_bad_one_lost(EMSGSIZE, METRIC_UDP_DROPPED_TOO_LARGE, 1);
    expect_only_the_bad_one_lost(ENETUNREACH, METRIC_UDP_DROPPED_UNREACHABLE, 1);
    expect_only_the_bad_one_lost(EHOSTUNREACH, METRIC_UDP_DROPPED_UNREACHABLE, 1);
    expect_only_the_bad_one_lost(EINVAL, METRIC_UDP_DROPPED_OTHER, 1);
}

Test(udp_batch, real_errors)
{
    struct udp_route zero = {.to = address_of("127.0.0.1", 1)}, broadcast, v6, good;
    zero.to.v4.sin_port = 0;
    broadcast = (struct udp_route){.to = address_of("255.255.255.255", 9)};
    v6 = (struct udp_route){.to = address_of("::1", 9)};
    good = (struct udp_route){.to = peer_addr};
    unsigned char bytes[8];
    udp_batch_send(batch, &server, &zero, "x", 1);
    udp_batch_send(batch, &server, &broadcast, "x", 1);
    udp_batch_send(batch, &server, &v6, "x", 1);
    udp_batch_send(batch, &server, &good, "good", 4);
    udp_batch_flush(batch);
    cr_expect_eq(receive_one(peer.fd, bytes, sizeof(bytes)), 4);
    cr_expect_eq(count_of(METRIC_UDP_DROPPED_DENIED) + count_of(METRIC_UDP_DROPPED_OTHER) +
                     count_of(METRIC_UDP_DROPPED_UNREACHABLE),
                 3);
}

Test(udp_batch, an_interrupted_call_loses_nothing)
{
    struct udp_route route = {.to = peer_addr};
    unsigned char bytes[8];
    refusal = (typeof(refusal)){.error = EINTR, .byte = 'i', .times = 3};
    udp_batch_send(batch, &server, &route, "interrupted", 4);
    udp_batch_flush(batch);
    cr_expect_eq(receive_one(peer.fd, bytes, sizeof(bytes)), 4);
    cr_expect_eq(server.error, 0);
}

/* The device can't cut messages: the datagrams go one by one, and later ones are not joined. */
Test(udp_batch, without_segmentation)
{
    struct udp_route route = {.to = peer_addr};
    unsigned char bytes[8];
    cr_assert_gt(server.segment_max, 0);
    refusal = (typeof(refusal)){.error = EIO, .byte = 'p', .times = 1, .cut_only = true};
    for (int i = 0; i < 5; i++)
        udp_batch_send(batch, &server, &route, "piece", 5);
    udp_batch_flush(batch);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(receive_one(peer.fd, bytes, sizeof(bytes)), 5);
    cr_expect_eq(server.segment_max, 0);

    server.segment_max = 1472;
    refusal = (typeof(refusal)){.error = EINVAL, .byte = 'p', .times = 1, .cut_only = true};
    for (int i = 0; i < 5; i++)
        udp_batch_send(batch, &server, &route, "piece", 5);
    udp_batch_flush(batch);
    cr_expect_eq(server.segment_max, 4, "smaller ones may work");
}

/* A router has reported that an earlier datagram was too large for the path. */
Test(udp_batch, a_path_that_is_too_narrow_costs_no_later_datagram)
{
    struct udp_socket client;
    unsigned char bytes[8];
    cr_assert_eq(udp_socket_connect(&server_addr, &client), 0);
    refusal = (typeof(refusal)){.error = EMSGSIZE, .byte = 'l', .times = 1};
    udp_batch_send(batch, &client, NULL, "later", 5);
    udp_batch_flush(batch);
    cr_expect_eq(receive_one(server.fd, bytes, sizeof(bytes)), 5);
    cr_expect_eq(count_of(METRIC_UDP_DROPPED_TOO_LARGE), 0);

    refusal = (typeof(refusal)){.error = EMSGSIZE, .byte = 'l', .times = 2};
    udp_batch_send(batch, &client, NULL, "large", 5); /* is too large itself */
    udp_batch_flush(batch);
    cr_expect_eq(count_of(METRIC_UDP_DROPPED_TOO_LARGE), 1);
    refusal.times = 0;
    (void)close(client.fd);
}

/* ---- a service that does not run ---- */

Test(udp_batch, refused_and_back_again)
{
    struct udp_socket client;
    struct addr gone = address_of("127.0.0.1", free_port());
    unsigned char bytes[8];
    cr_assert_eq(udp_socket_connect(&gone, &client), 0);
    udp_batch_send(batch, &client, NULL, "lost", 4);
    udp_batch_flush(batch);
    struct pollfd pollfd = {.fd = client.fd, .events = POLLIN};
    cr_assert_eq(poll(&pollfd, 1, 1000), 1);
    cr_expect_eq(udp_batch_receive(batch, &client), -ECONNREFUSED);
    cr_expect_eq(udp_batch_receive(batch, &client), -EAGAIN, "the error is taken");
    cr_expect_eq(count_of(METRIC_UDP_DROPPED_REFUSED), 1);

    /* The service is back: the error of an earlier datagram must not cost the next one. */
    udp_batch_send(batch, &client, NULL, "lost", 4);
    udp_batch_flush(batch);
    cr_assert_eq(poll(&pollfd, 1, 1000), 1);
    int fd;
    cr_assert_eq(udp_socket_bind_group(&gone, &fd, 1), 0);
    udp_batch_send(batch, &client, NULL, "back", 4);
    udp_batch_flush(batch);
    cr_expect_eq(receive_one(fd, bytes, sizeof(bytes)), 4);
    cr_expect_eq(count_of(METRIC_UDP_DROPPED_REFUSED), 2);
    cr_expect_eq(client.error, -ECONNREFUSED);
    (void)close(fd);
    (void)close(client.fd);
}
