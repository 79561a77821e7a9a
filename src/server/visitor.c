#include "server/visitor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/probe.h"
#include "server/access.h"
#include "server/arrival.h"
#include "server/exchange.h"
#include "server/visitor_limits.h"
#include "visitor_priv.h"

void visitor_trace(const struct visitor *visitor, enum visitor_state old)
{
    static const char *const names[] = {
        [VISITOR_SEEKING] = "seeking",   [VISITOR_WAITING] = "waiting",   [VISITOR_GONE] = "gone",
        [VISITOR_RELAYING] = "relaying", [VISITOR_ARRIVING] = "arriving",
    };
    static_assert(ARRAY_SIZE(names) == VISITOR_STATE_COUNT, "a name for each state");
    log_write(LOG_TRACE, visitor_service(visitor), visitor->id, "visitor: %s -> %s", names[old],
              names[visitor->state]);
}

/* ---- making and freeing ---- */

struct visitor *visitor_new(struct server_worker *worker, struct service *service)
{
    struct visitor *visitor = slab_get(&worker->visitor_slab);
    if (visitor == NULL) {
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        return NULL;
    }
    (void)atomic_fetch_add_explicit(&worker->server->visitors, 1, memory_order_relaxed);
    visitor->worker = worker;
    visitor->service = service;
    visitor->state = VISITOR_SEEKING;
    visitor->waiter.waiting = visitor->waiter.matched = false;
    visitor->fd = -1;
    visitor->waiter.only = visitor->source = (struct pool_handle){.generation = 0};
    visitor->move_to = NULL;
    visitor->may_try_again = visitor->has_tried_again = false;
    visitor->waiter.avoid = (struct pool_handle){.generation = 0};
    visitor->far = NULL;
    arrival_init(visitor);
    list_init(&visitor->node);
    list_init(&visitor->waiter.node);
    return visitor;
}

void visitor_forget(struct visitor *visitor)
{
    free(visitor->far);
    list_remove(&visitor->node);
    (void)atomic_fetch_sub_explicit(&visitor->worker->server->visitors, 1, memory_order_relaxed);
    slab_put(&visitor->worker->visitor_slab, visitor);
}

void visitor_free(struct visitor *visitor)
{
    struct service *service = visitor->service;
    visitor_forget(visitor);
    service_drop(service);
}

void visitor_finish(struct visitor *visitor)
{
    visitor_limits_leave(visitor->service, &visitor->key);
    channel_pool_left(&visitor->service->pool, visitor->source);
    visitor_free(visitor);
}

void visitor_reset(struct visitor *visitor)
{
    loop_close_fd(visitor_loop(visitor), take_fd(&visitor->fd));
}

/* Ends a waiting visitor. */
static void visitor_give_up(struct visitor *visitor)
{
    visitor_set_state(visitor, VISITOR_GONE);
    visitor_reset(visitor);
    visitor_limits_leave(visitor->service, &visitor->key);
    if (channel_pool_leave(&visitor->service->pool, &visitor->waiter))
        visitor_free(visitor); /* no channel is on its way */
}

/* ---- refusing ---- */

static const struct {
    const char *text; /* for the log */
    enum metric metric;
} refusals[] = {
    [VISITOR_REFUSED_DENIED] = {"its address is not allowed", METRIC_VISITORS_REFUSED_DENIED},
    [VISITOR_REFUSED_RATE] = {"too many from its address within a second",
                              METRIC_VISITORS_REFUSED_RATE},
    [VISITOR_REFUSED_LIMIT] = {"too many connections", METRIC_VISITORS_REFUSED_LIMIT},
    [VISITOR_REFUSED_QUEUE] = {"too many visitors wait for a data channel",
                               METRIC_VISITORS_REFUSED_QUEUE},
    [VISITOR_REFUSED_NO_CLIENT] = {"no control channel", METRIC_VISITORS_REFUSED_NO_CLIENT},
    [VISITOR_REFUSED_TIMEOUT] = {"no data channel came in time; the client's log may say why",
                                 METRIC_VISITORS_TIMED_OUT},
    [VISITOR_REFUSED_NO_MEMORY] = {"out of memory", METRIC_OUT_OF_MEMORY},
    [VISITOR_REFUSED_HEADER] = {"no valid PROXY header", METRIC_VISITORS_REFUSED_HEADER},
    [VISITOR_REFUSED_ARRIVING] = {"too many visitors have not sent their PROXY header or name",
                                  METRIC_VISITORS_REFUSED_ARRIVING},
    [VISITOR_REFUSED_NAME] = {"it does not say for which service it is",
                              METRIC_VISITORS_REFUSED_NAME},
};
static_assert(ARRAY_SIZE(refusals) == VISITOR_REFUSAL_COUNT, "a text for each");

