/* Visitors behind a balancer, on the fake loop: the test plays the client and the balancer. What the
 * service gets shows what the server has taken from the header: a header of version 1. */
#include "server/arrival.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "proto/message.h"
#include "proto/proxy_protocol.h"
#include "server/server.h"
#include "server/service.h"
#include "side.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V1        "PROXY TCP4 203.0.113.7 198.51.100.1 51342 443\r\n"
#define V2        SIGNATURE "\x21\x11\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\xc8\x8e\x01\xbb"

static struct rig {
    struct config *config;
    struct server *server;
    struct side side;
    struct addr control_addr, service_addr;
    size_t fds_before;
    uint8_t session_key[KEYS_DIGEST_SIZE];
    int control;
} rig;

static const struct fake_faults rough = {
    .delay = 100, .reorder = 300, .short_count = 300, .eintr = 100, .eagain = 100};

static void begin(unsigned int workers, uint64_t seed)
{
    char text[400];
    memset(&rig, 0, sizeof(rig));
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    rig.fds_before = open_fd_count();
    rig.control_addr = tcp_loopback(free_port());
    rig.service_addr = tcp_loopback(free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = t\n"
                   "handshake_timeout = 2\n[server.services.s]\nbind_addr = \"127.0.0.1:%u\"\n"
                   "accept_proxy_protocol = 127.0.0.1\nproxy_protocol = v1\n",
                   addr_port(&rig.control_addr), addr_port(&rig.service_addr));
    rig.config = side_config(text);
    fake_loop_set_seed(seed);
    cr_assert_eq(side_init(&rig.side, workers), 0);
    cr_assert_eq(server_create(&rig.config->server, workers, NULL, &rig.server), 0);
    cr_assert_eq(side_start(&rig.side, &server_role, rig.server), 0);

    rig.control = tcp_dial(&rig.control_addr);
    cr_assert_eq(side_log_in(&rig.side, rig.control, "s", "t", rig.session_key), MESSAGE_ACK_OK);
    side_settle(&rig.side, 4);
}

static void finish(void)
{
    static const struct fake_faults none;
    side_set_faults(&rig.side, &none);
    cr_expect_eq(atomic_load(&side_first_service(rig.server)->arriving), 0);
    if (rig.control >= 0)
        (void)close(rig.control);
    side_settle(&rig.side, 10);
    side_finish(&rig.side);
    server_destroy(rig.server);
    config_destroy(rig.config);
    cr_assert_eq(open_fd_count(), rig.fds_before, "descriptors are left open");
}

static int channel(void)
{
    uint8_t hello[MESSAGE_HELLO_SIZE];
    int fd = tcp_dial(&rig.control_addr);
    message_hello_encode(MESSAGE_HELLO_DATA, rig.session_key, hello);
    say(fd, hello, sizeof(hello));
    side_settle(&rig.side, 8);
    return fd;
}

static int visitor(void)
{
    int fd = tcp_dial(&rig.service_addr);
    side_settle(&rig.side, 4);
    return fd;
}

static uint32_t arriving(void)
{
    return atomic_load(&side_first_service(rig.server)->arriving);
}

/* What a channel brings: the command, this header, this text. */
static void expect_on(int channel_fd, const char *header, const char *text)
{
    uint8_t command[MESSAGE_DATA_COMMAND_SIZE];
    message_data_command_encode(MESSAGE_DATA_START_TCP, command);
    cr_assert(side_expect(&rig.side, channel_fd, command, sizeof(command)));
    cr_assert(side_expect(&rig.side, channel_fd, header, strlen(header)));
    cr_assert(side_expect(&rig.side, channel_fd, text, strlen(text)));
}

/* The header comes in two pieces, cut anywhere, with the visitor's bytes right behind it. */
static void every_cut(const void *header, size_t size)
{
    for (size_t cut = 0; cut <= size; cut += size > 100 ? 331 : 1) {
        begin(1, cut + 1);
        side_set_faults(&rig.side, &rough);
        int channel_fd = channel(), visitor_fd = visitor();
        uint8_t bytes[1 << 15];
        memcpy(bytes, header, size);
        memcpy(bytes + size, "behind", 6);
        if (cut > 0)
            say(visitor_fd, bytes, cut);
        side_settle(&rig.side, 10);
        cr_assert_eq(arriving(), cut < size, "%zu", cut);
        say(visitor_fd, bytes + cut, size + 6 - cut);
        expect_on(channel_fd, V1, "behind");
        cr_assert_eq(arriving(), 0);
        (void)close(channel_fd);
        (void)close(visitor_fd);
        finish();
    }
}

Test(arrival, every_cut_of_v1)
{
    every_cut(V1, sizeof(V1) - 1);
}

Test(arrival, every_cut_of_v2)
{
    every_cut(V2, sizeof(V2) - 1);
}

Test(arrival, what_a_header_goes_on_with_is_passed_over)
{
    static uint8_t header[LIMIT_PROXY_PROTOCOL];
    memcpy(header, V2, sizeof(V2) - 1);
    header[14] = (sizeof(header) - 16) >> 8;
    header[15] = (sizeof(header) - 16) & 0xff;
    every_cut(header, sizeof(header));
}

