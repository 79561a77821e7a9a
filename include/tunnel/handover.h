/* How far a process is in handing its work to a successor, or in taking it from a predecessor. The
 * main thread sets the phase and wakes the workers (TUNNEL_SIGNAL_HANDOVER); each worker does its
 * part and says when that is done.
 *
 *     successor:    AWAITED --(the other one has left)--> SERVING
 *     predecessor:  SERVING --> QUIET --(nobody waits)--> LEAVING --> its last relay
 *                      ^----------' the successor has died
 *
 *                AWAITED            QUIET                      LEAVING
 *     server     accepts nothing,   no new visitors; the       closes its copies of all sockets,
 *                reads no datagram  others get their channels  and the control channels
 *     client     does not log in    no new logins              ends its channels as they are
 *                                                              replaced, all when that takes long
 *
 * Never two that accept: what comes in between waits in the sockets' queues, which both share. */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/macros.h"

enum handover_phase {
    HANDOVER_UNKNOWN, /* not made, or a worker that has not started yet */
    HANDOVER_AWAITED,
    HANDOVER_SERVING,
    HANDOVER_QUIET,
    HANDOVER_LEAVING,
    HANDOVER_PHASE_COUNT,
};

struct handover {
    _Atomic int phase;                  /* the main thread's: handover_set_phase */
    _Atomic int reached[LIMIT_WORKERS]; /* each worker's own: handover_reach */
};

static inline enum handover_phase handover_phase(const struct handover *handover)
{
    return (enum handover_phase)atomic_load(&handover->phase);
}

/* The main thread alone; it wakes the workers afterwards. */
static inline void handover_set_phase(struct handover *handover, enum handover_phase phase)
{
    static const bool edges[HANDOVER_PHASE_COUNT][HANDOVER_PHASE_COUNT] = {
        [HANDOVER_UNKNOWN] = {[HANDOVER_SERVING] = true},
        /* Before its workers start, a process that has a predecessor is told to wait. */
        [HANDOVER_SERVING] = {[HANDOVER_AWAITED] = true, [HANDOVER_QUIET] = true},
        [HANDOVER_AWAITED] = {[HANDOVER_SERVING] = true},
        [HANDOVER_QUIET] = {[HANDOVER_SERVING] = true, [HANDOVER_LEAVING] = true},
    };
    const enum handover_phase old = handover_phase(handover);
    assert(old < HANDOVER_PHASE_COUNT && edges[old][phase]);
    atomic_store(&handover->phase, (int)phase);
}

/* A worker, of itself: it has done its part of the phase. */
static inline void handover_reach(struct handover *handover, unsigned int worker,
                                  enum handover_phase phase)
{
    atomic_store(&handover->reached[worker], (int)phase);
}

static inline bool handover_all_reached(const struct handover *handover, unsigned int workers,
                                        enum handover_phase phase)
{
    for (unsigned int i = 0; i < workers; i++) {
        if (atomic_load(&handover->reached[i]) != (int)phase)
            return false;
    }
    return true;
}

/* ---- the sockets, from the main thread ---- */

/* What the successor gets. Those shared with a service manager come first. The names are
 * "control", "service-NAME" and "udp-NAME". */
struct handover_sockets {
    int *fds; /* borrowed */
    char **names;
    size_t count, capacity, shared_count;
};

/* name: of the service, NULL = none. -ENOMEM. */
MUST_CHECK int handover_sockets_add(struct handover_sockets *sockets, int fd, const char *kind,
                                    const char *name);
void handover_sockets_finish(struct handover_sockets *sockets); /* accepts a zeroed one */
