/* How a prepared change gets from the main thread to the workers and back: one plan at a time.
 *
 *     main: prepare --plan_post--> worker: a few steps per turn, then plan_done  (each worker)
 *     main: free what is old <--done_fd-- the last of them
 *
 * A plan is read-only from plan_post on, save for what it says is one worker's. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "io/loop.h"
#include "io/timer.h"

enum { PLAN_STEPS_PER_TURN = 2 /* so that no relay waits for long */ };

struct plan_slot {
    _Atomic(void *) plan;      /* NULL: none is being applied */
    _Atomic unsigned int left; /* workers that have not finished */
    int done_fd;               /* readable when all have */
};

/* -errno. */
MUST_CHECK int plan_slot_init(struct plan_slot *slot);
void plan_slot_finish(struct plan_slot *slot); /* accepts done_fd < 0 */
/* The caller signals the workers afterwards. */
void plan_post(struct plan_slot *slot, void *plan, unsigned int workers);
/* A worker: the plan to be applied. */
static inline void *plan_current(const struct plan_slot *slot)
{
    return atomic_load_explicit(&slot->plan, memory_order_acquire);
}
/* A worker has applied it, and will not look at it again. */
void plan_done(struct plan_slot *slot);
/* The main thread: the plan, once, when all workers are done with it; otherwise NULL. */
void *plan_take_finished(struct plan_slot *slot);

/* A worker's way through a plan: a few steps in a turn, so that no relay waits for long. */
struct plan_walk {
    struct plan_slot *slot;
    struct loop *loop;
    struct timer timer; /* goes on in the next turn */
    size_t at;          /* the next step, for `go_on` to count */
    bool (*go_on)(struct plan_walk *walk);
};

enum plan_step_kind { PLAN_ADD, PLAN_REMOVE, PLAN_CHANGE }; /* a service */

/* go_on: does the next steps, PLAN_STEPS_PER_TURN at the most. True: this worker is done with the
 * plan, and nothing of it is open. */
void plan_walk_init(struct plan_walk *walk, struct plan_slot *slot, struct loop *loop,
                    bool (*go_on)(struct plan_walk *walk));
/* A plan has been posted. */
void plan_walk_begin(struct plan_walk *walk);

/* What a reload has come to; filled in by server/reload.c and client/reload.c. */
struct reload_outcome {
    unsigned int added, removed, changed; /* services */
    unsigned int bound;                   /* services that ran without an address and have it now */
    unsigned int failed;   /* services, or the control port, that stay as they were */
    unsigned int deferred; /* of them: something of ours is in the way that goes with this plan */
    unsigned int replaced; /* of them: removed, to be added by the next attempt */
    unsigned int changes;  /* enum config_change, of the role's own settings */
};

enum reload_attempt {
    RELOAD_FIRST, /* a new configuration: what fails is logged, whatever was before */
    RELOAD_AGAIN, /* at once after the plan before: what was deferred */
    RELOAD_RETRY, /* in a while: what failed, and is not logged again */
};

struct config_peer;

/* How app/reload.c drives a role (role.h); all in the main thread. */
struct reload_ops {
    /* Names that begin will need: begins to look them up; is it over, also for those of attempts
     * that failed; readable when has_looked_up is to be called, -1 = it never is. */
    void (*look_up)(void *shared, const struct config_peer *wanted);
    bool (*has_looked_up)(void *shared);
    int (*names_fd)(void *shared);
    /* Compares with what runs, prepares the difference and posts it: 1 = posted, to be followed by
     * a signal to the workers, 0 = there is nothing to do, -errno = nothing has been changed. */
    int (*begin)(void *shared, const struct config_peer *wanted, enum reload_attempt attempt,
                 uint64_t now_ms, struct reload_outcome *ret);
    struct plan_slot *(*slot)(void *shared);
    /* done_fd is readable: true = the plan was applied, and what it replaced is freed. */
    bool (*finish)(void *shared);
    /* See service_registry_cut_due. */
    bool (*cut_due)(void *shared, uint64_t now_ms, uint64_t *ret_next_ms);
};
