#include <errno.h>
#include <poll.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "client/forward.h"
#include "forward_priv.h"

enum {
    EXPIRY_STEP_MS = 1000, /* the shortest time between two searches for silent visitors */
};

/* ---- closing ---- */

static void visitor_join(struct forward_visitor *visitor)
{
    struct forward *forward = visitor->forward;
    if (!loop_op_is_idle(&visitor->poll_op))
        return;
    slab_put(&forward->worker->udp_visitor_slab, visitor);
    forward->visitor_count--;
    if (forward->closing)
        forward_join(forward);
}

/* Closes a visitor. Its descriptor goes to the heir or, if that is NULL, is closed at once and not
 * by the ring, because a caller that makes room needs the number now. The poll may still be queued
 * or in the ring; it may see another socket with the same number for a moment, without effect,
 * until it is cancelled. */
static void visitor_close(struct forward_visitor *visitor, struct udp_socket *heir)
{
    struct forward *forward = visitor->forward;
    visitor->closing = true;
    udp_batch_count_overflows(forward->channel.engine->batch, &visitor->udp);
    struct service_stats *stats = forward_stats(forward);
    counter_add(&stats->reasons[service_drop_reason(METRIC_UDP_DROPPED_KERNEL)],
                visitor->udp.overflows);
    counter_sub(&stats->open, 1);
    udp_table_remove(&forward->table, &visitor->entry);
    datagram_forget(&visitor->target);
    list_remove(&visitor->resting_node);
    loop_cancel(forward_loop(forward), &visitor->poll_op);
    udp_ports_give_back(&forward->worker->client->udp_ports, &visitor->udp,
                        loop_now_ns(forward_loop(forward)));
    if (heir == NULL || udp_socket_replace(&visitor->udp, heir) < 0)
        udp_socket_close(&visitor->udp);
    udp_share_remove(forward_share(forward), forward->worker->tunnel->index);
    visitor_join(visitor);
}

static struct forward_visitor *forward_visitor_of(struct udp_table_entry *entry)
{
    return container_of(entry, struct forward_visitor, entry);
}

void forward_visitor_close_all(struct forward *forward)
{
    struct udp_table_entry *entry;
    while ((entry = udp_table_oldest(&forward->table)) != NULL)
        visitor_close(forward_visitor_of(entry), NULL);
}

void forward_visitor_expire(struct timer *timer)
{
    struct forward *forward = container_of(timer, struct forward, expiry_timer);
    uint64_t now_ns = loop_now_ns(forward_loop(forward));
    uint64_t idle_ns = ms_to_ns(client_service_config(forward->service)->udp_timeout_ms);
    struct udp_table_entry *entry;
    while ((entry = udp_table_expired(&forward->table, now_ns, idle_ns)) != NULL) {
        visitor_close(forward_visitor_of(entry), NULL);
        forward_count(forward, METRIC_UDP_VISITORS_EXPIRED, 1);
    }
    entry = udp_table_oldest(&forward->table);
    if (entry == NULL)
        return;
    uint64_t left_ms = (entry->active_at_ns + idle_ns - now_ns) / NS_PER_MS + 1;
    loop_deadline_start(forward_loop(forward), timer, MAX(left_ms, (uint64_t)EXPIRY_STEP_MS));
}

void forward_visitor_review_timeout(struct forward *forward)
{
    if (forward->expiry_timer.armed)
        loop_deadline_start(forward_loop(forward), &forward->expiry_timer, EXPIRY_STEP_MS);
}

/* ---- making room ---- */

static void visitor_evict(struct forward_visitor *visitor, struct udp_socket *heir)
{
    struct forward *forward = visitor->forward;
    /* If all visitors are new, the longest silent one may have datagrams of this very turn. */
    if (!list_is_empty(&visitor->target.node))
        datagram_fire(forward->channel.engine, forward_visitor_destination);
    visitor_close(visitor, heir);
    forward_count(forward, METRIC_UDP_VISITORS_EVICTED, 1);
}

/* Evicts the longest silent visitors of a forward. */
static void forward_evict(struct forward *forward, unsigned int count)
{
    struct udp_table_entry *entry;
    while (count-- > 0 && (entry = udp_table_oldest(&forward->table)) != NULL)
        visitor_evict(forward_visitor_of(entry), NULL);
}

static struct forward *largest_forward(const struct client_worker *worker)
{
    struct forward *largest = NULL;
    list_for_each (node, &worker->forwards) {
        struct forward *forward = container_of(node, struct forward, node);
        if (forward->table.count > 0 &&
            (largest == NULL || forward->table.count > largest->table.count))
            largest = forward;
    }
    return largest;
}

