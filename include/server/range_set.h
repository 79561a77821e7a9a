/* The services that exist only while a client serves them: those with bind = on_login, and the
 * members of ranges (config/range.h). Each is a member of this set, which knows its section of the
 * file and the digest of its name; a struct service is made when a client has logged in for it
 * (on_login.h). So a member costs some 40 bytes, and nothing in any worker.
 *
 * A login finds a member by its digest, in a hash table with a secret key: strangers send Hellos
 * too, and their cost must not grow with the range. The set does not change, save for `asked`; a
 * reload makes a new one with another generation. Workers read it where they need it and never keep
 * the pointer over a callback, as with a configuration. A member's number is valid in its
 * generation alone. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/macros.h"
#include "config/config.h"
#include "crypto/keys.h"

/* A section: one service, or a range of them. Its members have numbers from `first` on, in the
 * order of their ports. */
struct range {
    const struct config_service *section; /* owned */
    uint32_t first, count;
};

struct range_set {
    uint64_t generation;
    struct range *ranges;
    size_t range_count;
    uint32_t member_count;
    uint8_t (*digests)[KEYS_DIGEST_SIZE]; /* of each member */
    uint32_t *slots;                      /* the hash table: members + 1; 0: free */
    size_t slot_mask;
    /* Of each member: a client has logged in, and there is no service for it. Any worker sets it,
     * the main thread takes it. Two clients for one member set the same flag. */
    _Atomic bool *asked;
};

/* Makes the set of these sections (those of a server without bind = on_login are left out). The
 * sections are copied. -ENOMEM. */
MUST_CHECK int range_set_create(const struct config_peer *server, uint64_t generation,
                                struct range_set **ret);
void range_set_destroy(struct range_set *set); /* accepts NULL */

/* True if there is a member with this digest. Each comparison takes constant time, and there is no
 * early exit. */
bool range_set_find(const struct range_set *set, const uint8_t digest[static KEYS_DIGEST_SIZE],
                    uint32_t *ret_member);
/* The section of a member. ret_port: the member's port; may be NULL. */
const struct config_service *range_set_section(const struct range_set *set, uint32_t member,
                                               uint16_t *ret_port);
void range_set_name(const struct range_set *set, uint32_t member,
                    char ret[static LIMIT_SERVICE_NAME + 1]);
