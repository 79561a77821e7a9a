#include "io/pipe_pool.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/numbers.h"

enum { SOFT_PAGES_DEFAULT = 16384 }; /* the kernel's default, for where /proc/sys is hidden */

struct pipe_pool {
    size_t budget_bytes, used_bytes;
    unsigned int count, count_max;
    struct list free;
};

size_t pipe_pool_budget_bytes(void)
{
    uint64_t pages;
    if (numbers_read("/proc/sys/fs/pipe-user-pages-soft", &pages, 1) < 1)
        pages = SOFT_PAGES_DEFAULT;
    if (pages == 0) /* no limit */
        return (size_t)LIMIT_PIPES * LIMIT_PIPE_SIZE;
    return pages / 4 * (size_t)sysconf(_SC_PAGESIZE);
}

/* A bound on pipes, because a free pipe keeps its two descriptors and visitors need some too. */
static unsigned int count_of_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return LIMIT_PIPES;
    return (unsigned int)MIN((rlim_t)LIMIT_PIPES, limit.rlim_cur / LIMIT_PIPES_FDS_PART);
}

int pipe_pool_create(size_t budget_bytes, struct pipe_pool **ret)
{
    struct pipe_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return -ENOMEM;
    pool->budget_bytes = budget_bytes;
    pool->count_max = count_of_descriptors();
    list_init(&pool->free);
    *ret = pool;
    return 0;
}

static void pipe_close(struct pipe *pipe)
{
    (void)close(pipe->read_fd);
    (void)close(pipe->write_fd);
    free(pipe);
}

void pipe_pool_destroy(struct pipe_pool *pool)
{
    if (pool == NULL)
        return;
    struct list *node;
    while ((node = list_pop_front(&pool->free)) != NULL)
        pipe_close(container_of(node, struct pipe, node));
    free(pool);
}

/* The first half of the budget is for large pipes, the second half for many small ones. */
static size_t next_size(const struct pipe_pool *pool)
{
    if (pool->used_bytes + LIMIT_PIPE_SIZE <= pool->budget_bytes / 2)
        return LIMIT_PIPE_SIZE;
    if (pool->used_bytes + LIMIT_PIPE_SIZE_MIN <= pool->budget_bytes)
        return LIMIT_PIPE_SIZE_MIN;
    return 0;
}

static struct pipe *pipe_open(size_t size_bytes)
{
    int fds[2];
    if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
        return NULL;
    (void)fcntl(fds[1], F_SETPIPE_SZ, (int)size_bytes); /* the size is checked below */
    int got = fcntl(fds[1], F_GETPIPE_SZ);
    struct pipe *pipe = got >= LIMIT_PIPE_SIZE_MIN ? calloc(1, sizeof(*pipe)) : NULL;
    if (pipe == NULL) {
        (void)close(fds[0]);
        (void)close(fds[1]);
        return NULL;
    }
    list_init(&pipe->node);
    pipe->read_fd = fds[0];
    pipe->write_fd = fds[1];
    pipe->size_bytes = (size_t)got;
    return pipe;
}

struct pipe *pipe_pool_get(struct pipe_pool *pool)
{
    struct list *node = list_pop_front(&pool->free);
    if (node != NULL)
        return container_of(node, struct pipe, node);
    size_t size_bytes = next_size(pool);
    if (size_bytes == 0 || pool->count >= pool->count_max)
        return NULL;
    struct pipe *pipe = pipe_open(size_bytes);
    if (pipe == NULL)
        return NULL;
    pool->used_bytes += pipe->size_bytes;
    pool->count++;
    return pipe;
}

void pipe_pool_put(struct pipe_pool *pool, struct pipe *pipe)
{
    assert(pool->count > 0);
    if (pipe->pending_bytes > 0) {
        pool->used_bytes -= pipe->size_bytes;
        pool->count--;
        pipe_close(pipe);
        return;
    }
    list_push_front(&pool->free, &pipe->node); /* the one in the cache is used next */
}