/* Evicts from the channel with most visitors, so that a flood of one service costs other services
 * nothing. It takes only a part of them, so that busy visitors stay. False: this worker has no
 * visitor. */
static bool worker_evict(struct client_worker *worker, unsigned int most)
{
    struct forward *forward = largest_forward(worker);
    if (forward == NULL)
        return false;
    forward_evict(forward, MIN(most, forward->table.count / LIMIT_UDP_EVICT_PART + 1));
    return true;
}

static void ask_other_worker(struct client_worker *worker, unsigned int count)
{
    struct tunnel_worker *own = worker->tunnel;
    struct udp_share *share = &worker->client->fds.udp;
    int richest = udp_share_richest(share);
    if (richest < 0 || (unsigned int)richest == own->index)
        return;
    atomic_store(&share->wanted, count);
    mailbox_signal(own->all->items[richest].mailbox, own->mailbox, TUNNEL_SIGNAL_DESCRIPTORS);
}

void forward_give_up(struct client_worker *worker)
{
    unsigned int count = atomic_exchange(&worker->client->fds.udp.wanted, 0);
    if (count > 0)
        (void)worker_evict(worker, count);
}

/* True for a worker that has fewer sockets than the average. The longest silent visitors are
 * probably on other workers, and these make room while there is a margin; otherwise each new
 * visitor here would evict the one before it. */
static bool is_poor(const struct client_worker *worker)
{
    const struct udp_share *share = &worker->client->fds.udp;
    unsigned int own = udp_share_of(share, worker->tunnel->index);
    return own * worker->client->worker_count < atomic_load(&share->open);
}

bool forward_yield(struct client_worker *worker)
{
    const struct udp_share *share = &worker->client->fds.udp;
    unsigned int count = MIN(udp_share_batch(share), udp_share_spare(share));
    if (count == 0)
        return false;
    if (!is_poor(worker) && worker_evict(worker, count))
        return true;
    ask_other_worker(worker, count);
    return false;
}

/* Makes room before the share is used up. */
static void forward_make_room(struct client_worker *worker)
{
    const struct udp_share *share = &worker->client->fds.udp;
    if (!udp_share_is_spent(share))
        return;
    bool others_do = is_poor(worker);
    if (others_do)
        ask_other_worker(worker, udp_share_batch(share));
    if (!others_do || udp_share_is_over(share))
        (void)worker_evict(worker, udp_share_batch(share));
}

/* ---- a socket for each visitor ---- */

void forward_visitor_arm(struct forward_visitor *visitor)
{
    if (loop_op_is_idle(&visitor->poll_op))
        loop_poll(forward_loop(visitor->forward), &visitor->poll_op, visitor->udp.fd, POLLIN);
}

static void visitor_readable(struct loop_op *op, int res, uint32_t flags)
{
    struct forward_visitor *visitor = container_of(op, struct forward_visitor, poll_op);
    if (visitor->closing)
        visitor_join(visitor);
    else
        forward_ready(visitor);
}

static void log_no_socket(const struct forward *forward, int error)
{
    static struct log_limit limit;
    uint32_t suppressed;
    char text[ADDR_HOST_SIZE + 8];
    if (log_allowed(&limit, &suppressed))
        log_service(LOG_WARN, client_service_name(forward->service),
                    "no socket to the local service %s: %s (%u similar lines suppressed)",
                    host_port_format(&client_service_config(forward->service)->addr, text,
                                     sizeof(text)),
                    error_text(error), suppressed);
}

/* Errors that mean: no descriptors, ports or memory are left. */
static bool is_for_want_of_room(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -EAGAIN || error == -ENOBUFS ||
           error == -ENOMEM;
}

/* The last descriptors are for control channels. A new socket with such a number takes over the
 * number of the longest silent visitor. If another worker has that visitor, it is asked to close
 * one, and this socket keeps its high number. */
static int settle_number(struct client_worker *worker, struct udp_socket *udp)
{
    int max = worker->client->fds.max;
    if (udp->fd < max)
        return 0;
    if (is_poor(worker)) {
        ask_other_worker(worker, 1);
        if (udp->fd < max + LIMIT_FDS_RESERVED_UDP)
            return 0;
    }
    struct forward *largest = largest_forward(worker);
    if (largest != NULL) {
        visitor_evict(forward_visitor_of(udp_table_oldest(&largest->table)), udp);
        return 0;
    }
    udp_socket_close(udp);
    return -EMFILE;
}

