#include "fake_loop.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/metrics.h"
#include "fake_priv.h"
#include "io/buffers.h"
#include "io/schedule.h"

enum {
    OPS_MAX = 16384,
    LOOPS_MAX = 8,
    CLOSES_MAX = 4096,
    FLAG_BUFFER = 1,
    FLAG_MORE_DATA = 2,
    BUFFER_SHIFT = 16,
    TURN_NS = 20000,
    IDLE_STEP_MS = 10,
};

enum fake_kind { KIND_ACCEPT, KIND_RECV, KIND_RECV_SELECT, KIND_SEND, KIND_POLL };

struct fake_op {
    struct loop_op *op;
    enum fake_kind kind;
    int fd;
    uint32_t events;
    bool multishot, exact, once, cancelled, dead;
    void *buffer;
    const void *data;
    size_t size;
};

struct fake_wake {
    struct loop_op *target, *failed;
    int target_fd;
};

struct loop {
    struct schedule schedule;
    uint64_t now_ns;
    struct metrics *metrics;
    struct buffers *buffers;
    struct random random;
    struct fake_faults faults;
    struct fake_op *ops[OPS_MAX];
    size_t op_count;
    int closes[CLOSES_MAX];
    size_t close_count;
    struct loop_op *woken[256];
    size_t woken_count;
    int id_fd;
    unsigned int busy_permille, idle_step_ms, deadly_count;
};

/* Zeroed memory. Uses aligned_alloc, because alloc.c makes the other functions fail. */
static void *allocate(size_t size)
{
    void *memory = aligned_alloc(16, (size + 15) / 16 * 16);
    assert(memory != NULL);
    return memset(memory, 0, size);
}

static struct loop *loops[LOOPS_MAX];
static struct loop *current; /* whose turn it is */
static uint64_t next_seed = 1;
static unsigned int buffers_most = UINT_MAX;

/* ---- randomness ---- */

static bool draw(struct loop *loop, unsigned int permille)
{
    return random_permille(&loop->random, permille);
}

static bool draw_deadly(struct loop *loop, unsigned int permille)
{
    bool hit = draw(loop, permille);
    if (hit)
        loop->deadly_count++;
    return hit;
}

/* ---- faults of calls that move bytes ---- */

struct loop *fake_current(void)
{
    return current;
}

int fake_byte_fault(struct loop *loop, bool sending)
{
    const struct fake_faults *faults = &loop->faults;
    if (draw(loop, faults->eintr))
        return -EINTR;
    if (draw(loop, faults->eagain))
        return -EAGAIN;
    if (draw_deadly(loop, faults->reset))
        return -ECONNRESET;
    if (sending && draw_deadly(loop, faults->epipe))
        return -EPIPE;
    if (draw_deadly(loop, faults->enomem))
        return -ENOMEM;
    return 0;
}

bool fake_connect_fault(struct loop *loop)
{
    return draw_deadly(loop, loop->faults.connect_error);
}

size_t fake_short(struct loop *loop, size_t size)
{
    if (size > 1 && draw(loop, loop->faults.short_count))
        return 1 + random_below(&loop->random, size - 1);
    return size;
}

/* ---- buffers ---- */

struct buffers {
    unsigned char *memory;
    unsigned int count, lent;
    bool *is_lent;
    struct metrics *metrics;
    struct list waiters;
};

static void buffers_make(struct loop *loop, unsigned int count)
{
    struct buffers *buffers = allocate(sizeof(*buffers));
    buffers->count = count;
    buffers->memory = allocate((size_t)count * LIMIT_BUFFER_SIZE);
    buffers->is_lent = allocate(count * sizeof(bool));
    buffers->metrics = loop->metrics;
    list_init(&buffers->waiters);
    loop->buffers = buffers;
}

static int buffers_pick(struct buffers *buffers, struct random *random)
{
    if (buffers->lent == buffers->count)
        return -ENOBUFS;
    unsigned int id = (unsigned int)random_below(random, buffers->count);
    while (buffers->is_lent[id])
        id = (id + 1) % buffers->count;
    return (int)id;
}

struct buffer buffers_from_flags(struct buffers *buffers, uint32_t flags)
{
    if ((flags & FLAG_BUFFER) == 0)
        return (struct buffer){NULL, 0};
    uint16_t id = (uint16_t)(flags >> BUFFER_SHIFT);
    assert(id < buffers->count && buffers->is_lent[id]);
    return (struct buffer){buffers->memory + (size_t)id * LIMIT_BUFFER_SIZE, id};
}

