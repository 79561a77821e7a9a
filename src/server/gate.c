#include "server/gate.h"

#include <assert.h>
#include <errno.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "crypto/keys.h"
#include "tunnel/tunnel_worker.h"

enum {
    SILENT_SHARE = 8,      /* silent strangers keep 1/8 of pending_max */
    KNOWN_SHARE = 2,       /* connections from known addresses keep 1/2 of it */
    EVICTED_AT_ONCE = 2,   /* by one newcomer: for its place, and to get below a lowered limit */
    SPARED_MAX = 64,       /* bounds the work of one eviction, whatever the queue holds */
    KNOWN_YOUNG_PART = 4,  /* to a known address, strangers are young for 1/4 of the time */
    RELIEVED_AT_ONCE = 16, /* a worker retries in 5 to 100 ms (LIMIT_ACCEPT_PAUSE_MS) */
};

/* An address that has tickets, is expected, or is known, or from which newcomers wait. */
struct gate_addr {
    struct addr_entry entry; /* counts the address's tickets */
    uint32_t expected;       /* connections that the server has requested */
    uint32_t waiting;        /* newcomers in gate->waiting_count */
    bool is_known;
    struct list queues[GATE_QUEUES]; /* the address's tickets */
    struct list known_node;          /* in gate->known */
    uint64_t known_until_ns;
    struct handshake_budget handshakes; /* used while the address is known */
};

void gate_init(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip)
{
    *gate = (struct gate){.pending_max = pending_max,
                          .pending_max_per_ip = pending_max_per_ip,
                          .was_half_empty = true};
    (void)pthread_mutex_init(&gate->lock, NULL);
    gate->addrs.entry_size = sizeof(struct gate_addr);
    list_init(&gate->known);
    for (int i = 0; i < 2 * GATE_QUEUES; i++)
        list_init(&gate->queues[i / GATE_QUEUES][i % GATE_QUEUES]);
}

void gate_set_limits(struct gate *gate, uint32_t pending_max, uint32_t pending_max_per_ip,
                     uint32_t waiting_max)
{
    (void)pthread_mutex_lock(&gate->lock);
    gate->waiting_max = waiting_max;
    gate->pending_max = pending_max;
    gate->pending_max_per_ip = pending_max_per_ip;
    (void)pthread_mutex_unlock(&gate->lock);
}

void gate_finish(struct gate *gate)
{
    addr_table_finish(&gate->addrs);
    (void)pthread_mutex_destroy(&gate->lock);
}

/* ---- addresses ---- */

static struct gate_addr *addr_of(struct addr_entry *entry)
{
    return entry != NULL ? container_of(entry, struct gate_addr, entry) : NULL;
}

static struct gate_addr *find_addr(const struct gate *gate, const struct addr_key *key)
{
    return addr_of(addr_table_find(&gate->addrs, key));
}

static struct gate_addr *get_addr(struct gate *gate, const struct addr_key *key)
{
    struct gate_addr *addr = addr_of(addr_table_get(&gate->addrs, key));
    if (addr != NULL && addr->known_node.next == NULL) { /* the table has just made it */
        list_init(&addr->known_node);
        for (int queue = 0; queue < GATE_QUEUES; queue++)
            list_init(&addr->queues[queue]);
    }
    return addr;
}

/* Every change of an address's two numbers. */
static void count_addr(struct gate *gate, struct gate_addr *addr, int tickets, int expected)
{
    gate->covered_count -= MIN(addr->entry.count, addr->expected);
    addr->entry.count += (uint32_t)tickets;
    gate->pending_count += (uint32_t)tickets;
    addr->expected += (uint32_t)expected;
    gate->expected_count += (uint32_t)expected;
    gate->covered_count += MIN(addr->entry.count, addr->expected);
    assert(gate->covered_count <= MIN(gate->pending_count, gate->expected_count));
    gate->was_half_empty |= gate->pending_count - gate->covered_count <= gate->pending_max / 2;
}

/* Frees the address if it has no ticket, nobody waits, and it is not expected and not known. */
static void release_addr(struct gate *gate, struct gate_addr *addr)
{
    if (addr->expected == 0 && addr->waiting == 0 && !addr->is_known)
        addr_table_trim(&gate->addrs, &addr->entry.key);
}

/* ---- the queues ---- */