static int visitor_connect(struct forward *forward, const struct addr *addr, struct udp_socket *ret)
{
    struct client_worker *worker = forward->worker;
    struct udp_ports *ports = &worker->client->udp_ports;
    uint64_t now_ns = loop_now_ns(forward_loop(forward));
    forward_make_room(worker);
    int result = udp_ports_connect(ports, addr, now_ns, ret);
    if (is_for_want_of_room(result)) {
        unsigned int batch = udp_share_batch(&worker->client->fds.udp);
        if (worker_evict(worker, batch))
            result = udp_ports_connect(ports, addr, now_ns, ret);
        else
            ask_other_worker(worker, batch);
    }
    return result < 0 ? result : settle_number(worker, ret);
}

/* Connects to the first address that a socket can be made for, and puts that address first. */
static int visitor_connect_any(struct forward *forward, struct udp_socket *ret)
{
    struct client_local *local = forward_local(forward);
    uint64_t now_ns = loop_now_ns(forward_loop(forward));
    int result = ERR_RESOLVE;
    client_local_catch_up(local, now_ns);
    for (size_t i = 0; i < local->answer.count; i++) {
        result = visitor_connect(forward, &local->answer.addrs[0], ret);
        if (!socket_error_is_of_address(result) || local->answer.count == 1)
            break;
        client_local_rotate(local, now_ns);
    }
    return result;
}

static struct forward_visitor *forward_visitor_add(struct forward *forward,
                                                   const struct udp_frame_addr *key)
{
    struct loop *loop = forward_loop(forward);
    struct udp_socket udp;
    forward_resolve(forward);
    if (forward->table.count >= LIMIT_UDP_VISITORS)
        forward_evict(forward, 1);
    int result = visitor_connect_any(forward, &udp);
    if (result < 0) {
        log_no_socket(forward, result);
        return NULL;
    }
    struct forward_visitor *visitor = slab_get(&forward->worker->udp_visitor_slab);
    if (visitor == NULL) {
        forward_count(forward, METRIC_OUT_OF_MEMORY, 1);
        udp_socket_close(&udp);
        return NULL;
    }
    visitor->entry.key = *key;
    if (udp_table_add(&forward->table, &visitor->entry, loop_now_ns(loop)) < 0) {
        forward_count(forward, METRIC_OUT_OF_MEMORY, 1);
        udp_socket_close(&udp);
        slab_put(&forward->worker->udp_visitor_slab, visitor);
        return NULL;
    }
    visitor->forward = forward;
    visitor->udp = udp;
    visitor->local_version = forward_local(forward)->version;
    visitor->closing = false;
    datagram_target_init(&visitor->target);
    list_init(&visitor->resting_node);
    loop_op_init(&visitor->poll_op, visitor_readable);
    forward->visitor_count++;
    if (++forward->new_count == LIMIT_UDP_NEW_PER_TURN)
        datagram_enough(&forward->channel);
    udp_share_add(forward_share(forward), forward->worker->tunnel->index);
    forward_count(forward, METRIC_UDP_VISITORS, 1);
    counter_add(&forward_stats(forward)->visitors, 1);
    counter_add(&forward_stats(forward)->open, 1);
    if (!forward->expiry_timer.armed)
        loop_deadline_start(loop, &forward->expiry_timer,
                            MAX(client_service_config(forward->service)->udp_timeout_ms,
                                (uint32_t)EXPIRY_STEP_MS));
    forward_visitor_arm(visitor);
    return visitor;
}

/* Errors of a datagram that another address may not have. Other errors are about the datagram
 * itself, such as EMSGSIZE. */
static bool does_not_reach(int error)
{
    switch (-error) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case EACCES:
    case EPERM:
        return true;
    default:
        return false;
    }
}

struct forward_visitor *forward_visitor_find(struct forward *forward,
                                             const struct udp_frame_addr *key)
{
    struct udp_table_entry *entry = udp_table_find(&forward->table, key);
    if (entry == NULL)
        return forward_visitor_add(forward, key);
    struct forward_visitor *visitor = forward_visitor_of(entry);
    if (does_not_reach(visitor->udp.error)) {
        visitor->udp.error = 0;
        forward_refused(forward, visitor);
        if (visitor->local_version != forward_local(forward)->version) {
            visitor_close(visitor, NULL);
            return forward_visitor_add(forward, key);
        }
    }
    udp_table_touch(&forward->table, &visitor->entry, loop_now_ns(forward_loop(forward)));
    return visitor;
}

struct udp_socket *forward_visitor_destination(struct datagram_target *target,
                                               const struct udp_route **ret_route)
{
    *ret_route = NULL; /* the socket is connected */
    return &container_of(target, struct forward_visitor, target)->udp;
}
