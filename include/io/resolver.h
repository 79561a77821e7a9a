/* Names to addresses, off the loops: getaddrinfo(3) may block for many seconds, so threads of its
 * own do nothing else, and the answer comes through the asker's mailbox.
 *
 *     resolver_ask --> the name's askers --> a thread looks it up --> the keeper --> mailbox
 *
 * Look-ups of different names do not wait for each other, up to LIMIT_RESOLVER_THREADS of them; the
 * last threads are for names in the hosts file, and no more than some are for names that are known
 * to be slow. A name is looked up once at a time, for all who ask meanwhile. A failure is
 * remembered for LIMIT_RESOLVER_FAILED_MS. What a name's last good look-up has found is the answer
 * while nobody answers a later one (resolver_answer.is_stale): after LIMIT_RESOLVER_PATIENCE_MS, or
 * at once when the trouble is known. A name that has ceased to exist has no such answer.
 *
 * Threading: any worker asks; the answer runs in the asker's thread, never from inside. The query
 * belongs to the resolver; the asker may abandon it, and then hears nothing more. There are no
 * threads before the first name and none after a while without one. At exit those that are stuck in
 * a look-up are left behind; they touch nothing but their own memory by then.
 *
 * The main thread has no mailbox; threads of its own may use resolver_look_up. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"

struct mailbox;
struct resolver;
struct resolver_query;

struct resolver_answer {
    int error; /* 0, ERR_RESOLVE, or -errno */
    bool is_stale;
    size_t count;
    struct addr addrs[LIMIT_ADDRESSES]; /* in the order in which to try them */
};

/* answer is valid during the call. */
typedef void resolver_answered_fn(void *asker, const struct resolver_answer *answer);

MUST_CHECK int resolver_create(struct resolver **ret);
/* Stops answering; does not wait for look-ups. Accepts NULL. */
void resolver_destroy(struct resolver *resolver);

/* NULL: too many ask, or no memory or thread. answer_to is the asking worker's mailbox. An address
 * needs no look-up, but costs a detour: see addr_from_numeric. */
MUST_CHECK struct resolver_query *resolver_ask(struct resolver *resolver,
                                               const struct host_port *name, bool prefer_ipv6,
                                               struct mailbox *answer_to,
                                               resolver_answered_fn *answered, void *asker);
/* In the asker's thread, before the answer. Accepts NULL. */
void resolver_abandon(struct resolver_query *query);

/* The same look-up, here and now, without memory of others: for threads that may wait. */
void resolver_look_up(const struct host_port *name, bool prefer_ipv6, struct resolver_answer *ret);
