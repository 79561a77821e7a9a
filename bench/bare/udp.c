/* Datagrams with recvmmsg and sendmmsg, a batch at a time.
 *
 *     visitors --> server ==hop==> client --> service, from a socket of each visitor's own
 *
 * On the hop the visitor's port and address stand before the payload. So the server knows nothing of its
 * visitors, and the client has a socket and an entry of its table for each. With segments the kernel
 * carries a run of datagrams to one target as one (UDP_SEGMENT, UDP_GRO). Datagrams that can't be sent
 * are lost. */
#include <errno.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "bare.h"

enum {
    BATCH = 64, /* messages of a system call */
    SEGMENTS_MAX = 64,
    SEGMENT_BYTES_MAX = 1472,  /* what a packet of 1,500 bytes carries; larger ones go alone */
    MESSAGE_BYTES_MAX = 65000, /* of a run */
    ROOM = 65536,
    STRIDE = ROOM + 17 * 64, /* at a power of two all messages would share a cache set */
    KEY_SIZE = 6,
    SOCKET_BUFFER = 4 << 20,
    EVENTS_MAX = 256,
    VISITORS_MAX = 60000,
    SLOTS = 1 << 17, /* of the table; a power of two */
    HOP = VISITORS_MAX,
    NEAR, /* the server's socket for all visitors */
};
_Static_assert(offsetof(struct sockaddr_in, sin_addr) ==
                   offsetof(struct sockaddr_in, sin_port) + sizeof(in_port_t),
               "port and address are the 6 bytes of a key");

struct datagram {
    struct sockaddr_in visitor; /* the target, if it goes to one */
    struct iovec payload;
};

union control {
    struct cmsghdr align;
    unsigned char bytes[CMSG_SPACE(sizeof(int))];
};

struct visitor {
    struct sockaddr_in address; /* seen from the server */
    int fd;
};

/* What goes out of a socket: one of these, for the time of a system call. */
struct outgoing {
    struct mmsghdr messages[BATCH];
    union control control[BATCH];
    struct iovec vectors[BATCH * SEGMENTS_MAX * 2];
    unsigned int count, vector_count;
    /* Of the last message. */
    unsigned int segments;
    size_t bytes, segment_bytes;
    bool is_closed; /* its last segment is a shorter one */
};

static struct {
    struct mmsghdr messages[BATCH];
    union control control[BATCH];
    struct iovec vectors[BATCH];
    struct sockaddr_in names[BATCH];
    unsigned char *room;
} incoming;
static struct outgoing outgoing;
static struct datagram datagrams[BATCH * SEGMENTS_MAX];
static struct visitor visitors[VISITORS_MAX];
static unsigned int visitor_count, segments_max = 1;
static uint16_t slots[SLOTS]; /* 0 or the number of a visitor + 1 */
static int poller, hop, near;

/* ---- in ---- */

static void incoming_expect(unsigned int i)
{
    incoming.messages[i].msg_hdr =
        (struct msghdr){.msg_name = &incoming.names[i],
                        .msg_namelen = sizeof(incoming.names[i]),
                        .msg_iov = &incoming.vectors[i],
                        .msg_iovlen = 1,
                        .msg_control = segments_max > 1 ? &incoming.control[i] : NULL,
                        .msg_controllen = segments_max > 1 ? sizeof(incoming.control[i]) : 0};
}

static void incoming_init(void)
{
    incoming.room = malloc((size_t)BATCH * STRIDE);
    if (incoming.room == NULL)
        fail("malloc");
    for (unsigned int i = 0; i < BATCH; i++) {
        incoming.vectors[i] = (struct iovec){incoming.room + (size_t)i * STRIDE, ROOM};
        incoming_expect(i);
    }
}

static size_t segment_size(struct msghdr *header, size_t all)
{
    int size = 0;
    struct cmsghdr *control = CMSG_FIRSTHDR(header);
    if (control != NULL && control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO)
        memcpy(&size, CMSG_DATA(control), sizeof(size));
    return size > 0 ? (size_t)size : all;
}

