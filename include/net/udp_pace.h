/* Decides when datagrams are received: at once, or after a pause in which they gather.
 *
 * A dense stream in one direction wakes server and client for every one or two datagrams, and a
 * wake-up costs tens of times as much as a datagram. So such a stream is received after a pause of
 * at most LIMIT_UDP_PAUSE_US, which is the longest delay of any datagram. There is no pause while
 * answers come back at a similar rate, nor shortly after: then a peer waits for each answer.
 * docs/decisions.md, "Dense one-way UDP streams gather for up to 1 ms", has the figures.
 *
 *     ready --udp_pace_ready()--> pause --> receive --udp_pace_received()--> pause --> receive ...
 *                                                              '--> 0: wait until ready
 *
 * A steady stream goes from pause to pause, with one wake-up each. Between the bursts of a stream
 * whose sender works by a clock, the owner waits for readiness instead, because every second pause
 * would find nothing.
 *
 * Pure: no clock, no socket. Times are monotonic nanoseconds. One object per data channel, for the
 * direction from the sockets to the channel. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct udp_pace {
    uint64_t look_began_ns;  /* when the present measurement of the rates began */
    uint64_t answered_at_ns; /* the last measurement with answers at a similar rate */
    uint64_t idle_since_ns;  /* since when the owner waits for readiness */
    uint32_t put, answered;  /* datagrams of this measurement, in this direction and the other */
    uint32_t pause_ns;       /* 0: the stream is not dense, or not one-way */
    bool steady;             /* it became ready again soon after it was empty */
    bool behind;             /* the last receive brought so much that there is no time to pause */
};

void udp_pace_init(struct udp_pace *pace, uint64_t now_ns);

static inline void udp_pace_count(struct udp_pace *pace, uint32_t put, uint32_t answered)
{
    pace->put += put;
    pace->answered += answered;
}

/* To be called when the socket has become readable. Returns how long to leave the datagrams there;
 * 0: receive them now. */
uint64_t udp_pace_ready(struct udp_pace *pace, uint64_t now_ns);
/* To be called when `datagrams` were received and counted and the socket is empty. Returns how long
 * to pause before the next receive; 0: wait until the socket is readable. */
uint64_t udp_pace_received(struct udp_pace *pace, uint32_t datagrams, uint64_t now_ns);
