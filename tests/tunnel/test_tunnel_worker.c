#include "tunnel/tunnel_worker.h"

#include <criterion/criterion.h>
#include <errno.h>

#include "base/error.h"
#include "fake_loop.h"

enum { WORKERS = 4 };

static struct tunnel_workers all;
static struct tunnel_worker workers[WORKERS];

static void set_up(unsigned int count)
{
    all = (struct tunnel_workers){.count = count, .items = workers};
    for (unsigned int i = 0; i < count; i++) {
        workers[i] = (struct tunnel_worker){.index = i, .all = &all};
        struct loop_options options = {.metrics = &workers[i].metrics};
        cr_assert_eq(loop_create(&options, &workers[i].loop), 0);
    }
}

static void tear_down(void)
{
    for (unsigned int i = 0; i < all.count; i++)
        loop_destroy(workers[i].loop);
}

Test(tunnel_worker, connection_ids_are_unique)
{
    uint64_t seen[WORKERS * 10];
    size_t count = 0;
    set_up(WORKERS);
    for (unsigned int i = 0; i < WORKERS * 10; i++) {
        uint64_t id = tunnel_next_conn_id(&workers[i % WORKERS]);
        for (size_t j = 0; j < count; j++)
            cr_assert_neq(seen[j], id);
        seen[count++] = id;
    }
    tear_down();
}

Test(tunnel_worker, relays_go_where_it_is_worth_it)
{
    static const struct {
        unsigned int busy[WORKERS], expected; /* seen from worker 0 */
    } rows[] = {
        {{0, 0, 0, 0}, 0},          {{250, 0, 0, 0}, 0},        {{251, 0, 0, 0}, 1},
        {{251, 5, 1, 3}, 0},        {{1000, 750, 750, 750}, 0}, {{1000, 800, 749, 760}, 2},
        {{1000, 900, 900, 100}, 3}, {{100, 0, 0, 0}, 0},        {{500, 900, 900, 900}, 0},
    };
    set_up(WORKERS);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (unsigned int j = 0; j < WORKERS; j++)
            fake_loop_set_busy(workers[j].loop, rows[i].busy[j]);
        cr_expect_eq(tunnel_place_relay(&workers[0])->index, rows[i].expected, "row %zu", i);
    }
    tear_down();
    set_up(1);
    fake_loop_set_busy(workers[0].loop, 1000);
    cr_assert_eq(tunnel_place_relay(&workers[0]), &workers[0]);
    tear_down();
}

Test(tunnel_worker, bulk_flows_of_a_busy_worker_are_spread)
{
    static const struct {
        unsigned int flows[WORKERS], own, expected; /* seen from worker 0; own: the relay's */
    } rows[] = {
        {{1, 0, 0, 0}, 1, 0}, {{2, 0, 0, 0}, 1, 1}, {{2, 1, 1, 1}, 1, 0}, {{5, 4, 3, 4}, 1, 2},
        {{1, 9, 9, 9}, 1, 0}, {{3, 2, 2, 1}, 1, 3}, {{2, 0, 0, 0}, 2, 0}, {{3, 0, 1, 1}, 2, 1},
    };
    set_up(WORKERS);
    fake_loop_set_busy(workers[0].loop, 501);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (unsigned int j = 0; j < WORKERS; j++)
            atomic_store(&workers[j].relays.bulk_flows, rows[i].flows[j]);
        struct relay relay = {.flow = {{.bulk = true}, {.bulk = rows[i].own == 2}}};
        for (unsigned int is_new = 0; is_new < 2; is_new++)
            cr_expect_eq(tunnel_place_bulk(&workers[0], &relay, is_new)->index, rows[i].expected,
                         "row %zu", i);
    }
    tear_down();
}

