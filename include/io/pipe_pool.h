/* Pipes for splice(2), a bounded set per worker. A relay takes a pipe when a socket is readable,
 * and gives it back as soon as the pipe is empty. So only relays with a full sink hold one, and a
 * few warm pipes serve all others. The capacity of a pipe is its slots: a slot holds one segment,
 * which is 1,448 bytes from a network card. So 1 MiB (256 slots) carries much more than 64 KiB (16
 * slots).
 *
 * Past the user's soft limit (pipe-user-pages-soft, pipe(7)) the kernel makes pipes of two slots,
 * without an error. The pool checks the size that it got, and closes such a pipe.
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
    size_t pending_bytes; /* spliced in and not yet out; kept up to date by the pipe's user */
};

struct pipe_pool;

/* The bytes that all pools of the process together may use: a quarter of the user's soft limit. */
size_t pipe_pool_budget_bytes(void);
/* A pool that may grow to budget_bytes. Pipes are made when they are needed. -ENOMEM. */
MUST_CHECK int pipe_pool_create(size_t budget_bytes, struct pipe_pool **ret);
void pipe_pool_destroy(struct pipe_pool *pool); /* accepts NULL; pipes in use stay their users' */
/* An empty pipe, the caller's until pipe_pool_put. NULL: the budget is used up, or the kernel gives
 * no pipe that is large enough. */
struct pipe *pipe_pool_get(struct pipe_pool *pool);
/* Gives a pipe back. A pipe that still holds bytes is closed. */
void pipe_pool_put(struct pipe_pool *pool, struct pipe *pipe);
