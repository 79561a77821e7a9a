/* The worker threads, one for each usable core. Each thread makes its own ring, and its part of the
 * role. They start together: no message is sent before all rings exist.
 *
 * struct workers belongs to the main thread. A worker's thread uses its own struct tunnel_worker
 * and what io/ and tunnel/ share. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/macros.h"
#include "base/metrics.h"
#include "tunnel/role.h"

struct workers;

/* The number of cores that this process may use: its affinity mask (sched_getaffinity(2)), and the
 * CPU quota of its control group (cpu.max of version 2). At least 1, at most LIMIT_WORKERS. */
unsigned int workers_usable_cores(void);

/* Starts `count` threads with the role, and returns when all rings exist. -errno: the cause is
 * logged, and everything is undone. */
MUST_CHECK int workers_start(const struct role *role, void *shared, unsigned int count,
                             struct workers **ret);
/* Sends these bits (enum tunnel_signal) to every worker. */
void workers_signal(struct workers *workers, uint32_t bits);
/* Has each worker's role hear of a login of the successor (tunnel/handover.h). A worker whose
 * mailbox is full does not hear of it. */
void workers_succeeded(struct workers *workers, uint64_t login);
/* A tick asks every worker for an answer from its loop. Have all workers answered the last one, or
 * ended? */
void workers_tick(struct workers *workers);
bool workers_have_answered(const struct workers *workers);
/* A descriptor that is readable when a worker has ended. Borrowed. */
int workers_ended_fd(const struct workers *workers);
/* True when all workers have ended. *ret_failed: a worker has ended because of an error, which is
 * logged. */
bool workers_have_ended(struct workers *workers, bool *ret_failed);
/* Writes a line with its counters to the log for each worker, whatever the log level. */
void workers_log_metrics(const struct workers *workers);
/* Adds the workers' counters to `sums`, and writes each worker's load. Any thread. */
struct worker_load {
    unsigned int busy_permille, bulk_flows;
};
void workers_read(const struct workers *workers, uint64_t sums[static METRIC_COUNT],
                  struct worker_load loads[static LIMIT_WORKERS]);
/* Waits for the threads to end, and frees everything. TUNNEL_SIGNAL_STOP must have been sent.
 * Accepts NULL. */
void workers_destroy(struct workers *workers);
