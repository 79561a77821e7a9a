#include "io/lookups.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/list.h"
#include "io/resolver.h"

enum { BUCKETS = 64 };

/* What the threads share with the owner. The last of them frees it. */
struct exchange {
    pthread_mutex_t lock; /* over everything below */
    struct list done;     /* struct job */
    unsigned int users;
    bool is_abandoned;
    int event_fd;
};

/* One look-up; the thread's, then the list's. */
struct job {
    struct list node;
    struct exchange *exchange;
    void (*thread_begins)(void);
    struct host_port name;
    struct resolver_answer answer;
};

enum name_state { NAME_IDLE, NAME_QUEUED, NAME_RUNNING };

struct name {
    struct list node;  /* in its bucket */
    struct list queue; /* while QUEUED */
    enum name_state state;
    bool is_used; /* since lookups_forget_unused */
    char host[ADDR_HOST_SIZE];
    struct resolver_answer found; /* the last good one */
};

struct lookups {
    void (*thread_begins)(void);
    struct exchange *exchange;
    struct list buckets[BUCKETS];
    struct list queue;
    unsigned int queued_count, running_count;
};

/* ---- the names ---- */

static struct list *bucket_of(const struct lookups *lookups, const char *host)
{
    uint32_t hash = 2166136261u; /* FNV-1a: who writes the file writes the names */
    for (const char *at = host; *at != '\0'; at++)
        hash = (hash ^ (unsigned char)*at) * 16777619u;
    return (struct list *)(uintptr_t)&lookups->buckets[hash % BUCKETS];
}

static struct name *find_name(const struct lookups *lookups, const char *host)
{
    list_for_each (node, bucket_of(lookups, host)) {
        struct name *name = container_of(node, struct name, node);
        if (strcmp(name->host, host) == 0)
            return name;
    }
    return NULL;
}

static struct name *add_name(struct lookups *lookups, const char *host)
{
    struct name *name = calloc(1, sizeof(*name));
    if (name == NULL)
        return NULL;
    memcpy(name->host, host, strlen(host) + 1);
    list_init(&name->queue);
    list_push_back(bucket_of(lookups, host), &name->node);
    return name;
}

static void remove_name(struct name *name)
{
    list_remove(&name->node);
    list_remove(&name->queue);
    free(name);
}

/* ---- the threads ---- */

static void exchange_leave(struct exchange *exchange)
{
    (void)pthread_mutex_lock(&exchange->lock);
    bool is_last = --exchange->users == 0;
    (void)pthread_mutex_unlock(&exchange->lock);
    if (!is_last)
        return;
    (void)pthread_mutex_destroy(&exchange->lock);
    free(exchange);
}

static void *job_thread(void *arg)
{
    struct job *job = arg;
    struct exchange *exchange = job->exchange;
    uint64_t one = 1;
    if (job->thread_begins != NULL)
        job->thread_begins();
    resolver_look_up(&job->name, false, &job->answer);
    (void)pthread_mutex_lock(&exchange->lock);
    if (exchange->is_abandoned) {
        free(job);
    } else {
        list_push_back(&exchange->done, &job->node);
        ssize_t written = write(exchange->event_fd, &one, sizeof(one));
        (void)written;
    }
    (void)pthread_mutex_unlock(&exchange->lock);
    exchange_leave(exchange);
    return NULL;
}

static bool start_thread(struct job *job)
{
    pthread_attr_t attr;
    pthread_t thread;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, LIMIT_WORKER_STACK);
    int error = pthread_create(&thread, &attr, job_thread, job);
    (void)pthread_attr_destroy(&attr);
    return error == 0;
}

static void run(struct lookups *lookups, struct name *name)
{
    struct exchange *exchange = lookups->exchange;
    struct job *job = calloc(1, sizeof(*job));
    name->state = NAME_IDLE;
    if (job == NULL)
        return;
    job->exchange = exchange;
    job->thread_begins = lookups->thread_begins;
    memcpy(job->name.host, name->host, sizeof(name->host));
    (void)pthread_mutex_lock(&exchange->lock);
    exchange->users++;
    (void)pthread_mutex_unlock(&exchange->lock);
    if (!start_thread(job)) {
        exchange_leave(exchange);
        free(job);
        return;
    }
    name->state = NAME_RUNNING;
    lookups->running_count++;
}

static void run_queued(struct lookups *lookups)
{
    struct list *node;
    while (lookups->running_count < LIMIT_LOOKUP_THREADS &&
           (node = list_pop_front(&lookups->queue)) != NULL) {
        lookups->queued_count--;
        run(lookups, container_of(node, struct name, queue));
    }
}