static_assert((int)VISITOR_REFUSAL_COUNT <= (int)SERVICE_REASONS, "a counter for each");

const char *visitor_refusal_name(unsigned int why)
{
    static const char *const prefixes[] = {"visitors_refused_", "visitors_"};
    if (why >= VISITOR_REFUSAL_COUNT)
        return NULL;
    const char *name = metrics_name(refusals[why].metric);
    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++) {
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return name + strlen(prefixes[i]);
    }
    return name;
}

static void note_refusal(const struct server_worker *worker, struct service *service, uint64_t id,
                         enum visitor_refusal why, const struct addr *peer, const char *detail)
{
    static struct log_limit said[VISITOR_REFUSAL_COUNT];
    uint32_t suppressed;
    char text[ADDR_TEXT_SIZE];
    counter_add(&service_worker_stats(service, worker->tunnel->index)->reasons[why], 1);
    if (log_allowed(&said[why], &suppressed))
        log_conn(LOG_WARN, service_name(service), id,
                 "visitor%s%s refused: %s%s%s (%u similar lines suppressed)",
                 peer != NULL ? " from " : "",
                 peer != NULL ? addr_format(peer, text, sizeof(text)) : "", refusals[why].text,
                 detail != NULL ? ": " : "", detail != NULL ? detail : "", suppressed);
}

void visitor_note_refusal(const struct visitor *visitor, enum visitor_refusal why,
                          const struct addr *peer, const char *detail)
{
    metrics_add(&visitor->worker->tunnel->metrics, refusals[why].metric, 1);
    note_refusal(visitor->worker, visitor->service, visitor->id, why, peer, detail);
}

static void visitor_wait_expired(struct timer *timer)
{
    struct visitor *visitor = container_of(timer, struct visitor, wait_timer);
    visitor_note_refusal(visitor, VISITOR_REFUSED_TIMEOUT, NULL, NULL);
    visitor_give_up(visitor);
}

/* ---- finding a channel ---- */

/* Takes the oldest parked channel that is alive, or queues the visitor. *ret: the result of
 * channel_pool_take. */
static struct pool_channel take_live_channel(struct visitor *visitor, bool first,
                                             enum pool_take *ret)
{
    struct server_worker *worker = visitor->worker;
    struct loop *loop = visitor_loop(visitor);
    for (;;) {
        struct pool_channel channel = {.transport.fd = -1};
        pool_notice notice;
        *ret = channel_pool_take(&visitor->service->pool, &visitor->waiter, first,
                                 loop_now_ns(loop), &channel, &notice);
        exchange_notify(worker, visitor->service, notice);
        if (*ret != POOL_TAKEN)
            return channel;
        if (exchange_channel_is_live(worker, &channel)) {
            PROBE3(channel_taken, visitor_service(visitor), visitor->id, channel.transport.fd);
            return channel;
        }
        metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_STALE, 1);
        transport_abort(&channel.transport, loop);
        channel_pool_left(&visitor->service->pool, channel.source);
        first = false;
    }
}

/* The wait counts from the arrival, or from the loss of the first channel, however often the
 * visitor looks for a channel again. */
static void visitor_start_waiting(struct visitor *visitor)
{
    uint64_t now_ns = loop_now_ns(visitor_loop(visitor));
    uint64_t until_ns = visitor->start.seeks_since_ns + ms_to_ns(LIMIT_VISITOR_WAIT_MS);
    uint64_t left_ns = until_ns - MIN(until_ns, now_ns);
    visitor_set_state(visitor, VISITOR_WAITING);
    timer_init(&visitor->wait_timer, visitor_wait_expired);
    loop_deadline_start(visitor_loop(visitor), &visitor->wait_timer, left_ns / NS_PER_MS);
}

bool visitor_seek(struct visitor *visitor, bool first)
{
    struct server_worker *worker = visitor->worker;
    visitor->waiter.worker = worker->tunnel;
    visitor->waiter.visitor_id = visitor->id;
    enum pool_take result;
    struct pool_channel channel = take_live_channel(visitor, first, &result);
    switch (result) {
    case POOL_TAKEN:
        visitor->source = channel.source;
        visitor_relay_bind(visitor, channel.transport);
        return true;
    case POOL_WAITING:
        visitor_start_waiting(visitor);
        return true;
    case POOL_FULL:
        visitor_note_refusal(visitor, VISITOR_REFUSED_QUEUE, NULL, NULL);
        return false;
    case POOL_CLOSED:
        visitor_note_refusal(visitor, VISITOR_REFUSED_NO_CLIENT, NULL, NULL);
        return false;
    }
    return false;
}

