/* The lobby: connections to the control port that wait for a place at the gate (gate_try). They have
 * a descriptor and nothing else: no login, no deadline, and nobody reads what they have sent. Each
 * worker has a lobby of its own, first come, first served, those from known addresses before all
 * others. The gate bounds the number of all that wait. */
#pragma once

#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "base/slab.h"
#include "io/timer.h"
#include "server/gate.h"

struct server_worker;

struct lobby {
    struct list queues[2]; /* by enum gate_answer */
    struct slab guests;
    struct timer timer; /* looks for places */
};

void lobby_init(struct server_worker *worker);
void lobby_finish(struct server_worker *worker);
/* Takes over a connection that gate_try has answered with `kind`. */
void lobby_keep(struct server_worker *worker, int fd, const struct addr_key *key,
                enum gate_answer kind);
/* Closes all connections in the lobby. */
void lobby_close_all(struct server_worker *worker);
