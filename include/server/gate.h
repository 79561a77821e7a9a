/* The gate: admission control for connections that have not logged in yet (strangers). It limits
 * their number, in total and per address, so that strangers can neither fill the server nor keep a
 * client out.
 *
 * At a limit the gate admits the newcomer and evicts another connection. Each connection is in one
 * of four queues, by two questions: has it sent what only a client would send (spoke), and has a
 * client logged in from its address within 24 h (known)? The gate evicts from the first of these
 * queues that holds its share of the places:
 *
 *     not known, silent  |  known, silent before spoke  |  not known, spoke
 *     an eighth          |  half                        |  what is left
 *
 * So silent strangers evict each other, from however many addresses they come, and never a
 * connection that has spoken. Strangers who speak and stall evict no connection from a known
 * address. Strangers who share known addresses do not keep all others out. The number of
 * connections from an address does not matter here, because a client with many services has more
 * of them than any single stranger. It matters only for the limit per address: there the gate
 * evicts the oldest connection of that address, silent before spoke.
 *
 * Within a queue the oldest connection is evicted if it is at least LIMIT_ROUND_TRIP_MS old. If
 * even the oldest is younger, the flood fills the queue faster than a distant client can answer,
 * and evicting the oldest would let no such client through. Then a random bit decides: the
 * connection is evicted, or spared and moved to the end of the queue. The price is that a near
 * client may lose a place that it would have kept in strict order. It tries again, and its first
 * successful login makes its address known.
 *
 * After an outage all clients come back at once, and then those whom a newcomer would evict are
 * clients too. So a newcomer waits (gate_try, lobby.h) if the one that it would evict is young,
 * and if clients do get in: one has within LIMIT_GATE_PATIENCE_MS, or the gate was half empty that
 * short a time ago. Else it is strangers who fill the gate, and nobody waits for those. Newcomers
 * from known addresses are admitted first. What this costs: while strangers who speak come from
 * many addresses and faster than the gate's places per LIMIT_GATE_YOUNG_MS, and clients do get in,
 * a newcomer may have to wait for up to LIMIT_GATE_WAIT_MS before it evicts as usual. Those that
 * wait count in the limit per address, or one address could fill the lobby. At that limit nobody
 * waits: the next one from there is admitted.
 *
 * Data channels that the server has requested raise both limits, but only for connections from the
 * address that they are expected from. As many of these as are expected are covered: they do not
 * count in the total, and an address that has no more than these is spared when the total is too
 * high. So others can't take the places of channels that come late. At the client's own address a
 * silent stranger looks like a channel, and may use the raise.
 *
 * Should the descriptors run out all the same, silent connections make room too (gate_relieve).
 *
 * With Noise and TLS each connection also takes a handshake from two budgets (handshake_budget.h).
 *
 * A server has one gate. All workers use it under its lock, and no operation takes longer when a
 * queue is longer. A ticket is embedded in its connection and belongs to the connection's worker.
 * The gate may evict it at any time: it then puts the ticket on the worker's desk and signals the
 * worker (TUNNEL_SIGNAL_EVICTED). */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "server/addr_table.h"
#include "server/handshake_budget.h"

struct tunnel_worker;
struct gate_addr;

enum gate_queue { GATE_SILENT, GATE_SPOKE, GATE_QUEUES };

/* A worker's desk has its evicted tickets. */
struct gate_desk {
    struct tunnel_worker *worker;
    struct list evicted; /* under the gate's lock */
};

struct gate_ticket {
    struct list node;       /* in a queue of the gate, or, when evicted, on the desk */
    struct list addr_node;  /* in a queue of the address */
    struct gate_addr *addr; /* NULL: evicted, or has left */
    struct addr_key key;
    struct gate_desk *desk;
    uint64_t since_ns; /* when it came or, if it has spoken, when it spoke */
    bool spoke;
    bool has_handshake; /* gate_begin_handshake */
};

