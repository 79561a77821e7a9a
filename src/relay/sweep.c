/* Finds ends whose peer has vanished. No FIN or RST comes from it, so no op in the ring completes.
 * The sweep looks at each relay of the worker once in LIMIT_SWEEP_MS, LIMIT_SWEEP_STEP relays in a
 * turn. It asks the kernel (TCP_INFO, judged by net/silence.h) only if bytes were read or written
 * since the last look, if an end owes an answer, or if the owner has doubts. So an idle relay costs
 * no system call. */

#include "base/clock.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "relay_priv.h"

static uint32_t doubts_now(const struct relay *relay)
{
    return relay->doubts == NULL ? 0 : atomic_load_explicit(relay->doubts, memory_order_relaxed);
}

static void stop_asking(struct relay *relay)
{
    socket_stop_asking(relay->fds[relay->doubted_end], &relay->keepalive);
}

/* Makes the kernel probe the peer. Outstanding bytes need no probe: their retransmission is one. */
static void ask(struct relay *relay, unsigned int end, const struct socket_life *life)
{
    struct silence *silence = &relay->silence[end];
    if (silence->asked || life->unacked > 0 || life->unsent > 0)
        return;
    socket_ask(relay->fds[end], &relay->keepalive);
    silence_ask(silence);
    metrics_add(loop_metrics(relay->engine->loop), METRIC_RELAYS_ASKED, 1);
}

/* False: the peer at this end is dead. */
static bool look_at_end(struct relay *relay, unsigned int end, uint32_t step_ms, bool doubted)
{
    struct silence *silence = &relay->silence[end];
    bool was_asked = silence->asked;
    struct socket_life life;
    if (socket_life(relay->fds[end], &life) < 0)
        return true; /* no TCP_INFO, so it can't be judged */
    enum silence_verdict verdict = silence_judge(silence, &life, step_ms);
    if (was_asked && !silence->asked)
        stop_asking(relay);
    if (doubted)
        ask(relay, end, &life);
    return verdict != SILENCE_DEAD;
}

/* May end the relay. */
static void look(struct relay *relay)
{
    uint32_t doubts = doubts_now(relay);
    bool doubted = doubts != relay->doubts_seen;
    bool is_watched = relay->silence[0].watched || relay->silence[1].watched;
    /* ">=", because activity later in the turn of the last look has the same time as that look. */
    bool was_active = relay->look_due || relay->active_at_ns >= relay->looked_at_ns;
    if ((!was_active && !is_watched && !doubted) || relay->state != RELAY_OPEN)
        return;
    uint64_t now_ns = loop_now_ns(relay->engine->loop);
    uint32_t step_ms = (uint32_t)MIN((now_ns - relay->looked_at_ns) / NS_PER_MS, UINT32_MAX);
    relay->looked_at_ns = now_ns;
    relay->look_due = false;
    relay->doubts_seen = doubts;
    for (unsigned int end = 0; end < 2; end++) {
        if (look_at_end(relay, end, step_ms, doubted && end == relay->doubted_end))
            continue;
        metrics_add(loop_metrics(relay->engine->loop), METRIC_RELAYS_SILENT, 1);
        relay->silent_end = (uint8_t)end;
        relay_fail(relay, end, relay->silence[end].asked ? ERR_SILENT : ERR_UNACKED);
        return;
    }
}

void relay_sweep(struct timer *timer)
{
    struct relay_engine *engine = container_of(timer, struct relay_engine, sweep_timer);
    if (engine->sweep_left == 0)
        engine->sweep_left = engine->relay_count;
    for (unsigned int i = 0; i < LIMIT_SWEEP_STEP && engine->sweep_left > 0; i++) {
        struct list *node = list_pop_front(&engine->relays);
        if (node == NULL)
            break;
        engine->sweep_left--;
        list_push_back(&engine->relays, node);
        look(container_of(node, struct relay, node));
    }
    if (engine->relay_count > 0) /* look() may have ended the last relay */
        loop_timer_start(engine->loop, timer, engine->sweep_left > 0 ? 0 : LIMIT_SWEEP_MS);
}

void relay_silence_start(struct relay *relay, const struct relay_options *options)
{
    struct relay_engine *engine = relay->engine;
    relay->doubts = options->doubts;
    relay->doubted_end = options->doubted_end;
    relay->doubts_seen = doubts_now(relay);
    relay->looked_at_ns = loop_now_ns(engine->loop);
    relay->look_due = true; /* the relay may come from another worker, with bytes outstanding */
    relay->silence[0] = relay->silence[1] = (struct silence){0};
    list_init(&relay->node);
    list_push_back(&engine->relays, &relay->node);
    if (engine->relay_count++ == 0)
        loop_timer_start(engine->loop, &engine->sweep_timer, LIMIT_SWEEP_MS);
}

void relay_silence_finish(struct relay *relay)
{
    struct relay_engine *engine = relay->engine;
    /* A relay that moves to another worker needs no probe: it is bulk, so bytes have just come. */
    if (relay->silence[relay->doubted_end].asked && relay->fds[relay->doubted_end] >= 0)
        stop_asking(relay);
    list_remove(&relay->node);
    if (--engine->relay_count > 0)
        return;
    engine->sweep_left = 0;
    loop_timer_stop(engine->loop, &engine->sweep_timer);
}
