/* Resolves names for threads that must not wait. getaddrinfo(3) may block for many seconds, so the
 * resolver calls it in threads of its own. A worker gets its answer through its mailbox. The main
 * thread has no mailbox: it polls a descriptor, then looks up what is known by then.
 *
 *     resolver_ask ----> the name's askers --.                       .--> the keeper --> mailbox
 *                                             > a thread looks it up <
 *     resolver_begin ------------------------'                       '--> resolver_fd is readable
 *
 * Look-ups of different names run in parallel, up to LIMIT_RESOLVER_THREADS. The last of these
 * threads are reserved for names in the hosts file, and names that were slow may use only
 * LIMIT_RESOLVER_SLOW of them. A name has at most one look-up at a time, which serves everybody who
 * asks meanwhile. A failure is remembered for LIMIT_RESOLVER_FAILED_MS.
 *
 * If a look-up fails or takes longer than LIMIT_RESOLVER_PATIENCE_MS, askers get the addresses of
 * the name's last good look-up (resolver_answer.is_stale). Once a name has failed or is late, later
 * askers get them at once. A name that no longer exists (NXDOMAIN) has no such addresses.
 *
 * Threading: any thread may ask. The answer runs in the asker's thread, never inside resolver_ask.
 * The query belongs to the resolver; after resolver_abandon its asker hears nothing more. The first
 * name starts the threads, and they end after LIMIT_RESOLVER_IDLE_MS without one. At exit a thread
 * that is stuck in getaddrinfo(3) is left behind; by then it touches only its own memory. */
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
    int error;     /* 0, ERR_RESOLVE, or -errno */
    bool is_stale; /* the addresses are those of an earlier look-up */
    size_t count;
    struct addr addrs[LIMIT_ADDRESSES]; /* in the order in which to try them */
};

/* answer is valid during the call only. */
typedef void resolver_answered_fn(void *asker, const struct resolver_answer *answer);

/* -errno. Starts no thread yet. */
MUST_CHECK int resolver_create(struct resolver **ret);
/* A resolver that one thread without a mailbox may ask too, with the functions at the end of this
 * file. thread_begins (NULL: none) runs first in the thread that starts all others, so that they
 * inherit its credentials and capabilities. -errno. */
MUST_CHECK int resolver_create_polled(void (*thread_begins)(void), struct resolver **ret);
/* A new thread inherits what its maker may not do, and a look-up opens files. With this no thread
 * is made by one that asks: starter_fd (an eventfd) is written, and whoever reads it has to call
 * resolver_start_wanted. To be called before anybody asks. */
void resolver_start_elsewhere(struct resolver *resolver, int starter_fd);
/* Starts what askers have wanted since the last call. If no thread can be started, they get the
 * error as their answer. */
void resolver_start_wanted(struct resolver *resolver);
/* Stops answering. Waits for idle threads, but not for a look-up. Accepts NULL. */
void resolver_destroy(struct resolver *resolver);

/* Asks for a name's addresses. answer_to is the asking worker's mailbox. `answered` runs once,
 * unless the query is abandoned. NULL: there are too many names or askers, or no memory or thread.
 * A numeric address needs no look-up, but still takes the way through the mailbox;
 * addr_from_numeric avoids that. */
MUST_CHECK struct resolver_query *resolver_ask(struct resolver *resolver,
                                               const struct host_port *name, bool prefer_ipv6,
                                               struct mailbox *answer_to,
                                               resolver_answered_fn *answered, void *asker);
/* To be called in the asker's thread, before the answer has come. Accepts NULL. */
void resolver_abandon(struct resolver_query *query);

/* All addresses of the name's last good look-up, of the preferred family if it has any, else of the
 * other. Returns their number; 0: none is known. *ret_look_up counts the good look-ups: if it has
 * not changed, these are the same addresses as before. Any thread. */
size_t resolver_list(struct resolver *resolver, const struct host_port *name, bool prefer_ipv6,
                     uint32_t *ret_look_up, struct addr ret[static LIMIT_SERVERS]);

/* ---- for one thread without a mailbox; the resolver is from resolver_create_polled ---- */

/* Begins a look-up of the name, unless one is running or has ended since the last resolver_poll, so
 * that users of one name share a look-up. A remembered failure does not prevent a new look-up.
 * Numeric addresses need none. If the look-up can't begin (no memory, no thread), resolver_find
 * just finds nothing new. */
void resolver_begin(struct resolver *resolver, const struct host_port *name);
/* A descriptor that is readable once a look-up has ended since the last resolver_poll. It belongs
 * to the resolver. */
int resolver_fd(const struct resolver *resolver);
/* True: no look-up is queued or running, so resolver_find has all results. */
bool resolver_poll(struct resolver *resolver);
/* The addresses of the name's last good look-up, with this port, IPv4 first. Returns their number;
 * 0: none is known. A later look-up does not remove them while it runs, nor when it fails. */
size_t resolver_find(struct resolver *resolver, const struct host_port *name,
                     struct addr ret[static LIMIT_ADDRESSES]);
