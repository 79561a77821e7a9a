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
 *     client     does not log in    no new logins              its control channels end as the
 *                                                              successor logs in, below
 *
 * At most one of the two processes accepts at any time. Connections that arrive in between stay in
 * the accept queues, which both share. */
#pragma once

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
    int channel;                        /* handover_set_channel; 0 = none */
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

/* ---- a client's logins ----
 *
 * The successor tells the predecessor of each login, and the predecessor ends its own control
 * channel of the same service and server at once: nothing replaces it if the service has
 * `clients = balance`. So the server never counts the client twice, and sends all new visitors to
 * the successor. A server that the successor does not reach holds nothing else back.
 *
 *     successor's worker --handover_tell_login--> channel (app/upgrade.h)
 *         --> predecessor's main thread --role.h's succeeded--> each of its workers
 *
 * What it may do wrong: a login is not told if either program is older than this, if the channel is
 * full, or if the two configurations name the server in different ways (servers = first and all, or
 * a name behind a proxy). Then the control channel ends when the server replaces it, or after
 * LIMIT_UPGRADE_HOLD_MS, and gets visitors until then. One that ends too early needs two logins
 * with the same 64 bits. */

/* For the main thread of the successor. channel: borrowed; 0 = there is none any more, and no
 * worker uses the last one when this returns. */
void handover_set_channel(struct handover *handover, int channel);
/* For a worker of any process: does nothing without a channel. login: stands for the service and
 * the server, alike in both processes. */
void handover_tell_login(const struct handover *handover, uint64_t login);
/* For the predecessor: whether a packet of the channel tells a login. */
bool handover_hear_login(const void *packet, size_t size, uint64_t *ret);

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