static enum gate_queue queue_of(const struct gate_ticket *ticket)
{
    return ticket->spoke ? GATE_SPOKE : GATE_SILENT;
}

static void put_into_queues(struct gate *gate, struct gate_ticket *ticket)
{
    struct gate_addr *addr = ticket->addr;
    enum gate_queue queue = queue_of(ticket);
    list_push_back(&gate->queues[addr->is_known][queue], &ticket->node);
    list_push_back(&addr->queues[queue], &ticket->addr_node);
    gate->counts[addr->is_known][queue]++;
}

static void take_out_of_queues(struct gate *gate, struct gate_ticket *ticket)
{
    list_remove(&ticket->node);
    list_remove(&ticket->addr_node);
    gate->counts[ticket->addr->is_known][queue_of(ticket)]--;
}

static void remove_ticket(struct gate *gate, struct gate_ticket *ticket)
{
    struct gate_addr *addr = ticket->addr;
    take_out_of_queues(gate, ticket);
    ticket->addr = NULL;
    count_addr(gate, addr, -1, 0);
    release_addr(gate, addr);
}

/* Moves the address's tickets to the queues of its new kind. The loop is short enough under the
 * lock: the limit per address bounds it, and it takes a client's login, or 24 h, to cause it. */
static void set_known(struct gate *gate, struct gate_addr *addr, bool is_known)
{
    for (int queue = 0; queue < GATE_QUEUES; queue++) {
        uint32_t count = 0;
        list_for_each (node, &addr->queues[queue]) {
            struct gate_ticket *ticket = container_of(node, struct gate_ticket, addr_node);
            list_remove(&ticket->node);
            list_push_back(&gate->queues[is_known][queue], &ticket->node);
            count++;
        }
        gate->counts[addr->is_known][queue] -= count;
        gate->counts[is_known][queue] += count;
    }
    addr->is_known = is_known;
    gate->known_count += is_known ? 1u : -1u;
}

static void forget_oldest_known(struct gate *gate)
{
    struct gate_addr *addr =
        container_of(list_pop_front(&gate->known), struct gate_addr, known_node);
    set_known(gate, addr, false);
    release_addr(gate, addr);
}

static void forget_expired(struct gate *gate, uint64_t now_ns)
{
    while (!list_is_empty(&gate->known) &&
           container_of(gate->known.next, struct gate_addr, known_node)->known_until_ns <= now_ns)
        forget_oldest_known(gate);
}

/* ---- eviction ---- */

static bool throw_coin(struct gate *gate)
{
    if (gate->coin_count == 0) {
        keys_random(&gate->coins, sizeof(gate->coins));
        gate->coin_count = 8 * sizeof(gate->coins);
    }
    return (gate->coins >> --gate->coin_count & 1) != 0;
}

static struct gate_ticket *ticket_at(struct list *node, bool of_addr)
{
    return of_addr ? container_of(node, struct gate_ticket, addr_node)
                   : container_of(node, struct gate_ticket, node);
}

/* since_ns may be after now_ns: each worker passes the time of its own turn. */
static bool is_older(const struct gate_ticket *ticket, uint64_t now_ns, unsigned int ms)
{
    return now_ns > ticket->since_ns && now_ns - ticket->since_ns >= ms_to_ns(ms);
}

/* To evict a ticket of an address that has no more tickets than expected would make no room. Young
 * tickets are spared at random (gate.h). */
static bool is_spared(struct gate *gate, const struct gate_ticket *ticket, uint64_t now_ns)
{
    assert(ticket->addr != NULL);
    return ticket->addr->entry.count <= ticket->addr->expected ||
           (!is_older(ticket, now_ns, LIMIT_ROUND_TRIP_MS) && throw_coin(gate));
}

/* Chooses the ticket to evict from a queue that is not empty. of_addr: it is a queue of an
 * address. */
static struct gate_ticket *choose(struct gate *gate, struct list *queue, bool of_addr,
                                  uint64_t now_ns)
{
    struct gate_ticket *first = ticket_at(queue->next, of_addr);
    for (int spared = 0; spared < SPARED_MAX && is_spared(gate, first, now_ns); spared++) {
        struct list *node = queue->next;
        list_remove(node);
        list_push_back(queue, node);
        first = ticket_at(queue->next, of_addr);
    }
    return first;
}