static const char has_only_ended[] = "it has sent nothing but its end of stream";

/* At a unix socket an end of stream may be told from a close, and a close is no reset: nobody there
 * is refused for it. */
static bool is_local(const struct visitor *visitor)
{
    struct addr peer;
    return socket_peer(visitor->fd, &peer) == 0 && addr_is_unix(&peer);
}

/* One of many visitors that have waited for longer than a client needs for a burst. */
static bool is_in_a_crowd(const struct visitor *visitor)
{
    uint64_t waited_ns = loop_now_ns(visitor_loop(visitor)) - visitor->start.seeks_since_ns;
    return waited_ns >= ms_to_ns(LIMIT_VISITORS_CROWD_MS) &&
           channel_pool_waiting(&visitor->service->pool) > LIMIT_VISITORS_CROWD;
}

/* Gives a channel to a visitor of this worker. False: the visitor has gone and was freed, and the
 * channel is the caller's. */
static bool visitor_take_channel(struct visitor *visitor, struct transport channel,
                                 struct pool_handle source)
{
    if (visitor->state == VISITOR_GONE) {
        visitor_free(visitor);
        return false;
    }
    visitor_set_state(visitor, VISITOR_SEEKING);
    int peeked = socket_peek(visitor->fd); /* clears SO_ERROR, so it is called once */
    bool is_refused = peeked == ERR_EOF && is_in_a_crowd(visitor) && !is_local(visitor);
    if (is_refused)
        /* In a crowd those who have given up must not keep those who come, as in listener.c. */
        visitor_note_refusal(visitor, VISITOR_REFUSED_QUEUE, NULL, has_only_ended);
    if (is_refused || (peeked < 0 && peeked != ERR_EOF)) {
        /* Or it has reset its connection while it waited. The channel is for another one. */
        visitor_reset(visitor);
        visitor_finish(visitor);
        return false;
    }
    visitor->source = source;
    visitor_relay_bind(visitor, channel);
    return true;
}

bool visitor_matched(struct server_worker *worker, struct service *service,
                     const struct pool_match *match, struct transport channel)
{
    return visitor_take_channel(container_of(match->waiter, struct visitor, waiter), channel,
                                match->source);
}

/* ---- the beginning ---- */

/* Whether it may come. Counts it if so (visitor_limits_enter). False: *ret_why says why not. */
static bool visitor_is_let_in(struct visitor *visitor, const struct addr *peer,
                              enum visitor_refusal *ret_why)
{
    struct service *service = visitor->service;
    struct server *server = visitor->worker->server;
    *ret_why = VISITOR_REFUSED_DENIED;
    if (!access_allows_visitor(service, peer))
        return false;
    int result = 0;
    *ret_why = VISITOR_REFUSED_RATE;
    if (peer != NULL) {
        visitor->key = addr_key(peer, config_prefixes(server_config(server)));
        result = visitor_rate_enter(&server->rate, service, &visitor->key,
                                    service_config(service)->max_new_per_second_per_ip,
                                    loop_now_ns(visitor_loop(visitor)));
    }
    if (result == 0) {
        *ret_why = VISITOR_REFUSED_LIMIT;
        result = visitor_limits_enter(service, &visitor->key);
    }
    if (result == -ENOMEM)
        *ret_why = VISITOR_REFUSED_NO_MEMORY;
    return result == 0;
}

void visitor_admit(struct visitor *visitor, const struct addr *peer)
{
    enum visitor_refusal why;
    if (!visitor_is_let_in(visitor, peer, &why)) {
        visitor_note_refusal(visitor, why, peer, NULL);
        visitor_reset(visitor);
        visitor_free(visitor);
        return;
    }
    if (!visitor_seek(visitor, true)) {
        visitor_reset(visitor);
        visitor_finish(visitor);
    }
}

