/* One side of a tunnel, server or client, with its workers on fake loops in one thread. The test
 * plays the other side over sockets:
 *
 *     test --say()---------> socket --> the side's workers
 *     test <--side_read()--- socket <-- the side's workers     side_settle() gives each its turns
 *
 * A function that waits lets the workers take turns. A failed check fails the test. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/keys.h"
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

/* Creates the workers, without a role. 0 or -errno. */
int side_init(struct side *side, unsigned int workers);
/* Starts the role on each worker. A worker that cannot start is finished at once, as in
 * app/worker.c. 0 or -errno. */
int side_start(struct side *side, const struct role *role, void *shared);
/* Stops the role and checks that nothing of it is left. Works after a failed init or start too. */
void side_finish(struct side *side);

/* Lets every worker take this many turns. */
void side_settle(struct side *side, int turns);
void side_advance(struct side *side, uint64_t ms);
/* As if the process had been stopped for this long, while the sockets received. */
void side_stop(struct side *side, uint64_t ms);
/* See fake_loop_set_idle_step_ms. */
void side_set_idle_step_ms(struct side *side, unsigned int ms);
void side_set_faults(struct side *side, const struct fake_faults *faults);
/* Signals all workers, as workers_signal does. */
void side_signal(struct side *side, uint32_t bits);
uint64_t side_metric(const struct side *side, enum metric metric);

/* Sends as much as fits into the socket. */
void say(int fd, const void *bytes, size_t size);
/* Reads size bytes, or fewer if the connection ends or nothing more comes. ret_end: 0 = it is open,
 * 1 = end of stream, or -errno. */
size_t side_read(struct side *side, int fd, void *out, size_t size, int *ret_end);
/* True if these bytes come. */
bool side_expect(struct side *side, int fd, const void *bytes, size_t size);
/* Reads up to the end: 0 = it is still open, 1 = end of stream, or -errno. */
int side_end_of(struct side *side, int fd);
/* Logs a client in over a connection in the clear. Returns the Ack, or -1 without one. */
int side_log_in(struct side *side, int fd, const char *service, const char *token,
                uint8_t ret_session_key[static KEYS_DIGEST_SIZE]);
/* The first service in a server's file. */
struct server;
struct service *side_first_service(struct server *server);

/* Parses a test's file, which must be valid. The caller destroys it. */
struct config *side_config(const char *text);
