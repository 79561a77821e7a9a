/* The gate alone. Its workers have only a mailbox and counters, and the test chooses the time. */
#include "server/gate.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/limits.h"
#include "crypto/keys.h"
#include "tunnel/tunnel_worker.h"

enum { TOTAL = 20, PER_IP = 8, TICKETS = 1024, MS = 1000000, AGED = LIMIT_ROUND_TRIP_MS };

static const uint64_t start_ns = 5000000000u;

static struct mailbox_group *group;
static struct tunnel_worker workers[2];
static struct gate_desk desks[2];
static struct gate gate;
static struct gate_ticket tickets[TICKETS];
static uint64_t now_ns;

static void begin(uint32_t total, uint32_t per_ip)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_eq(mailbox_group_create(2, &group), 0);
    memset(workers, 0, sizeof(workers));
    for (unsigned int i = 0; i < 2; i++) {
        workers[i].mailbox = mailbox_of(group, i);
        gate_desk_init(&desks[i], &workers[i]);
    }
    for (size_t i = 0; i < TICKETS; i++) {
        tickets[i] = (struct gate_ticket){.addr = NULL};
        list_init(&tickets[i].node);
    }
    gate_init(&gate, total, per_ip);
    now_ns = start_ns;
}

static void setup(void)
{
    begin(TOTAL, PER_IP);
}

/* With the program's limits. */
static void setup_whole(void)
{
    begin(LIMIT_PENDING, LIMIT_PENDING_PER_IP);
}

static void teardown(void)
{
    cr_expect_eq(gate.addrs.entry_count, gate.known_count, "an entry is left");
    cr_expect_eq(gate.pending_count, 0);
    cr_expect_eq(gate.covered_count, 0);
    for (int known = 0; known < 2; known++) {
        for (int queue = 0; queue < GATE_QUEUES; queue++) {
            cr_expect(list_is_empty(&gate.queues[known][queue]));
            cr_expect_eq(gate.counts[known][queue], 0);
        }
    }
    cr_expect(list_is_empty(&desks[0].evicted) && list_is_empty(&desks[1].evicted));
    gate_finish(&gate);
    mailbox_group_destroy(group);
}

static struct addr_key key_of(unsigned int number)
{
    struct addr_key key = {{0}};
    memcpy(key.bytes, &number, sizeof(number));
    key.bytes[15] = 1;
    return key;
}

static void let_pass(unsigned int ms)
{
    now_ns += (uint64_t)ms * MS;
}

static void enter(size_t ticket, unsigned int from)
{
    struct addr_key key = key_of(from);
    /* The workers have no ring, so evictions are signalled through their eventfds. */
    cr_assert_eq(gate_enter(&gate, &tickets[ticket], &key, &desks[0], now_ns), GATE_ENTERED);
}

static void speak(size_t ticket)
{
    cr_assert(gate_spoke(&gate, &tickets[ticket], now_ns));
}

static void trust(unsigned int from)
{
    struct addr_key key = key_of(from);
    gate_trust(&gate, &key, 0, now_ns);
}

static void expect(unsigned int from, int count)
{
    struct addr_key key = key_of(from);
    gate_expect(&gate, &key, count);
}

static bool is_inside(size_t ticket)
{
    return tickets[ticket].addr != NULL;
}

static void leave(size_t ticket)
{
    gate_leave(&gate, &tickets[ticket]);
}

static void leave_all(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        leave(i);
        leave(i);
    }
}

static uint64_t metric(enum metric which)
{
    return metrics_get(&workers[0].metrics, which);
}

static uint64_t evicted(void)
{
    return metric(METRIC_STRANGERS_EVICTED);
}

/* ---- who is evicted ---- */

Test(gate, one_address_evicts_its_own_oldest, .init = setup, .fini = teardown)
{
    enter(0, 1);
    for (size_t i = 1; i <= PER_IP; i++)
        enter(i, 2);
    cr_assert_eq(evicted(), 0);
    let_pass(AGED);
    enter(PER_IP + 1, 2);
    cr_assert_eq(evicted(), 1);
    cr_assert_not(is_inside(1));
    cr_assert(is_inside(0));
    cr_assert_not(gate_spoke(&gate, &tickets[1], now_ns));
    speak(2);
    let_pass(AGED);
    enter(PER_IP + 2, 2);
    cr_assert(is_inside(2), "it has spoken");
    cr_assert_not(is_inside(3));
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_PER_IP), 2);
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_SPOKE), 0);
    leave_all(PER_IP + 3);
}