Test(arrival, byte_by_byte)
{
    begin(1, 7);
    side_set_faults(&rig.side, &rough);
    int channel_fd = channel(), visitor_fd = visitor();
    for (size_t i = 0; i < sizeof(V2) - 1; i++) {
        cr_assert_eq(arriving(), 1);
        say(visitor_fd, &V2[i], 1);
        side_settle(&rig.side, 3);
    }
    say(visitor_fd, "x", 1);
    expect_on(channel_fd, V1, "x");
    (void)close(channel_fd);
    (void)close(visitor_fd);
    finish();
}

Test(arrival, who_says_nothing_is_reset_when_the_time_is_over)
{
    begin(1, 1);
    int silent = visitor(), slow = visitor();
    say(slow, V1, 20);
    side_advance(&rig.side, 1900);
    cr_expect_eq(arriving(), 2);
    say(slow, &V1[20], 1); /* moves no deadline */
    side_advance(&rig.side, 200);
    side_settle(&rig.side, 10);
    cr_expect_eq(side_end_of(&rig.side, silent), -ECONNRESET);
    cr_expect_eq(side_end_of(&rig.side, slow), -ECONNRESET);
    cr_expect_eq(side_metric(&rig.side, METRIC_VISITORS_REFUSED_HEADER), 2);
    (void)close(silent);
    (void)close(slow);
    finish();
}

Test(arrival, a_broken_header_an_end_and_a_reset)
{
    begin(1, 1);
    int broken = visitor(), ended = visitor(), gone = visitor();
    say(broken, "GET / HTTP/1.1\r\n", 16);
    say(ended, V1, 30);
    side_settle(&rig.side, 4);
    (void)shutdown(ended, SHUT_WR);
    tcp_abort_on_close(gone);
    (void)close(gone);
    side_settle(&rig.side, 10);
    cr_expect_eq(side_end_of(&rig.side, broken), -ECONNRESET);
    cr_expect_eq(side_end_of(&rig.side, ended), -ECONNRESET);
    cr_expect_eq(side_metric(&rig.side, METRIC_VISITORS_REFUSED_HEADER), 3);
    (void)close(broken);
    (void)close(ended);
    finish();
}

Test(arrival, those_beyond_the_limit_are_reset)
{
    begin(1, 1);
    struct service *service = side_first_service(rig.server);
    atomic_store(&service->arriving, LIMIT_VISITORS_ARRIVING - 1);
    int last = visitor(), late = visitor();
    cr_expect_eq(side_end_of(&rig.side, last), 0);
    cr_expect_eq(side_end_of(&rig.side, late), -ECONNRESET);
    cr_expect_eq(side_metric(&rig.side, METRIC_VISITORS_REFUSED_ARRIVING), 1);
    (void)close(last);
    (void)close(late);
    side_settle(&rig.side, 10);
    cr_expect_eq(arriving(), LIMIT_VISITORS_ARRIVING - 1);
    atomic_store(&service->arriving, 0);
    finish();
}

/* A worker that ends, or a service that goes down, closes them at once. */
Test(arrival, the_service_goes_down)
{
    begin(2, 1);
    int fds[] = {visitor(), visitor(), visitor()};
    say(fds[1], V1, 10);
    side_settle(&rig.side, 4);
    cr_expect_eq(arriving(), 3);
    tcp_abort_on_close(rig.control);
    (void)close(rig.control);
    rig.control = -1;
    side_settle(&rig.side, 20);
    cr_expect_eq(arriving(), 0);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        cr_expect_eq(side_end_of(&rig.side, fds[i]), -ECONNRESET);
        (void)close(fds[i]);
    }
    finish();
}

Test(arrival, the_server_stops)
{
    begin(2, 1);
    int fds[] = {visitor(), visitor()};
    say(fds[1], V1, 10);
    side_settle(&rig.side, 4);
    side_signal(&rig.side, TUNNEL_SIGNAL_DRAIN);
    side_settle(&rig.side, 20);
    cr_expect_eq(arriving(), 0);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        cr_expect_eq(side_end_of(&rig.side, fds[i]), -ECONNRESET);
        (void)close(fds[i]);
    }
    finish();
}

/* The addresses go with a visitor whose relay starts on another worker. */
Test(arrival, its_relay_on_another_worker)
{
    begin(2, 3);
    for (int i = 0; i < 40; i++) {
        fake_loop_set_busy(rig.side.workers[i % 2].loop, 900);
        fake_loop_set_busy(rig.side.workers[1 - i % 2].loop, 0);
        int channel_fd = channel(), visitor_fd = visitor();
        say(visitor_fd, V2 "hello", sizeof(V2) + 4);
        expect_on(channel_fd, V1, "hello");
        (void)close(channel_fd);
        (void)close(visitor_fd);
        side_settle(&rig.side, 5);
    }
    cr_expect_gt(side_metric(&rig.side, METRIC_RELAYS_MOVED_IN), 5);
    finish();
}
