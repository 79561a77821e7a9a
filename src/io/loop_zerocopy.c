/* Sends without a copy (IORING_OP_SEND_ZC): the device reads the sender's pages, which therefore
 * belong to the kernel until a second completion gives them back. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "loop_priv.h"

/* Since Linux 6.2; before, the send is refused with -EINVAL and its owner copies. liburing has the
 * names since 2.4. */
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3)
#endif
#ifndef IORING_NOTIF_USAGE_ZC_COPIED
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

enum { MEMORY_INDEX = 0 }; /* of the only registered buffer */

int loop_register_memory(struct loop *loop, void *memory, size_t size)
{
    struct iovec iovec = {.iov_base = memory, .iov_len = size};
    return io_uring_register((unsigned int)loop->ring.ring_fd, IORING_REGISTER_BUFFERS, &iovec, 1);
}

void loop_send_zerocopy(struct loop *loop, struct loop_op *op, int fd, const void *data,
                        size_t size, bool registered)
{
    struct io_uring_sqe *sqe = loop_op_start(loop, op);
    const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    if (registered)
        io_uring_prep_send_zc_fixed(sqe, fd, data, size, flags, IORING_SEND_ZC_REPORT_USAGE,
                                    MEMORY_INDEX);
    else
        io_uring_prep_send_zc(sqe, fd, data, size, flags, IORING_SEND_ZC_REPORT_USAGE);
    loop_op_submit(sqe, op);
}

bool loop_flags_notification(uint32_t flags)
{
    return (flags & IORING_CQE_F_NOTIF) != 0;
}

bool loop_notification_copied(int res)
{
    return ((uint32_t)res & IORING_NOTIF_USAGE_ZC_COPIED) != 0;
}
