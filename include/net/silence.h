/* Whether the other end of a connection is still there. Pure: what the kernel knows goes in, a
 * verdict comes out.
 *
 * An end is watched while it owes us a sign of life. How the kernel asks for one, and when no
 * answer means death, depends on what is outstanding:
 *
 *     in flight   the retransmission timer asks, first after 0.2 s or so, then twice as late each
 *                 time. LIMIT_SILENT_MS without a word, LIMIT_SILENT_QUESTIONS unanswered.
 *     shut        the peer does not read and has closed its window: the kernel probes that window,
 *                 in the end every two minutes only, and counts what is not answered. The same two
 *                 limits, so that a slow reader lives for as long as it answers.
 *     withdrawn   the peer has run out of room for what was on its way already and says that its
 *                 window is 0: the segments in flight are the probes, at the same growing
 *                 intervals, and the kernel does not count them: as long as that many would take.
 *     nothing     the owner doubts that the peer is there and has the kernel ask (socket_ask):
 *                 LIMIT_ASK_MS without an answer.
 *
 * Silence is counted from look to look, and a look counts for 2 s at most. So neither a process
 * that was stopped nor a machine that slept takes the time that it missed for the peer's silence;
 * what came meanwhile is in the kernel's answer.
 *
 * What this may do wrong: a peer that is unreachable for longer than the limits and then comes back
 * has lost its connections, where TCP alone would have gone on retransmitting for a quarter of an
 * hour. With a fifth of all packets lost in both directions, four questions and their answers are
 * all lost once in sixty times. A receiver whose kernel drops what it has no room for without a
 * word (Linux before 6.6, flooded with tiny segments that nobody reads) looks like a dead one. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "io/socket_life.h"

/* Of one end. All zero: not watched. */
struct silence {
    uint32_t silent_ms; /* while we looked */
    bool watched;
    bool asked; /* socket_ask is at work */
};

enum silence_verdict {
    SILENCE_NONE,    /* it owes us nothing */
    SILENCE_WATCHED, /* look again, whether anything is sent to it or not */
    SILENCE_DEAD,
};

/* Takes in a look at an end. step_ms: since the last one. asked is cleared when an answer came, and
 * the caller ends the asking then. */
enum silence_verdict silence_judge(struct silence *silence, const struct socket_life *life,
                                   uint32_t step_ms);
/* The kernel has been told to ask. */
void silence_ask(struct silence *silence);
