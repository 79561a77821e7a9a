/* What visitor.c and visitor_relay.c share: a visitor's state, and the steps that one hands on to
 * the other. visitor.c makes it, finds it a channel and lets it wait for one; visitor_relay.c joins
 * it with the channel and moves the relay between workers.
 *
 * A visitor counts as one of its service's and holds a use of it. visitor->worker's thread runs all
 * of this. */
#pragma once

#include <assert.h>

#include "relay/relay.h"
#include "server/server_worker.h"
#include "server/visitor.h"

enum visitor_state {
    VISITOR_SEEKING, /* looks for a channel, or has one and is on its way to a relay: never longer
                      * than a call */
    VISITOR_WAITING, /* for a channel, in the pool's queue */
    VISITOR_GONE,    /* closed while a channel is on its way to it: freed when that arrives */
    VISITOR_RELAYING,
    VISITOR_STATE_COUNT,
};

struct visitor {
    struct relay relay; /* while RELAYING */
    struct pool_waiter waiter;
    struct list node; /* visitor_list says in which */
    struct server_worker *worker;
    struct service *service;
    struct timer wait_timer;
    uint64_t waits_until_ns; /* from its arrival on, however often it looks for a channel again */
    struct addr_key key;
    uint64_t id;
    int fd;        /* until the relay has it */
    uint8_t state; /* enum visitor_state; visitor_set_state changes it */
    struct tunnel_worker *move_to;
};

static_assert(sizeof(struct visitor) <= 1024, "the budget of an idle relay");

static inline struct loop *visitor_loop(const struct visitor *visitor)
{
    return visitor->worker->tunnel->loop;
}

static inline const char *visitor_service(const struct visitor *visitor)
{
    return service_name(visitor->service);
}

/* The list of its worker that a visitor in that state stands in. NULL: in none. */
static inline struct list *visitor_list(const struct visitor *visitor, enum visitor_state state)
{
    if (state == VISITOR_SEEKING)
        return NULL;
    return state == VISITOR_RELAYING ? &visitor->worker->relaying_visitors
                                     : &visitor->worker->waiting_visitors;
}

/* The only way from one state to another. Its list changes with it, and one that begins or ceases
 * to wait is counted. */
static inline void visitor_set_state(struct visitor *visitor, enum visitor_state state)
{
    static const bool edges[VISITOR_STATE_COUNT][VISITOR_STATE_COUNT] = {
        [VISITOR_SEEKING] = {[VISITOR_WAITING] = true, [VISITOR_RELAYING] = true},
        [VISITOR_WAITING] = {[VISITOR_SEEKING] = true, [VISITOR_GONE] = true},
        /* Its move has found no room in the other worker's mailbox. */
        [VISITOR_RELAYING] = {[VISITOR_RELAYING] = true},
    };
    const enum visitor_state old = (enum visitor_state)visitor->state;
    struct list *list = visitor_list(visitor, state);
    assert(old < VISITOR_STATE_COUNT && edges[old][state]);
    visitor->state = (uint8_t)state;
    if (list != visitor_list(visitor, old)) {
        list_remove(&visitor->node);
        if (list != NULL)
            list_push_back(list, &visitor->node);
    }
    if (old == VISITOR_WAITING) {
        loop_timer_stop(visitor_loop(visitor), &visitor->wait_timer);
        (void)atomic_fetch_sub(&visitor->worker->server->waiting_visitors, 1);
    } else if (state == VISITOR_WAITING) {
        (void)atomic_fetch_add(&visitor->worker->server->waiting_visitors, 1);
    }
}

/* visitor.c */

/* The caller's use of the service becomes the visitor's, if there is one. NULL: no memory. */
struct visitor *visitor_new(struct server_worker *worker, struct service *service);
/* Frees it alone: its use of the service lives on elsewhere. */
void visitor_forget(struct visitor *visitor);
/* Frees it: the visitor is no more, it does not count, and nothing of it is open. */
void visitor_finish(struct visitor *visitor);
/* SEEKING: finds a channel, or a place in the queue for one; first: not a second attempt. False:
 * neither is to be had; the visitor is the caller's to close. */
MUST_CHECK bool visitor_seek(struct visitor *visitor, bool first);

/* visitor_relay.c */

/* SEEKING: joins a visitor with its channel, here or on a worker with more time. May free the
 * visitor. */
void visitor_relay_bind(struct visitor *visitor, struct transport channel);
