#include "server/exchange.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/probe.h"
#include "io/socket.h"
#include "io/socket_life.h"
#include "server/listener.h"
#include "server/server_worker.h"

/* ---- the state of services ---- */

void exchange_sync_ports(struct server_worker *worker)
{
    list_for_each (node, &worker->parts)
        listener_sync_all(&container_of(node, struct service_part, node)->ports);
}

/* This worker's part of a change. A look at its other services would make a login cost more, the
 * more of them there are. */
static void exchange_sync_service(struct server_worker *worker, struct service *service)
{
    struct tunnel_worker *own = worker->tunnel;
    listener_sync_all(&service->parts[own->index].ports);
    if (service->is_udp || !list_is_empty(&worker->waiting_visitors))
        mailbox_signal(own->mailbox, own->mailbox, TUNNEL_SIGNAL_VISITORS);
}

/* The list is the worker's. NULL: it is empty. The caller gets the list's use of the service. */
static struct service *next_changed(struct server_changes *changes)
{
    (void)pthread_mutex_lock(&changes->lock);
    struct list *node = list_pop_front(&changes->parts);
    (void)pthread_mutex_unlock(&changes->lock);
    return node != NULL ? container_of(node, struct service_part, changed)->service : NULL;
}

void exchange_sync_changed(struct server_worker *worker)
{
    struct server_changes *changes = &worker->server->changes[worker->tunnel->index];
    struct service *service;
    while ((service = next_changed(changes)) != NULL) {
        exchange_sync_service(worker, service);
        service_drop(service);
    }
}

static void note_changed(struct server_changes *changes, struct service_part *part)
{
    (void)pthread_mutex_lock(&changes->lock);
    if (list_is_empty(&part->changed)) { /* otherwise the worker is still to look at it */
        list_push_back(&changes->parts, &part->changed);
        service_use(part->service);
    }
    (void)pthread_mutex_unlock(&changes->lock);
}

void exchange_service_changed(struct server_worker *worker, struct service *service, bool replaced)
{
    struct tunnel_worker *own = worker->tunnel;
    for (unsigned int i = 0; i < own->all->count; i++) {
        struct mailbox *to = own->all->items[i].mailbox;
        if (i != own->index) {
            note_changed(&worker->server->changes[i], &service->parts[i]);
            mailbox_signal(to, own->mailbox,
                           TUNNEL_SIGNAL_SERVICES | (replaced ? TUNNEL_SIGNAL_REPLACED : 0u));
        }
    }
    /* This worker's listeners change now, so that the service listens before its client reads the
     * Ack. */
    exchange_sync_service(worker, service);
}

int exchange_init(struct server *server)
{
    server->changes = calloc(server->worker_count, sizeof(*server->changes));
    if (server->changes == NULL)
        return -ENOMEM;
    for (unsigned int i = 0; i < server->worker_count; i++) {
        (void)pthread_mutex_init(&server->changes[i].lock, NULL);
        list_init(&server->changes[i].parts);
    }
    return 0;
}

void exchange_finish(struct server *server)
{
    struct service *service;
    for (unsigned int i = 0; server->changes != NULL && i < server->worker_count; i++) {
        while ((service = next_changed(&server->changes[i])) != NULL)
            service_drop(service); /* changed after the worker had ended */
        (void)pthread_mutex_destroy(&server->changes[i].lock);
    }
    free(server->changes);
}

/* ---- requests ---- */

void exchange_send_requests(const struct service_part *part)
{
    list_for_each (node, &part->sessions) {
        struct session *session = container_of(node, struct session, of_part);
        if (atomic_load(&session->source.request_posted))
            session->send_requests(session);
    }
}

static void exchange_deliver_requests(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct service *service;
    memcpy(&service, payload, sizeof(service));
    exchange_send_requests(&service->parts[tunnel->index]);
    service_drop(service);
}

static void exchange_notify_worker(struct server_worker *worker, struct service *service,
                                   unsigned int index)
{
    struct tunnel_worker *own = worker->tunnel;
    if (index == own->index) {
        exchange_send_requests(&service->parts[index]);
        return;
    }
    struct mailbox *to = own->all->items[index].mailbox;
    service_use(service); /* the message's use */
    if (mailbox_post(to, own->mailbox, exchange_deliver_requests, &service, sizeof(service)) < 0) {
        service_drop(service);
        mailbox_signal(to, own->mailbox, TUNNEL_SIGNAL_REQUESTS);
    }
}

void exchange_notify(struct server_worker *worker, struct service *service, pool_notice notice)
{
    for (; notice != 0; notice &= notice - 1) {
        for (unsigned int i = (unsigned int)__builtin_ctzll(notice); i < service->worker_count;
             i += POOL_NOTICE_BITS)
            exchange_notify_worker(worker, service, i);
    }
}

/* ---- parked channels ---- */

/* After this time two keepalive probes have gone unanswered. */
static uint64_t keepalive_takes_ms(const struct config_peer *own)
{
    const struct config_transport *transport = &own->transport;
    return 1000ull * (transport->tcp_keepalive_secs + 2ull * transport->tcp_keepalive_interval);
}