/* The datagrams of a message. from: who sent them; NULL: it stands before each of them. */
static unsigned int split(struct mmsghdr *message, const struct sockaddr_in *from,
                          struct datagram *into)
{
    unsigned char *bytes = message->msg_hdr.msg_iov->iov_base;
    size_t left = message->msg_len, size = segment_size(&message->msg_hdr, left);
    unsigned int count = 0;
    do {
        size_t now = left < size ? left : size, head = from != NULL ? 0 : KEY_SIZE;
        if (now < head || count == SEGMENTS_MAX)
            break; /* not from a server of ours */
        into[count].visitor.sin_family = AF_INET;
        if (from != NULL)
            into[count].visitor = *from;
        else
            memcpy(&into[count].visitor.sin_port, bytes, KEY_SIZE);
        into[count++].payload = (struct iovec){bytes + head, now - head};
        bytes += now;
        left -= now;
    } while (left > 0);
    return count;
}

/* Fills datagrams. what: the socket's name in events. */
static unsigned int receive(int fd, uint32_t what)
{
    int got = recvmmsg(fd, incoming.messages, BATCH, MSG_DONTWAIT, NULL);
    /* ECONNREFUSED: nothing listened at an earlier datagram's target. */
    if (got < 0 && errno != EAGAIN && errno != ECONNREFUSED && errno != EINTR)
        fail("recvmmsg");
    unsigned int count = 0;
    for (unsigned int i = 0; got > 0 && i < (unsigned int)got; i++) {
        const struct sockaddr_in *from = what == NEAR  ? &incoming.names[i]
                                         : what == HOP ? NULL
                                                       : &visitors[what].address;
        count += split(&incoming.messages[i], from, datagrams + count);
        incoming_expect(i);
    }
    return count;
}

/* ---- out ---- */

static bool is_same(const struct sockaddr_in *a, const struct sockaddr_in *b)
{
    return a->sin_port == b->sin_port && a->sin_addr.s_addr == b->sin_addr.s_addr;
}

static void outgoing_send(int fd)
{
    for (unsigned int at = 0; at < outgoing.count;) {
        int sent = sendmmsg(fd, outgoing.messages + at, outgoing.count - at, MSG_DONTWAIT);
        at += sent > 0 ? (unsigned int)sent : 1; /* an error is the first message's */
    }
    outgoing.count = outgoing.vector_count = 0;
}

/* Whether it can be one more segment of the last message. */
static bool outgoing_fits(const struct datagram *datagram, size_t size, bool named)
{
    if (outgoing.count == 0 || outgoing.is_closed || outgoing.segments >= segments_max ||
        size > outgoing.segment_bytes || size == 0 || outgoing.segment_bytes > SEGMENT_BYTES_MAX ||
        outgoing.bytes + size > MESSAGE_BYTES_MAX)
        return false;
    const struct mmsghdr *last = &outgoing.messages[outgoing.count - 1];
    return !named || is_same(last->msg_hdr.msg_name, &datagram->visitor);
}

static void outgoing_segment(struct msghdr *header)
{
    union control *control = &outgoing.control[outgoing.count - 1];
    uint16_t size = (uint16_t)outgoing.segment_bytes;
    control->align = (struct cmsghdr){.cmsg_level = SOL_UDP,
                                      .cmsg_type = UDP_SEGMENT,
                                      .cmsg_len = CMSG_LEN(sizeof(size))};
    memcpy(CMSG_DATA(&control->align), &size, sizeof(size));
    header->msg_control = control;
    header->msg_controllen = CMSG_SPACE(sizeof(size));
}

/* named: to the visitor, from a socket that is not connected. */
static void outgoing_add(int fd, struct datagram *datagram, bool named)
{
    size_t size = datagram->payload.iov_len + (fd == hop ? KEY_SIZE : 0);
    if (!outgoing_fits(datagram, size, named)) {
        if (outgoing.count == BATCH)
            outgoing_send(fd);
        outgoing.messages[outgoing.count++].msg_hdr =
            (struct msghdr){.msg_name = named ? &datagram->visitor : NULL,
                            .msg_namelen = named ? sizeof(datagram->visitor) : 0,
                            .msg_iov = &outgoing.vectors[outgoing.vector_count]};
        outgoing.segments = 0;
        outgoing.bytes = 0;
        outgoing.segment_bytes = size;
        outgoing.is_closed = false;
    }
    struct msghdr *header = &outgoing.messages[outgoing.count - 1].msg_hdr;
    unsigned int before = outgoing.vector_count;
    if (fd == hop)
        outgoing.vectors[outgoing.vector_count++] =
            (struct iovec){&datagram->visitor.sin_port, KEY_SIZE};
    outgoing.vectors[outgoing.vector_count++] = datagram->payload;
    header->msg_iovlen += outgoing.vector_count - before;
    outgoing.bytes += size;
    outgoing.is_closed = size < outgoing.segment_bytes;
    if (++outgoing.segments == 2)
        outgoing_segment(header);
}

