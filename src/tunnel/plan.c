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

void *plan_take_finished(struct plan_slot *slot)
{
    /* Not by `left`: whoever looked between the last worker's two steps would take the plan and
     * leave a done_fd that stays readable, and a main thread that is woken by it for ever. */
    uint64_t count;
    if (read(slot->done_fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return NULL;
    assert(atomic_load(&slot->left) == 0);
    return atomic_exchange(&slot->plan, NULL);
}
