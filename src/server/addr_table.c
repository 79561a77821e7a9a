#include "server/addr_table.h"

#include <stdlib.h>

#include "crypto/keys.h"

enum {
    BUCKETS_MIN = 16,
    BUCKETS_MAX = 1 << 17, /* 1 MiB; more entries than this make the chains longer */
    SPARSE = 8,            /* with more buckets than this per entry the table shrinks */
};

static uint32_t addr_table_hash(const struct addr_key *key)
{
    return (uint32_t)keys_hash(key->bytes, sizeof(key->bytes));
}

/* The link that points to the key's entry, or the NULL link at the end of its chain. The table must
 * have buckets. */
static struct addr_entry **find_link(const struct addr_table *table, const struct addr_key *key,
                                     uint32_t hash)
{
    struct addr_entry **link = &table->buckets[hash & (table->bucket_count - 1)];
    while (*link != NULL && ((*link)->hash != hash || !addr_key_equal(&(*link)->key, key)))
        link = &(*link)->next;
    return link;
}

/* Without memory the table keeps its size, and is only slower. */
static void resize(struct addr_table *table, size_t bucket_count)
{
    struct addr_entry **buckets = calloc(bucket_count, sizeof(struct addr_entry *));
    if (buckets == NULL)
        return;
    for (size_t i = 0; i < table->bucket_count; i++) {
        while (table->buckets[i] != NULL) {
            struct addr_entry *entry = table->buckets[i];
            table->buckets[i] = entry->next;
            struct addr_entry **bucket = &buckets[entry->hash & (bucket_count - 1)];
            entry->next = *bucket;
            *bucket = entry;
        }
    }
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = bucket_count;
}

void addr_table_finish(struct addr_table *table)
{
    for (size_t i = 0; i < table->bucket_count; i++) {
        while (table->buckets[i] != NULL) {
            struct addr_entry *entry = table->buckets[i];
            table->buckets[i] = entry->next;
            free(entry);
        }
    }
    free(table->buckets);
    *table = (struct addr_table){.entry_size = table->entry_size};
}

struct addr_entry *addr_table_find(const struct addr_table *table, const struct addr_key *key)
{
    return table->bucket_count != 0 ? *find_link(table, key, addr_table_hash(key)) : NULL;
}

struct addr_entry *addr_table_get(struct addr_table *table, const struct addr_key *key)
{
    struct addr_entry *entry = addr_table_find(table, key);
    if (entry != NULL)
        return entry;
    if (table->bucket_count == 0)
        resize(table, BUCKETS_MIN);
    else if (table->entry_count >= table->bucket_count && table->bucket_count < BUCKETS_MAX)
        resize(table, 2 * table->bucket_count);
    if (table->bucket_count == 0)
        return NULL;
    entry = calloc(1, MAX(table->entry_size, sizeof(*entry)));
    if (entry == NULL)
        return NULL;
    entry->key = *key;
    entry->hash = addr_table_hash(key);
    struct addr_entry **bucket = &table->buckets[entry->hash & (table->bucket_count - 1)];
    entry->next = *bucket;
    *bucket = entry;
    table->entry_count++;
    return entry;
}

void addr_table_trim(struct addr_table *table, const struct addr_key *key)
{
    if (table->bucket_count == 0)
        return;
    struct addr_entry **link = find_link(table, key, addr_table_hash(key));
    struct addr_entry *entry = *link;
    if (entry == NULL || entry->count > 0)
        return;
    *link = entry->next;
    free(entry);
    table->entry_count--;
    if (table->bucket_count > BUCKETS_MIN && table->entry_count < table->bucket_count / SPARSE)
        resize(table, table->bucket_count / 2);
}
