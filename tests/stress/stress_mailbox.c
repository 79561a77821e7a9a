/* Mailboxes under load: workers with real loops, and threads without one, flood each other with
 * numbered messages. Each sender's messages must arrive in order and none may be lost; every signal
 * must be seen in the end. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/metrics.h"
#include "io/loop.h"
#include "io/mailbox.h"
#include "testing.h"

enum { WORKERS = 3, OUTSIDERS = 2, SENDERS = WORKERS + OUTSIDERS, BATCH = 64, EXIT_SKIP = 77 };

struct message {
    unsigned int sender;
    uint64_t number;
};

struct worker {
    unsigned int index;
    pthread_t thread;
    struct loop *loop;
    struct mailbox *mailbox;
    struct metrics metrics;
    struct timer pump;
    uint64_t expected[SENDERS]; /* the next number of each sender */
    uint64_t next[WORKERS];     /* the next number for each worker */
    uint64_t signals;
    bool failed;
};

static struct worker workers[WORKERS];
static struct mailbox_group *group;
static uint64_t message_count;
static _Atomic bool skip;
static pthread_barrier_t barrier;

static void deliver(void *owner, const void *payload)
{
    struct worker *worker = owner;
    struct message message;
    memcpy(&message, payload, sizeof(message));
    if (message.number != worker->expected[message.sender])
        worker->failed = true;
    worker->expected[message.sender] = message.number + 1;
}

static void on_signals(void *owner, uint32_t bits)
{
    struct worker *worker = owner;
    worker->signals |= bits;
}

/* False: the queue is full. */
static bool send_one(unsigned int sender, unsigned int to, uint64_t number, struct mailbox *from)
{
    struct message message = {sender, number};
    return mailbox_post(workers[to].mailbox, from, deliver, &message, sizeof(message)) == 0;
}

static bool has_all(const struct worker *worker)
{
    for (unsigned int sender = 0; sender < SENDERS; sender++) {
        if (sender != worker->index && worker->expected[sender] != message_count)
            return false;
    }
    return worker->signals == (1u << SENDERS) - 1 - (1u << worker->index);
}

static bool sent_all(const struct worker *worker)
{
    for (unsigned int to = 0; to < WORKERS; to++) {
        if (to != worker->index && worker->next[to] != message_count)
            return false;
    }
    return true;
}

/* Sends in batches, with pauses in which the other workers fall asleep. */
static void pump(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, pump);
    for (unsigned int to = 0; to < WORKERS; to++) {
        for (int i = 0; to != worker->index && i < BATCH && worker->next[to] < message_count; i++) {
            if (!send_one(worker->index, to, worker->next[to], worker->mailbox))
                break;
            if (++worker->next[to] == message_count)
                mailbox_signal(workers[to].mailbox, worker->mailbox, 1u << worker->index);
        }
    }
    if (!sent_all(worker))
        loop_timer_start(worker->loop, timer, worker->next[(worker->index + 1) % WORKERS] % 7 == 0);
}

static void give_up_due(struct timer *timer)
{
    (void)fprintf(stderr, "a wake-up is lost\n");
    _exit(1);
}

static void *worker_thread(void *arg)
{
    struct worker *worker = arg;
    struct loop_options options = {.metrics = &worker->metrics};
    int result = loop_create(&options, &worker->loop);
    if (result < 0)
        atomic_store(&skip, true);
    else
        mailbox_attach(worker->mailbox, worker->loop, worker, on_signals);
    (void)pthread_barrier_wait(&barrier);
    if (atomic_load(&skip))
        return NULL;
    mailbox_self_test(worker->mailbox);
    struct timer give_up;
    timer_init(&give_up, give_up_due);
    loop_timer_start(worker->loop, &give_up, 60000);
    timer_init(&worker->pump, pump);
    loop_timer_start(worker->loop, &worker->pump, 1);
    while (!has_all(worker) || !sent_all(worker)) {
        if (loop_run_once(worker->loop) < 0 || worker->failed) {
            worker->failed = true;
            break;
        }
    }
    /* Submits a wake-up that may be queued. */
    loop_timer_start(worker->loop, &worker->pump, 0);
    if (loop_run_once(worker->loop) < 0)
        worker->failed = true;
    loop_timer_stop(worker->loop, &give_up);
    mailbox_detach(worker->mailbox);
    return NULL;
}

static void *outsider_thread(void *arg)
{
    unsigned int sender = WORKERS + (unsigned int)(uintptr_t)arg;
    (void)pthread_barrier_wait(&barrier);
    if (atomic_load(&skip))
        return NULL;
    for (uint64_t number = 0; number < message_count; number++) {
        for (unsigned int to = 0; to < WORKERS; to++) {
            while (!send_one(sender, to, number, NULL))
                (void)sched_yield();
        }
        if (number % 1000 == 0)
            (void)usleep(500);
    }
    for (unsigned int to = 0; to < WORKERS; to++)
        mailbox_signal(workers[to].mailbox, NULL, 1u << sender);
    return NULL;
}

int main(void)
{
    message_count = 100000 * env_number("STRESS_SCALE", 1);
    pthread_t outsiders[OUTSIDERS];
    if (mailbox_group_create(WORKERS, &group) < 0)
        return 1;
    (void)pthread_barrier_init(&barrier, NULL, SENDERS);
    for (unsigned int i = 0; i < WORKERS; i++) {
        workers[i].index = i;
        workers[i].mailbox = mailbox_of(group, i);
    }
    for (unsigned int i = 0; i < WORKERS; i++)
        (void)pthread_create(&workers[i].thread, NULL, worker_thread, &workers[i]);
    for (unsigned int i = 0; i < OUTSIDERS; i++)
        (void)pthread_create(&outsiders[i], NULL, outsider_thread, (void *)(uintptr_t)i);
    for (unsigned int i = 0; i < OUTSIDERS; i++)
        (void)pthread_join(outsiders[i], NULL);
    bool failed = false;
    uint64_t by_ring = 0;
    for (unsigned int i = 0; i < WORKERS; i++) {
        (void)pthread_join(workers[i].thread, NULL);
        failed = failed || workers[i].failed;
        by_ring += metrics_get(&workers[i].metrics, METRIC_WAKEUPS_SENT);
    }
    for (unsigned int i = 0; i < WORKERS; i++)
        loop_destroy(workers[i].loop);
    mailbox_group_destroy(group);
    if (atomic_load(&skip)) {
        SKIP_LOUDLY("no io_uring");
        return EXIT_SKIP;
    }
    (void)printf("%llu messages to each of %d workers, %llu wake-ups by MSG_RING\n",
                 (unsigned long long)message_count * (SENDERS - 1), WORKERS,
                 (unsigned long long)by_ring);
    return failed ? 1 : 0;
}
