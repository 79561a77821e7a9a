#include "server/arrival.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "config/routes.h"
#include "proto/proxy_protocol.h"
#include "server/route.h"
#include "visitor_priv.h"

enum { TAKE_SIZE = 1024 /* a piece of what is passed over */ };
static_assert(LIMIT_PROXY_PROTOCOL <= UINT16_MAX && PROXY_PROTOCOL_HEAD <= UINT8_MAX,
              "sizes fit their types");

static void arrival_polled(struct loop_op *op, int res, uint32_t flags);
static void arrival_look_again(struct timer *timer);

void arrival_init(struct visitor *visitor)
{
    struct visitor_start *start = &visitor->start;
    loop_op_init(&start->op, arrival_polled);
    start->head = NULL;
    start->head_size = 0;
    start->left = 0;
    start->addresses.are_given = false;
    start->needs_header = start->is_counted = start->has_polled = false;
    start->has_ticket = start->is_awaiting = false;
    start->scanned = 0;
    start->low_water = 1;
    timer_init(&start->look_timer, arrival_look_again);
}

bool arrival_is_under_way(const struct visitor *visitor)
{
    return visitor->state == VISITOR_ARRIVING ||
           (visitor->state == VISITOR_GONE && !loop_op_is_idle(&visitor->start.op));
}

static void arrival_drop_head(struct visitor *visitor)
{
    free(visitor->start.head);
    visitor->start.head = NULL;
}

/* ---- its end ---- */

/* Counts it among those of its service that have not sent their header, or await its client. */
static void arrival_count(struct visitor *visitor)
{
    (void)atomic_fetch_add(&visitor->service->arriving, 1);
    visitor->start.is_counted = true;
}

static void arrival_uncount(struct visitor *visitor)
{
    if (!visitor->start.is_counted)
        return;
    (void)atomic_fetch_sub(&visitor->service->arriving, 1);
    visitor->start.is_counted = false;
    if (visitor->start.is_awaiting)
        (void)atomic_fetch_sub(&visitor->worker->server->awaiting_visitors, 1);
}

static void arrival_leave_gate(struct visitor *visitor)
{
    if (visitor->start.has_ticket)
        gate_leave(&visitor->worker->server->arrivals, &visitor->start.ticket);
    visitor->start.has_ticket = false;
}

/* No poll is in flight. */
static void arrival_free(struct visitor *visitor)
{
    arrival_drop_head(visitor);
    visitor_reset(visitor);
    arrival_uncount(visitor);
    visitor_free(visitor);
}

void arrival_end(struct visitor *visitor)
{
    if (visitor->state != VISITOR_ARRIVING)
        return;
    visitor_set_state(visitor, VISITOR_GONE);
    arrival_leave_gate(visitor);
    loop_timer_stop(visitor_loop(visitor), &visitor->start.look_timer);
    if (loop_op_is_idle(&visitor->start.op))
        arrival_free(visitor);
    else
        loop_cancel(visitor_loop(visitor), &visitor->start.op);
}

static void arrival_refuse(struct visitor *visitor, enum visitor_refusal why, const char *detail)
{
    if (service_is_front(visitor->service)) /* it is nobody else's visitor */
        counter_add(&visitor_stats(visitor)->visitors, 1);
    visitor_note_refusal(visitor, why, NULL, detail);
    arrival_end(visitor);
}

/* Why it is refused if it sends no more. */
static enum visitor_refusal arrival_missing(const struct visitor *visitor)
{
    return visitor->start.needs_header ? VISITOR_REFUSED_HEADER : VISITOR_REFUSED_NAME;
}

static void arrival_expired(struct timer *timer)
{
    struct visitor *visitor = container_of(timer, struct visitor, wait_timer);
    if (visitor->start.is_awaiting)
        arrival_refuse(visitor, VISITOR_REFUSED_NO_CLIENT, NULL);
    else
        arrival_refuse(visitor, arrival_missing(visitor), "handshake_timeout is over");
}

/* ---- the header ---- */

enum arrival_step {
    ARRIVAL_DONE,
    ARRIVAL_GOES_ON, /* when more bytes come */
    ARRIVAL_LOOKS_LATER,
    ARRIVAL_AWAITS, /* its service's client, after an upgrade */
    ARRIVAL_REFUSED,
};

/* Takes up to `size` bytes from the socket, which has them. Returns how many, or -errno. */
static ssize_t arrival_take(struct visitor *visitor, void *room, size_t size)
{
    ssize_t got = socket_recv_now(visitor->fd, room, size);
    return got == 0 ? ERR_EOF : got;
}

