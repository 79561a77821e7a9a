/* What visitor.c and visitor_relay.c share: a visitor's state, and the steps that one hands on to
 * the other. visitor.c makes it, finds it a channel and lets it wait for one; visitor_relay.c joins
 * it with the channel and moves the relay between workers.
 *
 * A visitor counts as one of its service's and holds a use of it. It is in one list of
 * visitor->worker, whose thread all of this runs in. */
#pragma once

#include <assert.h>

#include "relay/relay.h"
#include "server/server_worker.h"
#include "server/visitor.h"

enum visitor_state {
    VISITOR_WAITING, /* for a channel, in the pool's queue */
    VISITOR_GONE,    /* closed while a channel is on its way to it: freed when that arrives */
    VISITOR_RELAYING,
};

struct visitor {
    struct relay relay; /* while RELAYING */
    struct pool_waiter waiter;
    struct list node; /* in worker->waiting_visitors or relaying_visitors */
    struct server_worker *worker;
    struct service *service;
    struct timer wait_timer;
    uint64_t waits_until_ns; /* from its arrival on, however often it looks for a channel again */
    struct addr_key key;
    uint64_t id;
    int fd; /* until the relay has it */
    uint8_t state;
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

/* visitor.c */

/* The caller's use of the service becomes the visitor's, if there is one. NULL: no memory. */
struct visitor *visitor_new(struct server_worker *worker, struct service *service);
/* Frees it alone: its use of the service lives on elsewhere. */
void visitor_forget(struct visitor *visitor);
/* Frees it: the visitor is no more, it does not count, and nothing of it is open. */
void visitor_finish(struct visitor *visitor);
/* It waits for a channel no longer; its place in the pool's queue is the caller's business. */
void visitor_stop_waiting(struct visitor *visitor);
/* Finds a channel, or a place in the queue for one; first: not a second attempt. False: neither is
 * to be had; the visitor is the caller's to close. */
MUST_CHECK bool visitor_seek(struct visitor *visitor, bool first);

/* visitor_relay.c */

/* Joins a visitor with its channel, here or on a worker with more time. May free the visitor. */
void visitor_relay_bind(struct visitor *visitor, struct transport channel);
