#include "app/worker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "app/limits_check.h"
#include "app/sandbox.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/numbers.h"
#include "io/pipe_pool.h"
#include "io/resolver.h"

struct worker_thread {
    struct workers *workers;
    pthread_t thread;
    bool is_started;
    _Atomic bool has_answered; /* the last tick */
    _Atomic bool has_ended;
};

struct workers {
    const struct role *role;
    void *shared;
    struct tunnel_workers tunnel;
    struct mailbox_group *mailboxes;
    struct worker_thread *threads;
    int ended_fd; /* wakes the main thread, also for a thread of the resolver */

    pthread_mutex_t lock; /* protects the four fields of the start: */
    pthread_cond_t changed;
    unsigned int ready_count, failed_count; /* rings that exist; rings that failed */
    bool go, give_up;

    _Atomic unsigned int ended_count;
    _Atomic bool failed;
    _Atomic bool said_why; /* a ring's error is logged once: the same stops all of them */
};

/* Where a debugger begins (scripts/gdb); nothing here reads it. The way by a thread's stack depends
 * on what the compiler keeps in registers. */
static struct workers *workers_root USED;

/* ---- cores ---- */

static unsigned int cores_of_affinity(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        return (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
    return (unsigned int)CPU_COUNT(&set);
}

/* The CPU quota of this process's control group (cgroups(7), version 2), rounded up to cores;
 * UINT32_MAX if there is none. */
static unsigned int cores_of_quota(void)
{
    char line[512], path[600];
    unsigned int cores = UINT32_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return cores;
    bool found = false;
    while (!found && fgets(line, sizeof(line), file) != NULL)
        found = strncmp(line, "0::", 3) == 0;
    (void)fclose(file);
    if (!found)
        return cores;
    line[strcspn(line, "\n")] = '\0';
    (void)snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", line + 3);
    uint64_t us[2]; /* quota, period; "max" is no number */
    if (numbers_read(path, us, 2) == 2 && us[1] > 0)
        cores = (unsigned int)((us[0] + us[1] - 1) / us[1]);
    return cores;
}

unsigned int workers_usable_cores(void)
{
    unsigned int cores = MIN(cores_of_affinity(), cores_of_quota());
    return MIN(MAX(cores, 1u), (unsigned int)LIMIT_WORKERS);
}

/* ---- a worker's thread ---- */

static void worker_signals(void *owner, uint32_t bits)
{
    struct tunnel_worker *worker = owner;
    struct workers *workers = container_of(worker->all, struct workers, tunnel);
    if ((bits & TUNNEL_SIGNAL_TICK) != 0)
        atomic_store(&workers->threads[worker->index].has_answered, true);
    workers->role->signalled(worker, bits);
}

static int worker_make_loop(struct workers *workers, struct tunnel_worker *worker)
{
    struct loop_options options = {.metrics = &worker->metrics};
    char hint[LIMITS_TEXT_SIZE];
    int result = loop_create(&options, &worker->loop);
    if (result < 0) {
        if (!atomic_exchange(&workers->said_why, true))
            log_error("cannot create an io_uring ring: %s: %s%s", error_text(result),
                      loop_error_hint(result), limits_hint(result, hint));
        return result;
    }
    size_t pipe_budget_bytes = pipe_pool_budget_bytes() / workers->tunnel.count;
    result = relay_engine_init(&worker->relays, worker->loop, pipe_budget_bytes);
    if (result < 0) {
        log_error("cannot start a worker: %s%s", error_text(result), limits_hint(result, hint));
        return result;
    }
    datagram_engine_init(&worker->datagrams, worker->loop);
    mailbox_attach(worker->mailbox, worker->loop, worker, worker_signals);
    return 0;
}

/* Reports the result and waits for the other workers. False: one of them has failed, and this one
 * has to end. */
static bool worker_wait_for_all(struct workers *workers, int result)
{
    (void)pthread_mutex_lock(&workers->lock);
    if (result < 0)
        workers->failed_count++;
    else
        workers->ready_count++;
    (void)pthread_cond_broadcast(&workers->changed);
    while (!workers->go && !workers->give_up)
        (void)pthread_cond_wait(&workers->changed, &workers->lock);
    bool go = workers->go;
    (void)pthread_mutex_unlock(&workers->lock);
    return go && result == 0;
}

static void worker_run(struct workers *workers, struct tunnel_worker *worker)
{
    mailbox_self_test(worker->mailbox);
    int result = workers->role->start(workers->shared, worker);
    while (result == 0 && !(workers->role->is_done(worker) && mailbox_close(worker->mailbox)))
        result = loop_run_once(worker->loop);
    /* The last turn may have left wake-ups of other workers and closes of descriptors. */
    loop_flush(worker->loop);
    if (result < 0) {
        char hint[LIMITS_TEXT_SIZE];
        log_error("worker %u: %s%s", worker->index, error_text(result), limits_hint(result, hint));
        atomic_store(&workers->failed, true);
    }
}

static void *worker_thread(void *arg)
{
    struct worker_thread *thread = arg;
    struct workers *workers = thread->workers;
    struct tunnel_worker *worker = &workers->tunnel.items[thread - workers->threads];
    char name[16];
    (void)snprintf(name, sizeof(name), "worker %u", worker->index);
    (void)pthread_setname_np(pthread_self(), name);

    int result = worker_make_loop(workers, worker);
    sandbox_enter(workers->role->half == CONFIG_SERVER ? SANDBOX_SERVER : SANDBOX_CLIENT);
    if (worker_wait_for_all(workers, result))
        worker_run(workers, worker);

    mailbox_detach(worker->mailbox);
    workers->role->finish(worker);
    relay_engine_finish(&worker->relays);
    datagram_engine_finish(&worker->datagrams);
    link_engine_destroy(worker->links);
    atomic_store(&thread->has_ended, true);
    (void)atomic_fetch_add(&workers->ended_count, 1);
    uint64_t one = 1;
    ssize_t written = write(workers->ended_fd, &one, sizeof(one));
    (void)written;
    return NULL;
}

/* ---- all workers, from the main thread ---- */

static int workers_allocate(struct workers *workers, unsigned int count)
{
    workers->tunnel.count = count;
    /* Aligned to cache lines: neighbours in the array are written by different threads. */
    size_t size = count * sizeof(struct tunnel_worker);
    if (posix_memalign((void **)&workers->tunnel.items, 128, size) != 0)
        workers->tunnel.items = NULL;
    else
        memset(workers->tunnel.items, 0, size); /* whatever fails next, workers_destroy looks */
    workers->threads = calloc(count, sizeof(*workers->threads));
    workers->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (workers->tunnel.items == NULL || workers->threads == NULL)
        return -ENOMEM;
    if (workers->ended_fd < 0)
        return -errno;
    int result = mailbox_group_create(count, &workers->mailboxes);
    if (result < 0)
        return result;
    for (unsigned int i = 0; i < count; i++) {
        workers->tunnel.items[i].index = i;
        workers->tunnel.items[i].all = &workers->tunnel;
        workers->tunnel.items[i].mailbox = mailbox_of(workers->mailboxes, i);
        workers->threads[i].workers = workers;
    }
    result = resolver_create(&workers->tunnel.resolver);
    if (result == 0)
        resolver_start_elsewhere(workers->tunnel.resolver, workers->ended_fd);
    return result;
}

static int start_threads(struct workers *workers)
{
    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, LIMIT_WORKER_STACK);
    int error = 0;
    for (unsigned int i = 0; i < workers->tunnel.count && error == 0; i++) {
        error =
            pthread_create(&workers->threads[i].thread, &attr, worker_thread, &workers->threads[i]);
        workers->threads[i].is_started = error == 0;
    }
    (void)pthread_attr_destroy(&attr);
    return -error;
}

