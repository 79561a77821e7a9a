/* Names to addresses, off the loops: getaddrinfo(3) may block for many seconds, so one thread of
 * its own does nothing else and answers through the asker's mailbox.
 *
 * Threading: any worker asks; the answer runs in the asker's thread. The query belongs to the
 * resolver; the asker may abandon it, and then hears nothing more. At exit the thread is left
 * behind, as it may be stuck in a look-up; it touches nothing but its own memory by then. */
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
    size_t count;
    struct addr addrs[LIMIT_ADDRESSES]; /* in the order in which to try them */
};

/* answer is valid during the call. */
typedef void resolver_answered_fn(void *asker, const struct resolver_answer *answer);

MUST_CHECK int resolver_create(struct resolver **ret);
/* Stops answering; returns at once. Accepts NULL. */
void resolver_destroy(struct resolver *resolver);

/* NULL: too many names are waiting, or no memory. answer_to is the asking worker's mailbox. */
MUST_CHECK struct resolver_query *resolver_ask(struct resolver *resolver,
                                               const struct host_port *name, bool prefer_ipv6,
                                               struct mailbox *answer_to,
                                               resolver_answered_fn *answered, void *asker);
/* In the asker's thread, before the answer. Accepts NULL. */
void resolver_abandon(struct resolver_query *query);

/* The same look-up, here and now, for the start of the program. */
void resolver_look_up(const struct host_port *name, bool prefer_ipv6, struct resolver_answer *ret);
