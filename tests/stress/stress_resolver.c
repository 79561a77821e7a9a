/* The resolver under load: workers with real loops ask for names that resolve fast, slowly, never
 * or now and then, and abandon some questions, while another thread polls for the same names. Each
 * question must get one answer, an abandoned one none, and a name must not be looked up twice at a
 * time. The resolver is destroyed while look-ups are running. */
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/metrics.h"
#include "io/loop.h"
#include "io/mailbox.h"
#include "io/resolver.h"
#include "testing.h"

enum { WORKERS = 3, NAMES = 40, OUTSTANDING = 64, EXIT_SKIP = 77, GIVE_UP_MS = 60000 };

/* ---- the system's look-ups ---- */

static _Atomic int going_on[NAMES];
static _Atomic bool failed;
static _Atomic uint64_t look_up_count;

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
void __wrap_freeaddrinfo(struct addrinfo *results);

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    struct result {
        struct addrinfo info;
        struct sockaddr_in addr;
    };
    unsigned int index = (unsigned int)strtoul(host + 4, NULL, 10);
    uint64_t number = atomic_fetch_add(&look_up_count, 1);
    if (atomic_fetch_add(&going_on[index], 1) != 0)
        atomic_store(&failed, true);
    (void)usleep(index % 8 == 7 ? 20000 : (unsigned int)(number % 5) * 100);
    (void)atomic_fetch_sub(&going_on[index], 1);
    if (index % 8 == 6 || (index % 8 == 5 && number % 2 == 0))
        return number % 3 == 0 ? EAI_NONAME : EAI_AGAIN;
    struct result *result = calloc(1, sizeof(*result));
    if (result == NULL)
        return EAI_MEMORY;
    result->info.ai_family = AF_INET;
    result->info.ai_addr = (struct sockaddr *)(void *)&result->addr;
    result->addr.sin_family = AF_INET;
    result->addr.sin_addr.s_addr = htonl(0x0a000000u + index);
    *ret = &result->info;
    return 0;
}

void __wrap_freeaddrinfo(struct addrinfo *results)
{
    free(results);
}

/* ---- workers that ask ---- */

struct worker;

struct question {
    struct worker *worker;
    struct resolver_query *query; /* NULL: no question is open */
    unsigned int index;
};

struct worker {
    pthread_t thread;
    struct loop *loop;
    struct mailbox *mailbox;
    struct resolver *resolver;
    struct metrics metrics;
    struct timer pump;
    struct random random;
    uint64_t left; /* questions still to be asked */
    unsigned int open_count;
    struct question questions[OUTSTANDING];
};

static struct worker workers[WORKERS];
static _Atomic bool skip, workers_are_done;
static pthread_barrier_t barrier;

static bool is_address_of(const struct addr *addr, unsigned int index)
{
    return ntohl(addr->v4.sin_addr.s_addr) - 0x0a000000u == index && addr_port(addr) == index + 1;
}

static struct host_port name_of(unsigned int index)
{
    struct host_port name = {.port = (uint16_t)(index + 1)};
    (void)snprintf(name.host, sizeof(name.host), "name%u", index);
    return name;
}

static void answered(void *asker, const struct resolver_answer *answer)
{
    struct question *question = asker;
    if (question->query == NULL) /* it was abandoned, or has its answer already */
        atomic_store(&failed, true);
    if (answer->error == 0 &&
        (answer->count != 1 || !is_address_of(&answer->addrs[0], question->index)))
        atomic_store(&failed, true);
    question->query = NULL;
    question->worker->open_count--;
}

static void ask(struct worker *worker, struct question *question)
{
    question->worker = worker;
    question->index = (unsigned int)random_below(&worker->random, NAMES);
    struct host_port name = name_of(question->index);
    question->query =
        resolver_ask(worker->resolver, &name, false, worker->mailbox, answered, question);
    if (question->query == NULL) {
        atomic_store(&failed, true);
        return;
    }
    worker->open_count++;
    worker->left--;
}

static void abandon(struct question *question)
{
    resolver_abandon(question->query);
    question->query = NULL;
    question->worker->open_count--;
}

static void pump(struct timer *timer)
{
    struct worker *worker = container_of(timer, struct worker, pump);
    for (unsigned int i = 0; i < OUTSTANDING; i++) {
        struct question *question = &worker->questions[i];
        if (question->query == NULL && worker->left > 0)
            ask(worker, question);
        else if (question->query != NULL && random_permille(&worker->random, 20))
            abandon(question);
    }
    if (worker->left > 0 || worker->open_count > 0)
        loop_timer_start(worker->loop, timer, random_below(&worker->random, 2));
}

static void no_signals(void *owner, uint32_t bits)
{
}

static void give_up_due(struct timer *timer)
{
    (void)fprintf(stderr, "an answer is lost\n");
    _exit(1);
}

