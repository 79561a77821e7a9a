/* Events of a relay that moves no bytes: the idle timeout, and the reset of an end from which
 * nothing is read. A peer that closes a unix socket is seen here too: both directions are shut down
 * then. TCP shows only its end of stream, and finds out by keepalive. */
#include <errno.h>
#include <poll.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "relay_priv.h"

enum { WATCH_ENDED_MS = 1000 };

/* After the end of stream of an end, the ring's poll would fire at once (POLLRDHUP). A reset is
 * then seen by the next read, and by relay_watch_ended. */
void relay_watch(struct relay *relay, unsigned int end)
{
    if (!relay->watched[end] && !relay->half_closed[end] && loop_op_is_idle(&relay->hangup_op[end]))
        loop_poll(relay->engine->loop, &relay->hangup_op[end], relay->fds[end], 0);
}

/* All bytes of an end, and its end of stream, have been passed on, and it takes none. If the other
 * end has nothing more to say either, the relay ends after LIMIT_GONE_MS. */
static void note_gone(struct relay *relay, unsigned int end)
{
    if (!relay->flow[end].finished || relay->flow[1 - end].finished)
        return;
    relay->is_gone = true;
    relay->gone_end = (uint8_t)end;
    relay_timer_start(relay);
}

/* The same for ends whose end of stream was read. This runs WATCH_ENDED_MS after the end of stream,
 * because most relays are over before, and an exact poll is costly. An end is left out while the
 * other flow waits for it to be writable, or sends to it: that sees a reset, and a descriptor may
 * have only one exact poll. It is looked at again later. */
static void relay_watch_ended(struct relay *relay)
{
    for (unsigned int end = 0; end < 2; end++) {
        const struct relay_flow *back = &relay->flow[1 - end];
        if (relay->watched[end])
            note_gone(relay, end);
        if (!relay->flow[end].finished || relay->watched[end] ||
            !loop_op_is_idle(&relay->hangup_op[end]))
            continue;
        if (!loop_op_is_idle(&back->write_op)) {
            relay->watch_due = true;
            continue;
        }
        loop_poll_exact(relay->engine->loop, &relay->hangup_op[end], relay->fds[end], 0);
    }
}

static void hung_up(struct relay *relay, unsigned int end, int res)
{
    if (relay->state != RELAY_OPEN) {
        relay_join(relay);
        return;
    }
    int error = socket_take_error(relay->fds[end]);
    if (error < 0) {
        relay_fail(relay, end, error);
        return;
    }
    if (res > 0 && (res & (POLLHUP | POLLERR)) == 0) {
        relay->half_closed[end] = true; /* it may still read */
        return;
    }
    relay->watched[end] = true; /* both directions are shut down, which is no error */
    note_gone(relay, end);
}

void relay_visitor_end_hung_up(struct loop_op *op, int res, uint32_t flags)
{
    hung_up(container_of(op, struct relay, hangup_op[RELAY_VISITOR_END]), RELAY_VISITOR_END, res);
}

void relay_service_end_hung_up(struct loop_op *op, int res, uint32_t flags)
{
    hung_up(container_of(op, struct relay, hangup_op[RELAY_SERVICE_END]), RELAY_SERVICE_END, res);
}

void relay_timer_start(struct relay *relay)
{
    uint32_t delay_ms = UINT32_MAX;
    uint64_t idle_ms = (loop_now_ns(relay->engine->loop) - relay->active_at_ns) / NS_PER_MS;
    if (relay->idle_timeout_ms != 0)
        delay_ms = relay->idle_timeout_ms - (uint32_t)MIN(idle_ms, relay->idle_timeout_ms);
    if (relay->is_gone)
        delay_ms = MIN(delay_ms, LIMIT_GONE_MS - (uint32_t)MIN(idle_ms, (uint64_t)LIMIT_GONE_MS));
    if (relay->watch_due)
        delay_ms = MIN(delay_ms, (uint32_t)WATCH_ENDED_MS);
    if (relay->held_until_ns != 0)
        delay_ms = MIN(delay_ms, relay_hold_left_ms(relay));
    if (delay_ms != UINT32_MAX)
        loop_deadline_start(relay->engine->loop, &relay->timer, delay_ms);
}

