/* Counts by address: connections to a service, or logins in progress. It is a chained hash table.
 * The hash is keyed, because strangers choose the keys. The table grows and shrinks with its
 * entries, so that many addresses do not make look-ups slow. An address with a count of zero takes
 * no memory.
 *
 * The table has no lock: its owner's lock protects it. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/macros.h"

/* May be the first member of a larger struct, see addr_table.entry_size. */
struct addr_entry {
    struct addr_entry *next;
    uint32_t hash;
    uint32_t count; /* changed by the owner */
    struct addr_key key;
};

/* An all-zero table is empty. */
struct addr_table {
    struct addr_entry **buckets;
    size_t bucket_count, entry_count;
    size_t entry_size; /* of the struct that an entry begins; 0: struct addr_entry itself */
};

/* Frees all entries. The table is empty afterwards. */
void addr_table_finish(struct addr_table *table);
/* The entry of a key, or NULL. Entries never move. */
struct addr_entry *addr_table_find(const struct addr_table *table, const struct addr_key *key);
/* The same, but adds an entry, all zero but for the key, if there is none. NULL: no memory. */
MUST_CHECK struct addr_entry *addr_table_get(struct addr_table *table, const struct addr_key *key);
/* Frees the key's entry if there is one and its count is 0. */
void addr_table_trim(struct addr_table *table, const struct addr_key *key);
