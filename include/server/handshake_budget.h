/* How many handshakes strangers may make us compute. Each takes its cost from the budget of its
 * address and from that of all addresses, which are token buckets. A connection that proves to be a
 * client gives it back. The reasons and figures: docs/decisions.md, "Strangers take Noise
 * handshakes from a budget".
 *
 * The budget of all counts every handshake with its cost (1 of Noise), that of its address with no
 * more than LIMIT_HANDSHAKES_OWN_MAX. Nothing here has a lock: the gate's protects it. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"

struct addr_key;

/* A token bucket of handshakes. An all-zero one is full. */
struct handshake_budget {
    uint32_t spent;
    uint64_t since_ns;
};

/* Unknown addresses share this many budgets by a keyed hash, so strangers can neither make the
 * table grow nor choose whom they share a budget with. A known address has one of its own. */
enum { HANDSHAKE_BUDGETS = 1024 };

struct handshake_budgets {
    struct handshake_budget all, by_addr[HANDSHAKE_BUDGETS];
};

/* Who takes a handshake. */
struct handshake_taker {
    struct handshake_budget *own; /* that of its address */
    bool is_known;                /* the budget of all does not limit it */
    bool is_expected;             /* the same, and its own budget is larger */
};

/* The budget that an unknown address shares with others. */
struct handshake_budget *handshake_budget_shared(struct handshake_budgets *budgets,
                                                 const struct addr_key *key);
/* False: one of the two budgets is used up, and nothing was taken. cost 0: only a look. */
MUST_CHECK bool handshake_budget_take(struct handshake_budgets *budgets,
                                      const struct handshake_taker *taker, uint32_t cost,
                                      uint64_t now_ns);
void handshake_budget_give_back(struct handshake_budgets *budgets, struct handshake_budget *own,
                                uint32_t cost);