bool exchange_channel_is_live(const struct server_worker *worker,
                              const struct pool_channel *channel)
{
    const struct config_peer *own = server_config(worker->server);
    if (socket_peek(channel->transport.fd) < 0)
        return false;
    if (own->transport.tcp_keepalive_secs == 0)
        return true; /* without keepalive a live client is silent too */
    uint64_t now_ns = loop_now_ns(worker->tunnel->loop);
    uint64_t takes_ms = keepalive_takes_ms(own);
    struct socket_life life;
    /* Added, not subtracted: the clock of the worker that parked it may be a little ahead. */
    if (now_ns < channel->parked_at_ns + ms_to_ns(takes_ms))
        return true;
    return socket_life(channel->transport.fd, &life) < 0 || life.heard_ms <= takes_ms;
}

/* ---- a channel for a waiter ---- */

/* A message: a channel on its way to a waiter of another worker. */
struct exchange_delivery {
    bool (*matched)(struct server_worker *worker, struct service *service,
                    const struct pool_match *match, struct transport channel);
    struct service *service; /* the message holds a use of it */
    struct pool_waiter *waiter;
    uint64_t visitor_id;
    struct transport channel;
    struct pool_handle source;
};
static_assert(sizeof(struct exchange_delivery) <= MAILBOX_PAYLOAD_SIZE, "fits into a message");

static void exchange_deliver_channel(void *owner, const void *payload)
{
    struct tunnel_worker *tunnel = owner;
    struct exchange_delivery delivery;
    memcpy(&delivery, payload, sizeof(delivery));
    const struct pool_match match = {tunnel, delivery.waiter, delivery.visitor_id, delivery.source,
                                     .wakes = false};
    if (!delivery.matched(tunnel->role, delivery.service, &match, delivery.channel))
        exchange_offer(tunnel->role, delivery.service, delivery.channel, delivery.source, false);
    service_drop(delivery.service);
}

static struct tunnel_worker *worker_of(const struct tunnel_worker *own,
                                       const struct pool_match *match)
{
    if (match->worker != NULL)
        return match->worker;
    return &own->all->items[lane_id_index(match->visitor_id) % own->all->count];
}

void exchange_wake_waiters(const struct server_worker *worker)
{
    const struct tunnel_worker *own = worker->tunnel;
    for (unsigned int i = 0; i < own->all->count; i++)
        mailbox_signal(own->all->items[i].mailbox, own->mailbox, TUNNEL_SIGNAL_VISITORS);
}

/* Delivers a channel to the waiter of a match. False: the waiter has gone, and the channel is still
 * the caller's. */
static bool exchange_hand_over(struct server_worker *worker, struct service *service,
                               const struct pool_match *match, struct transport channel)
{
    struct tunnel_worker *own = worker->tunnel, *target = worker_of(own, match);
    if (target == own)
        return service->pool.matched(worker, service, match, channel);
    const struct exchange_delivery delivery = {
        .matched = service->pool.matched,
        .service = service,
        .waiter = match->waiter,
        .visitor_id = match->visitor_id,
        .channel = channel,
        .source = match->source,
    };
    service_use(service);
    int result = mailbox_post(target->mailbox, own->mailbox, exchange_deliver_channel, &delivery,
                              sizeof(delivery));
    if (result == 0)
        return true;
    if (result == -EPIPE || /* that worker has ended, and with it all of its waiters */
        !channel_pool_undo(&service->pool, match, channel, loop_now_ns(own->loop)))
        transport_close(&channel, own->loop);
    if (result != -EPIPE)
        exchange_wake_waiters(worker);
    service_drop(service);
    return true;
}

void exchange_offer(struct server_worker *worker, struct service *service, struct transport channel,
                    struct pool_handle source, bool requested)
{
    struct loop *loop = worker->tunnel->loop;
    struct pool_offer offer = {
        .transport = channel,
        .source = source,
        .requested = requested,
        .may_park = channel.fd < worker->server->fd_visitors_max,
        .now_ns = loop_now_ns(loop),
    };
    struct pool_match match;
    enum pool_offered offered;
    /* A loop, because a recursion would be as deep as the number of waiters that have gone. */
    while ((offered = channel_pool_offer(&service->pool, &offer, &match)) == POOL_MATCHED) {
        if (match.wakes)
            exchange_wake_waiters(worker); /* more channels of this source may be parked */
        PROBE3(channel_matched, service_name(service), match.visitor_id, channel.fd);
        if (exchange_hand_over(worker, service, &match, channel))
            return;
        offer.requested = false; /* its request has been counted off */
    }
    if (match.wakes)
        exchange_wake_waiters(worker);
    if (offered == POOL_PARKED) {
        PROBE2(channel_parked, service_name(service), channel.fd);
        return;
    }
    metrics_add(&worker->tunnel->metrics, METRIC_DATA_CHANNELS_SURPLUS, 1);
    transport_close(&channel, loop);
}
