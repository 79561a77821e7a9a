#include "io/pipe_pool.h"

#include <criterion/criterion.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/limits.h"
#include "testing.h"

Test(pipe_pool, budget_and_reuse)
{
    size_t before = open_fd_count();
    struct pipe_pool *pool;
    struct pipe *pipes[LIMIT_PIPES + 1];
    size_t count = 0;
    cr_assert_eq(pipe_pool_create(4 * LIMIT_PIPE_SIZE_MIN, &pool), 0);
    cr_assert_eq(open_fd_count(), before, "none before it is needed");
    while (count <= LIMIT_PIPES && (pipes[count] = pipe_pool_get(pool)) != NULL) {
        cr_assert_geq(pipes[count]->size_bytes, LIMIT_PIPE_SIZE_MIN);
        count++;
    }
    cr_assert_eq(count, 4);
    struct pipe *dirty = pipes[0], *clean = pipes[1];
    dirty->pending_bytes = 1;
    pipe_pool_put(pool, dirty);
    cr_assert_eq(open_fd_count(), before + 2 * 3, "a dirty pipe is closed");
    pipe_pool_put(pool, clean);
    cr_assert_eq(pipe_pool_get(pool), clean, "the warmest first");
    struct pipe *fresh = pipe_pool_get(pool);
    cr_assert_not_null(fresh);
    cr_assert_null(pipe_pool_get(pool));
    pipe_pool_put(pool, clean);
    pipe_pool_put(pool, fresh);
    pipe_pool_put(pool, pipes[2]);
    pipe_pool_put(pool, pipes[3]);
    pipe_pool_destroy(pool);
    pipe_pool_destroy(NULL);
    cr_assert_eq(open_fd_count(), before);
}

/* With few descriptors there are few pipes, or none: bulk flows then copy. */
Test(pipe_pool, few_descriptors)
{
    struct rlimit limit;
    struct pipe_pool *pool;
    struct pipe *pipes[4];
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 4 * LIMIT_PIPES_FDS_PART - 1;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_eq(pipe_pool_create(SIZE_MAX / 2, &pool), 0);
    for (size_t i = 0; i < 3; i++)
        cr_assert_not_null(pipes[i] = pipe_pool_get(pool));
    cr_expect_null(pipe_pool_get(pool));
    pipe_pool_put(pool, pipes[0]);
    cr_expect_not_null(pipes[0] = pipe_pool_get(pool));
    for (size_t i = 0; i < 3; i++)
        pipe_pool_put(pool, pipes[i]);
    pipe_pool_destroy(pool);
    limit.rlim_cur = LIMIT_PIPES_FDS_PART - 1;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_assert_eq(pipe_pool_create(SIZE_MAX / 2, &pool), 0);
    cr_expect_null(pipe_pool_get(pool));
    pipe_pool_destroy(pool);
}