int workers_start(const struct role *role, void *shared, unsigned int count, struct workers **ret)
{
    struct workers *workers = calloc(1, sizeof(*workers));
    if (workers == NULL) {
        log_error("cannot start the workers: %s", error_text(-ENOMEM));
        return -ENOMEM;
    }
    workers_root = workers;
    workers->role = role;
    workers->shared = shared;
    workers->ended_fd = -1;
    (void)pthread_mutex_init(&workers->lock, NULL);
    (void)pthread_cond_init(&workers->changed, NULL);
    int result = workers_allocate(workers, count);
    if (result == 0)
        result = start_threads(workers);
    char hint[LIMITS_TEXT_SIZE];
    if (result < 0)
        log_error("cannot start the workers: %s%s", error_text(result), limits_hint(result, hint));

    (void)pthread_mutex_lock(&workers->lock);
    while (result == 0 && workers->ready_count + workers->failed_count < count)
        (void)pthread_cond_wait(&workers->changed, &workers->lock);
    if (result == 0 && workers->failed_count > 0)
        result = -EIO; /* logged by the worker */
    workers->go = result == 0;
    workers->give_up = result < 0;
    (void)pthread_cond_broadcast(&workers->changed);
    (void)pthread_mutex_unlock(&workers->lock);
    if (result < 0) {
        workers_destroy(workers);
        return result;
    }
    *ret = workers;
    return 0;
}

