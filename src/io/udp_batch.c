#include "io/udp_batch.h"

#include <assert.h>
#include <errno.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/limits.h"
#include "base/metrics.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum {
    /* An odd number of cache lines: at a power of two all datagrams would share one cache set. */
    ROOM_STRIDE = UDP_ARRIVAL_BYTES_MAX + 17 * 64,
    ROOM_TOTAL = ROOM_STRIDE * UDP_BATCH_SIZE,
    VECTORS = 1024,
    SEGMENTS_MAX = 64,     /* datagrams in one message: UDP_MAX_SEGMENTS of Linux 6.1 */
    SEGMENTED_MAX = 65000, /* bytes in one message: below the largest IP packet */
    RECEIVE_CONTROL = 64,  /* for an in6_pktinfo and an int */
    CONTROL_LOCAL = CMSG_SPACE(sizeof(struct in6_pktinfo)),
    CONTROL_SEGMENT = CMSG_SPACE(sizeof(uint16_t)),
};

union receive_control {
    struct cmsghdr align;
    unsigned char bytes[RECEIVE_CONTROL];
};
static_assert(RECEIVE_CONTROL >= CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)),
              "room for all control messages that are switched on");

union send_control {
    struct cmsghdr align;
    unsigned char bytes[CONTROL_LOCAL + CONTROL_SEGMENT];
};

struct receiving {
    unsigned char *room;
    struct mmsghdr messages[UDP_BATCH_SIZE];
    struct iovec vectors[UDP_BATCH_SIZE];
    struct addr from[UDP_BATCH_SIZE];
    union receive_control control[UDP_BATCH_SIZE];
    struct udp_arrival arrivals[UDP_BATCH_SIZE];
};

/* A message under construction: consecutive datagrams for one route. */
struct run {
    const struct udp_route *route;
    uint32_t bytes;
    uint16_t segment_size; /* the size of the first datagram */
    bool is_open;          /* more datagrams may be added */
};

struct sending {
    struct udp_socket *udp; /* the socket that all messages leave from */
    unsigned int count, vector_count;
    struct mmsghdr messages[UDP_BATCH_SIZE];
    struct run runs[UDP_BATCH_SIZE];
    union send_control control[UDP_BATCH_SIZE];
    struct iovec vectors[VECTORS];
};

struct udp_batch {
    struct metrics *metrics;
    struct receiving in;
    struct sending out;
};

int udp_batch_create(struct metrics *metrics, struct udp_batch **ret)
{
    struct udp_batch *batch = calloc(1, sizeof(*batch));
    if (batch == NULL)
        return -ENOMEM;
    batch->metrics = metrics;
    void *room = mmap(NULL, ROOM_TOTAL, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
        free(batch);
        return -ENOMEM;
    }
    struct receiving *in = &batch->in;
    in->room = room;
    for (size_t i = 0; i < UDP_BATCH_SIZE; i++) {
        in->vectors[i] = (struct iovec){in->room + i * ROOM_STRIDE, UDP_ARRIVAL_BYTES_MAX};
        in->messages[i].msg_hdr.msg_iov = &in->vectors[i];
        in->messages[i].msg_hdr.msg_iovlen = 1;
        in->messages[i].msg_hdr.msg_control = &in->control[i];
    }
    *ret = batch;
    return 0;
}

void udp_batch_destroy(struct udp_batch *batch)
{
    if (batch == NULL)
        return;
    (void)munmap(batch->in.room, ROOM_TOTAL);
    free(batch);
}

void udp_batch_trim(struct udp_batch *batch)
{
    (void)madvise(batch->in.room, ROOM_TOTAL, MADV_DONTNEED);
}

/* ---- reasons for drops ---- */

