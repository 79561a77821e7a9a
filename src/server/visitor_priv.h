/* What visitor.c, arrival.c and visitor_relay.c share: a visitor's state, and the functions that
 * one calls in another. arrival.c reads the PROXY header of its balancer, and finds out which of
 * several services it is for. visitor.c makes the
 * visitor and finds it a channel or a place in the queue. visitor_relay.c joins it with the channel
 * and moves the relay between workers.
 *
 * A visitor holds a use of its service. Once it is admitted, it is counted (visitor_limits_enter).
 * All of this runs in the thread of visitor->worker. */
#pragma once

#include <assert.h>

#include "base/log.h"
#include "base/probe.h"
#include "relay/relay.h"
#include "server/server_worker.h"
#include "server/visitor.h"

enum visitor_state {
    VISITOR_SEEKING, /* between the other states, and never longer than one call */
    VISITOR_WAITING, /* in the pool's queue, or a channel is on its way to it */
    VISITOR_GONE,    /* closed while a channel or a completion is on its way; freed when it comes */
    VISITOR_RELAYING,
    VISITOR_ARRIVING, /* its PROXY header is not there yet, or the name of its service */
    VISITOR_STATE_COUNT,
};

/* What is known of a visitor from its PROXY header. */
struct visitor_addresses {
    bool are_given; /* false: the connection's own addresses count */
    struct addr from, to;
};

/* A visitor before its relay. */
struct visitor_start {
    struct loop_op op;       /* polls while ARRIVING */
    uint64_t seeks_since_ns; /* when it came, or lost its first channel */
    /* The beginning of a header that came in pieces, NULL: it did not; its size, and what is still
     * to be taken of a header whose beginning is known. */
    uint8_t *head;
    uint8_t head_size;
    uint16_t left;
    bool needs_header, is_counted; /* the second: in service.arriving */
    /* At a shared address (config/routes.h): */
    bool has_ticket, is_awaiting, has_polled; /* at the gate; its service's client; for its name */
    uint32_t scanned, low_water;              /* bytes: route_look; SO_RCVLOWAT */
    struct timer look_timer;
    struct gate_ticket ticket;
    struct visitor_addresses addresses;
};

struct visitor_far;

struct visitor {
    union {
        struct visitor_start start; /* until RELAYING */
        struct relay relay;         /* from then on */
    };
    struct pool_waiter waiter;
    struct list node; /* in visitor_list */
    struct server_worker *worker;
    struct service *service;
    struct timer wait_timer;
    struct addr_key key;
    uint64_t id;
    uint64_t begun_at_ns;
    int fd;                    /* -1 when the relay has it */
    struct pool_handle source; /* of its channel; it is counted as open there */
    bool may_try_again;        /* its relay began here, with its first channel */
    bool has_tried_again;      /* this is its second channel */
    struct visitor_far *far;   /* what a second channel needs of `start`; owned, NULL: nothing */
    uint8_t state;             /* enum visitor_state; visitor_set_state changes it */
    struct tunnel_worker *move_to; /* the relay's new worker while it is detached */
};

static_assert(sizeof(struct visitor) <= 1024, "the budget of an idle relay");
static_assert(sizeof(struct visitor_start) <= sizeof(struct relay),
              "it costs an idle relay nothing");
/* So that the op's generation goes on counting (loop_op_init). */
static_assert(offsetof(struct visitor_start, op) == offsetof(struct relay, flow[0].read_op),
              "an op in the place of an op");

static inline struct loop *visitor_loop(const struct visitor *visitor)
{
    return visitor->worker->tunnel->loop;
}

static inline const char *visitor_service(const struct visitor *visitor)
{
    return service_name(visitor->service);
}

/* Its worker's numbers of its service. */
static inline struct service_stats *visitor_stats(const struct visitor *visitor)
{
    return service_worker_stats(visitor->service, visitor->worker->tunnel->index);
}

/* The list of the worker that has visitors in this state. NULL: no list. */
static inline struct list *visitor_list(const struct visitor *visitor, enum visitor_state state)
{
    if (state == VISITOR_SEEKING)
        return NULL;
    return state == VISITOR_RELAYING ? &visitor->worker->relaying_visitors
                                     : &visitor->worker->waiting_visitors;
}

