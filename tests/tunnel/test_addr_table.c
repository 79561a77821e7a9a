#include "tunnel/addr_table.h"

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
    struct addr_table table = {{NULL}};
    for (unsigned int i = 0; i < KEYS; i++) {
        struct addr_key key = key_of(i);
        cr_assert_null(addr_table_find(&table, &key));
        struct addr_entry *entry = addr_table_get(&table, &key);
        cr_assert_not_null(entry);
        cr_assert(entry->count == 0 && entry->expected == 0);
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
        entry->count = 0;
        entry->expected = i % 2;
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
