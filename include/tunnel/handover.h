/* The phases of a handover: a process hands its work to a successor, or takes it from a predecessor
 * (app/upgrade.h). The main thread sets the phase and wakes the workers (TUNNEL_SIGNAL_HANDOVER).
 * Each worker does its part and then reports the phase as reached.
 *
 *     successor:    AWAITED --(the predecessor has left)--> SERVING
 *     predecessor:  SERVING --> QUIET --(no visitor waits)--> LEAVING --> its last relay
 *                      ^----------' the successor has died
 *
 *                AWAITED            QUIET                      LEAVING
 *     server     accepts nothing,   no new visitors; waiting   closes its copies of all sockets,
 *                reads no datagram  ones get their channels    and the control channels
 *     client     does not log in    no new logins              its control channels end as they are
 *                                                              replaced, or after a time limit
 *
 * At most one of the two processes accepts at any time. Connections that arrive in between stay in
 * the accept queues, which both share. */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/macros.h"

enum handover_phase {
    HANDOVER_UNKNOWN, /* before the role exists, or a worker that has not started */
    HANDOVER_AWAITED,
    HANDOVER_SERVING,
    HANDOVER_QUIET,
    HANDOVER_LEAVING,
    HANDOVER_PHASE_COUNT,
};

struct handover {
    _Atomic int phase;                  /* written by the main thread: handover_set_phase */
    _Atomic int reached[LIMIT_WORKERS]; /* each written by its worker: handover_reach */
};

static inline enum handover_phase handover_phase(const struct handover *handover)
{
    return (enum handover_phase)atomic_load(&handover->phase);
}

/* For the main thread, which wakes the workers afterwards. */
static inline void handover_set_phase(struct handover *handover, enum handover_phase phase)
{
    static const bool edges[HANDOVER_PHASE_COUNT][HANDOVER_PHASE_COUNT] = {
        [HANDOVER_UNKNOWN] = {[HANDOVER_SERVING] = true},
        /* A process that has a predecessor becomes AWAITED before its workers start. */
        [HANDOVER_SERVING] = {[HANDOVER_AWAITED] = true, [HANDOVER_QUIET] = true},
        [HANDOVER_AWAITED] = {[HANDOVER_SERVING] = true},
        [HANDOVER_QUIET] = {[HANDOVER_SERVING] = true, [HANDOVER_LEAVING] = true},
    };
    const enum handover_phase old = handover_phase(handover);
    assert(old < HANDOVER_PHASE_COUNT && edges[old][phase]);
    atomic_store(&handover->phase, (int)phase);
}

/* For a worker: reports that it has done its part of the phase. */
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

/* The sockets that the successor gets. Those that a service manager shares come first. The names,
 * for LISTEN_FDNAMES, are "control", "service-NAME" and "udp-NAME". For the main thread. */
struct handover_sockets {
    int *fds; /* borrowed */
    char **names;
    size_t count, capacity, shared_count;
};

/* Adds a socket. name: the service, NULL = none. -ENOMEM. */
MUST_CHECK int handover_sockets_add(struct handover_sockets *sockets, int fd, const char *kind,
                                    const char *name);
void handover_sockets_finish(struct handover_sockets *sockets); /* accepts a zeroed one */