static enum metric reason_of(int error)
{
    switch (-error) {
    case EPERM:
    case EACCES: /* also for a broadcast address */
        return METRIC_UDP_DROPPED_DENIED;
    case EAGAIN:
    case ENOBUFS:
    case ENOMEM:
        return METRIC_UDP_DROPPED_NO_BUFFERS;
    case EMSGSIZE:
        return METRIC_UDP_DROPPED_TOO_LARGE;
    case ECONNREFUSED:
        return METRIC_UDP_DROPPED_REFUSED;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case ENONET:
        return METRIC_UDP_DROPPED_UNREACHABLE;
    default:
        return METRIC_UDP_DROPPED_OTHER;
    }
}

/* ---- receiving ---- */

static void take_local(const struct cmsghdr *header, struct udp_local *ret)
{
    if (header->cmsg_level == IPPROTO_IPV6) {
        struct in6_pktinfo info;
        memcpy(&info, CMSG_DATA(header), sizeof(info));
        if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr))
            return;
        ret->addr = info.ipi6_addr;
        if (IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr))
            ret->ifindex = info.ipi6_ifindex;
        return;
    }
    struct in_pktinfo info;
    memcpy(&info, CMSG_DATA(header), sizeof(info));
    ret->addr.s6_addr[10] = ret->addr.s6_addr[11] = 0xff;
    memcpy(&ret->addr.s6_addr[12], &info.ipi_spec_dst, sizeof(info.ipi_spec_dst));
}

static void take_control(struct msghdr *message, struct udp_arrival *arrival)
{
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL;
         header = CMSG_NXTHDR(message, header)) {
        if ((header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) ||
            (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO)) {
            take_local(header, &arrival->to);
        } else if (header->cmsg_level == IPPROTO_UDP && header->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(header), sizeof(size));
            if (size > 0 && (uint32_t)size < arrival->size)
                arrival->segment_size = (uint32_t)size;
        }
    }
}

static void take_arrival(struct udp_batch *batch, unsigned int index)
{
    struct receiving *in = &batch->in;
    struct mmsghdr *message = &in->messages[index];
    struct udp_arrival *arrival = &in->arrivals[index];
    arrival->data = in->vectors[index].iov_base;
    arrival->size = arrival->segment_size = message->msg_len;
    memset(&arrival->to, 0, sizeof(arrival->to));
    arrival->from = &in->from[index];
    in->from[index].len = message->msg_hdr.msg_namelen;
    if (message->msg_hdr.msg_controllen > 0)
        take_control(&message->msg_hdr, arrival);
    if ((message->msg_hdr.msg_flags & MSG_TRUNC) != 0) {
        metrics_add(batch->metrics, METRIC_UDP_DROPPED_TOO_LARGE, 1);
        arrival->data = NULL;
    } else if (udp_arrival_count(arrival) > UDP_ARRIVAL_DATAGRAMS_MAX) {
        metrics_add(batch->metrics, METRIC_UDP_DROPPED_TOO_LARGE, udp_arrival_count(arrival));
        arrival->data = NULL;
    }
}

void udp_batch_count_overflows(struct udp_batch *batch, struct udp_socket *udp)
{
    metrics_add(batch->metrics, METRIC_UDP_DROPPED_KERNEL, udp_socket_take_overflows(udp));
}

int udp_batch_receive(struct udp_batch *batch, struct udp_socket *udp)
{
    struct receiving *in = &batch->in;
    /* The last receive has overwritten these fields. */
    for (size_t i = 0; i < UDP_BATCH_SIZE; i++) {
        struct msghdr *message = &in->messages[i].msg_hdr;
        message->msg_name = udp->is_connected ? NULL : &in->from[i].any;
        message->msg_namelen = udp->is_connected ? 0 : sizeof(in->from[i].v6);
        message->msg_controllen = sizeof(in->control[i]);
    }
    int count = recvmmsg(udp->fd, in->messages, UDP_BATCH_SIZE, MSG_DONTWAIT, NULL);
    if (count < 0) {
        int error = -errno;
        if (error != -EAGAIN && error != -EINTR)
            metrics_add(batch->metrics, reason_of(error), 1);
        return error;
    }
    for (unsigned int i = 0; i < (unsigned int)count; i++)
        take_arrival(batch, i);
    if (count == UDP_BATCH_SIZE)
        udp_batch_count_overflows(batch, udp); /* a long queue may have overflowed */
    return count;
}

