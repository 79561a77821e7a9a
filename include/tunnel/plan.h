/* A plan is a prepared reload on its way from the main thread through the workers and back. There
 * is one plan at a time.
 *
 *     main: prepare --plan_post--> worker: a few steps per turn, then plan_done  (each worker)
 *     main: free what is old <--done_fd-- the last of them
 *
 * A plan is read-only from plan_post on, except for the parts that it says belong to one worker. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "io/loop.h"
#include "io/timer.h"

enum { PLAN_STEPS_PER_TURN = 2 /* so that no relay waits for long */ };

struct plan_slot {
    _Atomic(void *) plan;      /* NULL: no plan is being applied */
    _Atomic unsigned int left; /* workers that have not finished the plan */
    int done_fd;               /* an eventfd that is readable when all have */
};

/* -errno. */
MUST_CHECK int plan_slot_init(struct plan_slot *slot);
void plan_slot_finish(struct plan_slot *slot); /* accepts done_fd < 0 */
/* Posts a plan. The main thread signals the workers afterwards. There must be no other plan. */
void plan_post(struct plan_slot *slot, void *plan, unsigned int workers);
/* For a worker: the plan to be applied. */
static inline void *plan_current(const struct plan_slot *slot)
{
    return atomic_load_explicit(&slot->plan, memory_order_acquire);
}
/* For a worker: it has applied the plan and does not use it any more. */
void plan_done(struct plan_slot *slot);
/* For the main thread: returns the plan, once, when all workers have finished it; otherwise NULL.
 * The caller then owns it. */
void *plan_take_finished(struct plan_slot *slot);

/* A worker's progress through a plan: a few steps in each turn, so that no relay waits for long. */
struct plan_walk {
    struct plan_slot *slot;
    struct loop *loop;
    struct timer timer; /* runs go_on in the next turn */
    size_t at;          /* the next step; go_on counts it */
    bool (*go_on)(struct plan_walk *walk);
};

enum plan_step_kind { PLAN_ADD, PLAN_REMOVE, PLAN_CHANGE }; /* a service */

/* go_on does the next steps, at most PLAN_STEPS_PER_TURN. It returns true when this worker has
 * finished the plan and has nothing of it in progress. */
void plan_walk_init(struct plan_walk *walk, struct plan_slot *slot, struct loop *loop,
                    bool (*go_on)(struct plan_walk *walk));
/* To be called when a plan was posted. */
void plan_walk_begin(struct plan_walk *walk);

/* The outcome of an attempt to reload; server/reload.c and client/reload.c fill it in. */
struct reload_outcome {
    unsigned int added, removed, changed; /* services */
    unsigned int bound;                   /* services that had no address and have one now */
    unsigned int failed;   /* services, or the control port, that stay as they were */
    unsigned int deferred; /* of the failed: tried again right behind this plan */
    unsigned int replaced; /* of the failed: removed by this plan, added by the next attempt */
    unsigned int changes;  /* enum config_change, of the role's own settings */
};

enum reload_attempt {
    RELOAD_FIRST,    /* a new configuration: every failure is logged */
    RELOAD_AGAIN,    /* follows the plan at once, for what was deferred */
    RELOAD_RETRY,    /* after a while, for what failed; not logged again */
    RELOAD_ON_LOGIN, /* for services that come and go with their clients */
};

struct config_peer;
struct recipe;

/* How app/reload.c drives a role (role.h). All functions run in the main thread and do not
 * block. */
struct reload_ops {
    /* look_up starts the look-ups of the names that `begin` will need. has_looked_up: all are
     * answered, also those of attempts that failed. names_fd is readable when has_looked_up should
     * be called; -1: never. */
    void (*look_up)(void *shared, const struct config_peer *wanted);
    bool (*has_looked_up)(void *shared);
    int (*names_fd)(void *shared);
    /* Compares `wanted` with what runs, prepares the difference and posts it as a plan. recipe: for
     * `wanted`, held if it is used; NULL: made if it is needed, and not compared. 1: posted, the
     * caller signals the workers; 0: there is nothing to apply; -errno: nothing was changed. */
    int (*begin)(void *shared, const struct config_peer *wanted, struct recipe *recipe,
                 enum reload_attempt attempt, uint64_t now_ms, struct reload_outcome *ret);
    struct plan_slot *(*slot)(void *shared);
    /* Services that come and go with their clients. The descriptor is readable when on_login_due
     * should be called; -1: never. True: `begin` has something to do (RELOAD_ON_LOGIN).
     * *ret_next_ms: when to call again in any case; UINT64_MAX: no time is known. */
    int (*on_login_fd)(void *shared);
    bool (*on_login_due)(void *shared, uint64_t now_ms, uint64_t *ret_next_ms);
    /* To be called when done_fd is readable. True: the plan is applied, and what it replaced is
     * freed. */
    bool (*finish)(void *shared);
    /* As service_registry_cut_due. */
    bool (*cut_due)(void *shared, uint64_t now_ms, uint64_t *ret_next_ms);
};
