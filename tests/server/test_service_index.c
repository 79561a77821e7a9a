#include "server/service_index.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/service.h"

enum { SERVICES = LIMIT_SERVICES };

static struct service_index worker_index;
static struct service *services[SERVICES];
static struct service_part parts[SERVICES];

static void name_of(unsigned int number, uint8_t digest[static KEYS_DIGEST_SIZE])
{
    char name[32];
    int len = snprintf(name, sizeof(name), "service-%u", number);
    keys_service_digest(name, (size_t)len, digest);
}

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    for (unsigned int i = 0; i < SERVICES; i++) {
        services[i] = calloc(1, sizeof(struct service));
        cr_assert_not_null(services[i]);
        name_of(i, services[i]->digest);
        parts[i].service = services[i];
        service_index_add(&worker_index, &parts[i]);
    }
}

static void tear_down(void)
{
    for (unsigned int i = 0; i < SERVICES; i++)
        free(services[i]);
}

static struct service *find(unsigned int number)
{
    uint8_t digest[KEYS_DIGEST_SIZE];
    name_of(number, digest);
    return service_index_find(&worker_index, digest);
}

/* A look-up compares with all services in its bucket and no others, whether it finds one or not. */
Test(service_index, a_hello_is_compared_with_few, .init = set_up, .fini = tear_down)
{
    unsigned int total = 0, longest = 0;
    for (size_t i = 0; i < SERVICE_INDEX_BUCKETS; i++) {
        unsigned int length = 0;
        for (const struct service_part *part = worker_index.buckets[i]; part != NULL;
             part = part->next_in_index)
            length++;
        total += length;
        longest = MAX(longest, length);
    }
    cr_assert_eq(total, SERVICES);
    cr_assert_leq(longest, 12, "%u of %u in a bucket", longest, total);
}

Test(service_index, finds_each_and_none_else, .init = set_up, .fini = tear_down)
{
    for (unsigned int i = 0; i < SERVICES; i++)
        cr_assert_eq(find(i), services[i]);
    for (unsigned int i = SERVICES; i < 10 * SERVICES; i++)
        cr_assert_null(find(i));
    /* A digest with one bit changed is not found. */
    for (unsigned int bit = 0; bit < 8 * KEYS_DIGEST_SIZE; bit++) {
        uint8_t digest[KEYS_DIGEST_SIZE];
        name_of(7, digest);
        digest[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert_null(service_index_find(&worker_index, digest));
    }
}

Test(service_index, what_is_removed_is_not_found, .init = set_up, .fini = tear_down)
{
    for (unsigned int i = 0; i < SERVICES; i += 2) {
        service_index_remove(&worker_index, &parts[i]);
        service_index_remove(&worker_index, &parts[i]);
    }
    for (unsigned int i = 0; i < SERVICES; i++)
        cr_assert_eq(find(i), i % 2 == 0 ? NULL : services[i]);
    for (unsigned int i = 0; i < SERVICES; i += 2)
        service_index_add(&worker_index, &parts[i]);
    for (unsigned int i = 0; i < SERVICES; i++)
        cr_assert_eq(find(i), services[i]);
}

/* A reload may add a service while an older one with the same name is still in the index. */
Test(service_index, the_newest_of_a_name, .init = set_up, .fini = tear_down)
{
    service_index_remove(&worker_index, &parts[1]); /* before the digest changes its bucket */
    memcpy(services[1]->digest, services[0]->digest, KEYS_DIGEST_SIZE);
    service_index_add(&worker_index, &parts[1]);
    cr_assert_eq(find(0), services[1]);
    service_index_remove(&worker_index, &parts[1]);
    cr_assert_eq(find(0), services[0]);
    service_index_remove(&worker_index, &parts[0]);
    cr_assert_null(find(0));
}
