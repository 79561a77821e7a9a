#include "server/addr_table.h"

#include <criterion/criterion.h>
#include <string.h>

#include "crypto/keys.h"

enum { KEYS = 5000 };

static struct addr_key key_of(unsigned int number)
{
    struct addr_key key = {{0}};
    memcpy(key.bytes, &number, sizeof(number));
    return key;
}

Test(addr_table, entries_live_while_counted)
{
    cr_assert_eq(keys_init(), 0);
    struct addr_table table = {.entry_size = 0};
    for (unsigned int i = 0; i < KEYS; i++) {
        struct addr_key key = key_of(i);
        cr_assert_null(addr_table_find(&table, &key));
        struct addr_entry *entry = addr_table_get(&table, &key);
        cr_assert_not_null(entry);
        cr_assert_eq(entry->count, 0);
        entry->count = i + 1;
    }
    for (unsigned int i = 0; i < KEYS; i++) {
        struct addr_key key = key_of(i);
        struct addr_entry *entry = addr_table_find(&table, &key);
        cr_assert_not_null(entry);
        cr_assert_eq(entry->count, i + 1);
        cr_assert_eq(addr_table_get(&table, &key), entry);
        addr_table_trim(&table, &key);
        cr_assert_eq(addr_table_find(&table, &key), entry, "counted, so it stays");
        entry->count = i % 2;
        addr_table_trim(&table, &key);
        cr_assert_eq(addr_table_find(&table, &key) != NULL, i % 2 == 1);
    }
    addr_table_finish(&table);
    for (unsigned int i = 0; i < KEYS; i++) {
        struct addr_key key = key_of(i);
        cr_assert_null(addr_table_find(&table, &key));
        addr_table_trim(&table, &key);
    }
}

static size_t longest_chain(const struct addr_table *table)
{
    size_t longest = 0;
    for (size_t i = 0; i < table->bucket_count; i++) {
        size_t length = 0;
        for (const struct addr_entry *entry = table->buckets[i]; entry != NULL; entry = entry->next)
            length++;
        longest = MAX(longest, length);
    }
    return longest;
}

/* The table grows with its entries, so that look-ups stay short, and shrinks with them. */
Test(addr_table, chains_stay_short)
{
    cr_assert_eq(keys_init(), 0);
    enum { CROWD = 60000 };
    struct addr_table table = {.entry_size = 100};
    for (unsigned int i = 0; i < CROWD; i++) {
        struct addr_key key = key_of(i);
        struct addr_entry *entry = addr_table_get(&table, &key);
        cr_assert_not_null(entry);
        memset(entry + 1, 0xff, table.entry_size - sizeof(*entry));
        entry->count = 1;
    }
    cr_assert_eq(table.entry_count, CROWD);
    cr_assert_leq(longest_chain(&table), 12);
    for (unsigned int i = 0; i < CROWD; i++) {
        struct addr_key key = key_of(i);
        addr_table_find(&table, &key)->count = 0;
        addr_table_trim(&table, &key);
        addr_table_trim(&table, &key);
    }
    cr_assert_eq(table.entry_count, 0);
    cr_assert_leq(table.bucket_count, 16);
    addr_table_finish(&table);
}
