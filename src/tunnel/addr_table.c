#include "tunnel/addr_table.h"

#include <stdlib.h>

#include "crypto/keys.h"

static struct addr_entry **find_link(struct addr_table *table, const struct addr_key *key)
{
    struct addr_entry **link =
        &table->buckets[keys_hash(key->bytes, sizeof(key->bytes)) % ADDR_TABLE_BUCKETS];
    while (*link != NULL && !addr_key_equal(&(*link)->key, key))
        link = &(*link)->next;
    return link;
}

void addr_table_finish(struct addr_table *table)
{
    for (size_t i = 0; i < ADDR_TABLE_BUCKETS; i++) {
        while (table->buckets[i] != NULL) {
            struct addr_entry *entry = table->buckets[i];
            table->buckets[i] = entry->next;
            free(entry);
        }
    }
}

struct addr_entry *addr_table_find(struct addr_table *table, const struct addr_key *key)
{
    return *find_link(table, key);
}

struct addr_entry *addr_table_get(struct addr_table *table, const struct addr_key *key)
{
    struct addr_entry **link = find_link(table, key);
    if (*link != NULL)
        return *link;
    struct addr_entry *entry = calloc(1, sizeof(*entry));
    if (entry == NULL)
        return NULL;
    entry->key = *key;
    *link = entry;
    return entry;
}

void addr_table_trim(struct addr_table *table, const struct addr_key *key)
{
    struct addr_entry **link = find_link(table, key);
    struct addr_entry *entry = *link;
    if (entry == NULL || entry->count > 0 || entry->expected > 0)
        return;
    *link = entry->next;
    free(entry);
}
