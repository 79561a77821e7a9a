#include "app/watchdog.h"

#include "app/notify.h"
#include "app/worker.h"
#include "base/log.h"

enum { US_PER_MS = 1000 };

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

void watchdog_turn(struct watchdog *watchdog, uint64_t now_ms)
{
    if (watchdog->interval_ms == 0 || now_ms < watchdog->due_ms)
        return;
    watchdog->due_ms = now_ms + watchdog->interval_ms;
    if (!workers_have_answered(watchdog->workers)) {
        log_warn("a worker does not answer; the service manager's watchdog is not told");
        return; /* the same tick is still to be answered */
    }
    notify_watchdog(watchdog->notify);
    workers_tick(watchdog->workers);
}
