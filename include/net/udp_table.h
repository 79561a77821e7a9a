/* The visitors of one UDP data channel, by their address as it stands on the wire: a hash table
 * whose order of use is kept, so that the one idle for longest is found at once, for expiry and for
 * a new visitor when the table is full.
 *
 * Entries are embedded in their owners, who allocate, free and time them; the table links them and
 * owns its buckets alone. Strangers choose the keys, hence keys_hash. Used by one worker. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"
#include "proto/udp_frame.h"

struct udp_table_entry {
    struct udp_table_entry *next; /* in the bucket */
    struct list node;             /* in the order of use */
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
/* Forgets the entries, which are their owners' to free. Accepts a zeroed table. */
void udp_table_finish(struct udp_table *table);
struct udp_table_entry *udp_table_find(const struct udp_table *table,
                                       const struct udp_frame_addr *key);
/* Adds an entry whose key is set and not in the table, as just used. -ENOMEM: the very first one
 * found no memory; a table that can't grow gets slower instead. */
MUST_CHECK int udp_table_add(struct udp_table *table, struct udp_table_entry *entry,
                             uint64_t now_ns);
void udp_table_remove(struct udp_table *table, struct udp_table_entry *entry);
void udp_table_touch(struct udp_table *table, struct udp_table_entry *entry, uint64_t now_ns);
/* The entry that has not been used for longest, or NULL. */
struct udp_table_entry *udp_table_oldest(const struct udp_table *table);
/* The same if it has been idle for idle_ns or more, else NULL. */
struct udp_table_entry *udp_table_expired(const struct udp_table *table, uint64_t now_ns,
                                          uint64_t idle_ns);
