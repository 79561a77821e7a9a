/* The gate: how many connections may be on their way to authentication, in all and per address, so
 * that strangers can neither fill the server nor keep a client out.
 *
 * At a cap the newcomer gets in and another goes: the oldest connection of the address that holds
 * most, one that has not said anything useful before one that has. Connections that the server has
 * asked for are no strangers: they raise both caps for the address that will bring them.
 *
 * With Noise each connection also needs a handshake from its address's budget, and gets it back
 * when it proves to be a client: what is left over is what strangers may make us compute.
 *
 * One gate per server, used by all workers under its own short lock. A ticket is embedded in the
 * connection it stands for and owned by that connection's worker; the gate may take the place away
 * at any time, and then signals that worker, which looks for tickets that are out. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "tunnel/addr_table.h"

struct tunnel_worker;

struct gate_ticket {
    struct list node; /* in gate->pending, oldest first */
    struct addr_key key;
    struct tunnel_worker *worker;
    bool spoke; /* has sent a valid first message */
    bool inside;
};

/* Handshakes that may be tried now; grows with time up to a burst. Made full by being all zero. */
struct gate_budget {
    uint32_t spent;
    uint64_t since_ns;
    uint64_t client_until_ns; /* a client came from here, lately enough */
};

/* By a keyed hash of the address: a table of fixed size that strangers can't steer. */
enum { GATE_BUDGETS = 1024 };

struct gate {
    pthread_mutex_t lock; /* over everything below and over all tickets */
    struct list pending;
    uint32_t pending_count, expected_count;
    uint32_t pending_max, pending_max_per_ip;
    struct addr_table addrs;
    struct gate_budget handshakes, handshakes_by_addr[GATE_BUDGETS];
};

void gate_init(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip);
void gate_finish(struct gate *gate);
/* For those who come from now on. */
void gate_set_limits(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip);

/* A connection from key has arrived at worker. -ENOMEM: close it. May evict another one. */
MUST_CHECK int gate_enter(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
                          struct tunnel_worker *worker);
/* It has said something that only a client of this protocol would. False: it was evicted. */
MUST_CHECK bool gate_spoke(struct gate *gate, struct gate_ticket *ticket);
/* It is authenticated, or gone. Idempotent. */
void gate_leave(struct gate *gate, struct gate_ticket *ticket);
/* Whether the gate has given its place away. */
bool gate_is_evicted(struct gate *gate, struct gate_ticket *ticket);
/* `count` more (or, negative, fewer) connections are asked for and will come from key. */
void gate_expect(struct gate *gate, const struct addr_key *key, int count);
/* Takes a handshake out of the address's budget and that of all. False: it may not try now. An
 * address that connections are expected from has a larger budget of its own, and no part in that of
 * all; nor has one that a client came from in the last day: a flood from everywhere does not keep
 * it from coming back. */
MUST_CHECK bool gate_take_handshake(struct gate *gate, const struct addr_key *key, uint64_t now_ns);
/* It was a client's: gives it back, and remembers the address. */
void gate_return_handshake(struct gate *gate, const struct addr_key *key, uint64_t now_ns);
