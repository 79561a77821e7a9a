/* Sets of addresses (base/cidr.h). The input is prefixes, then addresses that are asked for. A set has
 * the verdict of its longest prefix that holds the address, whatever the order of the prefixes. */
#include <string.h>

#include "base/cidr.h"
#include "fuzz.h"
#include "script.h"

enum { PREFIXES = 24, ASKED = 24 };

static struct cidr take(struct script *script)
{
    struct cidr cidr = {0};
    uint8_t kind = script_byte(script);
    cidr.is_v6 = (kind & 1) != 0;
    cidr.is_denied = (kind & 2) != 0;
    cidr.bits = cidr.is_v6 ? script_byte(script) % 129 : (uint8_t)(96 + script_byte(script) % 33);
    for (size_t i = 0; i < 8 && (kind & 4) != 0; i++)
        cidr.high = cidr.high << 8 | (cidr.is_v6 ? script_byte(script) : 0);
    for (size_t i = 0; i < (cidr.is_v6 ? 8 : 4); i++)
        cidr.low = cidr.low << 8 | script_byte(script);
    /* Without the bits behind the prefix; no IPv4-mapped prefix, which is IPv4. */
    unsigned int host = 128u - cidr.bits;
    cidr.low &= host >= 64 ? 0 : UINT64_MAX << host;
    if (!cidr.is_v6)
        cidr.low &= UINT32_MAX;
    cidr.high &= host <= 64 ? UINT64_MAX : host == 128 ? 0 : UINT64_MAX << (host - 64);
    if (cidr.is_v6 && cidr.high == 0 && cidr.low >> 32 == 0xffff)
        cidr.is_v6 = false, cidr.low &= UINT32_MAX, cidr.bits = cidr.bits < 96 ? 96 : cidr.bits;
    if (!cidr.is_v6 && cidr.bits == 96)
        cidr.low = 0;
    return cidr;
}

static bool holds(const struct cidr *cidr, const struct cidr *point)
{
    if (cidr->is_v6 != point->is_v6)
        return false;
    for (unsigned int bit = cidr->is_v6 ? 0 : 96; bit < cidr->bits; bit++) {
        unsigned int place = 127 - bit;
        uint64_t differ = place >= 64 ? (cidr->high ^ point->high) >> (place - 64)
                                      : (cidr->low ^ point->low) >> place;
        if ((differ & 1) != 0)
            return false;
    }
    return true;
}

static bool model(const struct cidr *prefixes, size_t count, bool others, const struct cidr *point)
{
    const struct cidr *best = NULL;
    for (size_t i = 0; i < count; i++) {
        const struct cidr *one = &prefixes[i];
        if (holds(one, point) &&
            (best == NULL || one->bits > best->bits || (one->bits == best->bits && one->is_denied)))
            best = one;
    }
    return best == NULL ? others : !best->is_denied;
}

static struct addr addr_of_point(const struct cidr *point)
{
    struct addr addr = {.len = sizeof(addr.v4)};
    if (!point->is_v6) {
        addr.v4.sin_family = AF_INET;
        addr.v4.sin_addr.s_addr = htonl((uint32_t)point->low);
        return addr;
    }
    addr.len = sizeof(addr.v6);
    addr.v6.sin6_family = AF_INET6;
    for (int i = 0; i < 8; i++) {
        addr.v6.sin6_addr.s6_addr[i] = (uint8_t)(point->high >> (56 - 8 * i));
        addr.v6.sin6_addr.s6_addr[8 + i] = (uint8_t)(point->low >> (56 - 8 * i));
    }
    return addr;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script script = {data, size};
    struct cidr prefixes[PREFIXES], turned[PREFIXES];
    const struct cidr_set *set, *other;
    uint8_t choice = script_byte(&script);
    bool others = (choice & 1) != 0;
    size_t count = (choice >> 1) % PREFIXES;
    for (size_t i = 0; i < count; i++)
        turned[count - 1 - i] = prefixes[i] = take(&script);
    FUZZ_CHECK(cidr_set_create(prefixes, count, others, &set) == 0);
    FUZZ_CHECK(cidr_set_create(turned, count, others, &other) == 0);
    FUZZ_CHECK(cidr_set_equal(set, other) && cidr_set_equal(other, set));
    for (size_t i = 0; i < count + ASKED; i++) {
        /* The edges of the prefixes, and others. */
        struct cidr point = i < count ? prefixes[i] : take(&script);
        for (int step = -1; step <= 1; step++) {
            struct cidr at = point;
            at.low += (uint64_t)(int64_t)step;
            if (!at.is_v6)
                at.low &= UINT32_MAX;
            if (at.is_v6 && at.high == 0 && at.low >> 32 == 0xffff)
                continue;
            struct addr addr = addr_of_point(&at);
            FUZZ_CHECK(cidr_set_allows(set, &addr) == model(prefixes, count, others, &at));
        }
    }
    cidr_set_drop(set);
    cidr_set_drop(other);
    return 0;
}
