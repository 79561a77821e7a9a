#include "app/drain.h"

#include "base/limits.h"
#include "base/log.h"
#include "base/macros.h"
#include "tunnel/tunnel_worker.h"

enum { REFUSING_STEP_MS = 5 /* between two looks whether somebody waits */ };

static uint64_t drain_end_ms(const struct drain *drain, const struct drain_view *view)
{
    return drain->begun_ms + (drain->state == DRAIN_DELAYED ? view->delay_ms : view->timeout_ms);
}

static void drain_enter(struct drain *drain, enum drain_state state, uint64_t now_ms)
{
    drain->state = state;
    drain->begun_ms = now_ms;
}

uint32_t drain_begin(struct drain *drain, const struct drain_view *view)
{
    if (drain->state != DRAIN_NONE)
        return 0; /* a successor has taken over; it drains already */
    if (view->delay_ms > 0) {
        drain_enter(drain, DRAIN_DELAYED, view->now_ms);
        return 0;
    }
    drain_enter(drain, DRAIN_FINISHING, view->now_ms);
    return TUNNEL_SIGNAL_DRAIN;
}

void drain_follow(struct drain *drain, uint64_t now_ms)
{
    drain_enter(drain, DRAIN_FINISHING, now_ms);
}

uint32_t drain_stop(struct drain *drain)
{
    if (drain->is_stopping)
        return 0;
    drain->is_stopping = true;
    return TUNNEL_SIGNAL_STOP;
}

/* Whether the control channels may end: nobody waits for a data channel, and the commands of relays
 * that have just begun had time to reach the client before its session ends. */
static bool drain_is_quiet(struct drain *drain, const struct drain_view *view)
{
    if (view->now_ms >= drain->begun_ms + LIMIT_UPGRADE_QUIET_MS)
        return true;
    if (view->waiting_visitors > 0)
        drain->quiet_since_ms = 0;
    else if (drain->quiet_since_ms == 0)
        drain->quiet_since_ms = view->now_ms;
    return drain->quiet_since_ms != 0 &&
           view->now_ms - drain->quiet_since_ms >= LIMIT_UPGRADE_SETTLE_MS;
}

uint32_t drain_turn(struct drain *drain, const struct drain_view *view)
{
    bool is_over = view->now_ms >= drain_end_ms(drain, view);
    switch (drain->state) {
    case DRAIN_NONE:
        return 0;
    case DRAIN_DELAYED:
        if (!is_over || drain->is_stopping)
            return 0;
        log_info("drain_delay is over: no new visitors from here on");
        drain_enter(drain, DRAIN_REFUSING, view->now_ms);
        return TUNNEL_SIGNAL_REFUSE;
    case DRAIN_REFUSING:
        if (!is_over && !drain_is_quiet(drain, view))
            return 0;
        drain->state = DRAIN_FINISHING;
        return TUNNEL_SIGNAL_DRAIN;
    case DRAIN_FINISHING:
        break;
    }
    if (!is_over || drain->is_stopping)
        return 0;
    log_info("drain_timeout is over: stopping now");
    return drain_stop(drain);
}

int drain_timeout_ms(const struct drain *drain, const struct drain_view *view)
{
    if (drain->state == DRAIN_NONE || drain->is_stopping)
        return -1;
    if (drain->state == DRAIN_REFUSING)
        return REFUSING_STEP_MS;
    uint64_t end_ms = drain_end_ms(drain, view);
    return end_ms > view->now_ms ? (int)MIN(end_ms - view->now_ms, (uint64_t)INT32_MAX) : 0;
}