/* ---- for the owner ---- */

int lookups_create(void (*thread_begins)(void), struct lookups **ret)
{
    struct lookups *lookups = calloc(1, sizeof(*lookups));
    struct exchange *exchange = calloc(1, sizeof(*exchange));
    int result = lookups != NULL && exchange != NULL ? 0 : -ENOMEM;
    if (result == 0) {
        exchange->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        result = exchange->event_fd < 0 ? -errno : 0;
    }
    if (result < 0) {
        free(exchange);
        free(lookups);
        return result;
    }
    (void)pthread_mutex_init(&exchange->lock, NULL);
    list_init(&exchange->done);
    exchange->users = 1;
    lookups->exchange = exchange;
    lookups->thread_begins = thread_begins;
    list_init(&lookups->queue);
    for (size_t i = 0; i < BUCKETS; i++)
        list_init(&lookups->buckets[i]);
    *ret = lookups;
    return 0;
}

void lookups_destroy(struct lookups *lookups)
{
    if (lookups == NULL)
        return;
    struct exchange *exchange = lookups->exchange;
    struct list *node;
    (void)pthread_mutex_lock(&exchange->lock);
    exchange->is_abandoned = true;
    while ((node = list_pop_front(&exchange->done)) != NULL)
        free(container_of(node, struct job, node));
    (void)close(take_fd(&exchange->event_fd));
    (void)pthread_mutex_unlock(&exchange->lock);
    exchange_leave(exchange);
    for (size_t i = 0; i < BUCKETS; i++) {
        list_for_each_safe (name, &lookups->buckets[i])
            remove_name(container_of(name, struct name, node));
    }
    free(lookups);
}

void lookups_ask(struct lookups *lookups, const struct host_port *wanted)
{
    struct addr addr;
    if (addr_from_numeric(wanted, &addr))
        return;
    struct name *name = find_name(lookups, wanted->host);
    if (name == NULL)
        name = add_name(lookups, wanted->host);
    if (name == NULL)
        return;
    name->is_used = true;
    if (name->state != NAME_IDLE)
        return;
    name->state = NAME_QUEUED;
    lookups->queued_count++;
    list_push_back(&lookups->queue, &name->queue);
    run_queued(lookups);
}

int lookups_fd(const struct lookups *lookups)
{
    return lookups->exchange->event_fd;
}

static void take_answer(struct lookups *lookups, const struct job *job)
{
    struct name *name = find_name(lookups, job->name.host);
    lookups->running_count--;
    assert(name != NULL && name->state == NAME_RUNNING);
    name->state = NAME_IDLE;
    if (job->answer.error == 0)
        name->found = job->answer;
}

void lookups_take(struct lookups *lookups)
{
    struct exchange *exchange = lookups->exchange;
    struct list *node;
    uint64_t count;
    ssize_t got = read(exchange->event_fd, &count, sizeof(count));
    (void)got;
    do {
        (void)pthread_mutex_lock(&exchange->lock);
        node = list_pop_front(&exchange->done);
        (void)pthread_mutex_unlock(&exchange->lock);
        if (node != NULL) {
            struct job *job = container_of(node, struct job, node);
            take_answer(lookups, job);
            free(job);
        }
    } while (node != NULL);
    run_queued(lookups);
}

bool lookups_are_done(const struct lookups *lookups)
{
    return lookups->queued_count == 0 && lookups->running_count == 0;
}

static void set_port(struct addr *addr, uint16_t port)
{
    if (addr->any.sa_family == AF_INET)
        addr->v4.sin_port = htons(port);
    else
        addr->v6.sin6_port = htons(port);
}

size_t lookups_find(const struct lookups *lookups, const struct host_port *wanted,
                    struct addr ret[static LIMIT_ADDRESSES])
{
    if (addr_from_numeric(wanted, &ret[0]))
        return 1;
    const struct name *name = find_name(lookups, wanted->host);
    size_t count = name != NULL ? name->found.count : 0;
    for (size_t i = 0; i < count; i++) {
        ret[i] = name->found.addrs[i];
        set_port(&ret[i], wanted->port); /* one look-up is for all ports */
    }
    return count;
}

void lookups_forget_unused(struct lookups *lookups)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        list_for_each_safe (node, &lookups->buckets[i]) {
            struct name *name = container_of(node, struct name, node);
            if (!name->is_used && name->state == NAME_IDLE)
                remove_name(name);
            else
                name->is_used = false;
        }
    }
}
