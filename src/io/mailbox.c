#include "io/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "io/loop.h"

static_assert((LIMIT_MAILBOX & (LIMIT_MAILBOX - 1)) == 0, "positions wrap by masking");

/* Dmitry Vyukov's bounded queue. A cell's sequence says whose turn it is. Equal to a position: the
 * cell is free for the writer of that position. Position + 1: the cell is filled, for the
 * reader. */
struct cell {
    _Atomic size_t sequence;
    mailbox_deliver_fn *deliver;
    alignas(16) unsigned char payload[MAILBOX_PAYLOAD_SIZE];
};

#define WRITE_CLOSED ((size_t)1 << (8 * sizeof(size_t) - 1))

struct mailbox {
    struct mailbox_group *group;
    unsigned int index;
    int eventfd;
    struct loop *loop; /* set once, before any worker sends */
    void *owner;
    mailbox_signals_fn *on_signals;

    struct loop_op eventfd_op;     /* multishot poll of eventfd */
    struct loop_op wake_op;        /* gets the MSG_RING of another worker */
    struct loop_op probe_op;       /* gets the MSG_RING of the self-test */
    struct loop_op wake_failed_op; /* gets the result of our own MSG_RING if it was refused */

    _Atomic size_t write_position; /* with the bit WRITE_CLOSED: closed for good */
    size_t read_position;
    _Atomic uint32_t signals;
    _Atomic bool wake_pending;
    _Atomic bool detached;
    struct cell cells[LIMIT_MAILBOX];
};

struct mailbox_group {
    unsigned int count;
    _Atomic unsigned int probes_seen;
    _Atomic bool msg_ring_works;
    struct mailbox **mailboxes;
};

static void mailbox_destroy(struct mailbox *mailbox)
{
    if (mailbox == NULL)
        return;
    if (mailbox->eventfd >= 0)
        (void)close(mailbox->eventfd);
    free(mailbox);
}

static int mailbox_create(struct mailbox_group *group, unsigned int index, struct mailbox **ret)
{
    struct mailbox *mailbox = NULL;
    if (posix_memalign((void **)&mailbox, 64, sizeof(*mailbox)) != 0)
        return -ENOMEM;
    memset(mailbox, 0, sizeof(*mailbox));
    mailbox->group = group;
    mailbox->index = index;
    for (size_t i = 0; i < LIMIT_MAILBOX; i++)
        atomic_init(&mailbox->cells[i].sequence, i);
    mailbox->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mailbox->eventfd < 0) {
        int result = -errno;
        mailbox_destroy(mailbox);
        return result;
    }
    *ret = mailbox;
    return 0;
}

int mailbox_group_create(unsigned int count, struct mailbox_group **ret)
{
    struct mailbox_group *group = calloc(1, sizeof(*group));
    if (group == NULL)
        return -ENOMEM;
    int result = -ENOMEM;
    group->count = count;
    group->mailboxes = calloc(count, sizeof(struct mailbox *));
    if (group->mailboxes == NULL)
        goto err;
    for (unsigned int i = 0; i < count; i++) {
        result = mailbox_create(group, i, &group->mailboxes[i]);
        if (result < 0)
            goto err;
    }
    *ret = group;
    return 0;

err:
    mailbox_group_destroy(group);
    return result;
}

void mailbox_group_destroy(struct mailbox_group *group)
{
    if (group == NULL)
        return;
    for (unsigned int i = 0; group->mailboxes != NULL && i < group->count; i++)
        mailbox_destroy(group->mailboxes[i]);
    free(group->mailboxes);
    free(group);
}

struct mailbox *mailbox_of(struct mailbox_group *group, unsigned int index)
{
    assert(index < group->count);
    return group->mailboxes[index];
}

unsigned int mailbox_count(const struct mailbox_group *group)
{
    return group->count;
}

/* ---- waking ---- */

static void wake_by_eventfd(struct mailbox *to)
{
    uint64_t one = 1;
    /* This fails only when the counter is full, and then a wake-up is pending. */
    ssize_t written = write(to->eventfd, &one, sizeof(one));
    (void)written;
}

static void wake(struct mailbox *to, struct mailbox *from)
{
    /* Only the sender that sets the flag wakes the owner: for the others a wake-up is pending. */
    if (atomic_exchange(&to->wake_pending, true))
        return;
    if (from != NULL && atomic_load_explicit(&to->group->msg_ring_works, memory_order_acquire) &&
        !atomic_load_explicit(&to->detached, memory_order_acquire))
        loop_wake(from->loop, loop_fd(to->loop), &to->wake_op, &from->wake_failed_op);
    else
        wake_by_eventfd(to);
}

/* The kernel refused a MSG_RING. The completion does not say which mailbox it was for, so all are
 * woken, and MSG_RING is not used again. */
static void wake_failed(struct loop_op *op, int res, uint32_t flags)
{
    struct mailbox *mailbox = container_of(op, struct mailbox, wake_failed_op);
    struct mailbox_group *group = mailbox->group;
    atomic_store_explicit(&group->msg_ring_works, false, memory_order_release);
    for (unsigned int i = 0; i < group->count; i++)
        wake_by_eventfd(group->mailboxes[i]);
}

static void probe_arrived(struct loop_op *op, int res, uint32_t flags)
{
    struct mailbox *mailbox = container_of(op, struct mailbox, probe_op);
    struct mailbox_group *group = mailbox->group;
    if (atomic_fetch_add(&group->probes_seen, 1) + 1 == group->count)
        atomic_store_explicit(&group->msg_ring_works, true, memory_order_release);
}

