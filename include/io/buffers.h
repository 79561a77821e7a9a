/* The buffers that a loop lends to the kernel for small receives: one provided-buffer ring of
 * LIMIT_BUFFER_SIZE pieces, so that a connection that waits holds none.
 *
 *     free in the ring -> picked by the kernel -> buffers_from_flags() in the receive's callback
 *          ^                                                   |
 *          |                                        owned by that callback's owner
 *          +------------- buffers_recycle() <------- when its bytes have been sent on
 *
 * Exactly one owner at a time. When the ring runs dry, receives fail with -ENOBUFS; who got that
 * waits here and is called when half of the buffers are back: at once for each returned buffer
 * would mean one receive per buffer and the next failure right behind it.
 *
 * Owned by one loop, used by its thread alone. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"

struct buffers;

/* A buffer in the hands of an owner. data NULL = none. */
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

/* The buffer that a receive filled; data NULL when it took none. */
struct buffer buffers_from_flags(struct buffers *buffers, uint32_t flags);
/* Gives a buffer back. buffer->data may be NULL; it is afterwards. */
void buffers_recycle(struct buffers *buffers, struct buffer *buffer);
/* Calls waiter->available once, later. Idempotent while waiting. */
void buffers_wait(struct buffers *buffers, struct buffers_waiter *waiter);
/* Idempotent. */
void buffers_wait_cancel(struct buffers_waiter *waiter);