struct gate {
    pthread_mutex_t lock;                   /* protects all fields below, and all tickets */
    struct list queues[2][GATE_QUEUES];     /* [known]; by since_ns, except for spared tickets */
    uint32_t counts[2][GATE_QUEUES];        /* of the tickets in them */
    uint32_t pending_count, expected_count; /* of all tickets; of expected connections */
    uint32_t covered_count;                 /* of each address's, no more than are expected */
    uint32_t pending_max, pending_max_per_ip;
    struct addr_table addrs; /* of struct gate_addr */
    struct list known;       /* addresses; the first to be forgotten is in front */
    uint32_t known_count;
    uint32_t waiting_count[2], waiting_max; /* [known] newcomers that wait (gate_try) */
    bool was_half_empty;                    /* since it was last full */
    uint64_t patient_until_ns;
    uint64_t coins;          /* random bits */
    unsigned int coin_count; /* the number of bits that are left */
    struct handshake_budgets handshakes;
};

/* The limits are numbers of connections. */
void gate_init(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip);
/* All tickets must have left. */
void gate_finish(struct gate *gate);
/* Changes the limits. Connections beyond a lower limit are evicted only as newcomers arrive. */
void gate_set_limits(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip,
                     uint32_t waiting_max);

static inline void gate_desk_init(struct gate_desk *desk, struct tunnel_worker *worker)
{
    desk->worker = worker;
    list_init(&desk->evicted);
}
/* Takes an evicted ticket from the desk; NULL: there is none. The worker closes its connection. */
struct gate_ticket *gate_next_evicted(struct gate *gate, struct gate_desk *desk);

/* Admits a connection of the desk's worker from the address `key`, and may evict others:
 * GATE_ENTERED, and the caller calls gate_leave before it frees the ticket. -ENOMEM: the caller
 * closes the connection. */
enum gate_answer { GATE_WAITS, GATE_WAITS_KNOWN, GATE_ENTERED };
MUST_CHECK int gate_enter(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
                          struct gate_desk *desk, uint64_t now_ns);
/* The same for a newcomer that can wait. It waits, if it has to, as one from a known address or
 * not, and the caller tries again (is_new: false, with the answer as `kind`) until it has entered,
 * or enters with gate_enter in spite of all, or goes. In the last two cases the caller calls
 * gate_stop_waiting. */
MUST_CHECK int gate_try(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
                        struct gate_desk *desk, uint64_t now_ns, bool is_new,
                        enum gate_answer kind);
void gate_stop_waiting(struct gate *gate, const struct addr_key *key, enum gate_answer kind);
/* Descriptors have run out, so that no newcomer can be accepted: evicts some of those who have been
 * silent for LIMIT_ROUND_TRIP_MS, unknown addresses first. */
void gate_relieve(struct gate *gate, struct gate_desk *desk, uint64_t now_ns);
/* The connection has sent what only a client of this protocol would send. False: it was evicted. */
MUST_CHECK bool gate_spoke(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns);
/* The connection has taken a handshake from the budget. Over TLS it counts as silent until it has
 * logged in, but its time begins anew, and it is young for as long as one that has spoken. */
void gate_begin_handshake(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns);
/* The connection is authenticated, or about to be closed. Idempotent. */
void gate_leave(struct gate *gate, struct gate_ticket *ticket);
/* Changes the number of connections that are expected from the address by `count`, which may be
 * negative. */
void gate_expect(struct gate *gate, const struct addr_key *key, int count);
/* A client has logged in or brought a data channel from the address, which is now known for
 * LIMIT_CLIENT_KNOWN_S. cost: of the handshake that the connection took, which is given back; 0: it
 * took none. */
void gate_trust(struct gate *gate, const struct addr_key *key, uint32_t cost, uint64_t now_ns);
/* Takes a handshake of that cost from the budgets. False: one of them is used up, and nothing was
 * taken. cost 0: whether there would be one. The budget of all does not limit known addresses and
 * those that connections are expected from: a flood from everywhere must not keep clients from
 * coming back. While connections are expected from an address, its own budget is larger too. */
MUST_CHECK bool gate_take_handshake(struct gate *gate, const struct addr_key *key, uint32_t cost,
                                    uint64_t now_ns);
