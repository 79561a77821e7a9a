/* The gate with workers that are nothing but a mailbox and a counter. */
#include "tunnel/gate.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/limits.h"
#include "crypto/keys.h"
#include "tunnel/tunnel_worker.h"

enum { TOTAL = 20, PER_IP = 8, TICKETS = 64 };

static struct mailbox_group *group;
static struct tunnel_worker worker;
static struct gate gate;
static struct gate_ticket tickets[TICKETS];

static void setup(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(mailbox_group_create(1, &group), 0);
    memset(&worker, 0, sizeof(worker));
    worker.mailbox = mailbox_of(group, 0);
    gate_init(&gate, TOTAL, PER_IP);
}

static void teardown(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(gate.addrs.buckets); i++)
        cr_expect_null(gate.addrs.buckets[i], "an entry is left");
    cr_expect(gate.pending_count == 0 && list_is_empty(&gate.pending));
    gate_finish(&gate);
    mailbox_group_destroy(group);
}

static struct addr_key key_of(uint8_t number)
{
    return (struct addr_key){{number, 1}};
}

static void enter(size_t ticket, uint8_t from)
{
    struct addr_key key = key_of(from);
    /* No wake-up by the ring here: signals of a NULL sender go through the eventfd. */
    cr_assert_eq(gate_enter(&gate, &tickets[ticket], &key, &worker), 0);
}

static void leave_all(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        gate_leave(&gate, &tickets[i]);
        gate_leave(&gate, &tickets[i]);
    }
}

static uint64_t evicted(void)
{
    return metrics_get(&worker.metrics, METRIC_STRANGERS_EVICTED);
}

Test(gate, one_address_evicts_its_own_oldest, .init = setup, .fini = teardown)
{
    enter(0, 1);
    for (size_t i = 1; i <= PER_IP; i++)
        enter(i, 2);
    cr_assert_eq(evicted(), 0);
    enter(PER_IP + 1, 2);
    cr_assert_eq(evicted(), 1);
    cr_assert(gate_is_evicted(&gate, &tickets[1]));
    cr_assert_not(gate_is_evicted(&gate, &tickets[0]));
    cr_assert_not(gate_spoke(&gate, &tickets[1]));
    cr_assert(gate_spoke(&gate, &tickets[2]));
    enter(PER_IP + 2, 2);
    cr_assert_not(gate_is_evicted(&gate, &tickets[2]), "it has spoken");
    cr_assert(gate_is_evicted(&gate, &tickets[3]));
    leave_all(PER_IP + 3);
}

Test(gate, the_largest_holder_pays_for_a_full_house, .init = setup, .fini = teardown)
{
    size_t count = 0;
    for (; count < 8; count++)
        enter(count, 1);
    for (uint8_t from = 10; count < TOTAL; count++)
        enter(count, from++);
    cr_assert_eq(evicted(), 0);
    enter(count++, 99);
    cr_assert_eq(evicted(), 1);
    cr_assert(gate_is_evicted(&gate, &tickets[0]), "the oldest of the largest");
    cr_assert_not(gate_is_evicted(&gate, &tickets[count - 1]), "the newcomer gets in");
    leave_all(count);
}

Test(gate, what_was_asked_for_raises_the_caps, .init = setup, .fini = teardown)
{
    struct addr_key key = key_of(5);
    gate_expect(&gate, &key, 30);
    for (size_t i = 0; i < PER_IP + 30; i++)
        enter(i, 5);
    cr_assert_eq(evicted(), 0);
    enter(PER_IP + 30, 5);
    cr_assert_eq(evicted(), 1);
    gate_expect(&gate, &key, -1000);
    cr_assert_eq(gate.expected_count, 0, "never below none");
    leave_all(PER_IP + 31);
}

/* ---- handshakes ---- */

enum { MS = 1000000 };

static const uint64_t start_ns = 5000000000u;

static bool take(uint8_t from, uint64_t now_ns)
{
    struct addr_key key = key_of(from);
    return gate_take_handshake(&gate, &key, now_ns);
}

static unsigned int take_all(uint8_t from, uint64_t now_ns)
{
    unsigned int count = 0;
    while (count < 100000 && take(from, now_ns))
        count++;
    return count;
}

/* Addresses share slots by a hash. */
static uint64_t slot_of(uint8_t from)
{
    struct addr_key key = key_of(from);
    return keys_hash(key.bytes, sizeof(key.bytes)) % GATE_BUDGETS;
}

