#include "io/buffers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "loop_priv.h"

static_assert(LIMIT_BUFFER_COUNT <= 32768 && (LIMIT_BUFFER_COUNT & (LIMIT_BUFFER_COUNT - 1)) == 0,
              "a provided-buffer ring has a power of two of entries, at most 2^15");

/* What a turn received may be lent until the next one, and waiters are served when half is free. */
static_assert((int)LIMIT_BUFFERS_OFFERED <= (int)LIMIT_BUFFER_COUNT / 2, "or they wait for ever");

struct buffers {
    struct io_uring *ring;
    struct io_uring_buf_ring *shared; /* with the kernel */
    unsigned char *memory;
    unsigned int count;
    unsigned int lent;    /* filled by the kernel and not yet recycled */
    unsigned int offered; /* in the ring */
    /* All other buffers are on a stack. The ring is first in, first out, so it would go round all
     * buffers. With the stack the same few buffers are used again while they are in the cache, and
     * most buffers are never touched. */
    uint16_t *spare;
    unsigned int spare_count;
    struct metrics *metrics;
    struct list waiters;
    bool registered;
};

static size_t shared_bytes(const struct buffers *buffers)
{
    return buffers->count * sizeof(struct io_uring_buf);
}

static size_t memory_bytes(const struct buffers *buffers)
{
    return (size_t)buffers->count * LIMIT_BUFFER_SIZE;
}

static void offer(struct buffers *buffers, uint16_t id)
{
    io_uring_buf_ring_add(buffers->shared, buffers->memory + (size_t)id * LIMIT_BUFFER_SIZE,
                          LIMIT_BUFFER_SIZE, id, io_uring_buf_ring_mask(buffers->count), 0);
    io_uring_buf_ring_advance(buffers->shared, 1);
    buffers->offered++;
}

static void *map_pages(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

static void refill(struct buffers *buffers)
{
    while (buffers->offered < LIMIT_BUFFERS_OFFERED && buffers->spare_count > 0)
        offer(buffers, buffers->spare[--buffers->spare_count]);
}

int buffers_create(struct io_uring *ring, unsigned int count, struct metrics *metrics,
                   struct buffers **ret)
{
    struct buffers *buffers = calloc(1, sizeof(*buffers));
    if (buffers == NULL)
        return -ENOMEM;
    buffers->ring = ring;
    buffers->count = count;
    buffers->metrics = metrics;
    list_init(&buffers->waiters);

    int result = -ENOMEM;
    buffers->shared = map_pages(shared_bytes(buffers));
    buffers->memory = map_pages(memory_bytes(buffers));
    buffers->spare = calloc(count, sizeof(*buffers->spare));
    if (buffers->shared == NULL || buffers->memory == NULL || buffers->spare == NULL)
        goto err;
    struct io_uring_buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)buffers->shared,
        .ring_entries = count,
        .bgid = BUFFERS_GROUP,
    };
    result = io_uring_register_buf_ring(ring, &reg, 0);
    if (result < 0)
        goto err;
    buffers->registered = true;
    io_uring_buf_ring_init(buffers->shared);
    for (unsigned int id = count; id-- > 0;)
        buffers->spare[buffers->spare_count++] = (uint16_t)id;
    refill(buffers);
    *ret = buffers;
    return 0;

err:
    buffers_destroy(buffers);
    return result;
}

void buffers_destroy(struct buffers *buffers)
{
    if (buffers == NULL)
        return;
    if (buffers->registered)
        (void)io_uring_unregister_buf_ring(buffers->ring, BUFFERS_GROUP);
    if (buffers->memory != NULL)
        (void)munmap(buffers->memory, memory_bytes(buffers));
    if (buffers->shared != NULL)
        (void)munmap(buffers->shared, shared_bytes(buffers));
    free(buffers->spare);
    free(buffers);
}

struct buffer buffers_from_flags(struct buffers *buffers, uint32_t flags)
{
    if ((flags & IORING_CQE_F_BUFFER) == 0)
        return (struct buffer){NULL, 0};
    uint16_t id = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    assert(id < buffers->count);
    buffers->lent++;
    buffers->offered--;
    if (buffers->offered < LIMIT_BUFFERS_OFFERED / 2)
        refill(buffers);
    return (struct buffer){buffers->memory + (size_t)id * LIMIT_BUFFER_SIZE, id};
}

void buffers_recycle(struct buffers *buffers, struct buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    assert(buffers->lent > 0);
    if (buffers->offered < LIMIT_BUFFERS_OFFERED)
        offer(buffers, buffer->id);
    else
        buffers->spare[buffers->spare_count++] = buffer->id;
    buffers->lent--;
    buffer->data = NULL;
}

void buffers_wait(struct buffers *buffers, struct buffers_waiter *waiter)
{
    metrics_add(buffers->metrics, METRIC_BUFFERS_EXHAUSTED, 1);
    if (list_is_empty(&waiter->node))
        list_push_back(&buffers->waiters, &waiter->node);
}

void buffers_wait_cancel(struct buffers_waiter *waiter)
{
    list_remove(&waiter->node);
}

void buffers_serve_waiters(struct buffers *buffers)
{
    unsigned int available = buffers->count - buffers->lent;
    if (list_is_empty(&buffers->waiters) || available < buffers->count / 2)
        return;
    while (available-- > 0) {
        struct list *node = list_pop_front(&buffers->waiters);
        if (node == NULL)
            return;
        struct buffers_waiter *waiter = container_of(node, struct buffers_waiter, node);
        waiter->available(waiter);
    }
}
