/* The buffers that a loop lends to the kernel for small receives: one provided-buffer ring
 * (io_uring_register_buf_ring(3), Linux 5.19) of buffers of LIMIT_BUFFER_SIZE bytes. The kernel
 * picks a buffer when data arrives, so an idle connection holds none.
 *
 *     free in the ring -> picked by the kernel -> buffers_from_flags() in the receive's callback
 *          ^                                                   |
 *          |                                        owned by that callback's owner
 *          +------------- buffers_recycle() <------- when its bytes have been sent on
 *
 * A buffer has exactly one owner at a time. When the ring is empty, receives fail with -ENOBUFS.
 * Their owners then wait here, and are called when half of the buffers are back. Calling one waiter
 * for each returned buffer would start one receive per buffer, and the next -ENOBUFS right behind.
 *
 * Owned by one loop, used by its thread alone. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"

struct buffers;

/* A buffer that user space owns. data NULL = none. */
struct buffer {
    unsigned char *data;
    uint16_t id;
};

struct buffers_waiter {
    struct list node;
    void (*available)(struct buffers_waiter *waiter);
};

static inline void buffers_waiter_init(struct buffers_waiter *waiter,
                                       void (*available)(struct buffers_waiter *waiter))
{
    list_init(&waiter->node);
    waiter->available = available;
}

/* The buffer that a receive filled, from its completion's flags; the caller owns it. data is NULL
 * when the receive used none. */
struct buffer buffers_from_flags(struct buffers *buffers, uint32_t flags);
/* Gives a buffer back and sets buffer->data to NULL. buffer->data may be NULL already. */
void buffers_recycle(struct buffers *buffers, struct buffer *buffer);
/* Queues the waiter. Its `available` is called once, in a later turn of the loop. Idempotent while
 * the waiter is queued. */
void buffers_wait(struct buffers *buffers, struct buffers_waiter *waiter);
/* Takes the waiter out of the queue. Idempotent. */
void buffers_wait_cancel(struct buffers_waiter *waiter);