/* One that shares none with `other`. */
static uint8_t stranger_to(uint8_t other)
{
    for (uint8_t from = 1; from < 255; from++) {
        if (slot_of(from) != slot_of(other))
            return from;
    }
    return 0;
}

/* All addresses take what they get, but those of one slot. */
static void flood_around(uint8_t other, uint64_t now_ns)
{
    for (uint8_t from = 1; from < 255; from++) {
        if (slot_of(from) != slot_of(other))
            (void)take_all(from, now_ns);
    }
}

Test(gate, handshakes_come_in_bursts_and_grow_back, .init = setup, .fini = teardown)
{
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
    cr_assert_not(take(7, start_ns + 1000 * MS / LIMIT_HANDSHAKES_PER_S - 1));
    uint64_t later_ns = start_ns + 1000 * (uint64_t)MS / LIMIT_HANDSHAKES_PER_S;
    cr_assert(take(7, later_ns));
    cr_assert_not(take(7, later_ns));
    /* Steps shorter than one handshake add up. */
    unsigned int count = 0;
    for (uint64_t ms = 1; ms <= 1000; ms++)
        count += take(7, later_ns + ms * MS) ? 1 : 0;
    cr_assert_eq(count, LIMIT_HANDSHAKES_PER_S);
    /* And no rest saves up more than a burst. */
    cr_assert_eq(take_all(7, start_ns + 3600 * 1000 * (uint64_t)MS), LIMIT_HANDSHAKES_BURST);
}

Test(gate, another_address_has_its_own, .init = setup, .fini = teardown)
{
    uint8_t other = stranger_to(7);
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
    cr_assert_eq(take_all(other, start_ns), LIMIT_HANDSHAKES_BURST);
}

Test(gate, all_addresses_share_one_cap, .init = setup, .fini = teardown)
{
    unsigned int count = 0;
    for (uint8_t from = 1; from < 255; from++)
        count += take_all(from, start_ns);
    cr_assert_eq(count, LIMIT_HANDSHAKES_ALL_BURST);
    cr_assert_not(take(255, start_ns));
    /* What was refused has cost the address nothing. */
    uint64_t later_ns = start_ns + 100 * (uint64_t)MS;
    count = 0;
    for (uint8_t from = 1; from < 255; from++)
        count += take_all(from, later_ns);
    cr_assert_eq(count, LIMIT_HANDSHAKES_ALL_PER_S / 10);
}

Test(gate, clients_get_theirs_back, .init = setup, .fini = teardown)
{
    struct addr_key key = key_of(7);
    for (int i = 0; i < 3 * LIMIT_HANDSHAKES_ALL_BURST; i++) {
        cr_assert(take(7, start_ns));
        gate_return_handshake(&gate, &key, start_ns);
    }
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
    gate_return_handshake(&gate, &key, start_ns);
    cr_assert(take(7, start_ns));
    cr_assert_not(take(7, start_ns));
    /* More than was taken is nothing to have. */
    for (int i = 0; i < 2 * LIMIT_HANDSHAKES_BURST; i++)
        gate_return_handshake(&gate, &key, start_ns);
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
}

Test(gate, a_flood_from_everywhere_leaves_old_clients_alone, .init = setup, .fini = teardown)
{
    struct addr_key key = key_of(255);
    cr_assert(take(255, start_ns));
    gate_return_handshake(&gate, &key, start_ns);
    uint64_t later_ns = start_ns + 1000000000ull * (LIMIT_CLIENT_KNOWN_S - 1);
    flood_around(255, later_ns);
    cr_assert_not(take(stranger_to(255), later_ns));
    cr_assert_gt(take_all(255, later_ns), 0);
    /* Not for ever. */
    flood_around(255, later_ns + 2000000000ull);
    cr_assert_not(take(255, later_ns + 2000000000ull));
}

/* Each worker brings the time of its own turn. Two that differ by the length of one must not make
 * handshakes grow out of nothing. */
Test(gate, clocks_that_differ_add_nothing, .init = setup, .fini = teardown)
{
    unsigned int count = 0;
    for (int i = 0; i < 100000; i++)
        count += take(7, start_ns + (uint64_t)(i % 2) * 100 * MS) ? 1 : 0;
    cr_assert_leq(count, LIMIT_HANDSHAKES_BURST + LIMIT_HANDSHAKES_PER_S / 10);
}
