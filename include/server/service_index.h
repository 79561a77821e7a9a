/* A worker's parts of the services, by the digest that a client's Hello names: a hash table, for
 * strangers say Hello too, and what that costs must not grow with the services. Under a keyed hash,
 * so that nobody can choose names or digests that meet in a bucket, or learn from the time that a
 * look-up takes what else is in its own. Belongs to its worker, as the parts do: no lock, and a
 * reload changes it where it changes the worker's parts. */
#pragma once

#include <stdint.h>

#include "base/limits.h"
#include "crypto/keys.h"

struct service;
struct service_part;

/* Untouched memory, where there are few services. */
enum { SERVICE_INDEX_BUCKETS = LIMIT_SERVICES };

/* Made empty by being all zero. */
struct service_index {
    struct service_part *buckets[SERVICE_INDEX_BUCKETS];
};

void service_index_add(struct service_index *index, struct service_part *part);
/* Idempotent. */
void service_index_remove(struct service_index *index, struct service_part *part);
/* The service of that digest, added last if there are more; or NULL. Compares with all that are in
 * the bucket, each in constant time. */
struct service *service_index_find(const struct service_index *index,
                                   const uint8_t digest[static KEYS_DIGEST_SIZE]);
