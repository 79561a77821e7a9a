/* Buffers for sends without a copy: one worker's, made when the first is asked for.
 *
 *     free --zerocopy_take--> held --zerocopy_send--> sending --ops->sent--> out --notification-->
 * free
 *                               \-------------zerocopy_put------------------------------------->
 * free
 *
 * The owner fills a buffer that it holds and sends it; from ops->sent on it has nothing to do with
 * it any more, but hears in ops->copied if the kernel could not do without a copy. A buffer that is
 * out belongs to the kernel until the peer has acknowledged the bytes or the connection is gone,
 * whether its owner still lives or not; so an owner that ends waits for ops->sent (which comes at
 * once), and never for the notification. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/macros.h"

struct loop;
struct zerocopy;
struct zerocopy_buffer;

enum zerocopy_mode {
    ZEROCOPY_OFF,
    ZEROCOPY_AUTO, /* not to peers on this host, and not where the kernel has copied once */
    ZEROCOPY_ON,
};

struct zerocopy_ops {
    /* result: bytes of data that are on their way, or -errno: none of them. */
    void (*sent)(void *owner, const unsigned char *data, int result);
    void (*copied)(void *owner);
};

/* The buffers have NOISE_BATCH_SEALED bytes. Registers them with the ring if RLIMIT_MEMLOCK allows
 * it. -ENOMEM. */
MUST_CHECK int zerocopy_create(struct loop *loop, const struct zerocopy_ops *ops,
                               struct zerocopy **ret);
/* Accepts NULL. Buffers that are out stay the kernel's. */
void zerocopy_destroy(struct zerocopy *zerocopy);

/* NULL: all are out, which is counted. */
struct zerocopy_buffer *zerocopy_take(struct zerocopy *zerocopy, void *owner);
unsigned char *zerocopy_data(struct zerocopy_buffer *buffer);
/* One that was taken and not sent. */
void zerocopy_put(struct zerocopy_buffer *buffer);
void zerocopy_send(struct zerocopy_buffer *buffer, int fd, size_t size);
/* The owner is gone, or does not care any more: no callback follows. Not while it waits for
 * ops->sent. */
void zerocopy_forget(struct zerocopy *zerocopy, const void *owner);
/* Not free. */
unsigned int zerocopy_in_use(const struct zerocopy *zerocopy);