void workers_signal(struct workers *workers, uint32_t bits)
{
    for (unsigned int i = 0; i < workers->tunnel.count; i++)
        mailbox_signal(mailbox_of(workers->mailboxes, i), NULL, bits);
}

struct succession {
    const struct role *role;
    uint64_t login;
};

static void deliver_succession(void *owner, const void *payload)
{
    struct succession succession;
    memcpy(&succession, payload, sizeof(succession));
    succession.role->succeeded(owner, succession.login);
}

void workers_succeeded(struct workers *workers, uint64_t login)
{
    const struct succession succession = {workers->role, login};
    for (unsigned int i = 0; i < workers->tunnel.count; i++) {
        int result = mailbox_post(mailbox_of(workers->mailboxes, i), NULL, deliver_succession,
                                  &succession, sizeof(succession));
        (void)result; /* then its own time limit has to do */
    }
}

void workers_tick(struct workers *workers)
{
    for (unsigned int i = 0; i < workers->tunnel.count; i++)
        atomic_store(&workers->threads[i].has_answered, false);
    workers_signal(workers, TUNNEL_SIGNAL_TICK);
}

bool workers_have_answered(const struct workers *workers)
{
    for (unsigned int i = 0; i < workers->tunnel.count; i++) {
        const struct worker_thread *thread = &workers->threads[i];
        if (!atomic_load(&thread->has_answered) && !atomic_load(&thread->has_ended))
            return false;
    }
    return true;
}

int workers_ended_fd(const struct workers *workers)
{
    return workers->ended_fd;
}

bool workers_have_ended(struct workers *workers, bool *ret_failed)
{
    uint64_t count;
    ssize_t got = read(workers->ended_fd, &count, sizeof(count));
    (void)got;
    resolver_start_wanted(workers->tunnel.resolver);
    *ret_failed = atomic_load(&workers->failed);
    return atomic_load(&workers->ended_count) == workers->tunnel.count;
}

void workers_log_metrics(const struct workers *workers)
{
    char text[900];
    for (unsigned int i = 0; i < workers->tunnel.count; i++) {
        (void)metrics_format(&workers->tunnel.items[i].metrics, text, sizeof(text));
        /* SIGUSR1 has asked for it, so it is written whatever the level. */
        log_write(LOG_INFO, NULL, 0, "worker %u: %s", i, text);
    }
}

void workers_read(const struct workers *workers, uint64_t sums[static METRIC_COUNT],
                  struct worker_load loads[static LIMIT_WORKERS])
{
    for (unsigned int i = 0; i < workers->tunnel.count; i++) {
        const struct tunnel_worker *worker = &workers->tunnel.items[i];
        for (unsigned int j = 0; j < METRIC_COUNT; j++)
            sums[j] += metrics_get(&worker->metrics, (enum metric)j);
        loads[i].busy_permille = loop_busy_permille(worker->loop);
        loads[i].bulk_flows = relay_engine_bulk_flows(&worker->relays);
    }
}

void workers_destroy(struct workers *workers)
{
    if (workers == NULL)
        return;
    for (unsigned int i = 0; i < workers->tunnel.count; i++) {
        if (workers->threads != NULL && workers->threads[i].is_started)
            (void)pthread_join(workers->threads[i].thread, NULL);
    }
    resolver_destroy(workers->tunnel.resolver);
    /* The rings come last, after all threads have ended: a worker wakes another by that one's
     * ring. */
    for (unsigned int i = 0; workers->tunnel.items != NULL && i < workers->tunnel.count; i++)
        loop_destroy(workers->tunnel.items[i].loop);
    mailbox_group_destroy(workers->mailboxes);
    if (workers->ended_fd >= 0)
        (void)close(workers->ended_fd);
    (void)pthread_mutex_destroy(&workers->lock);
    (void)pthread_cond_destroy(&workers->changed);
    workers_root = NULL;
    free(workers->threads);
    free(workers->tunnel.items);
    free(workers);
}
