/* Datagrams in batches: up to UDP_BATCH_SIZE with one system call, in and out.
 *
 *     udp_batch_receive() -> arrivals [0..n)       valid until the next receive
 *     udp_batch_send()... -> udp_batch_flush()     payloads and routes stay valid until then
 *
 * One object per worker serves all of its sockets, with room for UDP_BATCH_SIZE whole datagrams in
 * memory that is touched only where datagrams have been and that udp_batch_trim gives back.
 *
 * Runs of payloads of one size to one route leave as one message that the kernel cuts
 * (UDP_SEGMENT); what a device can't cut is sent piece by piece, and smaller or never from then on.
 * An error of a datagram costs that datagram: it is counted by its reason, the rest goes on.
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
    /* What one arrival may be, so that owners can keep room for it. The kernel's largest message
     * has fewer bytes. It cuts one into at most so many datagrams (UDP_MAX_SEGMENTS: 64 up to Linux
     * 6.8, then 128), and what was cut on this machine arrives uncut; an arrival of more of them is
     * dropped and counted, or a later kernel's limit would decide about our memory. */
    UDP_ARRIVAL_BYTES_MAX = 65536,
    UDP_ARRIVAL_DATAGRAMS_MAX = 128,
};

/* A received datagram, or several of one sender, each segment_size long but the last. */
struct udp_arrival {
    const uint8_t *data; /* NULL: it is too much, and is counted */
    uint32_t size;
    uint32_t segment_size;   /* = size for a single one */
    const struct addr *from; /* len 0 on a connected socket */
    struct udp_local to;
};

/* How many datagrams it is. */
static inline uint32_t udp_arrival_count(const struct udp_arrival *arrival)
{
    if (arrival->size == arrival->segment_size)
        return 1; /* an empty one too */
    return (arrival->size + arrival->segment_size - 1) / arrival->segment_size;
}

/* Where datagrams go on a socket that is not connected. local: what they leave from; unknown = the
 * kernel chooses. */
struct udp_route {
    struct addr to;
    struct udp_local local;
};

MUST_CHECK int udp_batch_create(struct metrics *metrics, struct udp_batch **ret);
void udp_batch_destroy(struct udp_batch *batch); /* accepts NULL */
/* Gives the memory of large bursts back to the system. */
void udp_batch_trim(struct udp_batch *batch);

/* How many have arrived, at most UDP_BATCH_SIZE; fewer: there was no more. Or -errno: -EAGAIN, or
 * an error that waited on the socket (-ECONNREFUSED), which is counted and gone then. */
MUST_CHECK int udp_batch_receive(struct udp_batch *batch, struct udp_socket *udp);
/* Counts what the kernel has dropped on this socket; udp_batch_receive does it under load, owners
 * when they are done with the socket. */
void udp_batch_count_overflows(struct udp_batch *batch, struct udp_socket *udp);
/* The datagrams of the first `count` arrivals that fitted. */
uint64_t udp_batch_datagrams(const struct udp_batch *batch, unsigned int count);
const struct udp_arrival *udp_batch_arrival(const struct udp_batch *batch, unsigned int index);

/* Queues a datagram; another socket, or a full batch, flushes first. route NULL: connected. */
void udp_batch_send(struct udp_batch *batch, struct udp_socket *udp, const struct udp_route *route,
                    const void *data, size_t size);
void udp_batch_flush(struct udp_batch *batch);
