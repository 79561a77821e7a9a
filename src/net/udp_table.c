#include "net/udp_table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "crypto/keys.h"

enum { BUCKETS_FIRST = 16, BUCKETS_MAX = 1 << 20 };

static uint32_t udp_table_hash(const struct udp_frame_addr *key)
{
    return (uint32_t)keys_hash(key, sizeof(*key));
}

static struct udp_table_entry **udp_table_bucket(const struct udp_table *table, uint32_t hash)
{
    return &table->buckets[hash & (table->bucket_count - 1)];
}

void udp_table_init(struct udp_table *table)
{
    *table = (struct udp_table){.buckets = NULL};
    list_init(&table->used);
}

void udp_table_finish(struct udp_table *table)
{
    free(table->buckets);
    udp_table_init(table);
}

struct udp_table_entry *udp_table_find(const struct udp_table *table,
                                       const struct udp_frame_addr *key)
{
    if (table->count == 0)
        return NULL;
    uint32_t hash = udp_table_hash(key);
    struct udp_table_entry *entry = *udp_table_bucket(table, hash);
    while (entry != NULL && (entry->hash != hash || !udp_frame_addr_equal(&entry->key, key)))
        entry = entry->next;
    return entry;
}

static void link_entry(const struct udp_table *table, struct udp_table_entry *entry)
{
    struct udp_table_entry **bucket = udp_table_bucket(table, entry->hash);
    entry->next = *bucket;
    *bucket = entry;
}

static int udp_table_grow(struct udp_table *table)
{
    uint32_t count = table->bucket_count == 0 ? BUCKETS_FIRST : table->bucket_count * 2;
    struct udp_table_entry **buckets = calloc(count, sizeof(struct udp_table_entry *));
    if (buckets == NULL)
        return -ENOMEM;
    free(table->buckets);
    table->buckets = buckets;
    table->bucket_count = count;
    list_for_each (node, &table->used) {
        link_entry(table, container_of(node, struct udp_table_entry, node));
    }
    return 0;
}

int udp_table_add(struct udp_table *table, struct udp_table_entry *entry, uint64_t now_ns)
{
    if (table->count >= table->bucket_count && table->bucket_count < BUCKETS_MAX &&
        udp_table_grow(table) < 0 && table->bucket_count == 0)
        return -ENOMEM;
    entry->hash = udp_table_hash(&entry->key);
    entry->active_at_ns = now_ns;
    link_entry(table, entry);
    list_push_back(&table->used, &entry->node);
    table->count++;
    return 0;
}

void udp_table_remove(struct udp_table *table, struct udp_table_entry *entry)
{
    struct udp_table_entry **at = udp_table_bucket(table, entry->hash);
    while (*at != entry) {
        assert(*at != NULL);
        at = &(*at)->next;
    }
    *at = entry->next;
    list_remove(&entry->node);
    table->count--;
}

void udp_table_touch(struct udp_table *table, struct udp_table_entry *entry, uint64_t now_ns)
{
    if (entry->active_at_ns == now_ns)
        return; /* moved to the end in this turn already */
    entry->active_at_ns = now_ns;
    list_remove(&entry->node);
    list_push_back(&table->used, &entry->node);
}

struct udp_table_entry *udp_table_oldest(const struct udp_table *table)
{
    if (table->count == 0)
        return NULL;
    return container_of(table->used.next, struct udp_table_entry, node);
}

struct udp_table_entry *udp_table_expired(const struct udp_table *table, uint64_t now_ns,
                                          uint64_t idle_ns)
{
    struct udp_table_entry *entry = udp_table_oldest(table);
    return entry != NULL && now_ns >= entry->active_at_ns + idle_ns ? entry : NULL;
}