const struct udp_arrival *udp_batch_arrival(const struct udp_batch *batch, unsigned int index)
{
    assert(index < UDP_BATCH_SIZE);
    return &batch->in.arrivals[index];
}

uint64_t udp_batch_datagrams(const struct udp_batch *batch, unsigned int count)
{
    uint64_t sum = 0;
    for (unsigned int i = 0; i < count; i++) {
        const struct udp_arrival *arrival = udp_batch_arrival(batch, i);
        if (arrival->data != NULL) /* else it was too large and is counted already */
            sum += udp_arrival_count(arrival);
    }
    return sum;
}

/* ---- building messages ---- */

static void *add_control(struct msghdr *message, int level, int type, size_t size)
{
    struct cmsghdr *header =
        (struct cmsghdr *)(void *)((unsigned char *)message->msg_control + message->msg_controllen);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(size);
    message->msg_controllen += CMSG_SPACE(size);
    return CMSG_DATA(header);
}

static void add_local(struct msghdr *message, bool is_v6, const struct udp_local *local)
{
    if (IN6_IS_ADDR_UNSPECIFIED(&local->addr))
        return;
    if (is_v6) {
        struct in6_pktinfo info = {.ipi6_addr = local->addr, .ipi6_ifindex = local->ifindex};
        memcpy(add_control(message, IPPROTO_IPV6, IPV6_PKTINFO, sizeof(info)), &info, sizeof(info));
    } else {
        struct in_pktinfo info = {.ipi_ifindex = 0};
        memcpy(&info.ipi_spec_dst, &local->addr.s6_addr[12], sizeof(info.ipi_spec_dst));
        memcpy(add_control(message, IPPROTO_IP, IP_PKTINFO, sizeof(info)), &info, sizeof(info));
    }
}

static void begin_run(struct sending *out, const struct udp_route *route, size_t size)
{
    struct msghdr *message = &out->messages[out->count].msg_hdr;
    *message = (struct msghdr){
        .msg_iov = &out->vectors[out->vector_count],
        .msg_control = &out->control[out->count],
    };
    if (route != NULL) {
        message->msg_name = (void *)(uintptr_t)&route->to.any; /* the kernel only reads it */
        message->msg_namelen = route->to.len;
        add_local(message, out->udp->is_v6, &route->local);
    }
    out->runs[out->count] = (struct run){
        .route = route,
        .segment_size = (uint16_t)size,
        .is_open = size > 0 && size <= out->udp->segment_max,
    };
    out->count++;
}

static void extend_run(struct sending *out, const void *data, size_t size)
{
    struct run *run = &out->runs[out->count - 1];
    struct msghdr *message = &out->messages[out->count - 1].msg_hdr;
    message->msg_iov[message->msg_iovlen++] = (struct iovec){(void *)(uintptr_t)data, size};
    out->vector_count++;
    run->bytes += (uint32_t)size;
    /* Only the last datagram of a message may be shorter (udp(7)). */
    if (size != run->segment_size || message->msg_iovlen == SEGMENTS_MAX)
        run->is_open = false;
}

static bool fits_run(const struct sending *out, const struct udp_route *route, size_t size)
{
    if (out->count == 0)
        return false;
    const struct run *run = &out->runs[out->count - 1];
    return run->is_open && run->route == route && size > 0 && size <= run->segment_size &&
           run->bytes + size <= SEGMENTED_MAX;
}

void udp_batch_send(struct udp_batch *batch, struct udp_socket *udp, const struct udp_route *route,
                    const void *data, size_t size)
{
    struct sending *out = &batch->out;
    if (out->udp != udp || out->vector_count == VECTORS)
        udp_batch_flush(batch);
    out->udp = udp;
    if (!fits_run(out, route, size)) {
        if (out->count == UDP_BATCH_SIZE) {
            udp_batch_flush(batch);
            out->udp = udp;
        }
        begin_run(out, route, size);
    }
    extend_run(out, data, size);
}

