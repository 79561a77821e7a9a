#include "server/handshake_budget.h"

#include "base/addr.h"
#include "base/clock.h"
#include "base/limits.h"
#include "crypto/keys.h"

struct handshake_budget *handshake_budget_shared(struct handshake_budgets *budgets,
                                                 const struct addr_key *key)
{
    return &budgets->by_addr[keys_hash(key->bytes, sizeof(key->bytes)) % HANDSHAKE_BUDGETS];
}

static void budget_refill(struct handshake_budget *budget, uint32_t per_s, uint64_t now_ns)
{
    uint64_t step_ns = NS_PER_S / per_s;
    /* Each worker passes the time of its own turn, which may be a little behind another's. If
     * since_ns went back, the same time would refill the budget twice. */
    if (now_ns < budget->since_ns)
        return;
    if (budget->spent == 0) {
        budget->since_ns = now_ns;
        return;
    }
    uint64_t grown = (now_ns - budget->since_ns) / step_ns;
    budget->since_ns += grown * step_ns;
    budget->spent -= (uint32_t)MIN(grown, (uint64_t)budget->spent);
}

/* What a handshake takes from the budget of its address. */
static uint32_t own_cost(uint32_t cost)
{
    return MIN(cost, (uint32_t)LIMIT_HANDSHAKES_OWN_MAX);
}

bool handshake_budget_take(struct handshake_budgets *budgets, const struct handshake_taker *taker,
                           uint32_t cost, uint64_t now_ns)
{
    struct handshake_budget *own = taker->own, *all = &budgets->all;
    budget_refill(own,
                  taker->is_expected ? LIMIT_HANDSHAKES_EXPECTED_PER_S : LIMIT_HANDSHAKES_PER_S,
                  now_ns);
    budget_refill(all, LIMIT_HANDSHAKES_ALL_PER_S, now_ns);
    bool in_that_of_all = taker->is_known || all->spent < LIMIT_HANDSHAKES_ALL_BURST;
    bool allowed = taker->is_expected ? own->spent < LIMIT_HANDSHAKES_EXPECTED_BURST
                                      : own->spent < LIMIT_HANDSHAKES_BURST && in_that_of_all;
    if (allowed) {
        own->spent += own_cost(cost);
        all->spent += cost;
    }
    return allowed;
}

void handshake_budget_give_back(struct handshake_budgets *budgets, struct handshake_budget *own,
                                uint32_t cost)
{
    own->spent -= MIN(own_cost(cost), own->spent);
    budgets->all.spent -= MIN(cost, budgets->all.spent);
}
