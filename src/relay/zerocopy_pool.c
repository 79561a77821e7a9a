#include "relay/zerocopy_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/metrics.h"
#include "io/loop.h"
#include "net/noise_link.h"

enum {
    PAGE = 4096,
    BUFFER_SIZE = (NOISE_BATCH_SEALED + PAGE - 1) / PAGE * PAGE,
    MEMORY_SIZE = LIMIT_ZEROCOPY_BUFFERS * BUFFER_SIZE,
};

struct zerocopy_buffer {
    struct loop_op op;
    struct zerocopy *zerocopy;
    void *owner; /* NULL: gone */
    unsigned char *data;
    struct zerocopy_buffer *next_free;
    bool is_sending; /* ops->sent is due */
};

struct zerocopy {
    struct loop *loop;
    const struct zerocopy_ops *ops;
    unsigned char *memory;
    bool is_registered;
    unsigned int in_use;
    struct zerocopy_buffer *free;
    struct zerocopy_buffer buffers[LIMIT_ZEROCOPY_BUFFERS];
};

static void zerocopy_done(struct loop_op *op, int res, uint32_t flags);

/* By mmap, so that the pages are nobody else's when they are given up: the kernel may still have to
 * send them. */
int zerocopy_create(struct loop *loop, const struct zerocopy_ops *ops, struct zerocopy **ret)
{
    struct zerocopy *zerocopy = calloc(1, sizeof(*zerocopy));
    if (zerocopy == NULL)
        return -ENOMEM;
    zerocopy->loop = loop;
    zerocopy->ops = ops;
    zerocopy->memory =
        mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zerocopy->memory == MAP_FAILED) {
        free(zerocopy);
        return -ENOMEM;
    }
    for (size_t i = LIMIT_ZEROCOPY_BUFFERS; i-- > 0;) {
        struct zerocopy_buffer *buffer = &zerocopy->buffers[i];
        loop_op_init(&buffer->op, zerocopy_done);
        buffer->zerocopy = zerocopy;
        buffer->data = zerocopy->memory + i * BUFFER_SIZE;
        buffer->next_free = zerocopy->free;
        zerocopy->free = buffer;
    }
    int result = loop_register_memory(loop, zerocopy->memory, MEMORY_SIZE);
    zerocopy->is_registered = result == 0;
    if (result < 0)
        log_debug("zerocopy_send: buffers are not registered (%d); see RLIMIT_MEMLOCK", result);
    *ret = zerocopy;
    return 0;
}

void zerocopy_destroy(struct zerocopy *zerocopy)
{
    if (zerocopy == NULL)
        return;
    (void)munmap(zerocopy->memory, MEMORY_SIZE);
    free(zerocopy);
}

struct zerocopy_buffer *zerocopy_take(struct zerocopy *zerocopy, void *owner)
{
    struct zerocopy_buffer *buffer = zerocopy->free;
    if (buffer == NULL) {
        metrics_add(loop_metrics(zerocopy->loop), METRIC_ZEROCOPY_NO_BUFFER, 1);
        return NULL;
    }
    zerocopy->free = buffer->next_free;
    zerocopy->in_use++;
    buffer->owner = owner;
    return buffer;
}

unsigned char *zerocopy_data(struct zerocopy_buffer *buffer)
{
    return buffer->data;
}

void zerocopy_put(struct zerocopy_buffer *buffer)
{
    struct zerocopy *zerocopy = buffer->zerocopy;
    assert(loop_op_is_idle(&buffer->op) && zerocopy->in_use > 0);
    buffer->owner = NULL;
    buffer->next_free = zerocopy->free;
    zerocopy->free = buffer;
    zerocopy->in_use--;
}

void zerocopy_send(struct zerocopy_buffer *buffer, int fd, size_t size)
{
    struct zerocopy *zerocopy = buffer->zerocopy;
    assert(size <= NOISE_BATCH_SEALED);
    buffer->is_sending = true;
    loop_send_zerocopy(zerocopy->loop, &buffer->op, fd, buffer->data, size,
                       zerocopy->is_registered);
}

static void zerocopy_sent(struct zerocopy_buffer *buffer, int result)
{
    struct zerocopy *zerocopy = buffer->zerocopy;
    /* A send that failed may have a notification too. */
    bool is_out = !loop_op_is_idle(&buffer->op);
    if (is_out)
        metrics_add(loop_metrics(zerocopy->loop), METRIC_ZEROCOPY_SENDS, 1);
    buffer->is_sending = false;
    zerocopy->ops->sent(buffer->owner, buffer->data, result);
    if (!is_out)
        zerocopy_put(buffer);
}

static void zerocopy_done(struct loop_op *op, int res, uint32_t flags)
{
    struct zerocopy_buffer *buffer = container_of(op, struct zerocopy_buffer, op);
    struct zerocopy *zerocopy = buffer->zerocopy;
    loop_note_bulk(zerocopy->loop, true);
    if (!loop_flags_notification(flags)) {
        zerocopy_sent(buffer, res);
        return;
    }
    metrics_add(loop_metrics(zerocopy->loop), METRIC_ZEROCOPY_NOTIFIED, 1);
    if (loop_notification_copied(res)) {
        metrics_add(loop_metrics(zerocopy->loop), METRIC_ZEROCOPY_COPIED, 1);
        if (buffer->owner != NULL)
            zerocopy->ops->copied(buffer->owner);
    }
    zerocopy_put(buffer);
}

void zerocopy_forget(struct zerocopy *zerocopy, const void *owner)
{
    for (size_t i = 0; i < LIMIT_ZEROCOPY_BUFFERS; i++) {
        struct zerocopy_buffer *buffer = &zerocopy->buffers[i];
        if (buffer->owner == owner) {
            assert(!buffer->is_sending);
            buffer->owner = NULL;
        }
    }
}

unsigned int zerocopy_in_use(const struct zerocopy *zerocopy)
{
    return zerocopy->in_use;
}