static enum arrival_step arrival_fail(struct visitor *visitor, ssize_t error)
{
    if (error == -EAGAIN || error == -EINTR)
        return ARRIVAL_GOES_ON;
    arrival_refuse(visitor, arrival_missing(visitor),
                   error == ERR_EOF ? "the stream has ended" : error_text((int)error));
    return ARRIVAL_REFUSED;
}

/* Takes what is still there of a header whose addresses are known. */
static enum arrival_step arrival_pass_over(struct visitor *visitor)
{
    struct visitor_start *start = &visitor->start;
    uint8_t room[TAKE_SIZE];
    while (start->left > 0) {
        ssize_t got = arrival_take(visitor, room, MIN(sizeof(room), (size_t)start->left));
        if (got < 0)
            return arrival_fail(visitor, got);
        start->left = (uint16_t)(start->left - (size_t)got);
    }
    return ARRIVAL_DONE;
}

static void arrival_know(struct visitor *visitor, const struct proxy_header *header)
{
    struct visitor_addresses *addresses = &visitor->start.addresses;
    char from[ADDR_TEXT_SIZE], to[ADDR_TEXT_SIZE];
    addresses->are_given = header->has_addresses;
    addresses->from = header->from;
    addresses->to = header->to;
    log_conn(LOG_DEBUG, visitor_service(visitor), visitor->id,
             "PROXY header, version %u: from %s to %s", (unsigned int)header->version,
             addr_format(&header->from, from, sizeof(from)),
             addr_format(&header->to, to, sizeof(to)));
}

/* Keeps the beginning of an incomplete header, which the first `size` bytes of `bytes` are. */
static bool arrival_keep(struct visitor_start *start, const uint8_t *bytes, size_t size)
{
    if (start->head == NULL)
        start->head = malloc(PROXY_PROTOCOL_HEAD);
    if (start->head == NULL)
        return false;
    memcpy(start->head, bytes, size);
    start->head_size = (uint8_t)size;
    return true;
}

/* Looks at what the socket has. */
static enum arrival_step arrival_look(struct visitor *visitor)
{
    struct visitor_start *start = &visitor->start;
    uint8_t bytes[PROXY_PROTOCOL_HEAD];
    struct proxy_header header;
    const char *why;
    size_t had = start->head_size;
    if (start->left > 0)
        return arrival_pass_over(visitor);
    if (had > 0)
        memcpy(bytes, start->head, had);
    ssize_t got = socket_peek_now(visitor->fd, bytes + had, sizeof(bytes) - had);
    if (got <= 0)
        return arrival_fail(visitor, got == 0 ? ERR_EOF : got);
    size_t size = had + (size_t)got;
    int result = proxy_protocol_decode(bytes, size, &header, &why);
    if (result < 0) {
        arrival_refuse(visitor, VISITOR_REFUSED_HEADER, why);
        return ARRIVAL_REFUSED;
    }
    if (result > 0) {
        arrival_know(visitor, &header);
        start->left = (uint16_t)(header.size - had);
        return arrival_pass_over(visitor);
    }
    got = arrival_take(visitor, bytes + had, (size_t)got);
    if (got < 0)
        return arrival_fail(visitor, got);
    if (arrival_keep(start, bytes, had + (size_t)got))
        return ARRIVAL_GOES_ON;
    arrival_refuse(visitor, VISITOR_REFUSED_NO_MEMORY, NULL);
    return ARRIVAL_REFUSED;
}

/* ---- the name, at an address that services share ---- */

static bool arrival_peer(const struct visitor *visitor, struct addr *ret)
{
    *ret = visitor->start.addresses.from;
    return visitor->start.addresses.are_given || socket_peer(visitor->fd, ret) == 0;
}

/* As long as its name is not known it is a stranger, of whom the gate bounds the number. */
static bool arrival_enter_gate(struct visitor *visitor)
{
    struct server_worker *worker = visitor->worker;
    struct visitor_start *start = &visitor->start;
    struct addr peer;
    if (start->has_ticket || !arrival_peer(visitor, &peer))
        return true;
    struct addr_key key = addr_key(&peer, config_prefixes(server_config(worker->server)));
    start->has_ticket = gate_enter(&worker->server->arrivals, &start->ticket, &key,
                                   &worker->arrivals_desk, loop_now_ns(visitor_loop(visitor))) >= 0;
    return start->has_ticket;
}

static void arrival_set_low_water(struct visitor *visitor, uint32_t bytes)
{
    if (visitor->start.low_water != bytes)
        socket_set_low_water(visitor->fd, (int)bytes);
    visitor->start.low_water = bytes;
}

