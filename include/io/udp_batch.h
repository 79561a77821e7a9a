/* Datagrams in batches: one recvmmsg(2) or sendmmsg(2) moves up to UDP_BATCH_SIZE messages.
 *
 *     udp_batch_receive() -> arrivals [0..n)       valid until the next receive
 *     udp_batch_send()... -> udp_batch_flush()     payloads and routes stay valid until then
 *
 * One object per worker serves all sockets of the worker. It reserves memory for UDP_BATCH_SIZE
 * datagrams of the largest size. Pages become resident when datagrams arrive in them, and
 * udp_batch_trim gives them back.
 *
 * Consecutive payloads of one size and one route leave as one message, which the kernel cuts into
 * datagrams (UDP_SEGMENT, udp(7), Linux 4.18). If the device can't cut a message, its datagrams are
 * sent one by one, and from then on this socket builds only messages of smaller datagrams, or none.
 * A datagram that fails is dropped and counted by its reason; the others still go out.
 *
 * Used by its worker's thread alone. Never blocks. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/addr.h"
#include "base/macros.h"
#include "io/udp_socket.h"

struct metrics;
struct udp_batch;

enum udp_batch_sizes {
    UDP_BATCH_SIZE = 64,
    /* The largest arrival, so that owners can reserve room for it. A message of the kernel has
     * fewer bytes. The kernel cuts a message into at most UDP_MAX_SEGMENTS datagrams (64 up to
     * Linux 6.8, then 128), and a message from this machine arrives uncut. An arrival of more
     * datagrams is dropped and counted: a later kernel must not raise the memory that we need. */
    UDP_ARRIVAL_BYTES_MAX = 65536,
    UDP_ARRIVAL_DATAGRAMS_MAX = 128,
};

/* One received datagram, or several of one sender that the kernel has joined (UDP_GRO). All but the
 * last have segment_size bytes. */
struct udp_arrival {
    const uint8_t *data; /* NULL: too large, and already counted as dropped */
    uint32_t size;
    uint32_t segment_size;   /* = size for a single one */
    const struct addr *from; /* len 0 on a connected socket */
    struct udp_local to;
};

/* The number of datagrams in an arrival. */
static inline uint32_t udp_arrival_count(const struct udp_arrival *arrival)
{
    if (arrival->size == arrival->segment_size)
        return 1; /* also for an empty datagram, where both are 0 */
    return (arrival->size + arrival->segment_size - 1) / arrival->segment_size;
}

/* The destination of datagrams on a socket that is not connected, and their source address. If
 * `local` is all zero, the kernel chooses the source address. */
struct udp_route {
    struct addr to;
    struct udp_local local;
};

/* -ENOMEM. metrics is borrowed and outlives the batch. */
MUST_CHECK int udp_batch_create(struct metrics *metrics, struct udp_batch **ret);
void udp_batch_destroy(struct udp_batch *batch); /* accepts NULL */
/* Gives the pages that a burst has touched back to the system. */
void udp_batch_trim(struct udp_batch *batch);

/* Receives without blocking. Returns the number of arrivals, at most UDP_BATCH_SIZE; fewer than
 * that means that the socket is empty. -EAGAIN: nothing has arrived. Any other -errno is an error
 * that was pending on the socket (-ECONNREFUSED, for example); it is counted, and the socket no
 * longer has it. */
MUST_CHECK int udp_batch_receive(struct udp_batch *batch, struct udp_socket *udp);
/* Adds the datagrams that the kernel has dropped on this socket to the metrics. udp_batch_receive
 * does so after a full batch; owners call this at expiry and when they close the socket.
 * docs/decisions.md, "The kernel's UDP drops are asked for, not received". */
void udp_batch_count_overflows(struct udp_batch *batch, struct udp_socket *udp);
/* The number of datagrams in the first `count` arrivals, without those that were too large. */
uint64_t udp_batch_datagrams(const struct udp_batch *batch, unsigned int count);
const struct udp_arrival *udp_batch_arrival(const struct udp_batch *batch, unsigned int index);

/* Queues a datagram. A datagram for another socket, or a full batch, flushes first. route is NULL
 * on a connected socket. */
void udp_batch_send(struct udp_batch *batch, struct udp_socket *udp, const struct udp_route *route,
                    const void *data, size_t size);
/* Sends what is queued. A failure drops and counts datagrams, and stays in udp->error. */
void udp_batch_flush(struct udp_batch *batch);
