#include <errno.h>
#include <poll.h>

#include "base/error.h"
#include "base/limits.h"
#include "udp_forward_priv.h"

enum {
    EXPIRY_STEP_MS = 1000, /* visitors are not looked for more often */
    NS_PER_MS = 1000000,
};

/* ---- closing ---- */

static void visitor_join(struct forward_visitor *visitor)
{
    struct udp_forward *forward = visitor->forward;
    if (!loop_op_is_idle(&visitor->poll_op))
        return;
    loop_close_fd(forward_loop(forward), visitor->udp.fd);
    slab_put(&forward->worker->udp_visitor_slab, visitor);
    forward->socket_count--;
    if (forward->closing)
        udp_forward_join(forward);
}

static void visitor_close(struct forward_visitor *visitor)
{
    struct udp_forward *forward = visitor->forward;
    visitor->closing = true;
    udp_batch_count_overflows(forward->channel.engine->batch, &visitor->udp);
    udp_table_remove(&forward->table, &visitor->entry);
    datagram_forget(&visitor->target);
    list_remove(&visitor->resting_node);
    loop_cancel(forward_loop(forward), &visitor->poll_op);
    visitor_join(visitor);
}

static struct forward_visitor *visitor_of(struct udp_table_entry *entry)
{
    return container_of(entry, struct forward_visitor, entry);
}

void udp_forward_visitor_close_all(struct udp_forward *forward)
{
    struct udp_table_entry *entry;
    while ((entry = udp_table_oldest(&forward->table)) != NULL)
        visitor_close(visitor_of(entry));
}

void udp_forward_visitor_expire(struct timer *timer)
{
    struct udp_forward *forward = container_of(timer, struct udp_forward, expiry_timer);
    uint64_t now_ns = loop_now_ns(forward_loop(forward));
    uint64_t idle_ns =
        (uint64_t)client_service_config(forward->service)->udp_timeout_ms * NS_PER_MS;
    struct udp_table_entry *entry;
    while ((entry = udp_table_expired(&forward->table, now_ns, idle_ns)) != NULL) {
        visitor_close(visitor_of(entry));
        forward_count(forward, METRIC_UDP_VISITORS_EXPIRED, 1);
    }
    entry = udp_table_oldest(&forward->table);
    if (entry == NULL)
        return;
    uint64_t left_ms = (entry->active_at_ns + idle_ns - now_ns) / NS_PER_MS + 1;
    loop_deadline_start(forward_loop(forward), timer, MAX(left_ms, (uint64_t)EXPIRY_STEP_MS));
}

void udp_forward_visitor_review_timeout(struct udp_forward *forward)
{
    if (forward->expiry_timer.armed)
        loop_deadline_start(forward_loop(forward), &forward->expiry_timer, EXPIRY_STEP_MS);
}

static bool forward_evict(struct udp_forward *forward)
{
    struct udp_table_entry *entry = udp_table_oldest(&forward->table);
    if (entry == NULL)
        return false;
    visitor_close(visitor_of(entry));
    forward_count(forward, METRIC_UDP_VISITORS_EVICTED, 1);
    return true;
}

/* ---- a socket for each ---- */

void udp_forward_visitor_arm(struct forward_visitor *visitor)
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
        udp_forward_ready(visitor);
}

static void log_no_socket(const struct udp_forward *forward, int error)
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

static int visitor_connect(struct udp_forward *forward, struct udp_socket *ret)
{
    const struct client_local *local = forward_local(forward);
    if (local->answer.count == 0)
        return ERR_RESOLVE;
    const struct addr *addr = &local->answer.addrs[forward->addr_index % local->answer.count];
    int result = udp_socket_connect(addr, ret);
    if ((result == -EMFILE || result == -ENFILE) && forward_evict(forward)) {
        loop_flush(forward_loop(forward)); /* the close is queued in the ring */
        result = udp_socket_connect(addr, ret);
    }
    /* The last descriptors are for control channels. */
    if (result == 0 && ret->fd >= forward->worker->client->fd_visitors_max &&
        !forward_evict(forward)) {
        loop_close_fd(forward_loop(forward), ret->fd);
        return -EMFILE;
    }
    return result;
}

static struct forward_visitor *visitor_add(struct udp_forward *forward,
                                           const struct udp_frame_addr *key)
{
    struct loop *loop = forward_loop(forward);
    struct udp_socket udp;
    udp_forward_resolve(forward);
    if (forward->table.count >= LIMIT_UDP_VISITORS)
        (void)forward_evict(forward);
    int result = visitor_connect(forward, &udp);
    if (result < 0) {
        log_no_socket(forward, result);
        return NULL;
    }
    struct forward_visitor *visitor = slab_get(&forward->worker->udp_visitor_slab);
    if (visitor == NULL) {
        forward_count(forward, METRIC_OUT_OF_MEMORY, 1);
        loop_close_fd(loop, udp.fd);
        return NULL;
    }
    visitor->entry.key = *key;
    if (udp_table_add(&forward->table, &visitor->entry, loop_now_ns(loop)) < 0) {
        forward_count(forward, METRIC_OUT_OF_MEMORY, 1);
        loop_close_fd(loop, udp.fd);
        slab_put(&forward->worker->udp_visitor_slab, visitor);
        return NULL;
    }
    visitor->forward = forward;
    visitor->udp = udp;
    visitor->generation = forward->generation;
    visitor->closing = false;
    datagram_target_init(&visitor->target);
    list_init(&visitor->resting_node);
    loop_op_init(&visitor->poll_op, visitor_readable);
    forward->socket_count++;
    forward_count(forward, METRIC_UDP_VISITORS, 1);
    if (!forward->expiry_timer.armed)
        loop_deadline_start(loop, &forward->expiry_timer,
                            MAX(client_service_config(forward->service)->udp_timeout_ms,
                                (uint32_t)EXPIRY_STEP_MS));
    udp_forward_visitor_arm(visitor);
    return visitor;
}

struct forward_visitor *udp_forward_visitor_find(struct udp_forward *forward,
                                                 const struct udp_frame_addr *key)
{
    struct udp_table_entry *entry = udp_table_find(&forward->table, key);
    if (entry == NULL)
        return visitor_add(forward, key);
    struct forward_visitor *visitor = visitor_of(entry);
    if (visitor->udp.error == -ECONNREFUSED) {
        visitor->udp.error = 0;
        udp_forward_refused(forward, visitor);
        if (visitor->generation != forward->generation) {
            visitor_close(visitor);
            return visitor_add(forward, key);
        }
    }
    udp_table_touch(&forward->table, &visitor->entry, loop_now_ns(forward_loop(forward)));
    return visitor;
}

struct udp_socket *udp_forward_visitor_destination(struct datagram_target *target,
                                                   const struct udp_route **ret_route)
{
    *ret_route = NULL; /* connected */
    return &container_of(target, struct forward_visitor, target)->udp;
}