static void *worker_thread(void *arg)
{
    struct worker *worker = arg;
    struct loop_options options = {.metrics = &worker->metrics};
    if (loop_create(&options, &worker->loop) < 0)
        atomic_store(&skip, true);
    else
        mailbox_attach(worker->mailbox, worker->loop, worker, no_signals);
    (void)pthread_barrier_wait(&barrier);
    if (atomic_load(&skip))
        return NULL;
    struct timer give_up;
    timer_init(&give_up, give_up_due);
    loop_timer_start(worker->loop, &give_up, GIVE_UP_MS);
    timer_init(&worker->pump, pump);
    loop_timer_start(worker->loop, &worker->pump, 1);
    while ((worker->left > 0 || worker->open_count > 0) && !atomic_load(&failed)) {
        if (loop_run_once(worker->loop) < 0)
            atomic_store(&failed, true);
    }
    loop_timer_stop(worker->loop, &worker->pump);
    loop_timer_stop(worker->loop, &give_up);
    /* Leave some look-ups running. */
    worker->left = OUTSTANDING;
    for (unsigned int i = 0; i < OUTSTANDING && !atomic_load(&failed); i++)
        ask(worker, &worker->questions[i]);
    for (unsigned int i = 0; i < OUTSTANDING; i++)
        abandon(&worker->questions[i]);
    /* End as a worker does (app/worker.c): answers that were posted are still in the mailbox. */
    while (!mailbox_close(worker->mailbox) && !atomic_load(&failed)) {
        if (loop_run_once(worker->loop) < 0)
            atomic_store(&failed, true);
    }
    mailbox_detach(worker->mailbox);
    return NULL;
}

/* ---- a thread that polls ---- */

static void begin_and_find(struct resolver *resolver, unsigned int index)
{
    struct addr addrs[LIMIT_ADDRESSES];
    struct host_port name = name_of(index);
    resolver_begin(resolver, &name);
    size_t count = resolver_find(resolver, &name, addrs);
    if (count > 1 || (count == 1 && !is_address_of(&addrs[0], index)))
        atomic_store(&failed, true);
}

static void *poller_thread(void *arg)
{
    struct resolver *resolver = arg;
    struct random random = {WORKERS + 1};
    struct pollfd fd = {.fd = resolver_fd(resolver), .events = POLLIN};
    while (!atomic_load(&workers_are_done)) {
        begin_and_find(resolver, (unsigned int)random_below(&random, NAMES));
        (void)poll(&fd, 1, 1);
        (void)resolver_poll(resolver);
    }
    while (!resolver_poll(resolver)) {
        if (poll(&fd, 1, GIVE_UP_MS) != 1)
            give_up_due(NULL);
    }
    for (unsigned int i = 0; i < NAMES; i++)
        begin_and_find(resolver, i);
    return NULL;
}

static void run(uint64_t count)
{
    struct mailbox_group *group;
    struct resolver *resolver;
    pthread_t poller;
    if (mailbox_group_create(WORKERS, &group) < 0 || resolver_create_polled(NULL, &resolver) < 0) {
        atomic_store(&failed, true);
        return;
    }
    (void)pthread_barrier_init(&barrier, NULL, WORKERS);
    for (unsigned int i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.resolver = resolver, .random = {i + 1}, .left = count};
        workers[i].mailbox = mailbox_of(group, i);
        (void)pthread_create(&workers[i].thread, NULL, worker_thread, &workers[i]);
    }
    atomic_store(&workers_are_done, false);
    (void)pthread_create(&poller, NULL, poller_thread, resolver);
    for (unsigned int i = 0; i < WORKERS; i++)
        (void)pthread_join(workers[i].thread, NULL);
    atomic_store(&workers_are_done, true);
    (void)pthread_join(poller, NULL);
    resolver_destroy(resolver);
    for (unsigned int i = 0; i < WORKERS; i++)
        loop_destroy(workers[i].loop);
    mailbox_group_destroy(group);
    (void)pthread_barrier_destroy(&barrier);
    /* Wait for threads that were left behind. Otherwise the next round may look the same name up
     * beside them, which counts as an error. */
    for (unsigned int i = 0; i < NAMES; i++) {
        while (atomic_load(&going_on[i]) > 0)
            (void)usleep(1000);
    }
}

int main(void)
{
    uint64_t count = 3000 * env_number("STRESS_SCALE", 1);
    for (unsigned int round = 0; round < 4 && !atomic_load(&skip) && !atomic_load(&failed); round++)
        run(count);
    if (atomic_load(&skip)) {
        SKIP_LOUDLY("no io_uring");
        return EXIT_SKIP;
    }
    (void)printf("%llu questions, %llu look-ups\n", (unsigned long long)count * WORKERS * 4,
                 (unsigned long long)atomic_load(&look_up_count));
    return atomic_load(&failed) ? 1 : 0;
}
