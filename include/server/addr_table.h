/* How many of something each address has: connections to a service, logins in progress. A chained
 * hash table under a keyed hash (strangers choose the keys) that grows and shrinks with what is in
 * it, so that no crowd of addresses makes a look-up long; an address without any takes no memory.
 * No lock of its own: it belongs to the lock of its owner. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/macros.h"

/* May be the first member of something larger, see addr_table.entry_size. */
struct addr_entry {
    struct addr_entry *next;
    uint32_t hash;
    uint32_t count; /* what the owner counts */
    struct addr_key key;
};

/* Made empty by being all zero. */
struct addr_table {
    struct addr_entry **buckets;
    size_t bucket_count, entry_count;
    size_t entry_size; /* of what an entry begins; 0: it is alone */
};

void addr_table_finish(struct addr_table *table);
/* The entry of a key, or NULL. */
struct addr_entry *addr_table_find(const struct addr_table *table, const struct addr_key *key);
/* The entry of a key, made (all zero but for the key) if need be; NULL: no memory. */
MUST_CHECK struct addr_entry *addr_table_get(struct addr_table *table, const struct addr_key *key);
/* Frees the key's entry if nothing is counted in it any more. */
void addr_table_trim(struct addr_table *table, const struct addr_key *key);
