#include "server/arrival.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "proto/proxy_protocol.h"
#include "visitor_priv.h"

enum { TAKE_SIZE = 1024 /* a piece of what is passed over */ };
static_assert(LIMIT_PROXY_PROTOCOL <= UINT16_MAX && PROXY_PROTOCOL_HEAD <= UINT8_MAX,
              "sizes fit their types");

static void arrival_polled(struct loop_op *op, int res, uint32_t flags);

void arrival_init(struct visitor *visitor)
{
    struct visitor_start *start = &visitor->start;
    loop_op_init(&start->op, arrival_polled);
    start->head = NULL;
    start->head_size = 0;
    start->left = 0;
    start->addresses.are_given = false;
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

/* No poll is in flight. */
static void arrival_free(struct visitor *visitor)
{
    arrival_drop_head(visitor);
    visitor_reset(visitor);
    (void)atomic_fetch_sub(&visitor->service->arriving, 1);
    visitor_free(visitor);
}

void arrival_end(struct visitor *visitor)
{
    if (visitor->state != VISITOR_ARRIVING)
        return;
    visitor_set_state(visitor, VISITOR_GONE);
    if (loop_op_is_idle(&visitor->start.op))
        arrival_free(visitor);
    else
        loop_cancel(visitor_loop(visitor), &visitor->start.op);
}

static void arrival_refuse(struct visitor *visitor, enum visitor_refusal why, const char *detail)
{
    visitor_note_refusal(visitor, why, NULL, detail);
    arrival_end(visitor);
}

static void arrival_expired(struct timer *timer)
{
    arrival_refuse(container_of(timer, struct visitor, wait_timer), VISITOR_REFUSED_HEADER,
                   "handshake_timeout is over");
}

/* ---- the header ---- */

enum arrival_step { ARRIVAL_DONE, ARRIVAL_GOES_ON, ARRIVAL_REFUSED };

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
    arrival_refuse(visitor, VISITOR_REFUSED_HEADER,
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

/* ---- its course ---- */

static void arrival_go_on(struct visitor *visitor)
{
    switch (arrival_look(visitor)) {
    case ARRIVAL_DONE:
        break;
    case ARRIVAL_GOES_ON:
        loop_poll(visitor_loop(visitor), &visitor->start.op, visitor->fd, POLLIN);
        return;
    case ARRIVAL_REFUSED:
        return; /* and freed */
    }
    arrival_drop_head(visitor);
    (void)atomic_fetch_sub(&visitor->service->arriving, 1);
    visitor_set_state(visitor, VISITOR_SEEKING);
    struct addr from = visitor->start.addresses.from;
    bool has_peer = visitor->start.addresses.are_given || socket_peer(visitor->fd, &from) == 0;
    visitor_admit(visitor, has_peer ? &from : NULL);
}

static void arrival_polled(struct loop_op *op, int res, uint32_t flags)
{
    struct visitor *visitor = container_of(op, struct visitor, start.op);
    if (visitor->state == VISITOR_GONE)
        arrival_free(visitor);
    else if (res < 0)
        arrival_refuse(visitor, VISITOR_REFUSED_HEADER, error_text(res));
    else
        arrival_go_on(visitor);
}

void arrival_begin(struct visitor *visitor)
{
    struct server_worker *worker = visitor->worker;
    visitor_set_state(visitor, VISITOR_ARRIVING);
    timer_init(&visitor->wait_timer, arrival_expired);
    if (atomic_fetch_add(&visitor->service->arriving, 1) >= LIMIT_VISITORS_ARRIVING) {
        arrival_refuse(visitor, VISITOR_REFUSED_ARRIVING, NULL);
        return;
    }
    loop_deadline_start(worker->tunnel->loop, &visitor->wait_timer,
                        server_config(worker->server)->handshake_timeout_ms);
    arrival_go_on(visitor);
}