void buffers_recycle(struct buffers *buffers, struct buffer *buffer)
{
    if (buffer->data == NULL)
        return;
    assert(buffers->is_lent[buffer->id]);
    assert(buffer->data == buffers->memory + (size_t)buffer->id * LIMIT_BUFFER_SIZE);
    memset(buffer->data, 0xdd, LIMIT_BUFFER_SIZE); /* so that a use after this shows */
    buffers->is_lent[buffer->id] = false;
    buffers->lent--;
    buffer->data = NULL;
}

void buffers_wait(struct buffers *buffers, struct buffers_waiter *waiter)
{
    metrics_add(buffers->metrics, METRIC_BUFFERS_EXHAUSTED, 1);
    if (list_is_empty(&waiter->node))
        list_push_back(&buffers->waiters, &waiter->node);
}

void buffers_wait_cancel(struct buffers_waiter *waiter)
{
    list_remove(&waiter->node);
}

static void buffers_serve(struct buffers *buffers)
{
    unsigned int available = buffers->count - buffers->lent;
    if (available < buffers->count / 2)
        return;
    struct list *node;
    while (available-- > 0 && (node = list_pop_front(&buffers->waiters)) != NULL) {
        struct buffers_waiter *waiter = container_of(node, struct buffers_waiter, node);
        waiter->available(waiter);
    }
}

/* ---- creating and destroying ---- */

void fake_loop_set_seed(uint64_t seed)
{
    next_seed = seed;
}

void fake_loop_set_buffers_most(unsigned int count)
{
    buffers_most = count;
}

int loop_create(const struct loop_options *options, struct loop **ret)
{
    size_t slot = 0;
    while (slot < LOOPS_MAX && loops[slot] != NULL)
        slot++;
    assert(slot < LOOPS_MAX && options->metrics != NULL);
    struct loop *loop = allocate(sizeof(*loop));
    loop->metrics = options->metrics;
    loop->random.state = next_seed + slot * 77;
    loop->now_ns = 1000000000u;
    loop->idle_step_ms = IDLE_STEP_MS;
    loop->id_fd = eventfd(0, EFD_CLOEXEC);
    unsigned int count = options->buffer_count != 0 ? options->buffer_count : LIMIT_BUFFER_COUNT;
    buffers_make(loop, MIN(count, buffers_most));
    loops[slot] = loop;
    *ret = loop;
    return 0;
}

static void make_closes(struct loop *loop)
{
    for (size_t i = 0; i < loop->close_count; i++)
        (void)close(loop->closes[i]);
    loop->close_count = 0;
}

void loop_destroy(struct loop *loop)
{
    if (loop == NULL)
        return;
    make_closes(loop);
    for (size_t i = 0; i < loop->op_count; i++)
        free(loop->ops[i]);
    free(loop->buffers->memory);
    free(loop->buffers->is_lent);
    free(loop->buffers);
    (void)close(loop->id_fd);
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        if (loops[i] == loop)
            loops[i] = NULL;
    }
    if (current == loop)
        current = NULL;
    free(loop);
}

const char *loop_error_hint(int error)
{
    return "a fake loop";
}

/* ---- starting ops ---- */

static struct fake_op *op_start(struct loop *loop, struct loop_op *op, enum fake_kind kind, int fd)
{
    assert(op->state == LOOP_OP_IDLE && op->done != NULL && fd >= 0);
    assert(loop->op_count < OPS_MAX);
    struct fake_op *fake = allocate(sizeof(*fake));
    *fake = (struct fake_op){.op = op, .kind = kind, .fd = fd};
    loop->ops[loop->op_count++] = fake;
    op->state = LOOP_OP_IN_FLIGHT;
    op->generation++;
    return fake;
}

void loop_accept(struct loop *loop, struct loop_op *op, int fd)
{
    (void)op_start(loop, op, KIND_ACCEPT, fd);
}

void loop_accept_multishot(struct loop *loop, struct loop_op *op, int fd)
{
    op_start(loop, op, KIND_ACCEPT, fd)->multishot = true;
}

