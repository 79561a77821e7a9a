/* UDP sockets: those that visitors send to, as one group for the lanes of a service, and connected
 * ones towards a local service. All are non-blocking. What the kernel can't do is left out: the
 * address that a datagram was sent to, UDP_GRO (several datagrams of one size and sender in one
 * receive), UDP_SEGMENT (the same for sending), how many it dropped.
 *
 * The descriptor is the owner's. No other state than struct udp_socket; any thread. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/macros.h"

/* An open socket, as io/udp_batch.h uses it. */
struct udp_socket {
    int fd;
    int error;            /* of the last datagram that could not be sent; the owner resets it */
    uint32_t overflows;   /* udp_socket_take_overflows, all so far */
    uint16_t segment_max; /* the largest datagram that UDP_SEGMENT may cut; 0 = not here */
    bool is_v6;
    bool is_connected;
};

/* The own address that a datagram came to, v4-mapped for IPv4. All zero = not known. */
struct udp_local {
    struct in6_addr addr;
    uint32_t ifindex; /* for link-local addresses only */
};

/* Binds count sockets to one address as a reuseport group, so that the kernel spreads senders over
 * them and each sender stays where it is. As socket_bind_group (io/socket.h) the first is bound
 * without SO_REUSEPORT. "::" is dual-stack. On failure nothing is left open. */
MUST_CHECK int udp_socket_bind_group(const struct addr *addr, int *ret_fds, size_t count);
/* One more member of the group that holds the address already, and a socket that was inherited: see
 * io/socket.h. */
MUST_CHECK int udp_socket_join_group(const struct addr *addr, int *ret_fd);
void udp_socket_adopt(int fd, const struct addr *addr);
/* A member of a group, ready for batches. */
void udp_socket_init(struct udp_socket *udp, int fd, const struct addr *bound);
/* A socket connected to a local service. */
MUST_CHECK int udp_socket_connect(const struct addr *to, struct udp_socket *ret);
/* How many of those there can be at a time: each takes a port of the system's range. */
unsigned int udp_socket_port_count(void);
/* Its descriptor, and if it is connected its port, are free when this returns, whatever the ring
 * still does with it. */
void udp_socket_close(struct udp_socket *udp);
/* The same, and *by gets its descriptor's number: nobody else can take it in between. -errno: *by
 * keeps its own, and *udp is still open. */
MUST_CHECK int udp_socket_replace(struct udp_socket *udp, struct udp_socket *by);
/* Datagrams that the kernel has dropped for want of room since the last call. To be asked
 * under load and at the end: SO_RXQ_OVFL, which tells it with each datagram, costs 4 % of all that
 * a busy worker does. */
uint32_t udp_socket_take_overflows(struct udp_socket *udp);
/* What the kernel granted of LIMIT_UDP_SOCKET_BUFFER for receiving. */
size_t udp_socket_receive_room(int fd);
