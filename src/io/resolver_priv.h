/* What the files of the resolver share:
 *
 *     resolver.c         who asks, who looks up, who answers, and when
 *     resolver_poll.c    who asks without a mailbox
 *     resolver_names.c   the names that are known
 *     resolver_system.c  one look-up, by the system */
#pragma once

#include <pthread.h>

#include "base/list.h"
#include "io/resolver.h"

/* What a look-up finds, before anybody's port and preference. */
struct name_addresses {
    size_t v4_count, v6_count;
    struct addr v4[LIMIT_ADDRESSES], v6[LIMIT_ADDRESSES]; /* without a port */
};

/* ---- resolver_system.c: any thread ---- */

/* Asks the system and may block for many seconds. 0, ERR_RESOLVE or -ENOMEM; *ret_is_final: the
 * name has no address, as opposed to nobody being there to ask. */
MUST_CHECK int resolver_ask_system(const char *host, struct name_addresses *ret,
                                   bool *ret_is_final);
/* As an asker wants them: no more than fit, the preferred family first. Their number. */
size_t resolver_choose(const struct name_addresses *found, uint16_t port, bool prefer_ipv6,
                       struct addr ret[static LIMIT_ADDRESSES]);
/* Whether the name stands in the hosts file, so that a look-up needs no network. Reads the file's
 * first LIMIT_HOSTS_FILE bytes; a name behind them counts as not there. */
bool resolver_is_in_hosts_file(const char *host);

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
    uint64_t ended_in_poll;     /* resolver->polls when the last look-up ended */
    uint64_t failed_until_ns;   /* the failure is remembered */
    int error;                  /* of that failure */
    bool has_good;              /* something was found, and the name has not ceased to exist */
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

/* ---- resolver.c ---- */

/* Threads and the owner use it; the last of them frees it. */
struct resolver {
    pthread_mutex_t posting; /* held while answers are posted; taken before lock */
    pthread_mutex_t lock;    /* over everything below, and all names */
    pthread_cond_t changed;  /* the keeper waits for it */
    unsigned int users;
    unsigned int running; /* threads that look up */
    bool has_keeper, stopping;
    bool told;            /* the keeper has something to do */
    struct list answered; /* queries for the keeper to post */
    struct list queue;    /* names */
    struct list impatient;
    struct names names;
    void (*thread_begins)(void); /* NULL: nothing */
    int event_fd;                /* -1: nobody polls */
    uint64_t polls;              /* calls of resolver_poll, and 1 */
};

/* Under the lock. False: no thread can be made. */
bool resolver_has_keeper(struct resolver *resolver);
/* Under the lock: an idle name is to be looked up. */
void resolver_queue(struct name *name);
