/* Finds a service by the digest in a client's Hello. It is a hash table, because strangers send
 * Hellos too and their cost must not grow with the number of services. The hash is keyed, so that
 * nobody can choose names or digests that share a bucket, or learn from the time of a look-up what
 * is in the same bucket.
 *
 * Each worker has an index of its own parts of the services, without a lock. A reload changes it
 * together with the parts. */
#pragma once

#include <stdint.h>

#include "base/limits.h"
#include "crypto/keys.h"

struct service;
struct service_part;

/* Few services touch few pages of it. */
enum { SERVICE_INDEX_BUCKETS = LIMIT_SERVICES };

/* An all-zero index is empty. */
struct service_index {
    struct service_part *buckets[SERVICE_INDEX_BUCKETS];
};

void service_index_add(struct service_index *index, struct service_part *part);
/* Idempotent. */
void service_index_remove(struct service_index *index, struct service_part *part);
/* The service with this digest, the one added last if there are several, or NULL. Compares with
 * every service in the bucket, each time in constant time. */
struct service *service_index_find(const struct service_index *index,
                                   const uint8_t digest[static KEYS_DIGEST_SIZE]);
