/* Ends that are gone without a word: no packet ends their connections, so no operation in the ring
 * ever does. Once in LIMIT_SWEEP_MS each relay of the worker is looked at, some of them in a turn.
 * Only where something was read or written since the last look, where an end owes a sign of life,
 * or where the owner has doubts, the kernel is asked (silence.h): an idle relay costs no call. */

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

/* Has the kernel ask, unless what is outstanding does so anyway. */
static void ask(struct relay *relay, unsigned int end, const struct socket_life *life)
{
    struct silence *silence = &relay->silence[end];
    if (silence->asked || life->unacked > 0 || life->unsent > 0)
        return;
    socket_ask(relay->fds[end], &relay->keepalive);
    silence_ask(silence);
    metrics_add(loop_metrics(relay->engine->loop), METRIC_RELAYS_ASKED, 1);
}

/* False: the end is dead. */
static bool look_at_end(struct relay *relay, unsigned int end, uint32_t step_ms, bool doubted)
{
    struct silence *silence = &relay->silence[end];
    bool was_asked = silence->asked;
    struct socket_life life;
    if (socket_life(relay->fds[end], &life) < 0)
        return true; /* nothing can be known of it */
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
    /* What happens later in the turn of a look has the same time. */
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
    if (engine->relay_count > 0) /* it may have ended the last one */
        loop_timer_start(engine->loop, timer, engine->sweep_left > 0 ? 0 : LIMIT_SWEEP_MS);
}

void relay_silence_start(struct relay *relay, const struct relay_options *options)
{
    struct relay_engine *engine = relay->engine;
    relay->doubts = options->doubts;
    relay->doubted_end = options->doubted_end;
    relay->doubts_seen = doubts_now(relay);
    relay->looked_at_ns = loop_now_ns(engine->loop);
    relay->look_due = true; /* what went before, on another worker, is not known here */
    relay->silence[0] = relay->silence[1] = (struct silence){0};
    list_init(&relay->node);
    list_push_back(&engine->relays, &relay->node);
    if (engine->relay_count++ == 0)
        loop_timer_start(engine->loop, &engine->sweep_timer, LIMIT_SWEEP_MS);
}

void relay_silence_finish(struct relay *relay)
{
    struct relay_engine *engine = relay->engine;
    /* A relay that moves is seen to be alive on the way: it has just been read from. */
    if (relay->silence[relay->doubted_end].asked && relay->fds[relay->doubted_end] >= 0)
        stop_asking(relay);
    list_remove(&relay->node);
    if (--engine->relay_count > 0)
        return;
    engine->sweep_left = 0;
    loop_timer_stop(engine->loop, &engine->sweep_timer);
}
