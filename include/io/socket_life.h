/* What the kernel knows of the other end of a TCP connection (TCP_INFO), and how to have it ask.
 * No state, any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

struct socket_life {
    uint32_t unacked;    /* segments sent and not acknowledged, an end of stream among them */
    uint32_t unsent;     /* bytes that wait to be sent for the first time */
    uint32_t window;     /* bytes that the peer is ready to receive */
    uint32_t heard_ms;   /* since the peer's last acknowledgement or data */
    uint32_t rto_ms;     /* until the present retransmission timer fires, from its start */
    uint8_t retransmits; /* by that timer, since anything new was acknowledged */
    uint8_t probes;      /* unanswered, of a closed window or by keepalive */
};

/* -errno: not a TCP socket, or none at all. */
MUST_CHECK int socket_life(int fd, struct socket_life *ret);

struct socket_keepalive {
    uint16_t idle_secs, interval_secs;
    bool on;
};

/* Has the kernel ask the peer whether it is there: a keepalive probe at once, if a second has
 * passed since the peer was heard, and then one every LIMIT_ASK_INTERVAL_S. The kernel asks
 * nothing while bytes are outstanding. What is set now goes to *ret. */
void socket_ask(int fd, struct socket_keepalive *ret);
/* Ends that: keepalive is as it was. */
void socket_stop_asking(int fd, const struct socket_keepalive *keepalive);
