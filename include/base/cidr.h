/* Sets of addresses, written as CIDR prefixes ("10.0.0.0/8", "2001:db8::/32") that are allowed or
 * denied. The longest prefix that holds an address decides; of one prefix in both, denied. A set is
 * immutable and counts its users, so copies of a configuration share it, and any thread may ask.
 *
 * The prefixes are flattened to a sorted list of the addresses at which the verdict changes, for
 * IPv4 and for IPv6. So a look-up is one binary search, and two sets with the same verdict for
 * every address are equal, however they were written. An IPv4-mapped address is IPv4. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/macros.h"

enum { CIDR_TEXT_SIZE = 52 }; /* an IPv6 address, "/128" and a NUL */

/* A prefix; a single address is one of full length. */
struct cidr {
    uint64_t high, low; /* its first address in host order; of IPv4, the last 32 bits of low */
    uint8_t bits;       /* of 128; of IPv4, 96 more than its length */
    bool is_v6, is_denied;
};

/* Parses "address" or "address/length". 0; -EINVAL; -EDOM: the address has bits behind the length
 * ("10.0.0.1/8"), and *ret is the prefix without them. */
MUST_CHECK int cidr_parse(const char *text, size_t size, struct cidr *ret);
/* Writes "10.0.0.0/8". Returns out. */
const char *cidr_format(const struct cidr *cidr, char out[static CIDR_TEXT_SIZE]);

struct cidr_set;
/* Makes a set; the caller is its first user. allows_others: the verdict on addresses that no prefix
 * holds. The prefixes are sorted in place, and stay the caller's. 0 or -ENOMEM. */
MUST_CHECK int cidr_set_create(struct cidr *prefixes, size_t count, bool allows_others,
                               const struct cidr_set **ret);
const struct cidr_set *cidr_set_use(const struct cidr_set *set); /* accepts NULL; returns set */
void cidr_set_drop(const struct cidr_set *set);                  /* accepts NULL */
/* False for what is not an IP address. */
bool cidr_set_allows(const struct cidr_set *set, const struct addr *addr);
/* Whether both have the same verdict for every address. Accepts NULL, which equals only NULL. */
bool cidr_set_equal(const struct cidr_set *a, const struct cidr_set *b);
