#include "client/udp_share.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/limits.h"

static unsigned int udp_share_load(const _Atomic unsigned int *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

int udp_share_init(struct udp_share *share, unsigned int workers)
{
    share->worker_count = workers;
    share->of_worker = calloc(workers, sizeof(*share->of_worker));
    return share->of_worker != NULL ? 0 : -ENOMEM;
}

void udp_share_finish(struct udp_share *share)
{
    free(share->of_worker);
    share->of_worker = NULL;
}

void udp_share_set(struct udp_share *share, int fds, unsigned int percent, unsigned int ports)
{
    int64_t of_fds = (int64_t)MAX(fds, 0) * percent / 100;
    /* The kernel searches long for the last free ports, and this thread waits for it. */
    int64_t of_ports = ports - ports / LIMIT_UDP_PORTS_LEFT_PART;
    atomic_store(&share->max, (unsigned int)MAX(MIN(of_fds, of_ports), 1));
}

void udp_share_add(struct udp_share *share, unsigned int worker)
{
    (void)atomic_fetch_add(&share->open, 1);
    (void)atomic_fetch_add(&share->of_worker[worker], 1);
}

void udp_share_remove(struct udp_share *share, unsigned int worker)
{
    assert(udp_share_load(&share->of_worker[worker]) > 0);
    (void)atomic_fetch_sub(&share->open, 1);
    (void)atomic_fetch_sub(&share->of_worker[worker], 1);
}

unsigned int udp_share_of(const struct udp_share *share, unsigned int worker)
{
    return udp_share_load(&share->of_worker[worker]);
}

unsigned int udp_share_batch(const struct udp_share *share)
{
    unsigned int part = udp_share_load(&share->max) / LIMIT_UDP_EVICT_PART;
    return MIN(MAX(part, 1u), (unsigned int)LIMIT_UDP_EVICT_BATCH);
}

bool udp_share_is_spent(const struct udp_share *share)
{
    return udp_share_load(&share->open) + udp_share_batch(share) > udp_share_load(&share->max);
}

bool udp_share_is_over(const struct udp_share *share)
{
    return udp_share_load(&share->open) >= udp_share_load(&share->max);
}

static unsigned int floor_of(const struct udp_share *share)
{
    return udp_share_load(&share->channels) > 0 ? udp_share_load(&share->max) / LIMIT_UDP_KEPT_PART
                                                : 0;
}

unsigned int udp_share_kept(const struct udp_share *share)
{
    unsigned int least = floor_of(share), open = udp_share_load(&share->open);
    return least > open ? least - open : 0;
}

unsigned int udp_share_spare(const struct udp_share *share)
{
    unsigned int least = floor_of(share), open = udp_share_load(&share->open);
    return open > least ? open - least : 0;
}

int udp_share_richest(const struct udp_share *share)
{
    int richest = -1;
    unsigned int most = 0;
    for (unsigned int i = 0; i < share->worker_count; i++) {
        unsigned int count = udp_share_load(&share->of_worker[i]);
        if (count > most) {
            richest = (int)i;
            most = count;
        }
    }
    return richest;
}