Test(gate, the_oldest_silent_one_pays_for_a_full_house, .init = setup, .fini = teardown)
{
    size_t count = 0;
    for (; count < 8; count++) {
        enter(count, 1);
        if (count > 0)
            speak(count);
    }
    for (unsigned int from = 10; count < TOTAL; count++)
        enter(count, from++);
    cr_assert_eq(evicted(), 0);
    let_pass(AGED);
    enter(count++, 99);
    cr_assert_eq(evicted(), 1);
    cr_assert_not(is_inside(0), "the oldest that has said nothing");
    enter(count++, 98);
    cr_assert_not(is_inside(8), "and the next, though its address has one place and another seven");
    for (size_t i = 1; i < 8; i++)
        cr_assert(is_inside(i));
    cr_assert(is_inside(count - 1) && is_inside(count - 2), "newcomers get in");
    leave_all(count);
}

/* A client with many logins in progress has more connections than any stranger, but they have
 * spoken. */
Test(gate, who_has_spoken_outlasts_any_silent_crowd, .init = setup_whole, .fini = teardown)
{
    enum { LOGINS = 48 };
    for (size_t i = 0; i < LOGINS; i++) {
        enter(i, 1);
        speak(i);
    }
    for (unsigned int from = 2; from < 20000; from++) {
        size_t ticket = LOGINS + from % (TICKETS - LOGINS);
        leave(ticket);
        enter(ticket, from);
        now_ns += MS / 2;
        cr_assert_leq(gate.pending_count, LIMIT_PENDING);
    }
    for (size_t i = 0; i < LOGINS; i++)
        cr_assert(is_inside(i), "login %zu", i);
    cr_assert_geq(evicted(), 20000 - LIMIT_PENDING - LOGINS - TICKETS);
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_SPOKE), 0);
    leave_all(TICKETS);
}

/* Strangers who know a service's name can send its Hello and then stall. */
Test(gate, known_addresses_outlast_those_who_speak, .init = setup_whole, .fini = teardown)
{
    trust(1);
    for (size_t i = 0; i < 48; i++) {
        enter(i, 1);
        if (i % 2 == 0)
            speak(i);
    }
    for (unsigned int from = 2; from < 10000; from++) {
        size_t ticket = 48 + from % (TICKETS - 48);
        leave(ticket);
        enter(ticket, from);
        speak(ticket);
        now_ns += MS / 2;
        cr_assert_leq(gate.pending_count, LIMIT_PENDING);
    }
    for (size_t i = 0; i < 48; i++)
        cr_assert(is_inside(i), "login %zu", i);
    cr_assert_geq(metric(METRIC_STRANGERS_EVICTED_SPOKE), 9000 - TICKETS);
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_KNOWN), 0);
    leave_all(TICKETS);
}

/* Strangers may share a client's address. */
Test(gate, known_addresses_leave_half_to_others, .init = setup_whole, .fini = teardown)
{
    for (unsigned int from = 1; from <= 8; from++)
        trust(from);
    for (size_t i = 0; i < LIMIT_PENDING; i++)
        enter(i, 1 + i % 8);
    cr_assert_eq(evicted(), 0, "places that nobody else wants are theirs");
    for (unsigned int i = 0; i < LIMIT_PENDING / 2; i++) {
        enter(512 + i, 1000 + i);
        speak(512 + i);
    }
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_KNOWN), evicted());
    cr_assert_eq(gate.counts[1][GATE_SILENT], LIMIT_PENDING / 2);
    for (unsigned int i = 0; i < 2000; i++) {
        size_t ticket = i % LIMIT_PENDING;
        leave(ticket);
        enter(ticket, 1 + i % 8);
        now_ns += MS / 2;
    }
    for (size_t i = 0; i < LIMIT_PENDING / 2; i++)
        cr_assert(is_inside(512 + i), "a login from another address");
    leave_all(TICKETS);
}

