/* The worker threads: one per usable core, each with its ring, made in its own thread, and its part
 * of the role. Started together: no message is sent before all rings are there.
 *
 * struct workers belongs to the main thread; the threads see only their own struct tunnel_worker
 * and what io/ and tunnel/ share. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/macros.h"
#include "tunnel/role.h"

struct workers;

/* Cores that this process may use: its affinity mask, and the CPU quota of its control group. */
unsigned int workers_usable_cores(void);

/* Starts `count` threads with the role; returns when all work. -errno: the cause is logged, and all
 * is undone. */
MUST_CHECK int workers_start(const struct role *role, void *shared, unsigned int count,
                             struct workers **ret);
/* To every worker: enum tunnel_signal. */
void workers_signal(struct workers *workers, uint32_t bits);
/* Asks every worker to answer from its loop; and whether all have, or have ended. */
void workers_tick(struct workers *workers);
bool workers_have_answered(const struct workers *workers);
/* Readable when a worker has ended. */
int workers_ended_fd(const struct workers *workers);
/* True when all have ended; ret_failed: one of them because of an error (logged). */
bool workers_have_ended(struct workers *workers, bool *ret_failed);
/* One line per worker with its counters. */
void workers_log_metrics(const struct workers *workers);
/* Waits for the threads, which must have been told to stop, and frees everything. Accepts NULL. */
void workers_destroy(struct workers *workers);