void loop_recv(struct loop *loop, struct loop_op *op, int fd, void *buffer, size_t size)
{
    struct fake_op *fake = op_start(loop, op, KIND_RECV, fd);
    fake->buffer = buffer;
    fake->size = size;
}

void loop_recv_select(struct loop *loop, struct loop_op *op, int fd, bool poll_first)
{
    (void)op_start(loop, op, KIND_RECV_SELECT, fd);
}

void loop_note_bulk(struct loop *loop, bool drained)
{
    (void)loop;
    (void)drained;
}

bool loop_flags_more_data(uint32_t flags)
{
    return (flags & FLAG_MORE_DATA) != 0;
}

void loop_send(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size)
{
    struct fake_op *fake = op_start(loop, op, KIND_SEND, fd);
    fake->data = data;
    fake->size = size;
}

void loop_send_once(struct loop *loop, struct loop_op *op, int fd, const void *data, size_t size)
{
    loop_send(loop, op, fd, data, size);
    loop->ops[loop->op_count - 1]->once = true;
}

bool loop_is_crowded(const struct loop *loop)
{
    return draw((struct loop *)loop, loop->faults.crowded);
}

void loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    op_start(loop, op, KIND_POLL, fd)->events = events;
}

void loop_nop(struct loop *loop, struct loop_op *op)
{
    op_start(loop, op, KIND_POLL, loop->id_fd)->events =
        POLLOUT; /* an eventfd is always writable */
}

void loop_poll_exact(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    struct fake_op *fake = op_start(loop, op, KIND_POLL, fd);
    fake->events = events;
    fake->exact = true;
}

void loop_flush(struct loop *loop)
{
    /* Nothing is queued here. */
}

void loop_poll_multishot(struct loop *loop, struct loop_op *op, int fd, uint32_t events)
{
    struct fake_op *fake = op_start(loop, op, KIND_POLL, fd);
    fake->events = events;
    fake->multishot = true;
}

void loop_cancel(struct loop *loop, struct loop_op *op)
{
    if (op->state != LOOP_OP_IN_FLIGHT)
        return;
    for (size_t i = 0; i < loop->op_count; i++) {
        if (loop->ops[i]->op == op && !loop->ops[i]->dead)
            loop->ops[i]->cancelled = true;
    }
    op->state = LOOP_OP_CANCELLING;
}

void loop_close_fd(struct loop *loop, int fd)
{
    assert(fd >= 0 && loop->close_count < CLOSES_MAX);
    loop->closes[loop->close_count++] = fd;
}

void loop_wake(struct loop *from, int target_fd, struct loop_op *target_op,
               struct loop_op *failed_op)
{
    metrics_add(from->metrics, METRIC_WAKEUPS_SENT, 1);
    for (size_t i = 0; i < LOOPS_MAX; i++) {
        struct loop *target = loops[i];
        if (target != NULL && target->id_fd == target_fd) {
            assert(target->woken_count < ARRAY_SIZE(target->woken));
            target->woken[target->woken_count++] = target_op;
        }
    }
}

int loop_fd(const struct loop *loop)
{
    return loop->id_fd;
}

/* ---- executing ---- */

static short ready_events(const struct fake_op *fake)
{
    static const uint32_t wanted[] = {
        [KIND_ACCEPT] = POLLIN,
        [KIND_RECV] = POLLIN,
        [KIND_RECV_SELECT] = POLLIN,
        [KIND_SEND] = POLLOUT,
    };
    uint32_t events = fake->kind == KIND_POLL ? fake->events : wanted[fake->kind];
    if (fake->kind == KIND_POLL && !fake->exact)
        events |= POLLRDHUP; /* as the ring does */
    struct pollfd pollfd = {.fd = fake->fd, .events = (short)events};
    if (poll(&pollfd, 1, 0) < 0)
        return 0;
    return pollfd.revents;
}

/* Marks the op as over before the callback, which may start it again. */
static void complete(struct fake_op *fake, int res, uint32_t flags)
{
    struct loop_op *op = fake->op;
    fake->dead = true;
    op->state = LOOP_OP_IDLE;
    op->done(op, res, flags);
}

static int recv_result(struct loop *loop, struct fake_op *fake, void *buffer, size_t size)
{
    int fault = fake_byte_fault(loop, false);
    if (fault < 0)
        return fault;
    ssize_t got = recv(fake->fd, buffer, fake_short(loop, size), MSG_DONTWAIT);
    return got < 0 ? -errno : (int)got;
}

