/* The gate: how many connections may be on their way to authentication, in all and per address, so
 * that strangers can neither fill the server nor keep a client out.
 *
 * At a cap the newcomer gets in and another connection is evicted. Each connection stands in one of
 * four queues, by two questions: has it sent what only a client would send (spoke), and has a
 * client logged in from its address within the last day (known)? The victim comes from the first of
 * these that has its share of the places:
 *
 *     not known, silent  |  known, silent before spoke  |  not known, spoke
 *     an eighth          |  half                        |  what is left
 *
 * So silent strangers, from however many addresses, evict each other, not a connection that has
 * spoken. Strangers who speak and stall evict none from a known address. And if strangers share
 * known addresses, they do not keep all others out. How many connections an address holds does not
 * matter here: a client with many services holds more than any single stranger. It matters for the
 * cap per address, where the address's own oldest connection goes, silent before spoke.
 *
 * Within a queue the oldest is evicted if its age is at least LIMIT_ROUND_TRIP_MS. If even the
 * oldest is younger, the flood is faster than a distant client can answer, and evicting the oldest
 * would let nobody through whose round trip is longer than the queue lives. Then a coin is thrown:
 * the connection is evicted, or spared and put at the end of the queue. The price is that a near
 * client may lose a place which the strict order would have left it; it tries again, and its first
 * login that succeeds makes its address known.
 *
 * Connections that the server has asked for are no strangers: they raise both caps for the address
 * that will bring them.
 *
 * With Noise each connection also needs a handshake from its address's budget, and gets it back
 * when it proves to be a client: what is left over is what strangers may make us compute.
 *
 * One gate per server, used by all workers under its own short lock; nothing under it is longer for
 * a longer queue. A ticket is embedded in the connection it stands for and owned by that
 * connection's worker; the gate may take the place away at any time, and then puts the ticket on
 * its worker's desk and signals. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "server/addr_table.h"

struct tunnel_worker;
struct gate_addr;

enum gate_queue { GATE_SILENT, GATE_SPOKE, GATE_QUEUES };

/* A worker's: where it finds the tickets that have lost their place. */
struct gate_desk {
    struct tunnel_worker *worker;
    struct list evicted; /* under the gate's lock */
};

struct gate_ticket {
    struct list node;       /* in a queue of the gate; or, evicted, on the desk */
    struct list addr_node;  /* in the address's queue */
    struct gate_addr *addr; /* NULL: not inside */
    struct addr_key key;
    struct gate_desk *desk;
    uint64_t since_ns; /* it came, or spoke */
    bool spoke;
};

/* Handshakes that may be tried now; grows with time up to a burst. Made full by being all zero. */
struct gate_budget {
    uint32_t spent;
    uint64_t since_ns;
};

/* By a keyed hash of the address: a table of fixed size that strangers can't steer. Known addresses
 * have their own. */
enum { GATE_BUDGETS = 1024 };

struct gate {
    pthread_mutex_t lock;               /* over everything below and over all tickets */
    struct list queues[2][GATE_QUEUES]; /* [known], in the order of since_ns, but for the coin */
    uint32_t counts[2][GATE_QUEUES];    /* tickets in them */
    uint32_t pending_count, expected_count; /* all tickets; and what may come beside them */
    uint32_t pending_max, pending_max_per_ip;
    struct addr_table addrs; /* of struct gate_addr */
    struct list known;       /* addresses, the one whose time ends first in front */
    uint32_t known_count;
    uint64_t coins; /* random bits, and how many are left */
    unsigned int coin_count;
    struct gate_budget handshakes, handshakes_by_addr[GATE_BUDGETS];
};

void gate_init(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip);
void gate_finish(struct gate *gate);
/* For those who come from now on. */
void gate_set_limits(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip);

void gate_desk_init(struct gate_desk *desk, struct tunnel_worker *worker);
/* The next of the worker's tickets that has lost its place, or NULL. */
struct gate_ticket *gate_next_evicted(struct gate *gate, struct gate_desk *desk);

/* A connection from key has arrived at the desk's worker. -ENOMEM: close it. May evict others. */
MUST_CHECK int gate_enter(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
                          struct gate_desk *desk, uint64_t now_ns);
/* It has said something that only a client of this protocol would. False: it was evicted. */
MUST_CHECK bool gate_spoke(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns);
/* It is authenticated, or gone. Idempotent. */
void gate_leave(struct gate *gate, struct gate_ticket *ticket);
/* `count` more (or, negative, fewer) connections are asked for and will come from key. */
void gate_expect(struct gate *gate, const struct addr_key *key, int count);
/* A client has come from key: the address is known for a day. has_handshake: one that was taken out
 * of its budget is given back. */
void gate_trust(struct gate *gate, const struct addr_key *key, bool has_handshake, uint64_t now_ns);
/* Takes a handshake out of the address's budget and that of all. False: it may not try now. An
 * address that connections are expected from has a larger budget of its own, and no part in that of
 * all; nor has a known one: a flood from everywhere does not keep it from coming back. */
MUST_CHECK bool gate_take_handshake(struct gate *gate, const struct addr_key *key, uint64_t now_ns);
