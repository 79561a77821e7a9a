/* How many descriptors the visitors of UDP services may have on a client, which pays one for each
 * address that a stranger sends from (client/descriptors.h has the others):
 *
 *     0 ................. kept ..................... max ............... for all visitors .. limit
 *     UDP's, whatever      |  UDP's, until a connection |  connections, pipes  |  control channels
 *     crowd of TCP         |  finds no descriptor and   |                      |
 *     visitors comes       |  takes some of these       |                      |
 *
 * The count is of all workers. Beside it stands what each of them has, so that one without any can
 * ask the one that has most.
 *
 * All of it is atomic and approximate by what is being done at the same moment: a bound may be
 * passed by one socket for each worker, for a turn. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/macros.h"

struct udp_share {
    _Atomic unsigned int max;      /* sockets of all workers */
    _Atomic unsigned int open;     /* of them */
    _Atomic unsigned int channels; /* UDP data channels; without any nothing is kept */
    _Atomic unsigned int wanted;   /* that another worker than the one who asks is to give up */
    unsigned int worker_count;
    _Atomic unsigned int *of_worker;
};

/* -ENOMEM. A zeroed one may be finished. */
MUST_CHECK int udp_share_init(struct udp_share *share, unsigned int workers);
void udp_share_finish(struct udp_share *share);
/* fds: what all visitors may have; percent of that, but never so many that they would be short of
 * ports. Also while workers use it. */
void udp_share_set(struct udp_share *share, int fds, unsigned int percent, unsigned int ports);

/* A socket of that worker's has been opened, or closed. */
void udp_share_add(struct udp_share *share, unsigned int worker);
void udp_share_remove(struct udp_share *share, unsigned int worker);
unsigned int udp_share_of(const struct udp_share *share, unsigned int worker);

/* How many go at a time when room is made. */
unsigned int udp_share_batch(const struct udp_share *share);
/* Room is to be made before the next one comes: there is less than a batch left. */
bool udp_share_is_spent(const struct udp_share *share);
/* Nothing is left at all. */
bool udp_share_is_over(const struct udp_share *share);
/* Descriptors that UDP could have yet, and that TCP visitors must leave to it. */
unsigned int udp_share_kept(const struct udp_share *share);
/* What UDP may be asked to give up for something else. */
unsigned int udp_share_spare(const struct udp_share *share);
/* The worker with most sockets; -1 when nobody has any. */
int udp_share_richest(const struct udp_share *share);