static void forward(int fd, unsigned int first, unsigned int end, bool named)
{
    for (unsigned int i = first; i < end; i++)
        outgoing_add(fd, &datagrams[i], named);
    outgoing_send(fd);
}

/* ---- sockets ---- */

static void watch(int fd, uint32_t what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = what};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

static int open_socket(const struct sockaddr_in *here, const struct sockaddr_in *onward)
{
    const int room = SOCKET_BUFFER, on = 1;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) != 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    if (segments_max > 1 && setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof(on)) != 0)
        fail("UDP_GRO");
    if (here != NULL && bind(fd, (const struct sockaddr *)here, sizeof(*here)) != 0)
        fail("bind");
    if (onward != NULL && connect(fd, (const struct sockaddr *)onward, sizeof(*onward)) != 0)
        fail("connect");
    return fd;
}

static int visitor_socket(const struct sockaddr_in *address, const struct bare *bare)
{
    uint32_t hash = (address->sin_addr.s_addr ^ (uint32_t)address->sin_port << 16) * 0x9e3779b1u;
    uint32_t slot = hash / (UINT32_MAX / SLOTS + 1);
    for (; slots[slot] != 0; slot = (slot + 1) % SLOTS) {
        if (is_same(&visitors[slots[slot] - 1].address, address))
            return visitors[slots[slot] - 1].fd;
    }
    errno = ENOSPC;
    if (visitor_count == VISITORS_MAX)
        fail("visitors");
    int fd = open_socket(NULL, &bare->onward);
    visitors[visitor_count] = (struct visitor){.address = *address, .fd = fd};
    watch(fd, visitor_count);
    slots[slot] = (uint16_t)++visitor_count;
    return fd;
}

/* ---- the loop ---- */

/* To the service: a call for each run of datagrams of one visitor. */
static void client_out(unsigned int count, const struct bare *bare)
{
    for (unsigned int first = 0, end; first < count; first = end) {
        const struct sockaddr_in *visitor = &datagrams[first].visitor;
        for (end = first + 1; end < count && is_same(visitor, &datagrams[end].visitor);)
            end++;
        forward(visitor_socket(visitor, bare), first, end, false);
    }
}

static void step(uint32_t what, const struct bare *bare)
{
    unsigned int count = receive(what == HOP ? hop : what == NEAR ? near : visitors[what].fd, what);
    if (what != HOP)
        forward(hop, 0, count, false);
    else if (bare->is_server)
        forward(near, 0, count, true);
    else
        client_out(count, bare);
}

static void open_ends(const struct bare *bare)
{
    if (bare->is_server) {
        hop = open_socket(NULL, &bare->onward);
        near = open_socket(&bare->here, NULL);
        watch(near, NEAR);
    } else {
        struct sockaddr_in server;
        socklen_t size = sizeof(server);
        hop = open_socket(&bare->here, NULL);
        /* The first datagram says where the server is. */
        if (recvfrom(hop, NULL, 0, MSG_PEEK, (struct sockaddr *)&server, &size) < 0 ||
            connect(hop, (struct sockaddr *)&server, size) != 0)
            fail("hop");
    }
    watch(hop, HOP);
}

static _Noreturn void run(const struct bare *bare)
{
    incoming_init();
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        fail("epoll_create1");
    open_ends(bare);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(poller, events, EVENTS_MAX, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++)
            step(events[i].data.u32, bare);
    }
}

void bare_udp(const struct bare *bare)
{
    run(bare);
}

void bare_udp_segments(const struct bare *bare)
{
    segments_max = SEGMENTS_MAX;
    run(bare);
}