/* Counts a visitor that was just accepted. NULL: no memory, and it was closed. */
static struct visitor *visitor_accept(struct server_worker *worker, struct service *service, int fd)
{
    struct tunnel_worker *tunnel = worker->tunnel;
    metrics_add(&tunnel->metrics, METRIC_VISITORS_ACCEPTED, 1);
    struct visitor *visitor = visitor_new(worker, service);
    if (visitor == NULL) { /* the metric counts it already */
        note_refusal(worker, service, 0, VISITOR_REFUSED_NO_MEMORY, NULL, NULL);
        loop_close_fd(tunnel->loop, fd); /* see visitor_reset */
        return NULL;
    }
    service_use(service);
    if (!service_is_front(service)) /* else it is one of another service, soon */
        counter_add(&visitor_stats(visitor)->visitors, 1);
    visitor->fd = fd;
    visitor->id = tunnel_next_conn_id(tunnel);
    visitor->begun_at_ns = visitor->start.seeks_since_ns = loop_now_ns(tunnel->loop);
    memset(&visitor->key, 0, sizeof(visitor->key));
    return visitor;
}

void visitor_begin(struct server_worker *worker, struct service *service, int fd, bool has_left)
{
    struct visitor *visitor = visitor_accept(worker, service, fd);
    if (visitor == NULL)
        return;
    if (has_left) {
        visitor_note_refusal(visitor, VISITOR_REFUSED_QUEUE, NULL, has_only_ended);
        visitor_reset(visitor);
        visitor_free(visitor);
        return;
    }
    const struct config_service *config = service_config(service);
    struct addr peer;
    const struct cidr_set *balancers = config->balancers.set;
    bool needs_peer = access_needs_address(config) || balancers != NULL;
    bool has_peer = needs_peer && socket_peer(fd, &peer) == 0;
    bool needs_header = has_peer && balancers != NULL && cidr_set_allows(balancers, &peer);
    if (needs_header || config->routes != NULL)
        arrival_begin(visitor, needs_header);
    else
        visitor_admit(visitor, has_peer ? &peer : NULL);
}

/* ---- all of a worker's ---- */

static void review(struct visitor *visitor)
{
    if (arrival_is_under_way(visitor)) {
        arrival_review(visitor);
        return;
    }
    if (visitor->state == VISITOR_GONE) {
        if (channel_pool_leave(&visitor->service->pool, &visitor->waiter))
            visitor_free(visitor);
        return;
    }
    if (!atomic_load(&visitor->service->up)) {
        visitor_give_up(visitor);
        return;
    }
    /* Without a parked channel the visitor keeps its place in the queue: a newcomer would have it
     * before this one has joined again. */
    if (!channel_pool_has_parked(&visitor->service->pool) ||
        !channel_pool_leave(&visitor->service->pool, &visitor->waiter))
        return; /* or a channel is on its way */
    visitor_set_state(visitor, VISITOR_SEEKING);
    if (visitor_seek(visitor, false))
        return;
    visitor_reset(visitor);
    visitor_finish(visitor);
}

void visitor_review_waiting(struct server_worker *worker)
{
    struct list queue; /* visitors that go on waiting return to the end of the worker's list */
    list_init(&queue);
    struct list *node;
    while ((node = list_pop_front(&worker->waiting_visitors)) != NULL)
        list_push_back(&queue, node);
    while ((node = list_pop_front(&queue)) != NULL) {
        list_push_back(&worker->waiting_visitors, node);
        review(container_of(node, struct visitor, node));
    }
}

void visitor_close_waiting(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->waiting_visitors) {
        struct visitor *visitor = container_of(node, struct visitor, node);
        if (visitor->state == VISITOR_WAITING)
            visitor_give_up(visitor);
        else if (visitor->state == VISITOR_ARRIVING)
            arrival_end(visitor);
    }
}

void visitor_close_cut(struct server_worker *worker)
{
    list_for_each_safe (node, &worker->relaying_visitors) {
        struct visitor *visitor = container_of(node, struct visitor, node);
        if (atomic_load(&visitor->service->entry.cut))
            relay_terminate(&visitor->relay);
    }
}

void visitor_review_rates(struct server_worker *worker, struct service *service)
{
    list_for_each_safe (node, &worker->relaying_visitors) {
        struct visitor *visitor = container_of(node, struct visitor, node);
        if (visitor->service == service)
            pace_review(&visitor->relay, &service->rates);
    }
}

void visitor_close_all(struct server_worker *worker)
{
    visitor_close_waiting(worker);
    list_for_each_safe (node, &worker->relaying_visitors) {
        relay_terminate(&container_of(node, struct visitor, node)->relay);
    }
}

void visitor_init_slab(struct slab *slab)
{
    slab_init(slab, sizeof(struct visitor));
}