void mailbox_self_test(struct mailbox *mailbox)
{
    struct mailbox_group *group = mailbox->group;
    if (group->count == 1)
        return;
    struct mailbox *next = group->mailboxes[(mailbox->index + 1) % group->count];
    loop_wake(mailbox->loop, loop_fd(next->loop), &next->probe_op, &mailbox->wake_failed_op);
}

/* ---- receiving ---- */

static void take_messages(struct mailbox *mailbox)
{
    /* At most one full queue per turn: a busy sender must not hold the loop. */
    for (size_t i = 0; i < LIMIT_MAILBOX; i++) {
        size_t position = mailbox->read_position;
        struct cell *cell = &mailbox->cells[position & (LIMIT_MAILBOX - 1)];
        if (atomic_load_explicit(&cell->sequence, memory_order_acquire) != position + 1)
            return;
        alignas(16) unsigned char payload[MAILBOX_PAYLOAD_SIZE];
        mailbox_deliver_fn *deliver = cell->deliver;
        memcpy(payload, cell->payload, sizeof(payload));
        mailbox->read_position = position + 1;
        atomic_store_explicit(&cell->sequence, position + LIMIT_MAILBOX, memory_order_release);
        deliver(mailbox->owner, payload);
    }
    wake(mailbox, NULL);
}

static void mailbox_look(struct mailbox *mailbox)
{
    /* Cleared before the queue is read: a message that is posted from here on wakes us again. */
    (void)atomic_exchange(&mailbox->wake_pending, false);
    uint32_t bits = atomic_exchange(&mailbox->signals, 0);
    take_messages(mailbox);
    if (bits != 0)
        mailbox->on_signals(mailbox->owner, bits);
}

static void woken(struct loop_op *op, int res, uint32_t flags)
{
    mailbox_look(container_of(op, struct mailbox, wake_op));
}

static void eventfd_ready(struct loop_op *op, int res, uint32_t flags)
{
    struct mailbox *mailbox = container_of(op, struct mailbox, eventfd_op);
    if (atomic_load_explicit(&mailbox->detached, memory_order_relaxed))
        return;
    /* The ring's poll is edge-triggered, so the eventfd need not be read. */
    if (loop_op_is_idle(op))
        loop_poll_multishot(mailbox->loop, op, mailbox->eventfd, POLLIN);
    mailbox_look(mailbox);
}

void mailbox_attach(struct mailbox *mailbox, struct loop *loop, void *owner,
                    mailbox_signals_fn *on_signals)
{
    mailbox->loop = loop;
    mailbox->owner = owner;
    mailbox->on_signals = on_signals;
    loop_op_init(&mailbox->eventfd_op, eventfd_ready);
    loop_op_init(&mailbox->wake_op, woken);
    loop_op_init(&mailbox->probe_op, probe_arrived);
    loop_op_init(&mailbox->wake_failed_op, wake_failed);
    loop_poll_multishot(loop, &mailbox->eventfd_op, mailbox->eventfd, POLLIN);
}

struct metrics *mailbox_metrics(const struct mailbox *mailbox)
{
    return loop_metrics(mailbox->loop);
}

/* Producers advance write_position by a compare-and-swap from a value without WRITE_CLOSED. Either
 * a producer wins, and this compare-and-swap fails because write_position differs from
 * read_position; or this one wins, and every later producer sees WRITE_CLOSED. */
bool mailbox_close(struct mailbox *mailbox)
{
    size_t empty = mailbox->read_position;
    return atomic_compare_exchange_strong(&mailbox->write_position, &empty, empty | WRITE_CLOSED) ||
           (empty & WRITE_CLOSED) != 0;
}

void mailbox_detach(struct mailbox *mailbox)
{
    atomic_store_explicit(&mailbox->detached, true, memory_order_release);
}

/* ---- sending ---- */

static void count_full(struct mailbox *from)
{
    if (from != NULL)
        metrics_add(loop_metrics(from->loop), METRIC_MAILBOX_FULL, 1);
}

int mailbox_post(struct mailbox *to, struct mailbox *from, mailbox_deliver_fn *deliver,
                 const void *payload, size_t size)
{
    assert(size <= MAILBOX_PAYLOAD_SIZE);
    if (atomic_load_explicit(&to->detached, memory_order_acquire))
        return -EPIPE;
    /* All reads of write_position acquire, for WRITE_CLOSED: after -EPIPE the caller may free what
     * the payload refers to, and what the owner did with it before it closed must come first. */
    size_t position = atomic_load_explicit(&to->write_position, memory_order_acquire);
    struct cell *cell;
    for (;;) {
        if ((position & WRITE_CLOSED) != 0)
            return -EPIPE;
        cell = &to->cells[position & (LIMIT_MAILBOX - 1)];
        size_t sequence = atomic_load_explicit(&cell->sequence, memory_order_acquire);
        if (sequence == position) {
            if (atomic_compare_exchange_weak_explicit(&to->write_position, &position, position + 1,
                                                      memory_order_acquire, memory_order_acquire))
                break;
        } else if ((intptr_t)(sequence - position) < 0) {
            count_full(from);
            return -ENOBUFS;
        } else {
            position = atomic_load_explicit(&to->write_position, memory_order_acquire);
        }
    }
    cell->deliver = deliver;
    memcpy(cell->payload, payload, size);
    atomic_store_explicit(&cell->sequence, position + 1, memory_order_release);
    wake(to, from);
    return 0;
}

void mailbox_signal(struct mailbox *to, struct mailbox *from, uint32_t bits)
{
    (void)atomic_fetch_or(&to->signals, bits);
    wake(to, from);
}
