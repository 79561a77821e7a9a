/* A UDP service on the fake loop, of a server (its lanes) or of a client (its forwards). The input is a
 * script: whole, cut and senseless frames come over the data channel, datagrams from visitors or from
 * the local service, channels end and new ones come, time passes, the kernel shows faults.
 *
 *     server   visitors' sockets --datagrams--> lane ----frames--> channel
 *     client   channel --frames--> forward --datagrams--> the local service's socket
 *
 * The n-th datagram that is sent begins with n and has bytes that follow from n. So whatever arrives,
 * in a frame or as a datagram, is one that was sent, whole and by the right sender; or it is of a
 * frame that senseless bytes have made. Frames of ours are well formed. At the end nothing is left. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "chance.h"
#include "fake_loop.h"
#include "fuzz.h"
#include "io/socket.h"
#include "loop_script.h"
#include "proto/message.h"
#include "testing.h"
#include "udp_rig.h"

enum {
    CHANNELS = 3,
    VISITORS = 4,
    EVENTS_MAX = 150,
    SENT_MAX = 256,
    HEAD = 2, /* of a datagram of ours: its number */
    WIRE_MAX = 1 << 17,
};

struct datagram {
    size_t size;
    unsigned int sender; /* a visitor; VISITORS: the local service */
};

static struct {
    struct udp_rig rig;
    bool is_server;
    int visitors[VISITORS]; /* of a client: [0] is the local service */
    struct addr visitor_addrs[VISITORS];
    int channels[CHANNELS];
    bool has_wild_bytes; /* some frame of the channels is not ours */
    struct datagram sent[SENT_MAX];
    size_t sent_count;
    uint8_t wire[CHANNELS][WIRE_MAX]; /* what the channel has brought */
    size_t wire_size[CHANNELS], wire_seen[CHANNELS];
    struct addr last_from; /* of the last datagram to the local service */
} all;

/* ---- datagrams that can be told apart ---- */

static void fill(uint8_t *out, size_t number, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = i == 0   ? (uint8_t)number
                 : i == 1 ? (uint8_t)(number >> 8)
                          : (uint8_t)(number * 7 + i);
}

static size_t make(uint8_t *out, struct script *script, unsigned int sender)
{
    size_t size = HEAD + script_u16(script) % 1500, number = all.sent_count++;
    all.sent[number] = (struct datagram){size, sender};
    fill(out, number, size);
    return size;
}

/* sender: who must have sent it; -1: anybody. */
static void check_one_of_ours(const uint8_t *bytes, size_t size, int sender)
{
    uint8_t expected[HEAD + 1500];
    FUZZ_CHECK(size >= HEAD && size <= sizeof(expected));
    size_t number = bytes[0] | (size_t)bytes[1] << 8;
    FUZZ_CHECK(number < all.sent_count && all.sent[number].size == size);
    FUZZ_CHECK(sender < 0 || all.sent[number].sender == (unsigned int)sender);
    fill(expected, number, size);
    FUZZ_CHECK(memcmp(bytes, expected, size) == 0);
}

static struct udp_frame_addr frame_addr(const struct addr *addr)
{
    struct udp_frame_addr result = {.port = addr_port(addr)};
    memcpy(result.octets, &addr->v4.sin_addr, 4);
    return result;
}

/* ---- what arrives ---- */

/* Frames of ours to the channel are well formed. On a server they have a visitor's datagram and its
 * address; on a client what the local service has sent. */
static void check_frames(size_t at)
{
    struct udp_frame frame;
    int size;
    while ((size = udp_frame_decode(all.wire[at] + all.wire_seen[at],
                                    all.wire_size[at] - all.wire_seen[at], &frame)) > 0) {
        all.wire_seen[at] += (size_t)size;
        if (!all.is_server) {
            check_one_of_ours(frame.payload, frame.payload_len, VISITORS);
            continue;
        }
        int sender = -1;
        for (int i = 0; i < VISITORS; i++) {
            struct udp_frame_addr own = frame_addr(&all.visitor_addrs[i]);
            if (all.visitors[i] >= 0 && udp_frame_addr_equal(&own, &frame.from))
                sender = i;
        }
        check_one_of_ours(frame.payload, frame.payload_len, sender);
    }
    FUZZ_CHECK(size == 0);
}

/* What a channel brings before its frames: a server's command, a client's Hello. Returns the size. */
static size_t first_bytes(uint8_t out[static MESSAGE_HELLO_SIZE])
{
    if (all.is_server) {
        message_data_command_encode(MESSAGE_DATA_START_UDP, out);
        return MESSAGE_DATA_COMMAND_SIZE;
    }
    message_hello_encode(MESSAGE_HELLO_DATA, all.rig.session_key, out);
    return MESSAGE_HELLO_SIZE;
}

