/* The local ports that connected UDP sockets have just given back. The kernel may give such a port
 * to the next socket at once. An answer to the old socket's visitor that is still on its way would
 * then reach the new socket, and another visitor. So a port rests for a second, and a new socket
 * that got one takes another.
 *
 * What this does not catch: an answer that takes longer than that; the ports of the process that
 * ran before; and if most ports of the system's range (ip_local_port_range, ip(7)) rest or are in
 * use, a resting one is taken all the same, because a visitor without a socket would lose all its
 * answers.
 *
 * Shared by all workers; all fields are atomic. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/macros.h"
#include "io/udp_socket.h"

enum { UDP_PORTS_REST_MS = 1000 };

struct udp_ports {
    _Atomic uint64_t latest_ns;     /* when a port was given back last; 0: never */
    _Atomic uint8_t *given_back_at; /* owned; by port; see udp_ports.c */
};

/* -ENOMEM. udp_ports_finish accepts a zeroed object. */
MUST_CHECK int udp_ports_init(struct udp_ports *ports);
void udp_ports_finish(struct udp_ports *ports);
/* A connected socket is about to be closed, now_ns of a loop's clock. */
void udp_ports_give_back(struct udp_ports *ports, const struct udp_socket *udp, uint64_t now_ns);
/* Opens a socket that is connected to a local service, from a port that does not rest. -errno as
 * udp_socket_connect. */
MUST_CHECK int udp_ports_connect(struct udp_ports *ports, const struct addr *to, uint64_t now_ns,
                                 struct udp_socket *ret);