/* A distant client behind a proxy is silent for a round trip, while strangers speak at once. */
Test(gate, silent_ones_keep_an_eighth_beside_those_who_speak, .init = setup_whole, .fini = teardown)
{
    for (size_t i = 0; i < LIMIT_PENDING; i++) {
        enter(i, 10 + i);
        speak(i);
    }
    enter(300, 1);
    for (unsigned int from = 1000; from < 3000; from++) {
        size_t ticket = 301 + from % 600;
        leave(ticket);
        enter(ticket, from);
        speak(ticket);
        now_ns += MS / 2;
    }
    cr_assert(is_inside(300));
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_SPOKE), evicted());
    leave_all(TICKETS);
}

/* The number of logins, of 100, that survive until their first message, which they send
 * `silence_ms` after they have connected, during a flood of `rate` connections a second from 256
 * addresses. */
static unsigned int survivors(unsigned int rate, unsigned int silence_ms)
{
    enum { CROWD = 900, TRIALS = 100 };
    uint64_t step_ns = 1000000000u / rate;
    unsigned int count = 0, next = 0;
    for (unsigned int trial = 0; trial < TRIALS; trial++) {
        uint64_t crowd_ns = trial == 0 ? (uint64_t)5000 * MS : (uint64_t)1000 * MS;
        uint64_t came_ns = now_ns + crowd_ns;
        bool has_come = false;
        for (; now_ns < came_ns + (uint64_t)silence_ms * MS; now_ns += step_ns) {
            if (!has_come && now_ns >= came_ns) {
                enter(CROWD, 5000);
                has_come = true;
            }
            leave(next % CROWD);
            enter(next % CROWD, 1 + next % 256);
            next++;
        }
        count += is_inside(CROWD) ? 1 : 0;
        leave(CROWD);
    }
    return count;
}

Test(gate, a_round_trip_of_silence_fits_into_a_flood, .init = setup_whole, .fini = teardown)
{
    cr_assert_eq(survivors(60, LIMIT_ROUND_TRIP_MS), 100);
    cr_assert_eq(survivors(200, LIMIT_ROUND_TRIP_MS), 100);
    cr_assert_eq(survivors(500, LIMIT_ROUND_TRIP_MS), 100);
    leave_all(TICKETS);
}

/* If the oldest were always evicted, no login would survive that is silent for longer than 256
 * newcomers take to arrive. A client tries 16 logins at a time (LIMIT_LOGINS_IN_PROGRESS), and the
 * first that succeeds makes its address known, so a few survivors are enough. */
Test(gate, a_faster_flood_lets_some_through, .init = setup_whole, .fini = teardown)
{
    unsigned int near = survivors(2000, 100), far = survivors(2000, 200);
    cr_assert_geq(near, 20, "%u of 100", near);
    cr_assert_geq(far, 2, "%u of 100", far);
    leave_all(TICKETS);
}

/* ---- the shorter deadline of a half-full gate ---- */

Test(gate, a_half_full_gate_waits_a_second_for_a_first_word, .init = setup, .fini = teardown)
{
    size_t count = 0;
    trust(1);
    enter(count++, 1);
    enter(count++, 2);
    speak(1);
    while (count < TOTAL / 2)
        enter(count, 10 + (unsigned int)count), count++;
    let_pass(LIMIT_FIRST_BYTE_MS - 1);
    enter(count, 10 + (unsigned int)count), count++;
    cr_assert_eq(evicted(), 0, "not before its time");
    let_pass(1);
    enter(count, 10 + (unsigned int)count), count++;
    cr_assert_eq(evicted(), 2, "two for one, until it is less than half full");
    cr_assert(!is_inside(2) && !is_inside(3) && is_inside(4));
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_SLOW), 2);
    let_pass(LIMIT_FIRST_BYTE_MS);
    for (int i = 0; i < 10; i++)
        enter(count, 10 + (unsigned int)count), count++;
    cr_assert(is_inside(0), "known");
    cr_assert(is_inside(1), "has spoken");
    leave_all(count);
}

