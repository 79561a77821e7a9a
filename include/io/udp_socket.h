/* UDP sockets of two kinds: those that visitors send to, one SO_REUSEPORT group per service, and
 * those that are connected to a local service. All are non-blocking. These features are used where
 * the kernel has them, and missing otherwise: the address that a datagram was sent to (ip(7),
 * ipv6(7)), UDP_GRO (one receive brings several datagrams of one size and sender; Linux 5.0),
 * UDP_SEGMENT (the same for sends; Linux 4.18), and the number of dropped datagrams (SO_MEMINFO,
 * Linux 4.12).
 *
 * The owner of a struct udp_socket owns its descriptor. There is no other state; any thread may
 * call. Errors are -errno. */
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
    int error;            /* of the last datagram that was not sent; the owner resets it */
    uint32_t overflows;   /* the sum of what udp_socket_take_overflows has returned */
    uint16_t segment_max; /* the largest datagram that UDP_SEGMENT may cut; 0 = not available */
    bool is_v6;
    bool is_connected;
};

/* The address of this machine that a datagram was sent to, v4-mapped for IPv4. All zero = unknown.
 */
struct udp_local {
    struct in6_addr addr;
    uint32_t ifindex; /* for link-local addresses only */
};

/* Binds count sockets to one address as an SO_REUSEPORT group. The kernel spreads the senders over
 * them, and sends all datagrams of one sender to the same socket. The first socket is bound without
 * SO_REUSEPORT, as in socket_bind_group (io/socket.h). "::" is dual-stack. On failure nothing is
 * left open. */
MUST_CHECK int udp_socket_bind_group(const struct addr *addr, int *ret_fds, size_t count);
/* Binds one more member of the group that holds the address, like socket_join_group. */
MUST_CHECK int udp_socket_join_group(const struct addr *addr, int *ret_fd);
/* Sets the options of an inherited socket. */
void udp_socket_adopt(int fd, const struct addr *addr);
/* Makes *udp of a member of a group; *udp owns fd from here on. */
void udp_socket_init(struct udp_socket *udp, int fd, const struct addr *bound);
/* Opens a socket that is connected to a local service. */
MUST_CHECK int udp_socket_connect(const struct addr *to, struct udp_socket *ret);
/* Connects it to the same service from another port, which the kernel chooses. -errno: it is not
 * connected any more. */
MUST_CHECK int udp_socket_change_port(struct udp_socket *udp, const struct addr *to);
/* The number of sockets that can be connected at a time: each takes a port of the system's range
 * (ip_local_port_range, ip(7)). */
unsigned int udp_socket_port_count(void);
/* Closes the socket. Its descriptor, and its port if it is connected, are free when this returns,
 * also when an op of the ring still holds the socket. */
void udp_socket_close(struct udp_socket *udp);
/* The same, and the socket *by moves to the descriptor number of *udp (dup3(2)), so that no other
 * thread can take that number in between. -errno: both are unchanged, apart from the port of
 * *udp. */
MUST_CHECK int udp_socket_replace(struct udp_socket *udp, struct udp_socket *by);
/* The number of datagrams that the kernel has dropped for lack of room since the last call.
 * docs/decisions.md, "The kernel's UDP drops are asked for, not received", says why there is no
 * SO_RXQ_OVFL. */
uint32_t udp_socket_take_overflows(struct udp_socket *udp);
/* The receive buffer in bytes that the kernel granted of LIMIT_UDP_SOCKET_BUFFER; 0 on error. */
size_t udp_socket_receive_room(int fd);
