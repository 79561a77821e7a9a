#include "tunnel/gate.h"

#include <errno.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "crypto/keys.h"
#include "tunnel/tunnel_worker.h"

void gate_init(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip)
{
    *gate = (struct gate){.pending_max = pending_max, .pending_max_per_ip = pending_max_per_ip};
    (void)pthread_mutex_init(&gate->lock, NULL);
    list_init(&gate->pending);
}

void gate_set_limits(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip)
{
    (void)pthread_mutex_lock(&gate->lock);
    gate->pending_max = pending_max;
    gate->pending_max_per_ip = pending_max_per_ip;
    (void)pthread_mutex_unlock(&gate->lock);
}

void gate_finish(struct gate *gate)
{
    addr_table_finish(&gate->addrs);
    (void)pthread_mutex_destroy(&gate->lock);
}

static void remove_ticket(struct gate *gate, struct gate_ticket *ticket)
{
    struct addr_entry *entry = addr_table_find(&gate->addrs, &ticket->key);
    if (entry != NULL)
        entry->count--;
    addr_table_trim(&gate->addrs, &ticket->key);
    gate->pending_count--;
    ticket->inside = false;
    list_remove(&ticket->node);
}

/* The address that holds most beyond what was asked of it. Walks all tickets, which are at most a
 * few hundred, and only when a cap is reached. */
static struct addr_key largest_holder(struct gate *gate)
{
    const struct gate_ticket *worst = container_of(gate->pending.next, struct gate_ticket, node);
    uint32_t worst_count = 0;
    list_for_each (node, &gate->pending) {
        const struct gate_ticket *ticket = container_of(node, struct gate_ticket, node);
        const struct addr_entry *entry = addr_table_find(&gate->addrs, &ticket->key);
        uint32_t count = entry->count > entry->expected ? entry->count - entry->expected : 0;
        if (count > worst_count) {
            worst = ticket;
            worst_count = count;
        }
    }
    return worst->key;
}

static void evict_one_of(struct gate *gate, const struct addr_key *key, struct tunnel_worker *from)
{
    struct gate_ticket *victim = NULL;
    list_for_each (node, &gate->pending) {
        struct gate_ticket *ticket = container_of(node, struct gate_ticket, node);
        if (!addr_key_equal(&ticket->key, key))
            continue;
        if (victim == NULL)
            victim = ticket;
        if (!ticket->spoke) {
            victim = ticket;
            break;
        }
    }
    if (victim == NULL)
        return;
    remove_ticket(gate, victim);
    metrics_add(&from->metrics, METRIC_STRANGERS_EVICTED, 1);
    mailbox_signal(victim->worker->mailbox, from->mailbox, TUNNEL_SIGNAL_EVICTED);
}

int gate_enter(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
               struct tunnel_worker *worker)
{
    list_init(&ticket->node);
    ticket->key = *key;
    ticket->worker = worker;
    ticket->spoke = false;
    ticket->inside = false;

    int result = 0;
    (void)pthread_mutex_lock(&gate->lock);
    struct addr_entry *entry = addr_table_get(&gate->addrs, key);
    if (entry == NULL) {
        result = -ENOMEM;
        goto out;
    }
    entry->count++; /* counted first, so that its entry outlives the eviction of a sibling */
    if (entry->count > gate->pending_max_per_ip + entry->expected) {
        evict_one_of(gate, key, worker);
    } else if (gate->pending_count >= gate->pending_max + gate->expected_count) {
        struct addr_key holder = largest_holder(gate);
        evict_one_of(gate, &holder, worker);
    }
    gate->pending_count++;
    ticket->inside = true;
    list_push_back(&gate->pending, &ticket->node);
out:
    (void)pthread_mutex_unlock(&gate->lock);
    return result;
}

bool gate_spoke(struct gate *gate, struct gate_ticket *ticket)
{
    (void)pthread_mutex_lock(&gate->lock);
    ticket->spoke = true;
    bool inside = ticket->inside;
    (void)pthread_mutex_unlock(&gate->lock);
    return inside;
}

void gate_leave(struct gate *gate, struct gate_ticket *ticket)
{
    (void)pthread_mutex_lock(&gate->lock);
    if (ticket->inside)
        remove_ticket(gate, ticket);
    (void)pthread_mutex_unlock(&gate->lock);
}

bool gate_is_evicted(struct gate *gate, struct gate_ticket *ticket)
{
    (void)pthread_mutex_lock(&gate->lock);
    bool evicted = !ticket->inside;
    (void)pthread_mutex_unlock(&gate->lock);
    return evicted;
}

void gate_expect(struct gate *gate, const struct addr_key *key, int count)
{
    if (count == 0)
        return;
    (void)pthread_mutex_lock(&gate->lock);
    struct addr_entry *entry = addr_table_get(&gate->addrs, key);
    if (entry != NULL) { /* without memory the client counts as a stranger: slower, not wrong */
        if (count < 0 && (uint32_t)-count > entry->expected)
            count = -(int)entry->expected;
        entry->expected += (uint32_t)count;
        gate->expected_count += (uint32_t)count;
        addr_table_trim(&gate->addrs, key);
    }
    (void)pthread_mutex_unlock(&gate->lock);
}

/* ---- handshakes ---- */

static void budget_refill(struct gate_budget *budget, uint32_t per_s, uint64_t now_ns)
{
    uint64_t step_ns = 1000000000u / per_s;
    /* Each worker brings the time of its own turn: one may be a little behind another, and going
     * back would let the same time grow handshakes twice. */
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

static struct gate_budget *budget_of(struct gate *gate, const struct addr_key *key)
{
    return &gate->handshakes_by_addr[keys_hash(key->bytes, sizeof(key->bytes)) % GATE_BUDGETS];
}

bool gate_take_handshake(struct gate *gate, const struct addr_key *key, uint64_t now_ns)
{
    struct gate_budget *own = budget_of(gate, key);
    (void)pthread_mutex_lock(&gate->lock);
    const struct addr_entry *entry = addr_table_find(&gate->addrs, key);
    bool is_expected = entry != NULL && entry->expected > 0;
    budget_refill(own, is_expected ? LIMIT_HANDSHAKES_EXPECTED_PER_S : LIMIT_HANDSHAKES_PER_S,
                  now_ns);
    budget_refill(&gate->handshakes, LIMIT_HANDSHAKES_ALL_PER_S, now_ns);
    bool in_that_of_all =
        now_ns < own->client_until_ns || gate->handshakes.spent < LIMIT_HANDSHAKES_ALL_BURST;
    bool allowed = is_expected ? own->spent < LIMIT_HANDSHAKES_EXPECTED_BURST
                               : own->spent < LIMIT_HANDSHAKES_BURST && in_that_of_all;
    if (allowed) {
        own->spent++;
        gate->handshakes.spent++;
    }
    (void)pthread_mutex_unlock(&gate->lock);
    return allowed;
}

void gate_return_handshake(struct gate *gate, const struct addr_key *key, uint64_t now_ns)
{
    struct gate_budget *own = budget_of(gate, key);
    (void)pthread_mutex_lock(&gate->lock);
    own->client_until_ns = now_ns + LIMIT_CLIENT_KNOWN_S * 1000000000ull;
    if (own->spent > 0)
        own->spent--;
    if (gate->handshakes.spent > 0)
        gate->handshakes.spent--;
    (void)pthread_mutex_unlock(&gate->lock);
}
