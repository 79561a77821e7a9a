#include "tunnel/tunnel_worker.h"

#include <sys/resource.h>

#include "base/limits.h"

enum { WORTH_MOVING_PERMILLE = 250 };

uint64_t tunnel_next_conn_id(struct tunnel_worker *worker)
{
    return ++worker->conn_count * worker->all->count + worker->index;
}

struct tunnel_worker *tunnel_place_relay(struct tunnel_worker *worker)
{
    if (worker->all->count == 1)
        return worker;
    unsigned int own = loop_busy_permille(worker->loop);
    struct tunnel_worker *best = worker;
    unsigned int best_busy = own;
    if (own <= WORTH_MOVING_PERMILLE)
        return worker;
    for (unsigned int i = 0; i < worker->all->count; i++) {
        unsigned int busy = loop_busy_permille(worker->all->items[i].loop);
        if (busy < best_busy) {
            best = &worker->all->items[i];
            best_busy = busy;
        }
    }
    return own - best_busy > WORTH_MOVING_PERMILLE ? best : worker;
}

struct tunnel_worker *tunnel_place_bulk(struct tunnel_worker *worker)
{
    unsigned int own = relay_engine_bulk_flows(&worker->relays);
    struct tunnel_worker *best = worker;
    unsigned int best_flows = own;
    for (unsigned int i = 0; i < worker->all->count; i++) {
        unsigned int flows = relay_engine_bulk_flows(&worker->all->items[i].relays);
        if (flows < best_flows) {
            best = &worker->all->items[i];
            best_flows = flows;
        }
    }
    return own - best_flows >= 2 ? best : worker;
}

int tunnel_fds_for_visitors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT32_MAX)
        return INT32_MAX;
    return (int)limit.rlim_cur - LIMIT_FDS_RESERVED;
}
