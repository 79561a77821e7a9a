/* The lobby: connections to the control port that wait for a place at the gate (gate_try). They
 * have a descriptor and nothing else: no login, no deadline, and nobody reads what they have sent.
 * Each worker has a lobby of its own, first come, first served, those from known addresses before
 * all others. The gate bounds the number of all that wait, and that of each address.
 *
 * Their descriptors are of the visitors' part, so they leave the upper half of it alone
 * (login_enter), and go first when descriptors run out (lobby_relieve). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "base/slab.h"
#include "io/timer.h"
#include "server/gate.h"

struct tunnel_worker;

/* Begins the login of a connection if the gate admits it, as gate_try, or gate_enter for one that
 * has to enter. GATE_ENTERED: fd was taken over. GATE_WAITS, GATE_WAITS_KNOWN: it waits, as `kind`
 * unless it is new. -ENOMEM, or -EACCES after a reload, both counted: the caller closes fd, and
 * nothing waits. */
enum login_entry { LOGIN_IS_NEW, LOGIN_HAS_WAITED, LOGIN_HAS_TO_ENTER };
typedef int lobby_enter_fn(struct tunnel_worker *tunnel, int fd, const struct addr_key *key,
                           enum login_entry how, enum gate_answer kind);

struct lobby {
    struct tunnel_worker *tunnel;
    struct gate *gate;
    lobby_enter_fn *enter;
    struct list queues[2]; /* by enum gate_answer */
    struct slab guests;
    struct timer timer; /* looks for places */
};

void lobby_init(struct lobby *lobby, struct tunnel_worker *tunnel, struct gate *gate,
                lobby_enter_fn *enter);
void lobby_finish(struct lobby *lobby);
/* Takes over a connection that gate_try has answered with `kind`. */
void lobby_keep(struct lobby *lobby, int fd, const struct addr_key *key, enum gate_answer kind);
/* Descriptors have run out: resets the oldest of this worker's connections from unknown addresses.
 * False: there was none. */
bool lobby_relieve(struct lobby *lobby);
/* Closes all connections in the lobby. */
void lobby_close_all(struct lobby *lobby);