Test(gate, a_gate_that_is_not_half_full_waits, .init = setup, .fini = teardown)
{
    for (size_t i = 0; i < TOTAL / 2; i++) {
        enter(i, 10 + (unsigned int)i);
        let_pass(LIMIT_FIRST_BYTE_MS);
    }
    cr_assert_eq(evicted(), 0);
    leave_all(TOTAL);
}

/* ---- known addresses ---- */

Test(gate, a_login_makes_its_siblings_known, .init = setup, .fini = teardown)
{
    enter(0, 1);
    speak(0);
    enter(1, 1);
    enter(2, 2);
    leave(0);
    trust(1);
    cr_assert_eq(gate.counts[1][GATE_SILENT], 1);
    cr_assert_eq(gate.counts[0][GATE_SILENT], 1);
    leave(1);
    leave(2);
    cr_assert_eq(gate.known_count, 1);
}

Test(gate, known_addresses_are_forgotten, .init = setup, .fini = teardown)
{
    trust(1);
    enter(0, 1);
    now_ns += (LIMIT_CLIENT_KNOWN_S - 1) * 1000ull * MS;
    enter(1, 2);
    cr_assert_eq(gate.known_count, 1);
    now_ns += 1000ull * MS;
    enter(2, 2);
    cr_assert_eq(gate.known_count, 0);
    cr_assert_eq(gate.counts[1][GATE_SILENT], 0);
    cr_assert_eq(gate.counts[0][GATE_SILENT], 3);
    leave_all(3);
}

Test(gate, known_addresses_are_counted, .init = setup, .fini = teardown)
{
    enter(0, 7);
    trust(7);
    for (unsigned int from = 100; from < 100 + LIMIT_CLIENTS_KNOWN - 1; from++)
        trust(from);
    cr_assert_eq(gate.counts[1][GATE_SILENT], 1);
    trust(7); /* a second login: the address is the youngest now */
    trust(99999);
    cr_assert_eq(gate.known_count, LIMIT_CLIENTS_KNOWN);
    cr_assert_eq(gate.counts[1][GATE_SILENT], 1);
    for (unsigned int from = 200000; from < 200000 + LIMIT_CLIENTS_KNOWN; from++)
        trust(from);
    cr_assert_eq(gate.known_count, LIMIT_CLIENTS_KNOWN);
    cr_assert_eq(gate.counts[0][GATE_SILENT], 1);
    leave(0);
}

/* ---- limits, and the desk ---- */

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

/* Channels that come late find their places, whatever strangers elsewhere have done meanwhile. */
Test(gate, the_places_of_late_channels_are_kept, .init = setup, .fini = teardown)
{
    enum { CHANNELS = 30, FLOOD = 200 };
    trust(5);
    expect(5, CHANNELS);
    for (unsigned int i = 0; i < FLOOD; i++) {
        enter(CHANNELS + i, 10 + i);
        let_pass(1);
        cr_assert_leq(gate.pending_count, TOTAL);
    }
    uint64_t before = evicted();
    cr_assert_eq(before, FLOOD - TOTAL);
    for (size_t i = 0; i < CHANNELS; i++)
        enter(i, 5);
    cr_assert_eq(evicted(), before, "nobody has to make room");
    cr_assert_eq(gate.pending_count, TOTAL + CHANNELS);
    cr_assert_eq(gate.covered_count, CHANNELS);
    for (size_t i = 0; i < CHANNELS; i++) {
        speak(i);
        leave(i);
        expect(5, -1);
        cr_assert_eq(gate.covered_count, CHANNELS - 1 - i);
    }
    cr_assert_eq(gate.pending_count, TOTAL);
    enter(0, 5);
    cr_assert_eq(evicted(), before + 1, "one more than was asked for");
    leave_all(CHANNELS + FLOOD);
}

