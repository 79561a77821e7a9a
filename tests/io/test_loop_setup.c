/* What a ring is made of: its restrictions, and what is said without one. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../src/io/loop_priv.h"
#include "loop_checks.h"

/* ---- what the ring may not do (A68) ---- */

static int submit_raw(struct ring *ring, void (*prepare)(struct io_uring_sqe *sqe))
{
    struct probe probe;
    probe_init(&probe);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->loop->ring);
    cr_assert_not_null(sqe);
    prepare(sqe);
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)&probe.op); /* passes for a wake-up */
    ring_run(ring, &probe.count, 1);
    return probe.res;
}

static void prepare_nop(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
}

static void prepare_openat(struct io_uring_sqe *sqe)
{
    io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
}

static void prepare_unlinkat(struct io_uring_sqe *sqe)
{
    io_uring_prep_unlinkat(sqe, AT_FDCWD, "/nonexistent", 0);
}

static void prepare_read(struct io_uring_sqe *sqe)
{
    static char byte;
    io_uring_prep_read(sqe, 0, &byte, 1, 0);
}

static void prepare_socket(struct io_uring_sqe *sqe)
{
    io_uring_prep_socket(sqe, AF_INET, SOCK_STREAM, 0, 0);
}

static void prepare_connect(struct io_uring_sqe *sqe)
{
    static const struct sockaddr_in nowhere = {.sin_family = AF_INET};
    io_uring_prep_connect(sqe, 0, (const struct sockaddr *)&nowhere, sizeof(nowhere));
}

static void prepare_async_nop(struct io_uring_sqe *sqe)
{
    io_uring_prep_nop(sqe);
    sqe->flags |= IOSQE_ASYNC;
}

Test(loop, other_operations_are_refused)
{
    static void (*const refused[])(struct io_uring_sqe *) = {
        prepare_openat, prepare_unlinkat, prepare_read,
        prepare_socket, prepare_connect,  prepare_async_nop,
    };
    struct ring ring;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    cr_assert_eq(submit_raw(&ring, prepare_nop), 0);
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
        cr_expect_eq(submit_raw(&ring, refused[i]), -EACCES, "operation %zu", i);
    int fd = 0;
    cr_expect_eq(io_uring_register((unsigned int)loop_fd(ring.loop), IORING_REGISTER_FILES, &fd, 1),
                 -EACCES);
    check_recv_and_send(&ring);
    ring_close(&ring);
}

Test(loop, no_descriptor_for_a_ring)
{
    struct metrics metrics = {.values = {0}};
    struct loop_options options = {.metrics = &metrics};
    struct loop *loop = NULL;
    struct rlimit old;
    size_t before = open_fd_count();
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit tight = {.rlim_cur = 0, .rlim_max = old.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &tight), 0);
    int result = loop_create(&options, &loop);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    if (result == -ENOSYS || result == -EPERM)
        cr_skip_test("no io_uring");
    cr_assert_eq(result, -EMFILE);
    cr_assert_null(loop);
    cr_assert_eq(open_fd_count(), before);
    loop_destroy(NULL);
}

Test(loop, hints)
{
    static const int errors[] = {EPERM, ENOSYS, EINVAL, ENOMEM, EMFILE, EIO};
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        cr_assert_not_null(loop_error_hint(-errors[i]));
        for (size_t j = 0; j < i; j++)
            cr_assert_str_neq(loop_error_hint(-errors[i]), loop_error_hint(-errors[j]));
    }
    cr_assert_str_eq(loop_error_hint(-ENFILE), loop_error_hint(-EMFILE));
}
