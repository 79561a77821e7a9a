/* What the files of the resolver share:
 *
 *     resolver.c        who asks, who looks up, who answers, and when
 *     resolver_names.c  the names that are known
 *     look_up.c         one look-up, by the system */
#pragma once

#include "base/list.h"
#include "io/resolver.h"

/* What a look-up finds, before anybody's port and preference. */
struct name_addresses {
    size_t v4_count, v6_count;
    struct addr v4[LIMIT_ADDRESSES], v6[LIMIT_ADDRESSES]; /* without a port */
};

/* ---- look_up.c: any thread ---- */

/* Asks the system and may block for many seconds. 0, ERR_RESOLVE or -ENOMEM; *ret_is_final: the
 * name has no address, as opposed to nobody being there to ask. */
MUST_CHECK int look_up_host(const char *host, struct name_addresses *ret, bool *ret_is_final);
/* As an asker wants them: no more than fit, the preferred family first. */
void look_up_choose(const struct name_addresses *found, uint16_t port, bool prefer_ipv6,
                    struct resolver_answer *ret);
/* Whether the name stands in the hosts file, so that a look-up needs no network. Reads the file's
 * first LIMIT_HOSTS_FILE bytes; a name behind them counts as not there. */
bool look_up_is_in_hosts_file(const char *host);

/* ---- resolver_names.c: under the resolver's lock ---- */

enum name_state { NAME_IDLE, NAME_QUEUED, NAME_RUNNING };

struct name {
    struct list bucket_node, recent_node;
    struct list queue_node;     /* while QUEUED */
    struct list impatient_node; /* from the question until it takes too long, or has an answer */
    struct resolver *resolver;
    struct list askers;
    unsigned int asker_count;
    enum name_state state;
    bool is_slow;       /* the last look-up took long */
    bool is_troubled;   /* it failed, or this one takes long: whoever asks need not wait for it */
    bool hosts_checked; /* since it was queued: */
    bool is_in_hosts;
    uint64_t asked_at_ns, begun_at_ns;
    uint64_t failed_until_ns; /* the failure is remembered */
    int error;                /* of that failure */
    bool has_good;
    struct name_addresses good; /* what was found last */
    char host[ADDR_HOST_SIZE];
};

enum { NAME_BUCKETS = 256 };

struct names {
    struct resolver *resolver;
    struct list recent; /* all of them, the one asked for last at the end */
    unsigned int count;
    struct list buckets[NAME_BUCKETS];
};

void names_init(struct names *names, struct resolver *resolver);
/* NULL: not known. */
struct name *names_find(struct names *names, const char *host);
/* The name, new or known, as the one asked for last. Idle ones make room for a new one, beginning
 * with the one that was not asked for the longest. NULL: all are busy, or no memory. */
struct name *names_get(struct names *names, const char *host);
/* Nobody may be waiting for it. */
void names_remove(struct names *names, struct name *name);