/* Strangers in the queue of the channels evict each other, though the channels are older. */
Test(gate, a_flood_leaves_channels_inside, .init = setup_whole, .fini = teardown)
{
    enum { CHANNELS = 60, STRANGERS = 900 };
    for (unsigned int from = 5; from < 40; from++)
        trust(from);
    expect(5, CHANNELS);
    for (size_t i = 0; i < CHANNELS; i++)
        enter(i, 5);
    for (unsigned int i = 0; i < 10 * STRANGERS; i++) {
        size_t ticket = CHANNELS + i % STRANGERS;
        leave(ticket);
        enter(ticket, 6 + i % 30);
        let_pass(2); /* slow enough that no coin decides */
        cr_assert_leq(gate.pending_count, LIMIT_PENDING + CHANNELS);
    }
    for (size_t i = 0; i < CHANNELS; i++)
        cr_assert(is_inside(i), "channel %zu", i);
    cr_assert_eq(gate.pending_count, LIMIT_PENDING + CHANNELS);
    expect(5, -CHANNELS); /* they did not come in time: now they are strangers like others */
    enter(TICKETS - 1, 39);
    enter(TICKETS - 2, 38);
    cr_assert_eq(gate.pending_count, LIMIT_PENDING + CHANNELS - 2, "two for one");
    leave_all(TICKETS);
}

/* What is expected may change at any time, in any order. */
Test(gate, what_is_covered_is_the_smaller_number, .init = setup, .fini = teardown)
{
    expect(1, 2);
    enter(0, 1);
    cr_assert_eq(gate.covered_count, 1);
    enter(1, 2);
    cr_assert_eq(gate.covered_count, 1, "not expected");
    enter(2, 1);
    enter(3, 1);
    cr_assert_eq(gate.covered_count, 2, "one more than expected");
    expect(1, 5);
    cr_assert_eq(gate.covered_count, 3);
    expect(2, 1);
    cr_assert_eq(gate.covered_count, 4);
    expect(1, -6);
    cr_assert_eq(gate.covered_count, 2);
    leave(0);
    leave(2);
    cr_assert_eq(gate.covered_count, 2);
    leave(3);
    cr_assert_eq(gate.covered_count, 1);
    expect(1, -1);
    expect(2, -1);
    leave_all(4);
}

Test(gate, silent_ones_make_room_for_want_of_descriptors, .init = setup_whole, .fini = teardown)
{
    trust(1);
    for (size_t i = 0; i < 10; i++)
        enter(i, 1);
    speak(0);
    for (size_t i = 10; i < 30; i++)
        enter(i, 10 + (unsigned int)i);
    speak(10);
    let_pass(AGED - 1);
    gate_relieve(&gate, &desks[0], now_ns);
    cr_assert_eq(evicted(), 0, "they may still wait for a distant client's first message");
    let_pass(1);
    for (size_t i = 30; i < 40; i++)
        enter(i, 10 + (unsigned int)i);
    gate_relieve(&gate, &desks[0], now_ns);
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_FDS), 16, "some at a time");
    cr_assert(is_inside(10) && !is_inside(11) && !is_inside(26) && is_inside(27));
    gate_relieve(&gate, &desks[0], now_ns);
    cr_assert_not(is_inside(29));
    cr_assert(is_inside(30), "young");
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_KNOWN), 9,
                 "last of all those from known addresses");
    gate_relieve(&gate, &desks[0], now_ns);
    cr_assert_eq(metric(METRIC_STRANGERS_EVICTED_FDS), 16 + 3 + 9);
    cr_assert(is_inside(0) && is_inside(10), "they have spoken");
    leave_all(40);
}

Test(gate, a_cap_that_sinks_is_reached_again, .init = setup, .fini = teardown)
{
    for (size_t i = 0; i < TOTAL; i++)
        enter(i, 10 + (unsigned int)i);
    gate_set_limits(&gate, TOTAL / 2, PER_IP, 0);
    for (size_t i = TOTAL; i < 2 * TOTAL; i++)
        enter(i, 10 + (unsigned int)i);
    cr_assert_eq(gate.pending_count, TOTAL / 2);
    leave_all(2 * TOTAL);
}

/* The smallest limits that the configuration allows. */
Test(gate, one_place, .init = setup, .fini = teardown)
{
    gate_set_limits(&gate, 1, 1, 0);
    trust(1);
    for (unsigned int i = 0; i < 200; i++) {
        enter(i, i % 3);
        if (i % 5 == 0)
            speak(i);
        cr_assert_eq(gate.pending_count, 1);
        cr_assert(is_inside(i));
    }
    leave_all(200);
}

