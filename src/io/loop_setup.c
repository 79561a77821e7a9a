/* Creates and destroys a loop: the ring with its flags (io_uring_setup(2)), the operations that it
 * may run, and the advice for an administrator whose kernel refuses it. Nothing here runs during a
 * turn of the loop. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "loop_priv.h"

enum {
    CREATE_RETRY_MS = 2000, /* the rings of a dying process are charged to the user for a while */
    CREATE_RETRY_STEP_MS = 50,
};

static_assert(LIMIT_CQ_ENTRIES >= 2 * LIMIT_SQ_ENTRIES, "a full submission must not overflow");

static int ring_create(struct io_uring *ring, unsigned int sq_entries, unsigned int cq_entries)
{
    struct io_uring_params params = {
        .cq_entries = cq_entries,
        .flags =
            /* Restrictions can be registered only before the ring is enabled. */
        IORING_SETUP_R_DISABLED
        /* Only one thread submits. IORING_SETUP_DEFER_TASKRUN requires this flag. */
        | IORING_SETUP_SINGLE_ISSUER
        /* Completions are processed only when we wait, and never interrupt a callback. */
        | IORING_SETUP_DEFER_TASKRUN
        /* A completion sends no inter-processor interrupt. */
        | IORING_SETUP_COOP_TASKRUN
        /* Entries behind a bad submission are submitted too. */
        | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
    };
    /* IORING_SETUP_NO_SQARRAY stays off: liburing before 2.6 corrupts such a ring. */
    return io_uring_queue_init_params(sq_entries, ring, &params);
}

static int ring_create_retrying(struct io_uring *ring, unsigned int sq_entries,
                                unsigned int cq_entries)
{
    uint64_t give_up_ns = clock_monotonic_ns() + ms_to_ns(CREATE_RETRY_MS);
    for (;;) {
        int result = ring_create(ring, sq_entries, cq_entries);
        if (result != -ENOMEM)
            return result;
        if (sq_entries > 64) {
            sq_entries /= 2;
            cq_entries /= 2;
        } else if (clock_monotonic_ns() < give_up_ns) {
            (void)usleep(CREATE_RETRY_STEP_MS * 1000);
        } else {
            return result;
        }
    }
}

/* Allows only these operations (io_uring_register(2), IORING_REGISTER_RESTRICTIONS). None of them
 * opens, unlinks or maps a file, so a bug in the relay can't become file access through the ring.
 * This calls io_uring_register itself, because the shared object of liburing 2.3 does not export
 * the wrappers. */
static int ring_restrict(struct io_uring *ring)
{
    static const uint8_t ops[] = {
        IORING_OP_NOP,          IORING_OP_ACCEPT,      IORING_OP_RECV,    IORING_OP_SEND,
        IORING_OP_POLL_ADD,     IORING_OP_POLL_REMOVE, IORING_OP_TIMEOUT, IORING_OP_CLOSE,
        IORING_OP_ASYNC_CANCEL, IORING_OP_MSG_RING,
    };
    struct io_uring_restriction rows[ARRAY_SIZE(ops) + 3];
    memset(rows, 0, sizeof(rows));
    size_t count = 0;
    for (; count < ARRAY_SIZE(ops); count++) {
        rows[count].opcode = IORING_RESTRICTION_SQE_OP;
        rows[count].sqe_op = ops[count];
    }
    rows[count].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    rows[count++].sqe_flags = IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_LINK;
    rows[count].opcode = IORING_RESTRICTION_REGISTER_OP;
    rows[count++].register_op = IORING_UNREGISTER_PBUF_RING;
    /* Enabling the ring is a register operation too, so it has to be allowed. */
    rows[count].opcode = IORING_RESTRICTION_REGISTER_OP;
    rows[count++].register_op = IORING_REGISTER_ENABLE_RINGS;
    return io_uring_register((unsigned int)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, rows,
                             (unsigned int)count);
}

int loop_create(const struct loop_options *options, struct loop **ret)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (loop == NULL)
        return -ENOMEM;
    loop->metrics = options->metrics;
    unsigned int sq_entries = options->sq_entries != 0 ? options->sq_entries : LIMIT_SQ_ENTRIES;
    unsigned int cq_entries = options->cq_entries != 0 ? options->cq_entries : LIMIT_CQ_ENTRIES;
    unsigned int buffer_count =
        options->buffer_count != 0 ? options->buffer_count : LIMIT_BUFFER_COUNT;

    int result = ring_create_retrying(&loop->ring, sq_entries, cq_entries);
    if (result < 0)
        goto err_free;
    result = buffers_create(&loop->ring, buffer_count, loop->metrics, &loop->buffers);
    if (result < 0)
        goto err_ring;
    result = ring_restrict(&loop->ring);
    if (result < 0)
        goto err_buffers;
    result =
        io_uring_register((unsigned int)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    /* A seccomp profile may allow io_uring_setup and io_uring_register but not io_uring_enter. */
    if (result >= 0)
        result = io_uring_get_events(&loop->ring);
    if (result < 0)
        goto err_buffers;
    loop_busy_init(&loop->busy);
    if (loop->busy.schedstat_fd >= 0)
        loop_preempt_init(&loop->preempt);
    loop_exact_init(&loop->exact);
    loop->now_ns = clock_monotonic_ns();
    *ret = loop;
    return 0;

err_buffers:
    buffers_destroy(loop->buffers);
err_ring:
    io_uring_queue_exit(&loop->ring);
err_free:
    free(loop);
    return result;
}

void loop_destroy(struct loop *loop)
{
    if (loop == NULL)
        return;
    loop_busy_finish(&loop->busy);
    loop_exact_finish(&loop->exact);
    buffers_destroy(loop->buffers);
    io_uring_queue_exit(&loop->ring);
    free(loop->spill.cqes);
    free(loop);
}

const char *loop_error_hint(int error)
{
    switch (-error) {
    case EPERM:
        return "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0 (where it "
               "is 1, kernel.io_uring_group to a group of this process will do), or allow "
               "io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile";
    case ENOSYS:
        return "io_uring is not available: the kernel lacks it or a seccomp profile (as Docker's "
               "default) hides it; allow io_uring_setup, io_uring_enter and io_uring_register";
    case EINVAL:
        return "this kernel's io_uring is too old: Linux 6.1 or newer is needed";
    case ENOMEM:
        return "not enough locked memory for the rings: raise the limit (ulimit -l, or "
               "LimitMEMLOCK=64M in the unit) or use fewer threads";
    case EMFILE:
    case ENFILE:
        return "no free file descriptors: raise the limit (ulimit -n, or LimitNOFILE in the unit)";
    default:
        return "see io_uring_setup(2)";
    }
}