/* A client that has lost its session logs in again, and that connection may be taken for a channel. */
static bool is_login(size_t at)
{
    uint8_t hello[MESSAGE_HELLO_SIZE], digest[KEYS_DIGEST_SIZE];
    if (all.is_server || all.wire_size[at] == 0 || all.wire[at][0] != MESSAGE_HELLO_CONTROL)
        return false;
    keys_service_digest("dns", 3, digest);
    message_hello_encode(MESSAGE_HELLO_CONTROL, digest, hello);
    FUZZ_CHECK(memcmp(all.wire[at], hello, MIN(all.wire_size[at], sizeof(hello))) == 0);
    return true;
}

static void read_channel(size_t at)
{
    uint8_t first[MESSAGE_HELLO_SIZE];
    ssize_t got;
    if (all.channels[at] < 0)
        return;
    do {
        size_t room = WIRE_MAX - all.wire_size[at];
        got = room == 0
                  ? 0
                  : recv(all.channels[at], all.wire[at] + all.wire_size[at], room, MSG_DONTWAIT);
        all.wire_size[at] += got > 0 ? (size_t)got : 0;
    } while (got > 0);
    if (is_login(at))
        return;
    size_t size = first_bytes(first);
    FUZZ_CHECK(memcmp(all.wire[at], first, MIN(all.wire_size[at], size)) == 0);
    if (all.wire_size[at] < size)
        return;
    all.wire_seen[at] = MAX(all.wire_seen[at], size);
    check_frames(at);
}

static void look_at_all(void)
{
    static uint8_t bytes[1 << 16];
    for (size_t i = 0; i < CHANNELS; i++)
        read_channel(i);
    for (int i = 0; i < VISITORS; i++) {
        ssize_t got = 0;
        while (all.visitors[i] >= 0 && got >= 0) {
            struct addr from = {.len = sizeof(from.v4)};
            got =
                recvfrom(all.visitors[i], bytes, sizeof(bytes), MSG_DONTWAIT, &from.any, &from.len);
            if (got >= 0 && !all.has_wild_bytes)
                check_one_of_ours(bytes, (size_t)got, -1);
            if (got >= 0)
                all.last_from = from;
        }
    }
}

/* ---- events ---- */