Test(gate, each_worker_finds_its_own_on_its_desk, .init = setup, .fini = teardown)
{
    struct addr_key key = key_of(1);
    cr_assert_eq(gate_enter(&gate, &tickets[0], &key, &desks[1], now_ns), GATE_ENTERED);
    for (size_t i = 1; i <= PER_IP; i++) {
        let_pass(AGED);
        enter(i, 1);
    }
    let_pass(AGED);
    enter(PER_IP + 1, 1);
    enter(PER_IP + 2, 2);
    cr_assert_eq(evicted(), 2);
    cr_assert_eq(gate_next_evicted(&gate, &desks[1]), &tickets[0]);
    cr_assert_null(gate_next_evicted(&gate, &desks[1]), "once");
    cr_assert_eq(gate_next_evicted(&gate, &desks[0]), &tickets[1]);
    enter(PER_IP + 3, 1);
    cr_assert_not(is_inside(2));
    leave(2); /* the evicted connection ends before its worker looks at the desk */
    cr_assert_null(gate_next_evicted(&gate, &desks[0]));
    leave_all(PER_IP + 4);
}

/* When a reload changes the prefixes, older connections are still counted under their old keys. */
Test(gate, other_prefixes_leave_nothing_behind, .init = setup, .fini = teardown)
{
    struct addr addr;
    struct host_port host_port;
    cr_assert_eq(host_port_parse("[2001:db8:1:2:3::1]:1", &host_port), 0);
    cr_assert(addr_from_numeric(&host_port, &addr));
    size_t count = 0;
    for (uint8_t bits = 48; bits <= 128; bits += 16) {
        struct addr_key key = addr_key(&addr, (struct addr_prefixes){.v4 = 32, .v6 = bits});
        gate_expect(&gate, &key, 2);
        for (int i = 0; i < 3; i++)
            cr_assert_eq(gate_enter(&gate, &tickets[count++], &key, &desks[0], now_ns),
                         GATE_ENTERED);
    }
    for (uint8_t bits = 48; bits <= 128; bits += 16) {
        struct addr_key key = addr_key(&addr, (struct addr_prefixes){.v4 = 32, .v6 = bits});
        gate_expect(&gate, &key, -2);
    }
    leave_all(count);
    cr_assert_eq(gate.expected_count, 0);
    cr_assert_eq(gate.addrs.entry_count, 0);
}

/* ---- handshakes ---- */

static bool take(uint8_t from, uint64_t at_ns)
{
    struct addr_key key = key_of(from);
    return gate_take_handshake(&gate, &key, 1, at_ns);
}

static unsigned int take_all(uint8_t from, uint64_t at_ns)
{
    unsigned int count = 0;
    while (count < 100000 && take(from, at_ns))
        count++;
    return count;
}

/* The budget that an unknown address shares with others, by its hash. */
static uint64_t slot_of(uint8_t from)
{
    struct addr_key key = key_of(from);
    return keys_hash(key.bytes, sizeof(key.bytes)) % HANDSHAKE_BUDGETS;
}

/* An address whose budget is not the one of `other`. */
static uint8_t stranger_to(uint8_t other)
{
    for (uint8_t from = 1; from < 255; from++) {
        if (slot_of(from) != slot_of(other))
            return from;
    }
    return 0;
}

/* All addresses use up their budgets, except those that share the budget of `other`. */
static void flood_around(uint8_t other, uint64_t at_ns)
{
    for (uint8_t from = 1; from < 255; from++) {
        if (slot_of(from) != slot_of(other))
            (void)take_all(from, at_ns);
    }
}

Test(gate, another_address_has_its_own, .init = setup, .fini = teardown)
{
    uint8_t other = stranger_to(7);
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
    struct addr_key key = key_of(7);
    cr_assert_not(gate_take_handshake(&gate, &key, 0, start_ns), "a look");
    cr_assert_eq(take_all(other, start_ns), LIMIT_HANDSHAKES_BURST);
}

