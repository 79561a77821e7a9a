/* Names to addresses, for threads that must not wait: getaddrinfo(3) may block for many seconds, so
 * threads of its own do nothing else. A worker's answer comes through its mailbox; the main thread,
 * which has none, polls a descriptor and then finds what is known by now.
 *
 *     resolver_ask ----> the name's askers --.                       .--> the keeper --> mailbox
 *                                             > a thread looks it up <
 *     resolver_begin ------------------------'                       '--> resolver_fd is readable
 *
 * Look-ups of different names do not wait for each other, up to LIMIT_RESOLVER_THREADS of them; the
 * last threads are for names in the hosts file, and no more than some are for names that are known
 * to be slow. A name is looked up once at a time, for all who ask meanwhile. A failure is
 * remembered for LIMIT_RESOLVER_FAILED_MS. What a name's last good look-up has found is the answer
 * while nobody answers a later one (resolver_answer.is_stale): after LIMIT_RESOLVER_PATIENCE_MS, or
 * at once when the trouble is known. A name that has ceased to exist has no such answer.
 *
 * Threading: any thread asks; the answer runs in the asker's thread, never from inside. The query
 * belongs to the resolver; the asker may abandon it, and then hears nothing more. There are no
 * threads before the first name and none after a while without one. At exit those that are stuck in
 * a look-up are left behind; they touch nothing but their own memory by then. */
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
/* One that also a thread without a mailbox may ask; see below. thread_begins (NULL: nothing) runs
 * first in the thread that makes all the others, which inherit its rights. -errno. */
MUST_CHECK int resolver_create_polled(void (*thread_begins)(void), struct resolver **ret);
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

/* ---- without a mailbox: one thread, of a resolver_create_polled ---- */

/* Begins a look-up of the name, unless one goes on or has ended since resolver_poll: one is for all
 * who have the name. A remembered failure is no reason not to. Addresses need none. A failure to
 * begin (no memory, no thread) is a look-up that has found nothing. */
void resolver_begin(struct resolver *resolver, const struct host_port *name);
/* Readable when a look-up has ended since resolver_poll. */
int resolver_fd(const struct resolver *resolver);
/* True: no look-up goes on, and resolver_find knows what all of them have found. */
bool resolver_poll(struct resolver *resolver);
/* The addresses of the name's last good look-up with this port, IPv4 first, and their number; a
 * later one that goes on or fails, for whatever reason, leaves them. 0: none is known. */
size_t resolver_find(struct resolver *resolver, const struct host_port *name,
                     struct addr ret[static LIMIT_ADDRESSES]);
