#include "server/service_index.h"

#include <stddef.h>

#include "server/service.h"

static size_t service_index_bucket(const uint8_t *digest)
{
    return keys_hash(digest, KEYS_DIGEST_SIZE) % SERVICE_INDEX_BUCKETS;
}

void service_index_add(struct service_index *index, struct service_part *part)
{
    struct service_part **link = &index->buckets[service_index_bucket(part->service->digest)];
    while (*link != NULL)
        link = &(*link)->next_in_index;
    part->next_in_index = NULL;
    *link = part;
}

void service_index_remove(struct service_index *index, struct service_part *part)
{
    struct service_part **link = &index->buckets[service_index_bucket(part->service->digest)];
    while (*link != NULL && *link != part)
        link = &(*link)->next_in_index;
    if (*link != NULL)
        *link = part->next_in_index;
    part->next_in_index = NULL;
}

struct service *service_index_find(const struct service_index *index,
                                   const uint8_t digest[static KEYS_DIGEST_SIZE])
{
    struct service *found = NULL;
    for (const struct service_part *part = index->buckets[service_index_bucket(digest)];
         part != NULL; part = part->next_in_index) {
        if (keys_equal(part->service->digest, digest, KEYS_DIGEST_SIZE))
            found = part->service;
    }
    return found;
}