Test(gate, all_addresses_share_one_cap, .init = setup, .fini = teardown)
{
    unsigned int count = 0;
    for (uint8_t from = 1; from < 255; from++)
        count += take_all(from, start_ns);
    cr_assert_eq(count, LIMIT_HANDSHAKES_ALL_BURST);
    cr_assert_not(take(255, start_ns));
    /* Refused handshakes were not taken from the budgets of the addresses. */
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
        gate_trust(&gate, &key, 1, start_ns);
    }
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
    gate_trust(&gate, &key, 1, start_ns);
    cr_assert(take(7, start_ns));
    cr_assert_not(take(7, start_ns));
    /* Giving back more than was taken does not make the budget larger. */
    for (int i = 0; i < 2 * LIMIT_HANDSHAKES_BURST; i++)
        gate_trust(&gate, &key, 1, start_ns);
    cr_assert_eq(take_all(7, start_ns), LIMIT_HANDSHAKES_BURST);
}

Test(gate, a_flood_from_everywhere_leaves_old_clients_alone, .init = setup, .fini = teardown)
{
    struct addr_key key = key_of(255);
    cr_assert(take(255, start_ns));
    gate_trust(&gate, &key, 1, start_ns);
    uint64_t later_ns = start_ns + 1000000000ull * (LIMIT_CLIENT_KNOWN_S - 1);
    flood_around(255, later_ns);
    cr_assert_not(take(stranger_to(255), later_ns));
    cr_assert_gt(take_all(255, later_ns), 0);
    /* Two seconds later the address is not known any more. */
    flood_around(255, later_ns + 2000000000ull);
    cr_assert_not(take(255, later_ns + 2000000000ull));
}

/* ---- newcomers that can wait ---- */

static int try(size_t ticket, unsigned int from)
{
    struct addr_key key = key_of(from);
    return gate_try(&gate, &tickets[ticket], &key, &desks[0], now_ns, true, GATE_WAITS);
}

static void stop_waiting(unsigned int from)
{
    struct addr_key key = key_of(from);
    gate_stop_waiting(&gate, &key, GATE_WAITS);
}

static int try_again(size_t ticket, unsigned int from, enum gate_answer kind)
{
    struct addr_key key = key_of(from);
    return gate_try(&gate, &tickets[ticket], &key, &desks[0], now_ns, false, kind);
}

/* Fills the gate with connections of different addresses that have spoken. */
static void crowd(uint32_t waiting_max)
{
    gate_set_limits(&gate, TOTAL, PER_IP, waiting_max);
    for (unsigned int i = 0; i < TOTAL; i++) {
        cr_assert_eq(try(i, 100 + i), GATE_ENTERED);
        speak(i);
    }
}

Test(gate, a_newcomer_waits_while_the_gate_is_full_of_young_ones, .init = setup, .fini = teardown)
{
    crowd(10);
    cr_assert_eq(try(TOTAL, 1), GATE_WAITS);
    cr_expect_eq(try_again(TOTAL, 1, GATE_WAITS), GATE_WAITS);
    leave(3);
    cr_expect_eq(try(TOTAL + 1, 2), GATE_WAITS, "nobody overtakes");
    cr_expect_eq(try_again(TOTAL, 1, GATE_WAITS), GATE_ENTERED);
    cr_expect_eq(try_again(TOTAL + 1, 2, GATE_WAITS), GATE_WAITS);
    leave(4);
    cr_expect_eq(try_again(TOTAL + 1, 2, GATE_WAITS), GATE_ENTERED);
    cr_expect_eq(evicted(), 0);
    cr_expect_eq(gate.waiting_count[0] + gate.waiting_count[1], 0);
    leave_all(TOTAL + 3);
}

Test(gate, a_newcomer_does_not_wait_for_those_who_stall, .init = setup, .fini = teardown)
{
    crowd(10);
    cr_assert_eq(try(TOTAL, 1), GATE_WAITS);
    let_pass(LIMIT_GATE_YOUNG_MS - 1);
    trust(50); /* a client has got in, so it is worth waiting */
    cr_expect_eq(try_again(TOTAL, 1, GATE_WAITS), GATE_WAITS);
    let_pass(1);
    cr_expect_eq(try_again(TOTAL, 1, GATE_WAITS), GATE_ENTERED);
    cr_expect_eq(evicted(), 1);
    leave_all(TOTAL + 3);
}