static void execute_recv_select(struct loop *loop, struct fake_op *fake)
{
    struct buffers *buffers = loop->buffers;
    int id = draw(loop, loop->faults.enobufs) ? -ENOBUFS : buffers_pick(buffers, &loop->random);
    if (id < 0) {
        complete(fake, id, 0);
        return;
    }
    unsigned char *memory = buffers->memory + (size_t)id * LIMIT_BUFFER_SIZE;
    int got = recv_result(loop, fake, memory, LIMIT_BUFFER_SIZE);
    uint32_t flags = 0;
    /* The kernel may pass a buffer with an end of stream, which its owner has to recycle. */
    if (got > 0 || (got == 0 && draw(loop, 300))) {
        buffers->is_lent[id] = true;
        buffers->lent++;
        flags = FLAG_BUFFER | (uint32_t)id << BUFFER_SHIFT;
    }
    /* The hint covers bytes and an end of stream, but not necessarily a reset. */
    short events = ready_events(fake);
    if ((events & POLLIN) != 0 && ((events & POLLERR) == 0 || draw(loop, 500)))
        flags |= FLAG_MORE_DATA;
    complete(fake, got, flags);
}

static void execute_send(struct loop *loop, struct fake_op *fake)
{
    int res = fake_byte_fault(loop, true);
    if (res == 0) {
        ssize_t sent =
            send(fake->fd, fake->data, fake_short(loop, fake->size), MSG_DONTWAIT | MSG_NOSIGNAL);
        res = sent < 0 ? -errno : (int)sent;
    }
    if (res == -EAGAIN && !fake->once)
        return; /* like the ring, wait for room */
    complete(fake, res, 0);
}

static void execute_accept(struct loop *loop, struct fake_op *fake)
{
    if (draw(loop, loop->faults.accept_error)) {
        complete(fake, draw(loop, 500) ? -ECONNABORTED : -EMFILE, 0);
        return;
    }
    int fd = accept4(fake->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno == EAGAIN)
        return;
    if (fd < 0 || !fake->multishot || draw(loop, loop->faults.accept_ends))
        complete(fake, fd < 0 ? -errno : fd, 0);
    else
        fake->op->done(fake->op, fd, 0);
}

static void execute_poll(struct loop *loop, struct fake_op *fake, short events)
{
    if (!fake->multishot) {
        complete(fake, events, 0);
        return;
    }
    /* Multishot polls are edge-triggered and used for eventfds, so reading one rearms it. */
    uint64_t count;
    ssize_t got = read(fake->fd, &count, sizeof(count));
    (void)got;
    fake->op->done(fake->op, events, 0);
}

/* False: the op is not ready. */
static bool execute(struct loop *loop, struct fake_op *fake)
{
    if (fake->dead)
        return false;
    short events = fake->once ? POLLOUT : ready_events(fake);
    if (fake->cancelled && (events == 0 || !draw(loop, loop->faults.lost_cancel))) {
        if (draw(loop, loop->faults.delay / 2))
            return false;
        complete(fake, -ECANCELED, 0);
        return true;
    }
    if (events == 0 || draw(loop, loop->faults.delay))
        return false;
    switch (fake->kind) {
    case KIND_ACCEPT:
        execute_accept(loop, fake);
        break;
    case KIND_RECV:
        complete(fake, recv_result(loop, fake, fake->buffer, fake_short(loop, fake->size)), 0);
        break;
    case KIND_RECV_SELECT:
        execute_recv_select(loop, fake);
        break;
    case KIND_SEND:
        execute_send(loop, fake);
        break;
    case KIND_POLL:
        execute_poll(loop, fake, events);
        break;
    }
    return true;
}

static void shuffle(struct loop *loop, struct fake_op **ops, size_t count)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = random_below(&loop->random, i);
        struct fake_op *swap = ops[i - 1];
        ops[i - 1] = ops[j];
        ops[j] = swap;
    }
}

static void forget_dead(struct loop *loop)
{
    size_t kept = 0;
    for (size_t i = 0; i < loop->op_count; i++) {
        if (loop->ops[i]->dead)
            free(loop->ops[i]);
        else
            loop->ops[kept++] = loop->ops[i];
    }
    loop->op_count = kept;
}

