/* The table of visitors under a virtual clock. */
#include "net/udp_table.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#include "crypto/keys.h"

enum { MANY = 5000, SECOND = 1000000000 };

static struct udp_table table;
static struct udp_table_entry entries[MANY];

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    udp_table_init(&table);
}

static void tear_down(void)
{
    udp_table_finish(&table);
}

static struct udp_frame_addr key_of(uint32_t number)
{
    struct udp_frame_addr key = {.port = (uint16_t)(number % 50), .is_v6 = number % 2};
    key.octets[0] = (uint8_t)(number / 50);
    key.octets[1] = (uint8_t)(number / 50 >> 8);
    return key;
}

static void add(uint32_t number, uint64_t now_ns)
{
    entries[number].key = key_of(number);
    cr_assert_eq(udp_table_add(&table, &entries[number], now_ns), 0);
}

static struct udp_table_entry *find(uint32_t number)
{
    struct udp_frame_addr key = key_of(number);
    return udp_table_find(&table, &key);
}

TestSuite(udp_table, .init = set_up, .fini = tear_down);

Test(udp_table, empty)
{
    cr_expect_null(find(0));
    cr_expect_null(udp_table_oldest(&table));
    cr_expect_null(udp_table_expired(&table, UINT64_MAX, 0));
}

Test(udp_table, finds_each_and_only_those)
{
    for (uint32_t i = 0; i < MANY; i += 2)
        add(i, 1);
    cr_expect_eq(table.count, MANY / 2);
    cr_expect_geq(table.bucket_count, MANY / 2, "it has grown");
    for (uint32_t i = 0; i < MANY; i++)
        cr_assert_eq(find(i), i % 2 == 0 ? &entries[i] : NULL, "%u", i);
    for (uint32_t i = 0; i < MANY; i += 4)
        udp_table_remove(&table, &entries[i]);
    for (uint32_t i = 0; i < MANY; i++)
        cr_assert_eq(find(i), i % 4 == 2 ? &entries[i] : NULL, "%u", i);
    cr_expect_eq(table.count, MANY / 4);
}

Test(udp_table, the_longest_idle_comes_first)
{
    for (uint32_t i = 0; i < 4; i++)
        add(i, i);
    cr_expect_eq(udp_table_oldest(&table), &entries[0]);
    udp_table_touch(&table, &entries[0], 10);
    udp_table_touch(&table, &entries[2], 11);
    static const uint32_t order[] = {1, 3, 0, 2};
    for (size_t i = 0; i < 4; i++) {
        cr_expect_eq(udp_table_oldest(&table), &entries[order[i]]);
        udp_table_remove(&table, &entries[order[i]]);
    }
    cr_expect_null(udp_table_oldest(&table));
}

Test(udp_table, expires_what_is_idle_for_long_enough)
{
    add(0, SECOND);
    add(1, 2 * (uint64_t)SECOND);
    cr_expect_null(udp_table_expired(&table, 60 * (uint64_t)SECOND, 60 * (uint64_t)SECOND));
    cr_expect_eq(udp_table_expired(&table, 61 * (uint64_t)SECOND, 60 * (uint64_t)SECOND),
                 &entries[0]);
    udp_table_touch(&table, &entries[0], 61 * (uint64_t)SECOND);
    cr_expect_null(udp_table_expired(&table, 61 * (uint64_t)SECOND, 60 * (uint64_t)SECOND));
    cr_expect_eq(udp_table_expired(&table, 62 * (uint64_t)SECOND, 60 * (uint64_t)SECOND),
                 &entries[1]);
}
