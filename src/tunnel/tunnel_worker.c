#include "tunnel/tunnel_worker.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "net/recipe.h"
#include "net/stream.h"

enum {
    WORTH_MOVING_PERMILLE = 250, /* of a core: a smaller difference does not count */
    GATHER_PERMILLE = 350,       /* two workers that do so little together are one */
    SPREAD_PERMILLE = 500,       /* far enough from it that no relay goes to and fro */
};

uint64_t tunnel_next_conn_id(struct tunnel_worker *worker)
{
    return ++worker->conn_count * worker->all->count + worker->index;
}

bool tunnel_is_silence(int error)
{
    /* If routers have reported an error meanwhile (ICMP), the kernel reports that instead of
     * ETIMEDOUT (tcp(7)). */
    return error == ERR_DEADLINE || error == -ETIMEDOUT || error == -EHOSTUNREACH ||
           error == -ENETUNREACH;
}

void tunnel_log_silent_end(const struct relay *relay, const char *service, uint64_t id,
                           const char *const ends[2])
{
    static struct log_limit limit;
    uint32_t suppressed;
    if ((relay->error != ERR_UNACKED && relay->error != ERR_SILENT) ||
        !log_allowed(&limit, &suppressed))
        return;
    log_conn(LOG_INFO, service, id, "relay reset: the %s is gone: %s (%u similar lines suppressed)",
             ends[relay->silent_end], error_text(relay->error), suppressed);
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

static unsigned int bulk_flows(const struct tunnel_worker *worker)
{
    return relay_engine_bulk_flows(&worker->relays);
}

/* Of the workers that are less busy the one with fewest bulk flows, `worker` itself if none has
 * less than `others`. */
static struct tunnel_worker *to_spread_to(struct tunnel_worker *worker, unsigned int own_busy,
                                          unsigned int others)
{
    struct tunnel_worker *best = worker;
    unsigned int best_flows = others;
    for (unsigned int i = 0; i < worker->all->count; i++) {
        struct tunnel_worker *other = &worker->all->items[i];
        unsigned int flows = bulk_flows(other);
        if (flows < best_flows && loop_busy_permille(other->loop) < own_busy) {
            best = other;
            best_flows = flows;
        }
    }
    return best;
}

/* One relay of all workers joins another worker in LIMIT_PLACE_MS: the loads that the others see
 * are averages, and many workers would choose the same one. */
static bool may_gather(struct tunnel_worker *worker)
{
    uint64_t now_ns = loop_now_ns(worker->loop);
    uint64_t at_ns = atomic_load_explicit(&worker->all->gather_at_ns, memory_order_relaxed);
    return now_ns >= at_ns &&
           atomic_compare_exchange_strong_explicit(&worker->all->gather_at_ns, &at_ns,
                                                   now_ns + ms_to_ns(LIMIT_PLACE_MS),
                                                   memory_order_relaxed, memory_order_relaxed);
}

/* The first worker that has bulk flows and can take those of `worker` too. Relays go to a worker
 * with more flows, or with as many and a lower index, so that no two workers change places. */
static struct tunnel_worker *to_gather_at(struct tunnel_worker *worker, unsigned int own_busy)
{
    unsigned int own = bulk_flows(worker);
    for (unsigned int i = 0; i < worker->all->count; i++) {
        struct tunnel_worker *other = &worker->all->items[i];
        unsigned int flows = bulk_flows(other);
        bool has_more = flows > own || (flows == own && i < worker->index);
        if (has_more && own_busy + loop_busy_permille(other->loop) <= GATHER_PERMILLE)
            return may_gather(worker) ? other : worker;
    }
    return worker;
}

struct tunnel_worker *tunnel_place_bulk(struct tunnel_worker *worker, const struct relay *relay,
                                        bool is_new)
{
    if (worker->all->count == 1)
        return worker;
    unsigned int busy = loop_busy_permille(worker->loop);
    /* A relay that is bulk both ways would otherwise flee from its own flows, again and again. */
    if (busy > SPREAD_PERMILLE)
        return to_spread_to(worker, busy, bulk_flows(worker) - relay_bulk_flows(relay));
    return is_new ? worker : to_gather_at(worker, busy);
}

int tunnel_use_recipe(struct tunnel_worker *worker, const struct recipe *recipe)
{
    worker->recipe = recipe;
    if (!recipe_has_handshakes(recipe))
        return 0;
    int result = link_engine_create(&worker->links);
    worker->relays.links = worker->links;
    return result;
}

int tunnel_prepare(struct tunnel_worker *worker, const struct recipe_server *server,
                   const struct addr *peer, struct stream *stream)
{
    struct handshake *first;
    int result = recipe_begin(worker->recipe, server, peer, &first);
    if (result == 0 && first != NULL)
        stream_begin(stream, worker->links, first);
    return result;
}

bool tunnel_has_handshakes(const struct tunnel_worker *worker)
{
    return recipe_has_handshakes(worker->recipe);
}

int tunnel_fds_for_visitors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        limit.rlim_cur = RLIM_INFINITY;
    return (int)MIN(limit.rlim_cur, (rlim_t)INT32_MAX) - LIMIT_FDS_RESERVED;
}

bool tunnel_leaves_enough_fds(int fd, const _Atomic unsigned int *half_open, int fd_max)
{
    return fd + (int)atomic_load_explicit(half_open, memory_order_relaxed) < fd_max;
}
