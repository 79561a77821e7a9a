/* One side of a tunnel, server or client, with workers on fake loops in one thread; and how a test
 * talks to it in the other side's place:
 *
 *     test --say()---------> socket --> the side's workers
 *     test <--side_read()--- socket <-- the side's workers     side_settle() gives each its turns
 *
 * Whatever waits lets the workers take turns. A failed check is a failed test. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fake_loop.h"
#include "tunnel/role.h"

enum { SIDE_WORKERS_MAX = 2 };

struct side {
    const struct role *role;
    struct tunnel_workers all;
    struct tunnel_worker workers[SIDE_WORKERS_MAX];
    bool attached[SIDE_WORKERS_MAX], started[SIDE_WORKERS_MAX];
    struct mailbox_group *mailboxes;
};

/* Makes the workers, without a role. */
int side_init(struct side *side, unsigned int workers);
/* Starts the role on each; one that cannot start is finished at once, as in app/worker.c. */
int side_start(struct side *side, const struct role *role, void *shared);
/* Stops the role: nothing may be left of it. Accepts what has only half begun. */
void side_finish(struct side *side);

/* So many turns of every worker. */
void side_settle(struct side *side, int turns);
void side_advance(struct side *side, uint64_t ms);
/* The process was stopped for so long; what was said meanwhile is there. */
void side_stop(struct side *side, uint64_t ms);
/* See fake_loop_set_idle_step_ms. */
void side_set_idle_step_ms(struct side *side, unsigned int ms);
void side_set_faults(struct side *side, const struct fake_faults *faults);
/* To all workers, as workers_signal does. */
void side_signal(struct side *side, uint32_t bits);
uint64_t side_metric(const struct side *side, enum metric metric);

/* As much as fits into the socket. */
void say(int fd, const void *bytes, size_t size);
/* size bytes, or fewer when the connection ends: ret_end 0 = it goes on, 1 = end of stream, -errno.
 */
size_t side_read(struct side *side, int fd, void *out, size_t size, int *ret_end);
/* True when exactly these bytes come. */
bool side_expect(struct side *side, int fd, const void *bytes, size_t size);
/* Reads to the end: 0 = it goes on, 1 = end of stream, -errno. */
int side_end_of(struct side *side, int fd);
/* Of a server: the first service in its file. */
struct server;
struct service *side_first_service(struct server *server);

/* The file of a test that must be valid; config_destroy. */
struct config *side_config(const char *text);
