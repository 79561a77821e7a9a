#include "server/lobby.h"

#include "base/clock.h"
#include "base/limits.h"
#include "net/transport.h"
#include "tunnel/tunnel_worker.h"

enum {
    LOOK_MS = 2,         /* between two looks for places */
    LET_IN_AT_ONCE = 64, /* some ms of work, then the worker's other connections have their turn */
    RELIEVED_AT_ONCE = 16, /* as many as gate_relieve evicts */
};

struct guest {
    struct list node; /* the first member: the slab overwrites it in free objects */
    int fd;
    struct addr_key key;
    uint64_t since_ns;
};

static struct loop *lobby_loop(const struct lobby *lobby)
{
    return lobby->tunnel->loop;
}

static void guest_leaves(struct lobby *lobby, struct guest *guest)
{
    list_remove(&guest->node);
    slab_put(&lobby->guests, guest);
}

/* False: the guest goes on waiting. */
static bool let_in(struct lobby *lobby, struct guest *guest, enum gate_answer kind)
{
    uint64_t until_ns = guest->since_ns + ms_to_ns(LIMIT_GATE_WAIT_MS);
    enum login_entry how =
        loop_now_ns(lobby_loop(lobby)) >= until_ns ? LOGIN_HAS_TO_ENTER : LOGIN_HAS_WAITED;
    int fd = guest->fd;
    int result = lobby->enter(lobby->tunnel, fd, &guest->key, how, kind);
    if (result == (int)kind)
        return false;
    guest_leaves(lobby, guest);
    if (result < 0)
        transport_close_fd(fd, lobby_loop(lobby));
    return true;
}

static void look_later(struct lobby *lobby)
{
    loop_timer_start(lobby_loop(lobby), &lobby->timer, LOOK_MS);
}

static void look_for_places(struct timer *timer)
{
    struct lobby *lobby = container_of(timer, struct lobby, timer);
    int left = LET_IN_AT_ONCE;
    for (int kind = GATE_WAITS_KNOWN; kind >= GATE_WAITS; kind--) {
        struct list *queue = &lobby->queues[kind];
        while (left > 0 && !list_is_empty(queue) &&
               let_in(lobby, container_of(queue->next, struct guest, node), (enum gate_answer)kind))
            left--;
    }
    if (!list_is_empty(&lobby->queues[0]) || !list_is_empty(&lobby->queues[1]))
        look_later(lobby);
}

void lobby_keep(struct lobby *lobby, int fd, const struct addr_key *key, enum gate_answer kind)
{
    struct guest *guest = slab_get(&lobby->guests);
    if (guest == NULL) {
        metrics_add(&lobby->tunnel->metrics, METRIC_OUT_OF_MEMORY, 1);
        gate_stop_waiting(lobby->gate, key, kind);
        transport_close_fd(fd, lobby_loop(lobby));
        return;
    }
    metrics_add(&lobby->tunnel->metrics, METRIC_STRANGERS_WAITED, 1);
    guest->fd = fd;
    guest->key = *key;
    guest->since_ns = loop_now_ns(lobby_loop(lobby));
    list_push_back(&lobby->queues[kind], &guest->node);
    if (!lobby->timer.armed)
        look_later(lobby);
}

bool lobby_relieve(struct lobby *lobby)
{
    struct list *queue = &lobby->queues[GATE_WAITS], *node;
    bool has_any = !list_is_empty(queue);
    for (int left = RELIEVED_AT_ONCE; left > 0 && (node = queue->next) != queue; left--) {
        struct guest *guest = container_of(node, struct guest, node);
        metrics_add(&lobby->tunnel->metrics, METRIC_STRANGERS_EVICTED, 1);
        metrics_add(&lobby->tunnel->metrics, METRIC_STRANGERS_EVICTED_FDS, 1);
        gate_stop_waiting(lobby->gate, &guest->key, GATE_WAITS);
        loop_close_fd(lobby_loop(lobby), guest->fd); /* a reset, as for all who are evicted */
        guest_leaves(lobby, guest);
    }
    return has_any;
}

void lobby_close_all(struct lobby *lobby)
{
    loop_timer_stop(lobby_loop(lobby), &lobby->timer);
    for (int kind = GATE_WAITS; kind <= GATE_WAITS_KNOWN; kind++) {
        list_for_each_safe (node, &lobby->queues[kind]) {
            struct guest *guest = container_of(node, struct guest, node);
            gate_stop_waiting(lobby->gate, &guest->key, (enum gate_answer)kind);
            transport_close_fd(guest->fd, lobby_loop(lobby));
            guest_leaves(lobby, guest);
        }
    }
}

void lobby_init(struct lobby *lobby, struct tunnel_worker *tunnel, struct gate *gate,
                lobby_enter_fn *enter)
{
    lobby->tunnel = tunnel;
    lobby->gate = gate;
    lobby->enter = enter;
    list_init(&lobby->queues[GATE_WAITS]);
    list_init(&lobby->queues[GATE_WAITS_KNOWN]);
    slab_init(&lobby->guests, sizeof(struct guest));
    timer_init(&lobby->timer, look_for_places);
}

void lobby_finish(struct lobby *lobby)
{
    slab_finish(&lobby->guests);
}