static void say_to(int fd, const uint8_t *bytes, size_t size)
{
    (void)send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* A frame with a datagram, in one piece or two. */
static void say_frame(struct script *script, int fd)
{
    uint8_t wire[UDP_FRAME_HEAD_MAX + HEAD + 1500];
    unsigned int to = script_below(script, VISITORS);
    struct udp_frame_addr from = frame_addr(&all.visitor_addrs[to]);
    if (!all.is_server)
        from = (struct udp_frame_addr){.octets = {10, 0, 0, (uint8_t)to}, .port = 1000};
    uint8_t payload[HEAD + 1500];
    size_t size = make(payload, script, VISITORS + 1);
    size_t head = udp_frame_encode_head(&from, (uint16_t)size, wire);
    memcpy(wire + head, payload, size);
    size_t cut = script_byte(script);
    cut = MIN(cut, head + size);
    say_to(fd, wire, cut);
    if (cut > 0)
        udp_rig_settle(&all.rig, (int)script_below(script, 4));
    say_to(fd, wire + cut, head + size - cut);
}

static void channel_close(size_t at)
{
    if (all.channels[at] < 0)
        return;
    tcp_close_now(all.channels[at]);
    all.channels[at] = -1;
}

/* Another channel, by the other side's rules; it may be refused. */
static void channel_open(size_t at)
{
    uint8_t bytes[MESSAGE_HELLO_SIZE];
    channel_close(at);
    all.wire_size[at] = all.wire_seen[at] = 0;
    if (all.is_server) {
        all.channels[at] = tcp_dial(&all.rig.control_addr);
        message_hello_encode(MESSAGE_HELLO_DATA, all.rig.session_key, bytes);
        if (all.channels[at] >= 0)
            say_to(all.channels[at], bytes, MESSAGE_HELLO_SIZE);
    } else {
        message_command_encode(MESSAGE_COMMAND_CREATE_CHANNEL, bytes);
        say_to(all.rig.control, bytes, MESSAGE_COMMAND_SIZE);
        udp_rig_settle(&all.rig, 6);
        all.channels[at] = accept4(all.rig.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (all.channels[at] < 0)
            return;
        udp_rig_settle(&all.rig, 3);
        message_data_command_encode(MESSAGE_DATA_START_UDP, bytes);
        say_to(all.channels[at], bytes, MESSAGE_DATA_COMMAND_SIZE);
    }
    if (all.channels[at] >= 0)
        (void)socket_set_nodelay(all.channels[at], true);
}

static void send_datagram(struct script *script)
{
    uint8_t payload[HEAD + 1500];
    if (all.is_server) {
        unsigned int from = script_below(script, VISITORS);
        say_to(all.visitors[from], payload, make(payload, script, from));
        return;
    }
    size_t size = make(payload, script, VISITORS);
    if (all.last_from.len != 0)
        (void)sendto(all.visitors[0], payload, size, MSG_DONTWAIT, &all.last_from.any,
                     all.last_from.len);
}

static void faults(struct script *script)
{
    unsigned int rest;
    struct fake_faults faults = script_faults(script, &rest);
    faults.reset = (rest & 1) != 0 ? 30 : 0;
    faults.enomem = (rest & 2) != 0 ? 30 : 0;
    fake_loop_set_faults(all.rig.worker.loop, &faults);
}

static void event_of_channel(struct script *script, uint8_t what)
{
    size_t at = script_below(script, CHANNELS);
    size_t size;
    if (what == 6) {
        channel_open(at);
        return;
    }
    if (all.channels[at] < 0)
        return;
    if (what <= 3) {
        say_frame(script, all.channels[at]);
    } else if (what == 4) {
        const uint8_t *piece = script_piece(script, 255, &size);
        all.has_wild_bytes |= size > 0;
        say_to(all.channels[at], piece, size);
    } else if (what == 5) {
        (void)shutdown(all.channels[at], SHUT_WR);
    } else {
        read_channel(at);
        channel_close(at);
    }
}

static void event(struct script *script)
{
    uint8_t what = script_byte(script) & 15;
    if (what <= 7)
        event_of_channel(script, what);
    else if (what <= 10)
        send_datagram(script);
    else if (what <= 12)
        udp_rig_settle(&all.rig, (int)script_below(script, 16));
    else if (what == 13)
        udp_rig_advance(&all.rig, script_byte(script) * 500u);
    else if (what == 14)
        faults(script);
    else
        look_at_all();
}

static void begin(void)
{
    memset(&all.last_from, 0, sizeof(all.last_from));
    memset(all.wire_size, 0, sizeof(all.wire_size));
    memset(all.wire_seen, 0, sizeof(all.wire_seen));
    all.sent_count = 0;
    all.has_wild_bytes = false;
    for (size_t i = 0; i < CHANNELS; i++)
        all.channels[i] = -1;
    for (size_t i = 0; i < VISITORS; i++)
        all.visitors[i] = -1;
    if (all.is_server)
        udp_rig_init_server(&all.rig, "127.0.0.1", "");
    else
        udp_rig_init_client(&all.rig, "");
    udp_rig_log_in(&all.rig);
    all.channels[0] = udp_rig_channel(&all.rig);
    all.wire_size[0] = first_bytes(all.wire[0]); /* which the rig has read */
    for (size_t i = 0; i < (all.is_server ? VISITORS : 1u); i++) {
        struct addr *own = &all.visitor_addrs[i];
        *own = all.is_server ? tcp_loopback(0) : all.rig.udp_addr;
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        FUZZ_CHECK(fd >= 0 && bind(fd, &own->any, own->len) == 0);
        FUZZ_CHECK(getsockname(fd, &own->any, &own->len) == 0);
        if (all.is_server)
            FUZZ_CHECK(connect(fd, &all.rig.udp_addr.any, all.rig.udp_addr.len) == 0);
        all.visitors[i] = fd;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fake_faults none;
    struct script script = {data, size};
    if (size < 2)
        return 0;
    fake_loop_set_buffers_most(8);
    all.is_server = (script_byte(&script) & 1) != 0;
    chance_begin(0);
    begin();
    for (int i = 0; i < EVENTS_MAX && !script_is_over(&script); i++)
        event(&script);
    fake_loop_set_faults(all.rig.worker.loop, &none);
    udp_rig_settle(&all.rig, 10);
    look_at_all();
    for (size_t i = 0; i < CHANNELS; i++)
        channel_close(i);
    tcp_abort_on_close(all.rig.control);
    for (size_t i = 0; i < VISITORS; i++) {
        if (all.visitors[i] >= 0)
            (void)close(all.visitors[i]);
    }
    udp_rig_settle(&all.rig, 10);
    for (int fd; !all.is_server && (fd = accept(all.rig.listener, NULL, NULL)) >= 0;)
        tcp_close_now(fd);
    udp_rig_finish(&all.rig);
    return 0;
}