static bool run_ops(struct loop *loop)
{
    size_t count = loop->op_count; /* ops that callbacks start wait for the next turn */
    struct fake_op **turn = allocate((count + 1) * sizeof(struct fake_op *));
    memcpy(turn, loop->ops, count * sizeof(struct fake_op *));
    if (draw(loop, loop->faults.reorder))
        shuffle(loop, turn, count);
    bool worked = false;
    /* In the ring, a send with room completes on submission, before ops that wait. */
    for (int sends = 1; sends >= 0; sends--) {
        for (size_t i = 0; i < count; i++) {
            if ((turn[i]->kind == KIND_SEND) == (sends == 1))
                worked = execute(loop, turn[i]) || worked;
        }
    }
    free(turn);
    forget_dead(loop);
    return worked;
}

static bool run_woken(struct loop *loop)
{
    size_t count = loop->woken_count;
    struct loop_op *woken[ARRAY_SIZE(loop->woken)];
    memcpy(woken, loop->woken, count * sizeof(struct loop_op *));
    loop->woken_count = 0;
    for (size_t i = 0; i < count; i++)
        woken[i]->done(woken[i], 0, 0);
    return count > 0;
}

static void look_again(struct loop *loop)
{
    for (unsigned int i = 0; i < SCHEDULE_LOOKS_MAX; i++) {
        bool woken = run_woken(loop);
        if (!run_ops(loop) && !woken)
            return;
    }
}

int loop_run_once(struct loop *loop)
{
    current = loop;
    make_closes(loop);
    loop->now_ns += TURN_NS;
    bool woken = run_woken(loop);
    bool worked = run_ops(loop) || woken;
    if (!worked && loop->idle_step_ms > 0) {
        uint64_t until_ns = loop->now_ns + loop->idle_step_ms * 1000000ull;
        loop->now_ns = MIN(until_ns, MAX(loop->now_ns, schedule_next_ns(&loop->schedule)));
    }
    schedule_run(&loop->schedule, loop->now_ns);
    if (schedule_deadlines_due(&loop->schedule, loop->now_ns)) {
        look_again(loop);
        schedule_run_deadlines(&loop->schedule, loop->now_ns);
    }
    buffers_serve(loop->buffers);
    return 0;
}

/* ---- the rest of the API ---- */

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

struct metrics *loop_metrics(const struct loop *loop)
{
    return loop->metrics;
}

struct buffers *loop_buffers(const struct loop *loop)
{
    return loop->buffers;
}

void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t delay_ms)
{
    loop_timer_start_ns(loop, timer, delay_ms * 1000000u);
}

void loop_timer_start_ns(struct loop *loop, struct timer *timer, uint64_t delay_ns)
{
    schedule_start(&loop->schedule, timer, loop->now_ns + delay_ns);
}

void loop_deadline_start(struct loop *loop, struct timer *timer, uint64_t delay_ms)
{
    schedule_start_deadline(&loop->schedule, timer, loop->now_ns + delay_ms * 1000000u);
}

void loop_timer_stop(struct loop *loop, struct timer *timer)
{
    schedule_stop(&loop->schedule, timer);
}

unsigned int loop_busy_permille(const struct loop *loop)
{
    return loop->busy_permille;
}

/* ---- for tests ---- */

void fake_loop_set_faults(struct loop *loop, const struct fake_faults *faults)
{
    loop->faults = *faults;
}

void fake_loop_set_idle_step_ms(struct loop *loop, unsigned int ms)
{
    loop->idle_step_ms = ms;
}

void fake_loop_advance_ms(struct loop *loop, uint64_t ms)
{
    loop->now_ns += ms * 1000000u;
}

void fake_loop_stop_ms(struct loop *loop, uint64_t ms)
{
    fake_loop_advance_ms(loop, ms);
    (void)schedule_absent(&loop->schedule, loop->now_ns);
}

void fake_loop_set_busy(struct loop *loop, unsigned int permille)
{
    loop->busy_permille = permille;
}

size_t fake_loop_in_flight(const struct loop *loop)
{
    return loop->op_count + loop->close_count;
}

unsigned int fake_loop_lent(const struct loop *loop)
{
    return loop->buffers->lent;
}

unsigned int fake_loop_deadly_count(const struct loop *loop)
{
    return loop->deadly_count;
}

bool fake_loop_has_timers(const struct loop *loop)
{
    return schedule_next_ns(&loop->schedule) != UINT64_MAX;
}
