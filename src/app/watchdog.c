#include "app/watchdog.h"

#include "app/notify.h"
#include "app/worker.h"
#include "base/log.h"
#include "base/macros.h"

enum {
    US_PER_MS = 1000,
    LOOK_MS = 20,  /* between two checks for an answer that is due */
    STUCK_MS = 500 /* after so long without an answer a worker is not just waking up */
};

void watchdog_init(struct watchdog *watchdog, const struct notify *notify, struct workers *workers,
                   uint64_t now_ms)
{
    *watchdog = (struct watchdog){.notify = notify, .workers = workers};
    if (notify->watchdog_us == 0)
        return;
    watchdog->interval_ms = MAX(notify->watchdog_us / 2 / US_PER_MS, (uint64_t)1);
    watchdog->due_ms = now_ms + watchdog->interval_ms;
    workers_tick(workers);
}

int watchdog_timeout_ms(const struct watchdog *watchdog, uint64_t now_ms)
{
    if (watchdog->interval_ms == 0)
        return -1;
    uint64_t left_ms = watchdog->due_ms > now_ms ? watchdog->due_ms - now_ms : 0;
    return (int)MIN(left_ms, (uint64_t)INT32_MAX);
}

static void wait_for_answer(struct watchdog *watchdog, uint64_t now_ms)
{
    watchdog->due_ms = now_ms + MIN(watchdog->interval_ms, (uint64_t)LOOK_MS);
    if (watchdog->unanswered_ms == 0)
        watchdog->unanswered_ms = now_ms;
    if (watchdog->has_warned || now_ms - watchdog->unanswered_ms < STUCK_MS)
        return;
    watchdog->has_warned = true;
    log_warn("watchdog: a worker does not answer: the service manager is not notified, and may "
             "restart this process");
}

void watchdog_turn(struct watchdog *watchdog, uint64_t now_ms)
{
    if (watchdog->interval_ms == 0 || now_ms < watchdog->due_ms)
        return;
    if (!workers_have_answered(watchdog->workers)) {
        wait_for_answer(watchdog, now_ms); /* for the same tick */
        return;
    }
    watchdog->due_ms = now_ms + watchdog->interval_ms;
    watchdog->unanswered_ms = 0;
    watchdog->has_warned = false;
    notify_watchdog(watchdog->notify);
    workers_tick(watchdog->workers);
}
