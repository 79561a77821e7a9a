/* Pipes for splice(2), a bounded set per worker. A pipe is taken when a socket is readable and
 * given back as soon as it is empty, so only a relay whose sink is full holds one, and the same few
 * warm pipes serve all. What counts in a pipe are its slots: one holds one segment, 1,448 bytes
 * from a network card, so 1 MiB (256 slots) carries much more than 64 KiB (16 slots).
 *
 * Past the user's soft limit (fs.pipe-user-pages-soft) the kernel hands out pipes of two slots
 * without an error; the pool looks at the size it got and would rather have no pipe than such a
 * one.
 *
 * Owned by one worker, used by its thread alone. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"

struct pipe {
    struct list node; /* in the pool while free */
    int read_fd, write_fd;
    size_t size_bytes;
    size_t pending_bytes; /* spliced in and not yet out; kept by the user of the pipe */
};

struct pipe_pool;

/* What all pools of the process together may use: a quarter of the user's soft limit, in bytes. */
size_t pipe_pool_budget_bytes(void);
/* A pool that may grow to budget_bytes; no pipe is made before it is needed. */
MUST_CHECK int pipe_pool_create(size_t budget_bytes, struct pipe_pool **ret);
void pipe_pool_destroy(struct pipe_pool *pool); /* accepts NULL; pipes in use stay their users' */
/* A pipe, empty, or NULL: the budget is used up, or the kernel gives none that is worth it. */
struct pipe *pipe_pool_get(struct pipe_pool *pool);
/* Gives a pipe back; one that still holds bytes is closed instead of kept. */
void pipe_pool_put(struct pipe_pool *pool, struct pipe *pipe);