/* The first queue that holds more than its share (gate.h). There must be at least one ticket. */
static struct list *queue_to_choose_from(struct gate *gate)
{
    const uint32_t(*counts)[GATE_QUEUES] = gate->counts;
    uint32_t known_count = counts[1][GATE_SILENT] + counts[1][GATE_SPOKE];
    uint32_t known_share = gate->pending_max / KNOWN_SHARE + gate->covered_count;
    bool has_strangers = counts[0][GATE_SILENT] + counts[0][GATE_SPOKE] > 0;
    if (counts[0][GATE_SILENT] > gate->pending_max / SILENT_SHARE)
        return &gate->queues[0][GATE_SILENT];
    if (known_count > 0 && (known_count >= known_share || !has_strangers))
        return &gate->queues[1][counts[1][GATE_SILENT] > 0 ? GATE_SILENT : GATE_SPOKE];
    return &gate->queues[0][counts[0][GATE_SPOKE] > 0 ? GATE_SPOKE : GATE_SILENT];
}

static void evict(struct gate *gate, struct gate_ticket *victim, struct gate_desk *from)
{
    struct metrics *metrics = &from->worker->metrics;
    struct gate_desk *desk = victim->desk;
    assert(victim->addr != NULL); /* every ticket in a queue has an address */
    metrics_add(metrics, METRIC_STRANGERS_EVICTED, 1);
    if (victim->spoke)
        metrics_add(metrics, METRIC_STRANGERS_EVICTED_SPOKE, 1);
    if (victim->addr->is_known)
        metrics_add(metrics, METRIC_STRANGERS_EVICTED_KNOWN, 1);
    remove_ticket(gate, victim);
    list_push_back(&desk->evicted, &victim->node);
    mailbox_signal(desk->worker->mailbox, from->worker->mailbox, TUNNEL_SIGNAL_EVICTED);
}

static void evict_own(struct gate *gate, struct gate_addr *addr, struct gate_desk *from,
                      uint64_t now_ns)
{
    struct list *silent = &addr->queues[GATE_SILENT], *spoke = &addr->queues[GATE_SPOKE];
    struct list *queue = list_is_empty(silent) ? spoke : silent;
    if (list_is_empty(queue))
        return;
    metrics_add(&from->worker->metrics, METRIC_STRANGERS_EVICTED_PER_IP, 1);
    evict(gate, choose(gate, queue, true, now_ns), from);
}

/* The tickets beyond those that are expected. */
static uint32_t uncovered(const struct gate *gate)
{
    return gate->pending_count - gate->covered_count;
}

/* Evicts connections that are too many with the newcomer, which is counted but not yet in a
 * queue. */
static void gate_make_room(struct gate *gate, struct gate_addr *addr, struct gate_desk *from,
                           uint64_t now_ns)
{
    if (addr->entry.count > gate->pending_max_per_ip + addr->expected)
        evict_own(gate, addr, from, now_ns);
    for (int i = 0; i < EVICTED_AT_ONCE && uncovered(gate) > gate->pending_max; i++)
        evict(gate, choose(gate, queue_to_choose_from(gate), false, now_ns), from);
    /* While the gate is half full, the first message has a shorter deadline. It needs no timer,
     * because only newcomers need the place. */
    struct list *silent = &gate->queues[0][GATE_SILENT];
    for (int i = 0; i < EVICTED_AT_ONCE && uncovered(gate) > gate->pending_max / 2; i++) {
        if (list_is_empty(silent) ||
            !is_older(ticket_at(silent->next, false), now_ns, LIMIT_FIRST_BYTE_MS))
            break;
        metrics_add(&from->worker->metrics, METRIC_STRANGERS_EVICTED_SLOW, 1);
        evict(gate, ticket_at(silent->next, false), from);
    }
}

/* ---- coming and going ---- */

struct gate_ticket *gate_next_evicted(struct gate *gate, struct gate_desk *desk)
{
    (void)pthread_mutex_lock(&gate->lock);
    struct list *node = list_pop_front(&desk->evicted);
    (void)pthread_mutex_unlock(&gate->lock);
    return node != NULL ? ticket_at(node, false) : NULL;
}

static void be_patient(struct gate *gate, uint64_t now_ns)
{
    gate->patient_until_ns = MAX(gate->patient_until_ns, now_ns + ms_to_ns(LIMIT_GATE_PATIENCE_MS));
}

