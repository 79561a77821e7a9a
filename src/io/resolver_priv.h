/* Shared by the files of the resolver:
 *
 *     resolver.c         queries, the threads that look up, and the keeper that posts answers
 *     resolver_poll.c    the functions for a thread without a mailbox
 *     resolver_names.c   the table of known names
 *     resolver_system.c  one look-up with getaddrinfo(3), and the hosts file */
#pragma once

#include <pthread.h>

#include "base/list.h"
#include "io/resolver.h"

/* The result of a look-up, before an asker's port and address family are applied. */
struct name_addresses {
    size_t v4_count, v6_count;
    struct in_addr v4[LIMIT_SERVERS];
    struct {
        struct in6_addr addr;
        uint32_t scope;
    } v6[LIMIT_SERVERS];
};

/* ---- resolver_system.c: any thread ---- */

/* Calls getaddrinfo(3), which may block for many seconds. Returns 0, ERR_RESOLVE or -ENOMEM.
 * *ret_is_final: the answer is definite, so an error means that the name has no address. False: no
 * name server has answered. */
MUST_CHECK int resolver_ask_system(const char *host, struct name_addresses *ret,
                                   bool *ret_is_final);
/* Copies the addresses of a family with a port, at most `room`. Returns their number. */
size_t resolver_choose_family(const struct name_addresses *found, uint16_t port, bool is_ipv6,
                              struct addr *ret, size_t room);
/* Copies the addresses with a port, the preferred family first, at most LIMIT_ADDRESSES. Returns
 * their number. */
size_t resolver_choose(const struct name_addresses *found, uint16_t port, bool prefer_ipv6,
                       struct addr ret[static LIMIT_ADDRESSES]);
/* Whether the hosts file has the name (hosts(5)), so that a look-up needs no network. Only the
 * first LIMIT_HOSTS_FILE bytes of the file are searched. */
bool resolver_is_in_hosts_file(const char *host);

/* ---- resolver_names.c: under the resolver's lock ---- */

enum name_state { NAME_IDLE, NAME_QUEUED, NAME_RUNNING };

struct name {
    struct list bucket_node, recent_node;
    struct list queue_node;     /* in resolver->queue while the state is NAME_QUEUED */
    struct list impatient_node; /* in resolver->impatient until there is a result, or it is late */
    struct resolver *resolver;
    struct list askers;
    unsigned int asker_count;
    enum name_state state;
    bool is_slow;       /* the last look-up took longer than LIMIT_RESOLVER_PATIENCE_MS */
    bool is_troubled;   /* the last look-up failed, or this one is late: askers need not wait */
    bool hosts_checked; /* since the name was queued; is_in_hosts is valid then */
    bool is_in_hosts;
    uint64_t asked_at_ns, begun_at_ns;
    uint64_t ended_in_poll;     /* resolver->polls when the last look-up ended */
    uint64_t failed_until_ns;   /* the last failure is remembered until then */
    int error;                  /* of that failure */
    uint32_t good_count;        /* good look-ups */
    bool has_good;              /* `good` is set, and the name has not ceased to exist */
    struct name_addresses good; /* the result of the last good look-up */
    char host[ADDR_HOST_SIZE];
};

enum { NAME_BUCKETS = 256 };

struct names {
    struct resolver *resolver;
    struct list recent; /* all names; the name that was asked for last is at the end */
    unsigned int count;
    struct list buckets[NAME_BUCKETS];
};

void names_init(struct names *names, struct resolver *resolver);
/* NULL: the name is not known. */
struct name *names_find(struct names *names, const char *host);
/* Finds or adds the name, and moves it to the end of names->recent. If the table is full, the idle
 * name that was asked for longest ago is removed. NULL: no name is idle, or there is no memory. */
struct name *names_get(struct names *names, const char *host);
/* Frees a name. It must have no askers. */
void names_remove(struct names *names, struct name *name);

/* ---- resolver.c ---- */

/* The owner and the threads each hold a use of it; the last one to leave frees it. */
struct resolver {
    pthread_mutex_t posting; /* held while answers are posted; taken before `lock` */
    pthread_mutex_t lock;    /* protects everything below, and all names */
    pthread_cond_t changed;  /* wakes the keeper */
    unsigned int users;
    unsigned int running; /* threads that look up */
    bool has_keeper, stopping;
    bool told;            /* the keeper has something to do */
    int starter_fd;       /* wakes the thread that starts the keeper; -1: askers start it */
    bool wants_keeper;    /* that thread has been woken */
    struct list answered; /* queries for the keeper to post */
    struct list queue;    /* names that wait for a thread */
    struct list impatient;
    struct names names;
    void (*thread_begins)(void); /* NULL: none */
    int event_fd;                /* -1: the resolver is not polled */
    uint64_t polls;              /* 1 plus the calls of resolver_poll */
};

/* Under the lock. Starts the keeper if there is none, or has it started. False: no thread could be
 * started. */
bool resolver_has_keeper(struct resolver *resolver);
/* Under the lock. Queues an idle name for a look-up. */
void resolver_queue(struct name *name);
