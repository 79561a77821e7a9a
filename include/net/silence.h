/* Decides whether the peer of a TCP connection is still alive. Pure: the kernel's TCP_INFO
 * (io/socket_life.h) goes in, a verdict comes out. docs/decisions.md, "No TCP_USER_TIMEOUT on
 * relays and TCP data channels", says why the kernel does not decide.
 *
 * A peer is watched while it owes us an acknowledgement or an answer. What the kernel sends to get
 * one, and when silence means death, depends on what is outstanding:
 *
 *     in flight    Bytes are unacknowledged. The kernel retransmits them, first after 0.2 s or so,
 *                  and doubles the interval each time. Dead after LIMIT_SILENT_MS without a segment
 *                  from the peer and LIMIT_SILENT_QUESTIONS transmissions without an answer.
 *     zero window  The peer does not read; everything in flight is acknowledged. The kernel probes
 *                  the window, at intervals that grow to two minutes, and counts unanswered probes.
 *                  The same two limits hold, so a slow reader lives as long as its kernel answers.
 *     withdrawn    The peer had no room for bytes in flight, and has set its window to 0. The
 *                  kernel retransmits them as probes, at the same growing intervals, but does not
 *                  count them. Dead after the time that LIMIT_SILENT_QUESTIONS probes take.
 *     nothing      The owner doubts that the peer is alive, and makes the kernel send keepalive
 *                  probes (socket_ask). Dead after LIMIT_ASK_MS without an answer.
 *
 * Silence is added up from look to look, and a look adds at most 2 s. So a process that was
 * stopped, or a machine that slept, does not take that time for the peer's silence; a segment that
 * came meanwhile is in TCP_INFO.
 *
 * What this may do wrong. A peer that is unreachable for longer than the limits loses its
 * connections; TCP alone would go on retransmitting for a quarter of an hour. If a fifth of all
 * packets is lost in both directions, one in sixty series of four questions gets no answer, and a
 * live peer looks dead. A peer's kernel that silently drops segments for lack of memory (Linux
 * before 6.6, flooded with tiny segments that nobody reads) looks dead too. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/socket_life.h"

/* The state of one peer. All zero: not watched. */
struct silence {
    uint32_t silent_ms; /* the silence that was added up from look to look */
    bool watched;
    bool asked; /* socket_ask was called and no answer has come */
};

enum silence_verdict {
    SILENCE_NONE,    /* the peer owes us nothing */
    SILENCE_WATCHED, /* look again, even if nothing more is sent to the peer */
    SILENCE_DEAD,
};

/* Judges a look at a peer, step_ms after the last one. Clears silence->asked when the answer has
 * come; the caller then has to call socket_stop_asking. */
enum silence_verdict silence_judge(struct silence *silence, const struct socket_life *life,
                                   uint32_t step_ms);
/* To be called after socket_ask: the peer is watched from here on. */
void silence_ask(struct silence *silence);
