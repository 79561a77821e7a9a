/* How many of something each address has: connections to a service, logins in progress. A chained
 * hash table under a keyed hash (strangers choose the keys); an address without any takes no
 * memory. No lock of its own: it belongs to the lock of its owner. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/macros.h"

struct addr_entry {
    struct addr_entry *next;
    struct addr_key key;
    uint32_t count;    /* what the owner counts */
    uint32_t expected; /* the gate: connections asked for */
};

enum { ADDR_TABLE_BUCKETS = 256 };

struct addr_table {
    struct addr_entry *buckets[ADDR_TABLE_BUCKETS];
};

void addr_table_finish(struct addr_table *table);
/* The entry of a key, or NULL. */
struct addr_entry *addr_table_find(struct addr_table *table, const struct addr_key *key);
/* The entry of a key, made if need be; NULL: no memory. */
MUST_CHECK struct addr_entry *addr_table_get(struct addr_table *table, const struct addr_key *key);
/* Frees the key's entry if nothing is counted in it any more. */
void addr_table_trim(struct addr_table *table, const struct addr_key *key);
