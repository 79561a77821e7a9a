/* How many descriptors the visitors of UDP services may have on a client. Each address that a
 * stranger sends from costs a socket, so their number needs a bound (client/descriptors.h counts
 * the other descriptors):
 *
 *     0 ................. kept ..................... max ............... for all visitors .. limit
 *     UDP's, whatever      |  UDP's, until a connection |  connections, pipes  |  control channels
 *     crowd of TCP         |  finds no descriptor and   |                      |
 *     visitors comes       |  takes some of these       |                      |
 *
 * The share counts the sockets of all workers and of each worker, so that a worker without any can
 * ask the one that has most.
 *
 * Shared by all workers; all fields are atomic or constant. The counts are approximate while
 * several workers change them: a bound may be exceeded by one socket for each worker, for a
 * turn. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "base/macros.h"

struct udp_share {
    _Atomic unsigned int max;      /* sockets that all workers together may have */
    _Atomic unsigned int open;     /* sockets that they have */
    _Atomic unsigned int channels; /* UDP data channels; while there are none, nothing is kept */
    _Atomic unsigned int wanted;   /* sockets that a worker is asked to close for another */
    unsigned int worker_count;
    _Atomic unsigned int *of_worker;
};

/* -ENOMEM. udp_share_finish accepts a zeroed object. */
MUST_CHECK int udp_share_init(struct udp_share *share, unsigned int workers);
void udp_share_finish(struct udp_share *share);
/* Sets the bound: `percent` of fds, the descriptors for all visitors, but less than `ports`, the
 * local ports there are. Any thread, also while workers use the share. */
void udp_share_set(struct udp_share *share, int fds, unsigned int percent, unsigned int ports);

/* The worker has opened a socket, or closed one. */
void udp_share_add(struct udp_share *share, unsigned int worker);
void udp_share_remove(struct udp_share *share, unsigned int worker);
/* The sockets of a worker. */
unsigned int udp_share_of(const struct udp_share *share, unsigned int worker);

/* How many sockets are closed at a time to make room. */
unsigned int udp_share_batch(const struct udp_share *share);
/* True: less than a batch is left, so room has to be made before the next socket is opened. */
bool udp_share_is_spent(const struct udp_share *share);
/* True: the share is used up. */
bool udp_share_is_over(const struct udp_share *share);
/* How many descriptors TCP visitors must leave for UDP, beyond those that UDP has. */
unsigned int udp_share_kept(const struct udp_share *share);
/* How many sockets UDP may be asked to close for others. */
unsigned int udp_share_spare(const struct udp_share *share);
/* The worker with the most sockets; -1: nobody has any. */
int udp_share_richest(const struct udp_share *share);