/* Who arrives is counted as one that waits: it will need a channel too. */
static inline bool visitor_waits(enum visitor_state state)
{
    return state == VISITOR_WAITING || state == VISITOR_ARRIVING;
}

/* visitor.c: a line at trace level. */
void visitor_trace(const struct visitor *visitor, enum visitor_state old);

/* The only function that changes the state. It also moves the visitor to the state's list and keeps
 * server->waiting_visitors up to date. */
static inline void visitor_set_state(struct visitor *visitor, enum visitor_state state)
{
    static const bool edges[VISITOR_STATE_COUNT][VISITOR_STATE_COUNT] = {
        [VISITOR_SEEKING] =
            {[VISITOR_WAITING] = true, [VISITOR_RELAYING] = true, [VISITOR_ARRIVING] = true},
        [VISITOR_ARRIVING] = {[VISITOR_SEEKING] = true, [VISITOR_GONE] = true},
        [VISITOR_WAITING] = {[VISITOR_SEEKING] = true, [VISITOR_GONE] = true},
        /* A relay that could not move, because the other worker's mailbox was full; a visitor whose
         * channel was lost before any byte passed (visitor_relay_try_again). */
        [VISITOR_RELAYING] = {[VISITOR_RELAYING] = true, [VISITOR_SEEKING] = true},
    };
    const enum visitor_state old = (enum visitor_state)visitor->state;
    struct list *list = visitor_list(visitor, state);
    assert(old < VISITOR_STATE_COUNT && edges[old][state]);
    visitor->state = (uint8_t)state;
    PROBE4(visitor_state, visitor_service(visitor), visitor->id, old, state);
    if (log_enabled(LOG_TRACE))
        visitor_trace(visitor, old);
    if (visitor_waits(old)) {
        loop_timer_stop(visitor_loop(visitor), &visitor->wait_timer);
        (void)atomic_fetch_sub(&visitor->worker->server->waiting_visitors, 1);
    } else if (visitor_waits(state)) {
        (void)atomic_fetch_add(&visitor->worker->server->waiting_visitors, 1);
    }
    if (list != visitor_list(visitor, old)) {
        list_remove(&visitor->node);
        if (list != NULL)
            list_push_back(list, &visitor->node);
    }
}

/* ---- visitor.c ---- */

/* Makes a visitor in state SEEKING. The caller gives it a use of the service and counts it there.
 * NULL: no memory, which is counted. */
struct visitor *visitor_new(struct server_worker *worker, struct service *service);
/* Frees the struct alone. Its use of the service is handed on. */
void visitor_forget(struct visitor *visitor);
/* Closes the connection of a visitor that is turned away, with a reset, whatever the reason: an end
 * of stream would look like an empty answer, and the service was not asked. A flood of them also
 * leaves no socket in TIME_WAIT. At a unix socket it is an end of stream all the same. */
void visitor_reset(struct visitor *visitor);
/* Ends a visitor whose descriptors are closed: the service does not count it any more, its use is
 * dropped, and the struct is freed. */
void visitor_finish(struct visitor *visitor);
/* Ends a visitor that was not admitted: as visitor_finish, but the service does not count it. */
void visitor_free(struct visitor *visitor);
/* Decides whether a visitor in state SEEKING may come, and finds it a channel; otherwise closes it.
 * peer: its real address; NULL: not known. */
void visitor_admit(struct visitor *visitor, const struct addr *peer);
/* Counts a refusal and logs it, with `detail` behind the reason if that is not NULL. The caller
 * closes the visitor. */
void visitor_note_refusal(const struct visitor *visitor, enum visitor_refusal why,
                          const struct addr *peer, const char *detail);
/* Finds a channel for a visitor in state SEEKING, or puts it into the queue. first: it has just
 * arrived. False: neither was possible, and the caller closes the visitor. */
MUST_CHECK bool visitor_seek(struct visitor *visitor, bool first);

/* ---- visitor_relay.c ---- */

/* Joins a visitor in state SEEKING with its channel, on this worker or on a less busy one. May free
 * the visitor. */
void visitor_relay_bind(struct visitor *visitor, struct transport channel);
