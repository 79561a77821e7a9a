/* What the kernel knows about the peer of a TCP connection (TCP_INFO, tcp(7)), and how to make the
 * kernel ask whether the peer is alive. No state; any thread may call. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

struct socket_life {
    uint32_t unacked;    /* segments sent and not acknowledged; an end of stream counts as one */
    uint32_t unsent;     /* bytes that wait to be sent for the first time */
    uint32_t window;     /* bytes that the peer is ready to receive (since Linux 5.4) */
    uint32_t heard_ms;   /* time since the peer's last acknowledgement or data */
    uint32_t rto_ms;     /* the present retransmission timeout */
    uint8_t retransmits; /* timeouts since anything new was acknowledged */
    uint8_t probes;      /* unanswered probes: of a closed window, or keepalive */
};

/* -errno: fd is no TCP socket. */
MUST_CHECK int socket_life(int fd, struct socket_life *ret);

struct socket_keepalive {
    uint16_t idle_secs, interval_secs;
    bool on;
};

/* Makes the kernel ask whether the peer is alive: it sends a keepalive probe at once if it has not
 * heard the peer for a second, then one every LIMIT_ASK_INTERVAL_S. The kernel sends no probe while
 * bytes are outstanding. The socket's former keepalive settings go to *ret. */
void socket_ask(int fd, struct socket_keepalive *ret);
/* Ends the probes: restores the former keepalive settings. */
void socket_stop_asking(int fd, const struct socket_keepalive *keepalive);