Test(gate, nobody_waits_when_no_client_gets_in, .init = setup, .fini = teardown)
{
    crowd(10);
    cr_assert_eq(try(TOTAL, 1), GATE_WAITS);
    stop_waiting(1);
    for (unsigned int ms = 0; ms < LIMIT_GATE_PATIENCE_MS; ms += 100) {
        let_pass(100); /* strangers who replace each other, so that all stay young */
        for (unsigned int i = 0; i < TOTAL; i++) {
            leave(i);
            enter(i, 100 + i);
            speak(i);
        }
    }
    cr_expect_eq(try(TOTAL, 1), GATE_ENTERED);
    cr_expect_eq(evicted(), 1);
    leave_all(TOTAL + 3);
}

Test(gate, known_addresses_wait_in_a_queue_of_their_own, .init = setup, .fini = teardown)
{
    trust(1);
    crowd(10);
    cr_assert_eq(try(TOTAL, 2), GATE_WAITS);
    cr_assert_eq(try(TOTAL + 1, 1), GATE_WAITS_KNOWN);
    leave(0);
    cr_expect_eq(try_again(TOTAL + 1, 1, GATE_WAITS_KNOWN), GATE_ENTERED);
    cr_expect_eq(gate.waiting_count[GATE_WAITS_KNOWN], 0);
    stop_waiting(2);
    cr_expect_eq(evicted(), 0);
    leave_all(TOTAL + 3);
}

Test(gate, the_number_of_those_who_wait_is_bounded, .init = setup, .fini = teardown)
{
    crowd(2);
    cr_expect_eq(try(TOTAL, 1), GATE_WAITS);
    cr_expect_eq(try(TOTAL + 1, 2), GATE_WAITS);
    cr_expect_eq(try(TOTAL + 2, 3), GATE_ENTERED);
    cr_expect_eq(evicted(), 1);
    stop_waiting(1);
    stop_waiting(2);
    leave_all(TOTAL + 3);
}

Test(gate, one_address_does_not_fill_the_lobby, .init = setup, .fini = teardown)
{
    crowd(100);
    for (unsigned int i = 0; i < PER_IP; i++)
        cr_assert_eq(try(TOTAL + i, 1), GATE_WAITS);
    cr_expect_eq(try(TOTAL + PER_IP, 1), GATE_ENTERED, "at the limit per address nobody waits");
    cr_expect_eq(evicted(), 1);
    cr_expect_eq(try_again(TOTAL, 1, GATE_WAITS), GATE_WAITS, "and who waits goes on");
    cr_expect_eq(try(TOTAL + PER_IP + 1, 2), GATE_WAITS);
    stop_waiting(2);
    for (unsigned int i = 0; i < PER_IP; i++)
        stop_waiting(1);
    cr_expect_eq(try(TOTAL + PER_IP + 1, 1), GATE_WAITS);
    expect(1, 2);
    cr_expect_eq(try_again(TOTAL + PER_IP + 1, 1, GATE_WAITS), GATE_ENTERED);
    expect(1, -2);
    leave_all(TOTAL + PER_IP + 2);
}

Test(gate, a_handshake_makes_a_silent_one_young_again, .init = setup, .fini = teardown)
{
    gate_set_limits(&gate, TOTAL, PER_IP, 10);
    for (unsigned int i = 0; i < TOTAL; i++)
        cr_assert_eq(try(i, 100 + i), GATE_ENTERED);
    let_pass(LIMIT_GATE_SILENT_MS);
    for (unsigned int i = 0; i < TOTAL; i++)
        gate_begin_handshake(&gate, &tickets[i], now_ns);
    let_pass(LIMIT_GATE_SILENT_MS);
    cr_expect_eq(try(TOTAL, 1), GATE_WAITS);
    stop_waiting(1);
    cr_expect_eq(evicted(), 0);
    leave_all(TOTAL + 3);
}
