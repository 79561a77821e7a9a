#include "io/resolver.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/list.h"
#include "io/mailbox.h"

struct resolver_query {
    struct list node;
    struct host_port name;
    bool prefer_ipv6;
    struct mailbox *answer_to;
    resolver_answered_fn *answered; /* NULL once abandoned; the asker's thread alone touches it */
    void *asker;
    struct resolver_answer answer;
};

struct resolver {
    pthread_mutex_t posting; /* held while an answer is posted; taken before lock */
    pthread_mutex_t lock;    /* over everything below */
    pthread_cond_t changed;
    struct list waiting;
    size_t waiting_count;
    bool stopping;
    bool looking_up;
    bool thread_done; /* so resolver_destroy may free */
};

enum { STEP_US = 100, LOOK_UP_STEPS = 100, IDLE_STEPS = 50000 };

static void take_family(const struct addrinfo *results, int family, uint16_t port,
                        struct resolver_answer *ret)
{
    for (const struct addrinfo *info = results; info != NULL; info = info->ai_next) {
        if (info->ai_family != family || ret->count == LIMIT_ADDRESSES)
            continue;
        struct addr *addr = &ret->addrs[ret->count];
        memset(addr, 0, sizeof(*addr));
        if (family == AF_INET) {
            memcpy(&addr->v4, info->ai_addr, sizeof(addr->v4));
            addr->v4.sin_port = htons(port);
            addr->len = sizeof(addr->v4);
        } else {
            memcpy(&addr->v6, info->ai_addr, sizeof(addr->v6));
            addr->v6.sin6_port = htons(port);
            addr->len = sizeof(addr->v6);
        }
        ret->count++;
    }
}

void resolver_look_up(const struct host_port *name, bool prefer_ipv6, struct resolver_answer *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (addr_from_numeric(name, &ret->addrs[0])) {
        ret->count = 1;
        return;
    }
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *results = NULL;
    int status = getaddrinfo(name->host, NULL, &hints, &results);
    if (status == 0) {
        take_family(results, prefer_ipv6 ? AF_INET6 : AF_INET, name->port, ret);
        take_family(results, prefer_ipv6 ? AF_INET : AF_INET6, name->port, ret);
        freeaddrinfo(results);
    }
    if (ret->count == 0)
        ret->error = status == EAI_MEMORY ? -ENOMEM : ERR_RESOLVE;
}

static void deliver_answer(void *owner, const void *payload)
{
    struct resolver_query *query;
    memcpy(&query, payload, sizeof(query));
    if (query->answered != NULL)
        query->answered(query->asker, &query->answer);
    free(query);
}

static void post_answer(struct resolver_query *query)
{
    int result;
    /* A full mailbox empties: its worker is alive. A detached one never will. */
    while ((result = mailbox_post(query->answer_to, NULL, deliver_answer, &query,
                                  sizeof(struct resolver_query *))) == -ENOBUFS)
        (void)usleep(1000);
    if (result < 0)
        free(query);
}

static void resolver_free(struct resolver *resolver)
{
    struct list *node;
    while ((node = list_pop_front(&resolver->waiting)) != NULL)
        free(container_of(node, struct resolver_query, node));
    (void)pthread_mutex_destroy(&resolver->posting);
    (void)pthread_mutex_destroy(&resolver->lock);
    (void)pthread_cond_destroy(&resolver->changed);
    free(resolver);
}

/* Under a lock of its own, so that resolver_destroy can't return in the middle of a post, and so
 * that a worker that asks never waits for a worker that is answered. */
static void answer(struct resolver *resolver, struct resolver_query *query)
{
    (void)pthread_mutex_lock(&resolver->posting);
    (void)pthread_mutex_lock(&resolver->lock);
    bool stopping = resolver->stopping;
    (void)pthread_mutex_unlock(&resolver->lock);
    if (stopping)
        free(query); /* its mailbox may be gone */
    else
        post_answer(query);
    (void)pthread_mutex_unlock(&resolver->posting);
}

