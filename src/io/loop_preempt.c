/* Whether a worker that wakes up takes its core from the thread that runs there (sched(7), wakeup
 * preemption).
 *
 * Beside a busy server or client, a worker that does so handles one message at a time and is put
 * aside again. One that lets the others finish finds all messages that they have sent meanwhile,
 * and shares its system calls among them. SCHED_BATCH asks for the latter; nothing else of it
 * differs from SCHED_OTHER. docs/decisions.md, "Workers let others finish", has the figures.
 *
 * What it may do wrong: a thread that computes does not finish, and each message would wait for the
 * end of its time slice, some 3 ms. So the time that the worker waits for its core is measured, and
 * for a while after long waits it preempts others. The first waits, up to 20 ms of them, stay. */
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/limits.h"
#include "loop_priv.h"

/* By system call: musl's wrappers refuse, because they could not set a whole process's policy. Zero
 * is the calling thread. */
static int policy_of_thread(void)
{
    return (int)syscall(SYS_sched_getscheduler, 0);
}

static int set_policy(int policy)
{
    const struct sched_param none = {.sched_priority = 0};
    return (int)syscall(SYS_sched_setscheduler, 0, policy, &none);
}

void loop_preempt_init(struct loop_preempt *preempt)
{
    /* Another policy is the administrator's choice. */
    *preempt = (struct loop_preempt){.is_ours = policy_of_thread() == SCHED_OTHER};
    if (preempt->is_ours)
        preempt->is_ours = set_policy(SCHED_BATCH) == 0;
}

bool loop_preempt_wanted(struct loop_preempt *preempt, const struct loop_waits *waits,
                         uint64_t now_ns)
{
    if (waits->wait_ns > waits->slices * LIMIT_CORE_WAIT_US * 1000ull)
        preempt->until_ns = now_ns + ms_to_ns(LIMIT_PREEMPT_MS);
    return now_ns < preempt->until_ns;
}

void loop_preempt_update(struct loop_preempt *preempt, const struct loop_waits *waits,
                         uint64_t now_ns)
{
    bool is_wanted = waits == NULL || loop_preempt_wanted(preempt, waits, now_ns);
    if (!preempt->is_ours || is_wanted == preempt->is_on)
        return;
    if (set_policy(is_wanted ? SCHED_OTHER : SCHED_BATCH) < 0)
        preempt->is_ours = false; /* someone has forbidden it: it stays as it is */
    else
        preempt->is_on = is_wanted;
}