/* What has come, `got` bytes, stays in the socket, so the poll has to wait for more than that. But
 * a socket may be readable and not show as much as it was asked for: behind urgent data (tcp(7)),
 * and when the kernel wants its memory back. Another poll would find that at once. */
static enum arrival_step arrival_wait_for_name(struct visitor *visitor, uint32_t got,
                                               uint32_t needed)
{
    bool is_early = visitor->start.has_polled && got < visitor->start.low_water;
    if (!arrival_enter_gate(visitor)) {
        arrival_refuse(visitor, VISITOR_REFUSED_NO_MEMORY, NULL);
        return ARRIVAL_REFUSED;
    }
    arrival_set_low_water(visitor, needed);
    return is_early ? ARRIVAL_LOOKS_LATER : ARRIVAL_GOES_ON;
}

static enum arrival_step arrival_refuse_name(struct visitor *visitor, const struct route_look *look)
{
    char detail[HOST_NAME_SIZE + 64];
    (void)snprintf(detail, sizeof(detail), "%s%s%s", look->why, look->name[0] != '\0' ? ": " : "",
                   look->name);
    arrival_refuse(visitor, VISITOR_REFUSED_NAME, detail);
    return ARRIVAL_REFUSED;
}

/* Whether the front's listeners were taken over while they listened (listener.h). */
static bool arrival_was_taken_over(struct service *front)
{
    (void)pthread_mutex_lock(&front->lock);
    bool was_listening = front->binding != NULL && front->binding->is_listening;
    (void)pthread_mutex_unlock(&front->lock);
    return was_listening;
}

/* After an upgrade a service's client may still be on its way back. */
static bool arrival_may_await(const struct visitor *visitor, struct service *service)
{
    return !atomic_load(&service->up) && visitor->worker->hold_timer.armed &&
           arrival_was_taken_over(visitor->service);
}

/* has_ended: the visitor has ended its stream, and no more comes. *ret: the service that it is for;
 * a reload may just have removed it. */
static enum arrival_step arrival_find_service(struct visitor *visitor, bool has_ended,
                                              struct service **ret)
{
    uint8_t bytes[LIMIT_ROUTE_HEAD];
    struct visitor_start *start = &visitor->start;
    struct route_look look = {.scanned = start->scanned};
    ssize_t got = socket_peek_now(visitor->fd, bytes, sizeof(bytes));
    if (got == -EAGAIN || got == -EINTR)
        return arrival_wait_for_name(visitor, 0, 1);
    if (got <= 0)
        return arrival_fail(visitor, got == 0 ? ERR_EOF : got);
    const struct route_set *routes = service_config(visitor->service)->routes;
    enum route_answer answer = route_look(routes, bytes, (size_t)got, &look);
    start->scanned = look.scanned;
    if (answer == ROUTE_MORE && look.needed <= sizeof(bytes) && !has_ended)
        return arrival_wait_for_name(visitor, (uint32_t)got, look.needed);
    if (answer == ROUTE_MORE && has_ended)
        answer = route_of_rest(routes, &look);
    else if (answer == ROUTE_MORE)
        look.why = "its first bytes do not end";
    if (answer != ROUTE_FOUND)
        return arrival_refuse_name(visitor, &look);
    *ret = service_index_find(&visitor->worker->services, look.digest);
    look.why = "its service is being changed";
    if (*ret == NULL)
        return arrival_refuse_name(visitor, &look);
    return arrival_may_await(visitor, *ret) ? ARRIVAL_AWAITS : ARRIVAL_DONE;
}

/* Makes it a visitor of its service. */
static void arrival_hand_on(struct visitor *visitor, struct service *service)
{
    struct service *front = visitor->service;
    service_use(service);
    visitor->service = service;
    service_drop(front);
    counter_add(&visitor_stats(visitor)->visitors, 1);
    arrival_set_low_water(visitor, 1);
}

/* ---- its course ---- */

static enum arrival_step arrival_take_step(struct visitor *visitor, bool has_ended,
                                           struct service **ret)
{
    struct visitor_start *start = &visitor->start;
    if (start->needs_header) {
        enum arrival_step step = arrival_look(visitor);
        if (step != ARRIVAL_DONE)
            return step;
        arrival_drop_head(visitor);
        arrival_uncount(visitor);
        start->needs_header = start->has_polled = false;
    }
    return service_is_front(visitor->service) ? arrival_find_service(visitor, has_ended, ret)
                                              : ARRIVAL_DONE;
}

