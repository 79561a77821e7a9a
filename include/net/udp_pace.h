/* When datagrams are received: at once, or after they have gathered for a moment.
 *
 * A dense stream in one direction wakes both ends for every one or two datagrams, and a wake-up
 * costs tens of times what a datagram does. So such a stream gathers, for at most
 * LIMIT_UDP_PAUSE_US; a later datagram of it does not wait longer than the first one did. Never
 * where answers come back at a like rate, or did lately: there somebody waits for each.
 *
 *     ready --udp_pace_ready()--> pause --> receive --udp_pace_received()--> pause --> receive ...
 *                                                              '--> 0: wait until ready
 *
 * A steady stream goes on from pause to pause, which is one wake-up for each. One that comes in
 * bursts, as from senders that work by a clock, is waited for between them, or every second pause
 * would be in vain.
 *
 * Pure: no clock, no socket. Times in ns. Belongs to a data channel, and to one direction of it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct udp_pace {
    uint64_t look_began_ns;  /* of the last look at how much comes */
    uint64_t answered_at_ns; /* the last look that saw answers at a like rate */
    uint64_t idle_since_ns;  /* readiness is waited for since then */
    uint32_t put, answered;  /* datagrams of this look, in this direction and the other */
    uint32_t pause_ns;       /* 0: not dense, or not in this direction alone */
    bool steady, behind;
};

void udp_pace_init(struct udp_pace *pace, uint64_t now_ns);

static inline void udp_pace_count(struct udp_pace *pace, uint32_t put, uint32_t answered)
{
    pace->put += put;
    pace->answered += answered;
}

/* There is something to receive, which was waited for. How long to leave it there; 0: receive. */
uint64_t udp_pace_ready(struct udp_pace *pace, uint64_t now_ns);
/* `datagrams` have been received and counted, and there were no more. How long to pause before the
 * next look; 0: wait until there is something. */
uint64_t udp_pace_received(struct udp_pace *pace, uint32_t datagrams, uint64_t now_ns);