static void *resolver_thread(void *arg)
{
    struct resolver *resolver = arg;
    (void)pthread_mutex_lock(&resolver->lock);
    while (!resolver->stopping) {
        struct list *node = list_pop_front(&resolver->waiting);
        if (node == NULL) {
            (void)pthread_cond_wait(&resolver->changed, &resolver->lock);
            continue;
        }
        resolver->waiting_count--;
        resolver->looking_up = true;
        (void)pthread_mutex_unlock(&resolver->lock);
        struct resolver_query *query = container_of(node, struct resolver_query, node);
        resolver_look_up(&query->name, query->prefer_ipv6, &query->answer);
        answer(resolver, query);
        (void)pthread_mutex_lock(&resolver->lock);
        resolver->looking_up = false;
    }
    resolver->thread_done = true;
    (void)pthread_mutex_unlock(&resolver->lock);
    return NULL;
}

int resolver_create(struct resolver **ret)
{
    struct resolver *resolver = calloc(1, sizeof(*resolver));
    if (resolver == NULL)
        return -ENOMEM;
    list_init(&resolver->waiting);
    (void)pthread_mutex_init(&resolver->posting, NULL);
    (void)pthread_mutex_init(&resolver->lock, NULL);
    (void)pthread_cond_init(&resolver->changed, NULL);

    pthread_attr_t attr;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, LIMIT_WORKER_STACK);
    pthread_t thread;
    int error = pthread_create(&thread, &attr, resolver_thread, resolver);
    (void)pthread_attr_destroy(&attr);
    if (error != 0) {
        resolver_free(resolver);
        return -error;
    }
    *ret = resolver;
    return 0;
}

void resolver_destroy(struct resolver *resolver)
{
    if (resolver == NULL)
        return;
    (void)pthread_mutex_lock(&resolver->posting);
    (void)pthread_mutex_lock(&resolver->lock);
    resolver->stopping = true;
    (void)pthread_cond_signal(&resolver->changed);
    (void)pthread_mutex_unlock(&resolver->lock);
    (void)pthread_mutex_unlock(&resolver->posting);
    /* An idle thread ends as soon as it gets a core, which may take a while on a busy machine; one
     * stuck in a look-up keeps its memory to the end of the process. */
    bool done = false, looking_up = false;
    for (unsigned int i = 0; !done && i < (looking_up ? LOOK_UP_STEPS : IDLE_STEPS); i++) {
        (void)usleep(STEP_US);
        (void)pthread_mutex_lock(&resolver->lock);
        done = resolver->thread_done;
        looking_up = resolver->looking_up;
        (void)pthread_mutex_unlock(&resolver->lock);
    }
    if (done)
        resolver_free(resolver);
}

struct resolver_query *resolver_ask(struct resolver *resolver, const struct host_port *name,
                                    bool prefer_ipv6, struct mailbox *answer_to,
                                    resolver_answered_fn *answered, void *asker)
{
    struct resolver_query *query = calloc(1, sizeof(*query));
    if (query == NULL)
        return NULL;
    list_init(&query->node);
    query->name = *name;
    query->prefer_ipv6 = prefer_ipv6;
    query->answer_to = answer_to;
    query->answered = answered;
    query->asker = asker;
    (void)pthread_mutex_lock(&resolver->lock);
    bool room = resolver->waiting_count < LIMIT_RESOLVER_QUEUE;
    if (room) {
        list_push_back(&resolver->waiting, &query->node);
        resolver->waiting_count++;
        (void)pthread_cond_signal(&resolver->changed);
    }
    (void)pthread_mutex_unlock(&resolver->lock);
    if (!room) {
        free(query);
        return NULL;
    }
    return query;
}

void resolver_abandon(struct resolver_query *query)
{
    if (query != NULL)
        query->answered = NULL;
}
