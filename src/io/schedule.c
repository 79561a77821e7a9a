#include "io/schedule.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/macros.h"

static struct timers *kind_of(struct schedule *schedule, bool is_deadline)
{
    return is_deadline ? &schedule->deadlines : &schedule->timers;
}

static void start(struct schedule *schedule, struct timer *timer, uint64_t at_ns, bool is_deadline)
{
    if (timer->is_deadline != is_deadline)
        schedule_stop(schedule, timer);
    timer->is_deadline = is_deadline;
    timers_start(kind_of(schedule, is_deadline), timer, at_ns);
}

void schedule_start(struct schedule *schedule, struct timer *timer, uint64_t at_ns)
{
    start(schedule, timer, at_ns, false);
}

void schedule_start_deadline(struct schedule *schedule, struct timer *timer, uint64_t at_ns)
{
    start(schedule, timer, at_ns, true);
}

void schedule_stop(struct schedule *schedule, struct timer *timer)
{
    timers_stop(kind_of(schedule, timer->is_deadline), timer);
}

static uint64_t next_deadline_ns(const struct schedule *schedule)
{
    uint64_t next_ns = timers_next_ns(&schedule->deadlines);
    return next_ns != UINT64_MAX ? MAX(next_ns, schedule->held_until_ns) : next_ns;
}

uint64_t schedule_next_ns(const struct schedule *schedule)
{
    return MIN(timers_next_ns(&schedule->timers), next_deadline_ns(schedule));
}

bool schedule_absent(struct schedule *schedule, uint64_t now_ns)
{
    const uint64_t grace_ns = ms_to_ns(LIMIT_ABSENT_GRACE_MS);
    if (schedule->held_until_ns != 0 && now_ns < schedule->held_until_ns + grace_ns)
        return false;
    schedule->held_until_ns = now_ns + grace_ns;
    return true;
}

void schedule_run(struct schedule *schedule, uint64_t now_ns)
{
    timers_run(&schedule->timers, now_ns);
}

bool schedule_deadlines_due(const struct schedule *schedule, uint64_t now_ns)
{
    return next_deadline_ns(schedule) <= now_ns;
}

void schedule_run_deadlines(struct schedule *schedule, uint64_t now_ns)
{
    if (now_ns >= schedule->held_until_ns)
        timers_run(&schedule->deadlines, now_ns);
}