/* Its name is known: it is one of the service's, and arrival_review goes on. As many may wait so as
 * for a channel. */
static void arrival_await(struct visitor *visitor, struct service *service)
{
    assert(service != NULL); /* arrival_find_service has said so */
    arrival_leave_gate(visitor);
    arrival_hand_on(visitor, service);
    if (atomic_load(&service->arriving) >= LIMIT_VISITORS_WAITING) {
        arrival_refuse(visitor, VISITOR_REFUSED_QUEUE, NULL);
        return;
    }
    arrival_count(visitor);
    visitor->start.is_awaiting = true;
    (void)atomic_fetch_add(&visitor->worker->server->awaiting_visitors, 1);
    loop_deadline_start(visitor_loop(visitor), &visitor->wait_timer, LIMIT_UPGRADE_HOLD_MS);
}

/* All that it had to send has come. May free it. */
static void arrival_admit(struct visitor *visitor)
{
    struct addr from;
    bool has_peer = arrival_peer(visitor, &from);
    arrival_leave_gate(visitor);
    arrival_uncount(visitor);
    visitor_set_state(visitor, VISITOR_SEEKING);
    /* Its wait for a channel begins, however long it took to speak. */
    visitor->start.seeks_since_ns = loop_now_ns(visitor_loop(visitor));
    visitor_admit(visitor, has_peer ? &from : NULL);
}

static void arrival_go_on(struct visitor *visitor, bool has_ended)
{
    struct visitor_start *start = &visitor->start;
    struct service *service = NULL;
    switch (arrival_take_step(visitor, has_ended, &service)) {
    case ARRIVAL_DONE:
        break;
    case ARRIVAL_GOES_ON:
        start->has_polled = true;
        loop_poll(visitor_loop(visitor), &start->op, visitor->fd, POLLIN);
        return;
    case ARRIVAL_LOOKS_LATER:
        loop_timer_start(visitor_loop(visitor), &start->look_timer, LIMIT_ROUTE_LOOK_MS);
        return;
    case ARRIVAL_AWAITS:
        arrival_await(visitor, service);
        return;
    case ARRIVAL_REFUSED:
        return; /* and freed */
    }
    if (service != NULL)
        arrival_hand_on(visitor, service);
    arrival_admit(visitor);
}

static void arrival_look_again(struct timer *timer)
{
    struct visitor_start *start = container_of(timer, struct visitor_start, look_timer);
    arrival_go_on(container_of(start, struct visitor, start), false);
}

static void arrival_polled(struct loop_op *op, int res, uint32_t flags)
{
    struct visitor *visitor = container_of(op, struct visitor, start.op);
    if (visitor->state == VISITOR_GONE)
        arrival_free(visitor);
    else if (res < 0)
        arrival_refuse(visitor, arrival_missing(visitor), error_text(res));
    else
        arrival_go_on(visitor, (res & POLLRDHUP) != 0);
}

void arrival_review(struct visitor *visitor)
{
    bool is_up = atomic_load(&visitor->service->up);
    if (visitor->state != VISITOR_ARRIVING)
        return;
    if (!visitor->start.is_awaiting && !is_up)
        arrival_end(visitor);
    else if (visitor->start.is_awaiting && is_up)
        arrival_admit(visitor);
    else if (visitor->start.is_awaiting && !visitor->worker->hold_timer.armed)
        arrival_refuse(visitor, VISITOR_REFUSED_NO_CLIENT, NULL);
}

void arrival_close_evicted(struct server_worker *worker)
{
    struct gate_ticket *ticket;
    while ((ticket = gate_next_evicted(&worker->server->arrivals, &worker->arrivals_desk)) != NULL)
        arrival_refuse(container_of(ticket, struct visitor, start.ticket), VISITOR_REFUSED_ARRIVING,
                       NULL);
}

void arrival_begin(struct visitor *visitor, bool needs_header)
{
    struct server_worker *worker = visitor->worker;
    visitor_set_state(visitor, VISITOR_ARRIVING);
    timer_init(&visitor->wait_timer, arrival_expired);
    visitor->start.needs_header = needs_header;
    if (needs_header)
        arrival_count(visitor);
    if (needs_header && atomic_load(&visitor->service->arriving) > LIMIT_VISITORS_ARRIVING) {
        arrival_refuse(visitor, VISITOR_REFUSED_ARRIVING, NULL);
        return;
    }
    loop_deadline_start(worker->tunnel->loop, &visitor->wait_timer,
                        server_config(worker->server)->handshake_timeout_ms);
    arrival_go_on(visitor, false);
}
