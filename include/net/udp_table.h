/* The visitors of one UDP data channel, keyed by their address in wire format: a hash table that
 * also keeps its entries in order of use. So the entry that was idle longest is found at once, for
 * expiry, and to make room for a new visitor.
 *
 * Entries are embedded in their owners, which allocate and free them. The table owns only its
 * buckets. Strangers choose the keys, so the hash is keyed (keys_hash). Used by one worker. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"
#include "proto/udp_frame.h"

struct udp_table_entry {
    struct udp_table_entry *next; /* in the bucket */
    struct list node;             /* in table->used */
    uint64_t active_at_ns;
    struct udp_frame_addr key;
    uint32_t hash;
};

struct udp_table {
    struct udp_table_entry **buckets; /* made with the first entry */
    uint32_t bucket_count;            /* a power of two, or 0 */
    uint32_t count;
    struct list used; /* longest idle first */
};

void udp_table_init(struct udp_table *table);
/* Frees the buckets, not the entries. Accepts a zeroed table. */
void udp_table_finish(struct udp_table *table);
struct udp_table_entry *udp_table_find(const struct udp_table *table,
                                       const struct udp_frame_addr *key);
/* Adds an entry, as the most recently used one. Its key must be set and not be in the table.
 * -ENOMEM can only happen for the first entry: later, a table that can't grow just becomes
 * slower. */
MUST_CHECK int udp_table_add(struct udp_table *table, struct udp_table_entry *entry,
                             uint64_t now_ns);
void udp_table_remove(struct udp_table *table, struct udp_table_entry *entry);
void udp_table_touch(struct udp_table *table, struct udp_table_entry *entry, uint64_t now_ns);
/* The least recently used entry, or NULL. */
struct udp_table_entry *udp_table_oldest(const struct udp_table *table);
/* The same if it was idle for idle_ns or longer, else NULL. */
struct udp_table_entry *udp_table_expired(const struct udp_table *table, uint64_t now_ns,
                                          uint64_t idle_ns);