static int gate_admit(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
                      struct gate_desk *desk, uint64_t now_ns)
{
    *ticket = (struct gate_ticket){.key = *key, .desk = desk, .since_ns = now_ns};
    list_init(&ticket->node);
    list_init(&ticket->addr_node);
    struct gate_addr *addr = get_addr(gate, key);
    if (addr == NULL)
        return -ENOMEM;
    /* First, or evicting the address's last ticket would free addr. */
    count_addr(gate, addr, 1, 0);
    gate_make_room(gate, addr, desk, now_ns);
    ticket->addr = addr;
    put_into_queues(gate, ticket);
    if (gate->was_half_empty && uncovered(gate) >= gate->pending_max) {
        gate->was_half_empty = false;
        be_patient(gate, now_ns);
    }
    return GATE_ENTERED;
}

int gate_enter(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
               struct gate_desk *desk, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&gate->lock);
    forget_expired(gate, now_ns);
    int result = gate_admit(gate, ticket, key, desk, now_ns);
    (void)pthread_mutex_unlock(&gate->lock);
    return result;
}

/* Whether another newcomer would evict a connection that may be a client's. */
static bool would_harm(struct gate *gate, const struct gate_addr *addr, uint64_t now_ns)
{
    if (uncovered(gate) < gate->pending_max || now_ns >= gate->patient_until_ns)
        return false;
    struct list *queue = queue_to_choose_from(gate);
    const struct gate_ticket *oldest = ticket_at(queue->next, false);
    unsigned int young_ms = LIMIT_GATE_YOUNG_MS;
    if (queue == &gate->queues[0][GATE_SILENT] && !oldest->has_handshake)
        young_ms = LIMIT_GATE_SILENT_MS;
    else if (addr != NULL && addr->is_known && !oldest->addr->is_known)
        young_ms /= KNOWN_YOUNG_PART;
    return !is_older(oldest, now_ns, young_ms);
}

/* Whether the address has all connections that it may have. with_waiting: these count too. */
static bool has_all(const struct gate *gate, const struct gate_addr *addr, bool with_waiting)
{
    return addr != NULL && addr->entry.count + (with_waiting ? addr->waiting : 0) >=
                               gate->pending_max_per_ip + addr->expected;
}

static void count_waiting(struct gate *gate, struct gate_addr *addr, enum gate_answer kind, int by)
{
    gate->waiting_count[kind] += (uint32_t)by;
    addr->waiting += (uint32_t)by;
}

int gate_try(struct gate *gate, struct gate_ticket *ticket, const struct addr_key *key,
             struct gate_desk *desk, uint64_t now_ns, bool is_new, enum gate_answer kind)
{
    (void)pthread_mutex_lock(&gate->lock);
    forget_expired(gate, now_ns);
    struct gate_addr *addr = find_addr(gate, key);
    /* One that is expected takes no place from others. */
    bool is_covered = addr != NULL && addr->entry.count < addr->expected;
    bool may_wait = !is_covered && !has_all(gate, addr, is_new);
    bool waits = may_wait && would_harm(gate, addr, now_ns);
    if (is_new) {
        kind = addr != NULL && addr->is_known ? GATE_WAITS_KNOWN : GATE_WAITS;
        waits |= may_wait && gate->waiting_count[kind] > 0; /* nobody overtakes */
        waits &= gate->waiting_count[0] + gate->waiting_count[1] < gate->waiting_max;
        if (waits && (addr = get_addr(gate, key)) != NULL)
            count_waiting(gate, addr, kind, 1);
        waits &= addr != NULL;
    } else if (!waits) {
        count_waiting(gate, addr, kind, -1);
    }
    int result = waits ? (int)kind : gate_admit(gate, ticket, key, desk, now_ns);
    (void)pthread_mutex_unlock(&gate->lock);
    return result;
}

void gate_stop_waiting(struct gate *gate, const struct addr_key *key, enum gate_answer kind)
{
    (void)pthread_mutex_lock(&gate->lock);
    struct gate_addr *addr = find_addr(gate, key);
    count_waiting(gate, addr, kind, -1);
    release_addr(gate, addr);
    (void)pthread_mutex_unlock(&gate->lock);
}