Test(tunnel_worker, bulk_flows_are_not_spread_to_busier_workers)
{
    struct relay relay = {.flow = {{.bulk = true}}};
    set_up(WORKERS);
    static const unsigned int busy[WORKERS] = {600, 600, 599, 800}, flows[WORKERS] = {4, 0, 2, 1};
    for (unsigned int i = 0; i < WORKERS; i++) {
        fake_loop_set_busy(workers[i].loop, busy[i]);
        atomic_store(&workers[i].relays.bulk_flows, flows[i]);
    }
    cr_assert_eq(tunnel_place_bulk(&workers[0], &relay, true), &workers[2]);
    tear_down();
}

Test(tunnel_worker, one_relay_at_a_time_gathers)
{
    struct relay relay = {.flow = {{.bulk = true}}};
    set_up(WORKERS);
    for (unsigned int i = 0; i < WORKERS; i++)
        atomic_store(&workers[i].relays.bulk_flows, 1);
    cr_assert_eq(tunnel_place_bulk(&workers[2], &relay, false), &workers[0]);
    cr_assert_eq(tunnel_place_bulk(&workers[3], &relay, false), &workers[3], "after the other");
    fake_loop_advance_ms(workers[3].loop, LIMIT_PLACE_MS);
    cr_assert_eq(tunnel_place_bulk(&workers[3], &relay, false), &workers[0]);
    tear_down();
}

Test(tunnel_worker, bulk_flows_gather_while_there_is_little_to_do)
{
    static const struct {
        unsigned int from, flows[WORKERS], busy[WORKERS], expected;
    } rows[] = {
        {1, {1, 1}, {175, 175}, 0},
        {1, {1, 1}, {175, 176}, 1}, /* together too much */
        {1, {1, 1}, {176, 175}, 1},
        {0, {1, 1}, {50, 50}, 0}, /* as many: the other one's come here */
        {0, {1, 2}, {50, 50}, 1},
        {1, {1, 2}, {50, 50}, 1},
        {0, {3, 0, 0, 0}, {10}, 0}, /* nobody has more */
        {2, {3, 9, 1, 1}, {300, 340, 20}, 0},
        {2, {3, 9, 1, 1}, {340, 300, 20}, 1},
        {2, {3, 9, 1, 1}, {340, 340, 20}, 2},
        {3, {0, 0, 1, 1}, {0}, 2},
        {0, {5, 9, 9, 9}, {500}, 0}, /* neither idle nor busy */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct relay relay = {.flow = {{.bulk = true}}};
        set_up(WORKERS);
        for (unsigned int j = 0; j < WORKERS; j++) {
            fake_loop_set_busy(workers[j].loop, rows[i].busy[j]);
            atomic_store(&workers[j].relays.bulk_flows, rows[i].flows[j]);
        }
        struct tunnel_worker *from = &workers[rows[i].from];
        cr_expect_eq(tunnel_place_bulk(from, &relay, false)->index, rows[i].expected, "row %zu", i);
        cr_expect_eq(tunnel_place_bulk(from, &relay, true), from, "row %zu: a new one stays", i);
        tear_down();
    }
}

Test(tunnel_worker, the_last_descriptors_are_kept)
{
    static const struct {
        int fd;
        unsigned int half_open;
        bool expected;
    } rows[] = {
        {0, 0, true},  {99, 0, true},   {100, 0, false},
        {90, 9, true}, {90, 10, false}, {0, 100, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const _Atomic unsigned int half_open = rows[i].half_open;
        cr_expect_eq(tunnel_leaves_enough_fds(rows[i].fd, &half_open, 100), rows[i].expected,
                     "row %zu", i);
    }
}

Test(tunnel_worker, silence_is_neither_an_end_nor_a_decision)
{
    static const struct {
        int error;
        bool expected;
    } rows[] = {
        {-ETIMEDOUT, true},    {-EHOSTUNREACH, true}, {-ENETUNREACH, true},
        {ERR_DEADLINE, true},  {ERR_EOF, false},      {-ECONNRESET, false},
        {-EPIPE, false},       {ERR_REPLACED, false}, {ERR_RECONFIGURED, false},
        {ERR_PROTOCOL, false}, {-ECANCELED, false},   {0, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        cr_expect_eq(tunnel_is_silence(rows[i].error), rows[i].expected, "row %zu", i);
}
