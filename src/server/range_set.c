#include "server/range_set.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_copy.h"
#include "config/range.h"

/* ---- the hash table ---- */

/* At most half full, so that a search ends after two or three slots. */
static size_t slot_count_of(uint32_t members)
{
    size_t count = 4;
    while (count < 2 * (size_t)members)
        count *= 2;
    return count;
}

static size_t first_slot(const struct range_set *set, const uint8_t *digest)
{
    return keys_hash(digest, KEYS_DIGEST_SIZE) & set->slot_mask;
}

static void add_slot(struct range_set *set, uint32_t member)
{
    size_t at = first_slot(set, set->digests[member]);
    while (set->slots[at] != 0)
        at = (at + 1) & set->slot_mask;
    set->slots[at] = member + 1;
}

bool range_set_find(const struct range_set *set, const uint8_t digest[static KEYS_DIGEST_SIZE],
                    uint32_t *ret_member)
{
    bool is_found = false;
    for (size_t at = first_slot(set, digest); set->slots[at] != 0; at = (at + 1) & set->slot_mask) {
        uint32_t member = set->slots[at] - 1;
        if (keys_equal(set->digests[member], digest, KEYS_DIGEST_SIZE)) {
            *ret_member = member;
            is_found = true;
        }
    }
    return is_found;
}

/* ---- members ---- */

const struct config_service *range_set_section(const struct range_set *set, uint32_t member,
                                               uint16_t *ret_port)
{
    size_t low = 0, high = set->range_count;
    assert(member < set->member_count);
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (set->ranges[middle].first <= member)
            low = middle;
        else
            high = middle;
    }
    const struct range *range = &set->ranges[low];
    if (ret_port != NULL)
        *ret_port = (uint16_t)(range->section->addr.port + (member - range->first));
    return range->section;
}

void range_set_name(const struct range_set *set, uint32_t member,
                    char ret[static LIMIT_SERVICE_NAME + 1])
{
    uint16_t port;
    const struct config_service *section = range_set_section(set, member, &port);
    config_range_name(section, port, ret);
}

/* ---- making it ---- */

static void add_members(struct range_set *set, const struct range *range)
{
    char name[LIMIT_SERVICE_NAME + 1];
    for (uint32_t i = 0; i < range->count; i++) {
        uint32_t member = range->first + i;
        config_range_name(range->section, (uint16_t)(range->section->addr.port + i), name);
        keys_service_digest(name, strlen(name), set->digests[member]);
        add_slot(set, member);
    }
}

static int copy_sections(const struct config_peer *server, struct range_set *set)
{
    for (size_t i = 0; i < server->service_count; i++) {
        const struct config_service *section = &server->services[i];
        if (section->bind != CONFIG_BIND_ON_LOGIN)
            continue;
        struct range *range = &set->ranges[set->range_count];
        int result = config_service_copy(section, &range->section);
        if (result < 0)
            return result;
        set->range_count++;
        range->first = set->member_count;
        range->count = config_range_count(section);
        set->member_count += range->count;
    }
    return 0;
}

static int fill_set(const struct config_peer *server, struct range_set *set)
{
    set->ranges = calloc(server->service_count + 1, sizeof(*set->ranges));
    int result = set->ranges != NULL ? copy_sections(server, set) : -ENOMEM;
    if (result < 0)
        return result;
    size_t slots = slot_count_of(set->member_count);
    set->slot_mask = slots - 1;
    set->slots = calloc(slots, sizeof(*set->slots));
    set->digests = calloc(set->member_count + 1u, sizeof(*set->digests));
    set->asked = calloc(set->member_count + 1u, sizeof(*set->asked));
    if (set->slots == NULL || set->digests == NULL || set->asked == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < set->range_count; i++)
        add_members(set, &set->ranges[i]);
    return 0;
}

int range_set_create(const struct config_peer *server, uint64_t generation, struct range_set **ret)
{
    struct range_set *set = calloc(1, sizeof(*set));
    if (set == NULL)
        return -ENOMEM;
    set->generation = generation;
    int result = fill_set(server, set);
    if (result < 0)
        range_set_destroy(set);
    else
        *ret = set;
    return result;
}

void range_set_destroy(struct range_set *set)
{
    if (set == NULL)
        return;
    for (size_t i = 0; i < set->range_count; i++)
        config_service_free(set->ranges[i].section);
    free(set->ranges);
    free(set->slots);
    free(set->digests);
    free(set->asked);
    free(set);
}
