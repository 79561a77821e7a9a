#include "io/timer.h"

#include <assert.h>
#include <stddef.h>

/* Joins two heap-ordered trees: the later root becomes the first child of the earlier one. */
static struct timer *meld(struct timer *a, struct timer *b)
{
    if (a == NULL)
        return b;
    if (b == NULL)
        return a;
    if (b->deadline_ns < a->deadline_ns) {
        struct timer *swap = a;
        a = b;
        b = swap;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child != NULL)
        a->child->prev = b;
    a->child = b;
    return a;
}

/* The two passes of a pairing heap (Fredman, Sedgewick, Sleator and Tarjan, 1986) over the children
 * of a removed root: pair them from the left, then meld the pairs from the right. Not recursive,
 * because the list of children may be long. */
static struct timer *meld_children(struct timer *child)
{
    struct timer *pairs = NULL;
    while (child != NULL) {
        struct timer *a = child;
        struct timer *b = a->next;
        child = b != NULL ? b->next : NULL;
        a->next = a->prev = NULL;
        if (b != NULL)
            b->next = b->prev = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    struct timer *root = NULL;
    while (pairs != NULL) {
        struct timer *rest = pairs->next;
        pairs->next = NULL;
        root = meld(root, pairs);
        pairs = rest;
    }
    return root;
}

static void detach(struct timers *timers, struct timer *timer)
{
    struct timer *rest = meld_children(timer->child);
    timer->child = NULL;
    if (timer == timers->root) {
        timers->root = rest;
    } else {
        if (timer->prev->child == timer)
            timer->prev->child = timer->next;
        else
            timer->prev->next = timer->next;
        if (timer->next != NULL)
            timer->next->prev = timer->prev;
        timers->root = meld(timers->root, rest);
    }
    timer->next = timer->prev = NULL;
    timer->armed = false;
}

void timers_start(struct timers *timers, struct timer *timer, uint64_t deadline_ns)
{
    assert(timer->expired != NULL);
    if (timer->armed)
        detach(timers, timer);
    timer->deadline_ns = deadline_ns > timers->running_ns ? deadline_ns : timers->running_ns + 1;
    timer->armed = true;
    timers->root = meld(timers->root, timer);
}

void timers_stop(struct timers *timers, struct timer *timer)
{
    if (timer->armed)
        detach(timers, timer);
}

uint64_t timers_next_ns(const struct timers *timers)
{
    return timers->root != NULL ? timers->root->deadline_ns : UINT64_MAX;
}

void timers_run(struct timers *timers, uint64_t now_ns)
{
    /* While running_ns is set, timers_start moves a time that is already past to just after now. So
     * a timer that restarts itself waits for the next call, and this loop ends. */
    timers->running_ns = now_ns;
    while (timers->root != NULL && timers->root->deadline_ns <= now_ns) {
        struct timer *timer = timers->root;
        detach(timers, timer);
        timer->expired(timer);
    }
    timers->running_ns = 0;
}
