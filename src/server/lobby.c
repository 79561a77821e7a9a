#include "server/lobby.h"

#include "base/clock.h"
#include "base/limits.h"
#include "net/transport.h"
#include "server/login.h"
#include "server/server_worker.h"

enum {
    LOOK_MS = 2,         /* between two looks for places */
    LET_IN_AT_ONCE = 64, /* some ms of work, then the worker's other connections have their turn */
};

struct guest {
    struct list node; /* the first member: the slab overwrites it in free objects */
    int fd;
    struct addr_key key;
    uint64_t since_ns;
};

static struct loop *lobby_loop(const struct server_worker *worker)
{
    return worker->tunnel->loop;
}

static void guest_leaves(struct server_worker *worker, struct guest *guest)
{
    list_remove(&guest->node);
    slab_put(&worker->lobby.guests, guest);
}

/* False: the guest goes on waiting. */
static bool let_in(struct server_worker *worker, struct guest *guest, enum gate_answer kind)
{
    uint64_t until_ns = guest->since_ns + ms_to_ns(LIMIT_GATE_WAIT_MS);
    enum login_entry how =
        loop_now_ns(lobby_loop(worker)) >= until_ns ? LOGIN_HAS_TO_ENTER : LOGIN_HAS_WAITED;
    int fd = guest->fd;
    int result = login_enter(worker, fd, &guest->key, how, kind);
    if (result == (int)kind)
        return false;
    guest_leaves(worker, guest);
    if (result < 0)
        transport_close_fd(fd, lobby_loop(worker));
    return true;
}

static void look_later(struct server_worker *worker)
{
    loop_timer_start(lobby_loop(worker), &worker->lobby.timer, LOOK_MS);
}

static void look_for_places(struct timer *timer)
{
    struct server_worker *worker = container_of(timer, struct server_worker, lobby.timer);
    int left = LET_IN_AT_ONCE;
    for (int kind = GATE_WAITS_KNOWN; kind >= GATE_WAITS; kind--) {
        struct list *queue = &worker->lobby.queues[kind];
        while (
            left > 0 && !list_is_empty(queue) &&
            let_in(worker, container_of(queue->next, struct guest, node), (enum gate_answer)kind))
            left--;
    }
    if (!list_is_empty(&worker->lobby.queues[0]) || !list_is_empty(&worker->lobby.queues[1]))
        look_later(worker);
}

void lobby_keep(struct server_worker *worker, int fd, const struct addr_key *key,
                enum gate_answer kind)
{
    struct guest *guest = slab_get(&worker->lobby.guests);
    if (guest == NULL) {
        metrics_add(&worker->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        gate_stop_waiting(&worker->server->gate, kind);
        transport_close_fd(fd, lobby_loop(worker));
        return;
    }
    metrics_add(&worker->tunnel->metrics, METRIC_STRANGERS_WAITED, 1);
    guest->fd = fd;
    guest->key = *key;
    guest->since_ns = loop_now_ns(lobby_loop(worker));
    list_push_back(&worker->lobby.queues[kind], &guest->node);
    if (!worker->lobby.timer.armed)
        look_later(worker);
}

void lobby_close_all(struct server_worker *worker)
{
    loop_timer_stop(lobby_loop(worker), &worker->lobby.timer);
    for (int kind = GATE_WAITS; kind <= GATE_WAITS_KNOWN; kind++) {
        list_for_each_safe (node, &worker->lobby.queues[kind]) {
            struct guest *guest = container_of(node, struct guest, node);
            gate_stop_waiting(&worker->server->gate, (enum gate_answer)kind);
            transport_close_fd(guest->fd, lobby_loop(worker));
            guest_leaves(worker, guest);
        }
    }
}

void lobby_init(struct server_worker *worker)
{
    list_init(&worker->lobby.queues[GATE_WAITS]);
    list_init(&worker->lobby.queues[GATE_WAITS_KNOWN]);
    slab_init(&worker->lobby.guests, sizeof(struct guest));
    timer_init(&worker->lobby.timer, look_for_places);
}

void lobby_finish(struct server_worker *worker)
{
    slab_finish(&worker->lobby.guests);
}