static bool relay_idle_expired(struct relay *relay)
{
    uint64_t idle_ns = loop_now_ns(relay->engine->loop) - relay->active_at_ns;
    return relay->idle_timeout_ms != 0 && idle_ns >= ms_to_ns(relay->idle_timeout_ms);
}

/* Whether a peer that has gone has been silent for long enough, and the other one has all of its
 * bytes. */
static bool gone_expired(struct relay *relay)
{
    uint64_t now_ns = loop_now_ns(relay->engine->loop);
    if (!relay->is_gone || now_ns - relay->active_at_ns < ms_to_ns(LIMIT_GONE_MS))
        return false;
    if (socket_unsent(relay->fds[1 - relay->gone_end]) == 0)
        return true;
    relay->active_at_ns = now_ns;
    return false;
}

/* Whether a full sink has sent anything since the last check. The kernel reports a full socket
 * writable only when a third of its send queue is free, which takes a slow reader a long time. */
static bool relay_is_draining(struct relay *relay)
{
    bool draining = false;
    for (unsigned int i = 0; i < 2; i++) {
        struct relay_flow *flow = &relay->flow[i];
        if (flow->pending == PENDING_NONE)
            continue;
        uint32_t unsent = socket_unsent(relay->fds[1 - i]);
        draining = draining || unsent != flow->unsent;
        flow->unsent = unsent;
    }
    return draining;
}

void relay_hold_end(struct relay *relay, uint32_t timeout_ms)
{
    relay->held_until_ns = loop_now_ns(relay->engine->loop) + ms_to_ns(timeout_ms);
}

uint32_t relay_hold_left_ms(const struct relay *relay)
{
    uint64_t now_ns = loop_now_ns(relay->engine->loop);
    uint64_t left_ns = relay->held_until_ns - MIN(now_ns, relay->held_until_ns);
    return (uint32_t)(left_ns / NS_PER_MS) + 1;
}

/* The service has not ended after half_close_timeout: says the end that was held back, and the peer
 * drops the other direction. */
static void relay_say_held_end(struct relay *relay)
{
    relay->held_until_ns = 0;
    for (unsigned int i = 0; i < 2; i++) {
        if (!relay->flow[i].finished || !flow_holds_end(&relay->flow[i]))
            continue;
        relay->links[1 - i]->holds_end = false;
        flow_end(&relay->flow[i]);
        return;
    }
}

void relay_timer_expired(struct timer *timer)
{
    struct relay *relay = container_of(timer, struct relay, timer);
    struct loop *loop = relay->engine->loop;
    if (relay->state == RELAY_CLOSING)
        return;
    if (relay_idle_expired(relay) && (pace_is_waiting(relay) || relay_is_draining(relay)))
        relay->active_at_ns = loop_now_ns(loop);
    if (relay_idle_expired(relay)) {
        relay->idle_timed_out = true;
        metrics_add(loop_metrics(loop), METRIC_RELAYS_IDLE_TIMEOUT, 1);
        relay_close(relay, true);
        return;
    }
    if (relay->state == RELAY_OPEN && gone_expired(relay)) {
        relay_fail(relay, relay->gone_end, -EPIPE);
        return;
    }
    if (relay->state == RELAY_OPEN && relay->watch_due) {
        relay->watch_due = false;
        relay_watch_ended(relay);
    }
    bool is_held_due = relay->held_until_ns != 0 && relay->held_until_ns <= loop_now_ns(loop);
    if (is_held_due && relay->state == RELAY_OPEN && pace_is_waiting(relay)) {
        /* Our own limit delays the answer. The peer would cut it off with the end. */
        relay_hold_end(relay, relay->half_close_timeout_ms);
        is_held_due = false;
    }
    relay_hold(relay);
    if (relay->state == RELAY_OPEN && is_held_due)
        relay_say_held_end(relay);
    else if (relay->state == RELAY_LINGERING && is_held_due)
        relay_close(relay, false);
    if (relay->state != RELAY_CLOSING)
        relay_timer_start(relay);
    relay_unhold(relay);
}