void gate_relieve(struct gate *gate, struct gate_desk *desk, uint64_t now_ns)
{
    int left = RELIEVED_AT_ONCE;
    (void)pthread_mutex_lock(&gate->lock);
    for (int known = 0; known < 2; known++) {
        struct list *silent = &gate->queues[known][GATE_SILENT];
        for (; left > 0 && !list_is_empty(silent); left--) {
            struct gate_ticket *first = ticket_at(silent->next, false);
            if (!is_older(first, now_ns, LIMIT_ROUND_TRIP_MS))
                break;
            metrics_add(&desk->worker->metrics, METRIC_STRANGERS_EVICTED_FDS, 1);
            evict(gate, first, desk);
        }
    }
    (void)pthread_mutex_unlock(&gate->lock);
}

/* The connection has got further (*step: its `spoke` or `has_handshake`): its time begins anew.
 * False: it was evicted. */
static bool note_step(struct gate *gate, struct gate_ticket *ticket, bool *step, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&gate->lock);
    bool inside = ticket->addr != NULL;
    if (inside) {
        take_out_of_queues(gate, ticket);
        *step = true;
        ticket->since_ns = now_ns;
        put_into_queues(gate, ticket);
    }
    (void)pthread_mutex_unlock(&gate->lock);
    return inside;
}

bool gate_spoke(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns)
{
    return note_step(gate, ticket, &ticket->spoke, now_ns);
}

void gate_begin_handshake(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns)
{
    (void)note_step(gate, ticket, &ticket->has_handshake, now_ns);
}

void gate_leave(struct gate *gate, struct gate_ticket *ticket)
{
    (void)pthread_mutex_lock(&gate->lock);
    if (ticket->addr != NULL)
        remove_ticket(gate, ticket);
    else
        list_remove(&ticket->node); /* from the desk, if the worker has not taken it yet */
    (void)pthread_mutex_unlock(&gate->lock);
}

void gate_expect(struct gate *gate, const struct addr_key *key, int count)
{
    if (count == 0)
        return;
    (void)pthread_mutex_lock(&gate->lock);
    struct gate_addr *addr = get_addr(gate, key);
    if (addr != NULL) { /* without memory the client's channels compete with strangers */
        if (count < 0 && (uint32_t)-count > addr->expected)
            count = -(int)addr->expected;
        count_addr(gate, addr, 0, count);
        release_addr(gate, addr);
    }
    (void)pthread_mutex_unlock(&gate->lock);
}

/* ---- clients, and handshakes ---- */

/* addr: the entry of the address `key`, or NULL. */
static struct handshake_taker taker_of(struct gate *gate, struct gate_addr *addr,
                                       const struct addr_key *key)
{
    bool is_known = addr != NULL && addr->is_known,
         is_expected = addr != NULL && addr->expected > 0;
    struct handshake_budget *own =
        is_known ? &addr->handshakes : handshake_budget_shared(&gate->handshakes, key);
    return (struct handshake_taker){own, is_known, is_expected};
}

bool gate_take_handshake(struct gate *gate, const struct addr_key *key, uint32_t cost,
                         uint64_t now_ns)
{
    (void)pthread_mutex_lock(&gate->lock);
    forget_expired(gate, now_ns);
    struct handshake_taker taker = taker_of(gate, find_addr(gate, key), key);
    bool allowed = handshake_budget_take(&gate->handshakes, &taker, cost, now_ns);
    (void)pthread_mutex_unlock(&gate->lock);
    return allowed;
}

void gate_trust(struct gate *gate, const struct addr_key *key, uint32_t cost, uint64_t now_ns)
{
    (void)pthread_mutex_lock(&gate->lock);
    struct gate_addr *addr = get_addr(gate, key);
    handshake_budget_give_back(&gate->handshakes, taker_of(gate, addr, key).own, cost);
    be_patient(gate, now_ns);
    if (addr != NULL) { /* without memory the address stays unknown */
        if (!addr->is_known)
            set_known(gate, addr, true);
        addr->known_until_ns = now_ns + (uint64_t)LIMIT_CLIENT_KNOWN_S * NS_PER_S;
        list_remove(&addr->known_node);
        list_push_back(&gate->known, &addr->known_node);
        if (gate->known_count > LIMIT_CLIENTS_KNOWN)
            forget_oldest_known(gate);
    }
    (void)pthread_mutex_unlock(&gate->lock);
}
