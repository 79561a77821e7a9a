#include "tunnel/plan.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int plan_slot_init(struct plan_slot *slot)
{
    slot->plan = NULL;
    slot->left = 0;
    slot->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return slot->done_fd < 0 ? -errno : 0;
}

void plan_slot_finish(struct plan_slot *slot)
{
    if (slot->done_fd >= 0)
        (void)close(slot->done_fd);
    slot->done_fd = -1;
}

void plan_post(struct plan_slot *slot, void *plan, unsigned int workers)
{
    assert(plan_current(slot) == NULL && workers > 0);
    atomic_store(&slot->left, workers);
    atomic_store_explicit(&slot->plan, plan, memory_order_release);
}

void plan_done(struct plan_slot *slot)
{
    if (atomic_fetch_sub(&slot->left, 1) != 1)
        return;
    uint64_t one = 1;
    ssize_t written = write(slot->done_fd, &one, sizeof(one));
    (void)written;
}

static void plan_walk_on(struct timer *timer)
{
    struct plan_walk *walk = container_of(timer, struct plan_walk, timer);
    if (walk->go_on(walk))
        plan_done(walk->slot);
    else
        loop_timer_start(walk->loop, timer, 0);
}

void plan_walk_init(struct plan_walk *walk, struct plan_slot *slot, struct loop *loop,
                    bool (*go_on)(struct plan_walk *walk))
{
    *walk = (struct plan_walk){.slot = slot, .loop = loop, .go_on = go_on};
    timer_init(&walk->timer, plan_walk_on);
}

void plan_walk_begin(struct plan_walk *walk)
{
    walk->at = 0;
    plan_walk_on(&walk->timer);
}

void *plan_take_finished(struct plan_slot *slot)
{
    /* Reads done_fd and not `left`: a look between the last worker's decrement and its write would
     * take the plan, and leave done_fd readable, which would wake the main thread for ever. */
    uint64_t count;
    if (read(slot->done_fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return NULL;
    assert(atomic_load(&slot->left) == 0);
    return atomic_exchange(&slot->plan, NULL);
}
