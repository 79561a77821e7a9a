/* The loop when the kernel refuses submissions (A29). The linker puts the __wrap_ functions below
 * between the loop and liburing. */
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ring.h"

static struct random random_state;
static unsigned int fail_permille;
static int always;

static int drawn_error(void)
{
    static const int errors[] = {-EBUSY, -EAGAIN, -EINTR, -ENOMEM};
    if (always != 0)
        return always;
    if (!random_permille(&random_state, fail_permille))
        return 0;
    return errors[random_below(&random_state, ARRAY_SIZE(errors))];
}

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring)
{
    int error = drawn_error();
    return error < 0 ? error : __real_io_uring_submit(ring);
}

int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned int wait_count, struct __kernel_timespec *ts,
                                            sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned int wait_count, struct __kernel_timespec *ts,
                                            sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                            unsigned int wait_count, struct __kernel_timespec *ts,
                                            sigset_t *mask)
{
    int error = drawn_error();
    if (error < 0)
        return error;
    return __real_io_uring_submit_and_wait_timeout(ring, cqe, wait_count, ts, mask);
}

enum { CHAINS = 700, LINKS = 6 };

struct chain {
    struct loop_op op;
    struct ring *ring;
    int fd;
    unsigned int count;
};

static unsigned int done_count;

static void chain_done(struct loop_op *op, int res, uint32_t flags)
{
    struct chain *chain = container_of(op, struct chain, op);
    cr_assert(loop_op_is_idle(op));
    if (++chain->count < LINKS)
        loop_poll(chain->ring->loop, op, chain->fd, POLLIN);
    else
        done_count++;
}

static void check_chains(struct ring *ring)
{
    static struct chain chains[CHAINS];
    int event = eventfd(0, EFD_CLOEXEC);
    done_count = 0;
    for (size_t i = 0; i < CHAINS; i++) {
        chains[i] = (struct chain){.ring = ring, .fd = event};
        loop_op_init(&chains[i].op, chain_done);
        loop_poll(ring->loop, &chains[i].op, event, POLLIN);
    }
    uint64_t one = 1;
    cr_assert_eq(write(event, &one, sizeof(one)), sizeof(one));
    ring_run(ring, &done_count, CHAINS);
    ring_settle(ring);
    for (size_t i = 0; i < CHAINS; i++)
        cr_assert(loop_op_is_idle(&chains[i].op) && chains[i].count == LINKS);
    (void)close(event);
}

Test(loop_faults, no_op_is_lost, .timeout = 60)
{
    static const unsigned int permilles[] = {0, 100, 700};
    for (size_t size = 0; size < ARRAY_SIZE(ring_sizes); size++) {
        for (size_t i = 0; i < ARRAY_SIZE(permilles); i++) {
            struct ring ring;
            if (!ring_open(&ring, &ring_sizes[size]))
                return;
            random_state.state = size * 10 + i;
            /* A ring of one entry submits each op by itself, so a lower rate is enough. */
            fail_permille = size == ARRAY_SIZE(ring_sizes) - 1 ? permilles[i] / 10 : permilles[i];
            check_chains(&ring);
            cr_assert(fail_permille == 0 || metrics_get(&ring.metrics, METRIC_SUBMIT_RETRIES) > 0,
                      "no fault was injected");
            fail_permille = 0;
            ring_close(&ring);
        }
    }
}

Test(loop_faults, a_broken_ring_is_an_error)
{
    struct ring ring;
    if (!ring_open(&ring, &ring_sizes[0]))
        return;
    always = -EBADF;
    cr_assert_eq(loop_run_once(ring.loop), -EBADF);
    always = -ETIME;
    cr_assert_eq(loop_run_once(ring.loop), 0);
    always = 0;
    ring_close(&ring);
}
