/* Names to addresses for the main thread, which must never wait for a name server: it answers
 * signals and feeds the watchdog. (Workers ask io/resolver.h, which answers by mailbox.)
 *
 *     lookups_ask --> a thread for each name, at most LIMIT_LOOKUP_THREADS --> lookups_fd readable
 *                                                                                  |
 *     lookups_find <-- what was found last <-- lookups_take <----------------------'
 *
 * A name keeps the addresses of its last good look-up while a later one goes on or fails. A thread
 * that is stuck in a look-up at the end of the process is left behind; it touches nothing but its
 * own memory by then. All calls are the owner's thread's. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/addr.h"
#include "base/limits.h"
#include "base/macros.h"

struct lookups;

/* thread_begins (NULL: nothing) runs first in each thread. -errno. */
MUST_CHECK int lookups_create(void (*thread_begins)(void), struct lookups **ret);
void lookups_destroy(struct lookups *lookups); /* returns at once; accepts NULL */

/* Begins a look-up of the name, unless one goes on already. Addresses need none. A failure to begin
 * (no memory, no thread) is a look-up that has found nothing. */
void lookups_ask(struct lookups *lookups, const struct host_port *name);
/* Readable when look-ups have ended; then lookups_take. */
int lookups_fd(const struct lookups *lookups);
void lookups_take(struct lookups *lookups);
/* No look-up goes on. */
bool lookups_are_done(const struct lookups *lookups);
/* The addresses with the name's port, IPv4 first, and their number. 0: none is known, as the
 * look-up goes on, has failed, or was never asked for. */
size_t lookups_find(const struct lookups *lookups, const struct host_port *name,
                    struct addr ret[static LIMIT_ADDRESSES]);
/* Forgets the names that were not asked for since the last call. */
void lookups_forget_unused(struct lookups *lookups);