/* ---- sending ---- */

static void count_dropped(struct udp_batch *batch, struct udp_socket *udp, int error, size_t count)
{
    udp->error = error;
    metrics_add(batch->metrics, reason_of(error), count);
}

static int send_one(const struct udp_socket *udp, const struct msghdr *message)
{
    ssize_t sent;
    do {
        sent = sendmsg(udp->fd, message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

/* FALLBACK(no checksum offload, or datagrams above the MTU): the device can't cut this message, so
 * its datagrams are sent one by one. */
static void send_pieces(struct udp_batch *batch, unsigned int index, int error)
{
    struct udp_socket *udp = batch->out.udp;
    struct msghdr *message = &batch->out.messages[index].msg_hdr;
    message->msg_controllen -= CONTROL_SEGMENT;
    bool works = false;
    for (size_t left = message->msg_iovlen; left > 0; left--, message->msg_iov++) {
        message->msg_iovlen = 1;
        int result = send_one(udp, message);
        if (result == -EINVAL && message->msg_controllen > 0) {
            message->msg_controllen = 0; /* as in handle_refused */
            result = send_one(udp, message);
        }
        if (result < 0)
            count_dropped(batch, udp, result, 1);
        else
            works = true;
    }
    if (works) {
        uint16_t size = batch->out.runs[index].segment_size;
        udp->segment_max = error == -EIO ? 0 : MIN(udp->segment_max, (uint16_t)(size - 1));
    }
}

/* The kernel has refused a message. True: the message is done with; false: try it again. */
static bool handle_refused(struct udp_batch *batch, unsigned int index, int error, bool first_try)
{
    struct udp_socket *udp = batch->out.udp;
    struct msghdr *message = &batch->out.messages[index].msg_hdr;
    bool about_this = error == -EAGAIN || error == -EINVAL || error == -EMSGSIZE || error == -EIO;
    if (error == -EINTR)
        return false;
    if (udp->is_connected && first_try && !about_this) {
        count_dropped(batch, udp, error, 1); /* the error of an earlier datagram (ICMP) */
        return false;
    }
    if (udp->is_connected && first_try && error == -EMSGSIZE && message->msg_iovlen == 1)
        return false; /* perhaps a router's word about an earlier one; it may be this one's own */
    if (message->msg_iovlen > 1 && about_this && error != -EAGAIN) {
        send_pieces(batch, index, error);
        return true;
    }
    if (error == -EINVAL && first_try && message->msg_controllen > 0) {
        /* The source address is no longer ours, or is a broadcast address: let the kernel choose.
         */
        message->msg_controllen = 0;
        return false;
    }
    count_dropped(batch, udp, error, message->msg_iovlen);
    return true;
}

static void add_segment_sizes(struct sending *out)
{
    for (unsigned int i = 0; i < out->count; i++) {
        struct msghdr *message = &out->messages[i].msg_hdr;
        if (message->msg_iovlen < 2)
            continue;
        uint16_t size = out->runs[i].segment_size;
        memcpy(add_control(message, IPPROTO_UDP, UDP_SEGMENT, sizeof(size)), &size, sizeof(size));
    }
}

void udp_batch_flush(struct udp_batch *batch)
{
    struct sending *out = &batch->out;
    struct udp_socket *udp = out->udp;
    bool first_try = true;
    add_segment_sizes(out);
    for (unsigned int at = 0; at < out->count;) {
        int sent =
            sendmmsg(udp->fd, &out->messages[at], out->count - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            at += (unsigned int)sent;
            first_try = true;
        } else if (handle_refused(batch, at, sent < 0 ? -errno : -EINVAL, first_try)) {
            /* Later messages are tried even if the socket is full: a smaller one may fit. */
            at++;
            first_try = true;
        } else {
            first_try = false;
        }
    }
    out->count = out->vector_count = 0;
    out->udp = NULL;
}
