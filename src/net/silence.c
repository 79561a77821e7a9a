#include "net/silence.h"

#include "base/limits.h"

static bool is_outstanding(const struct socket_life *life)
{
    return life->unacked > 0 || life->unsent > 0;
}

static bool is_dead(const struct silence *silence, const struct socket_life *life)
{
    if (!is_outstanding(life))
        return silence->silent_ms >= LIMIT_ASK_MS;
    if (silence->silent_ms < LIMIT_SILENT_MS)
        return false;
    if (life->unacked == 0)
        return life->probes >= LIMIT_SILENT_QUESTIONS;
    if (life->window == 0)
        return silence->silent_ms >= (uint64_t)LIMIT_SILENT_QUESTIONS * life->rto_ms;
    return life->retransmits + 1 >= LIMIT_SILENT_QUESTIONS; /* the first transmission counts too */
}

enum silence_verdict silence_judge(struct silence *silence, const struct socket_life *life,
                                   uint32_t step_ms)
{
    uint32_t step = MIN(step_ms, (uint32_t)(2 * LIMIT_SWEEP_MS));
    /* The first look starts at 0: before it the peer may have owed us nothing, for example in a
     * connection that was idle for hours. */
    uint32_t silent_ms = silence->watched ? silence->silent_ms + step : 0;
    if (life->heard_ms < silent_ms) {
        silent_ms = life->heard_ms;
        silence->asked = false;
    }
    silence->silent_ms = silent_ms;
    silence->watched = is_outstanding(life) || silence->asked;
    if (!silence->watched)
        return SILENCE_NONE;
    return is_dead(silence, life) ? SILENCE_DEAD : SILENCE_WATCHED;
}

void silence_ask(struct silence *silence)
{
    *silence = (struct silence){.watched = true, .asked = true};
}
