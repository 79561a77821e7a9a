#include "io/resolver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/list.h"
#include "base/metrics.h"
#include "io/mailbox.h"
#include "resolver_priv.h"

enum {
    PATIENCE_NS = LIMIT_RESOLVER_PATIENCE_MS * NS_PER_MS,
    MAILBOX_FULL_MS = 1, /* before a full mailbox is tried again */
    END_STEP_US = 100,
    END_STEPS_LOOK_UP = 100, /* 10 ms for a look-up that may be about to end */
    END_STEPS = 50000,       /* 5 s for threads that only have to get a core */
};

struct resolver_query {
    struct list node; /* in name->askers, or resolver->answered */
    struct resolver *resolver;
    struct name *name; /* while the query is in name->askers; else NULL */
    uint16_t port;
    bool prefer_ipv6;
    struct mailbox *answer_to;
    resolver_answered_fn *answered; /* NULL once abandoned; only the asker's thread uses it */
    void *asker;
    struct resolver_answer answer;
};

/* ---- answers: under the lock, until the keeper posts them ---- */

static void tell_keeper(struct resolver *resolver)
{
    resolver->told = true;
    (void)pthread_cond_signal(&resolver->changed);
}

static void ready(struct resolver_query *query)
{
    query->name = NULL;
    list_push_back(&query->resolver->answered, &query->node);
    tell_keeper(query->resolver);
}

/* Makes the answer. After a failure the last good addresses are the answer, if there are any. */
static void answer_query(struct resolver_query *query, const struct name *name, int error)
{
    if (error == 0 || name->has_good) {
        query->answer.count =
            resolver_choose(&name->good, query->port, query->prefer_ipv6, query->answer.addrs);
        query->answer.is_stale = error != 0;
    } else {
        query->answer = (struct resolver_answer){.error = error};
    }
    ready(query);
}

static void answer_askers(struct name *name, int error)
{
    struct list *node;
    while ((node = list_pop_front(&name->askers)) != NULL)
        answer_query(container_of(node, struct resolver_query, node), name, error);
    name->asker_count = 0;
}

static void deliver_answer(void *owner, const void *payload)
{
    struct resolver_query *query;
    memcpy(&query, payload, sizeof(query));
    struct metrics *metrics = mailbox_metrics(query->answer_to);
    if (query->answer.error < 0)
        metrics_add(metrics, METRIC_NAMES_FAILED, 1);
    else if (query->answer.is_stale)
        metrics_add(metrics, METRIC_NAMES_STALE, 1);
    if (query->answered != NULL)
        query->answered(query->asker, &query->answer);
    free(query);
}

/* Posts all answers to the askers' mailboxes. An answer whose mailbox is full goes back to the
 * list. The function releases `lock` while it posts, so that a worker that asks does not wait for
 * posts to other workers. `posting` keeps resolver_destroy from returning meanwhile: the mailboxes
 * may be freed after that. */
static void post_answers(struct resolver *resolver)
{
    struct list batch, full;
    struct list *node;
    list_init(&batch);
    list_init(&full);
    (void)pthread_mutex_unlock(&resolver->lock);
    (void)pthread_mutex_lock(&resolver->posting);
    (void)pthread_mutex_lock(&resolver->lock);
    if (!resolver->stopping)
        list_move_all(&batch, &resolver->answered);
    (void)pthread_mutex_unlock(&resolver->lock);
    while ((node = list_pop_front(&batch)) != NULL) {
        struct resolver_query *query = container_of(node, struct resolver_query, node);
        int result = mailbox_post(query->answer_to, NULL, deliver_answer, &query,
                                  sizeof(struct resolver_query *));
        if (result == -ENOBUFS)
            list_push_back(&full, node);
        else if (result < 0)
            free(query);
    }
    (void)pthread_mutex_unlock(&resolver->posting);
    (void)pthread_mutex_lock(&resolver->lock);
    while ((node = list_pop_front(&full)) != NULL)
        list_push_back(&resolver->answered, node);
}

/* ---- the resolver's memory ---- */

static void resolver_leave(struct resolver *resolver)
{
    (void)pthread_mutex_lock(&resolver->lock);
    bool is_last = --resolver->users == 0;
    (void)pthread_mutex_unlock(&resolver->lock);
    if (!is_last)
        return;
    struct list *node;
    list_for_each_safe (recent, &resolver->names.recent) {
        struct name *name = container_of(recent, struct name, recent_node);
        list_move_all(&resolver->answered, &name->askers);
        names_remove(&resolver->names, name);
    }
    while ((node = list_pop_front(&resolver->answered)) != NULL)
        free(container_of(node, struct resolver_query, node));
    (void)pthread_mutex_destroy(&resolver->posting);
    (void)pthread_mutex_destroy(&resolver->lock);
    (void)pthread_cond_destroy(&resolver->changed);
    free(resolver);
}

static int resolver_start_thread(struct resolver *resolver, void *(*run)(void *), void *arg)
{
    pthread_attr_t attr;
    pthread_t thread;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, LIMIT_WORKER_STACK);
    int error = pthread_create(&thread, &attr, run, arg);
    (void)pthread_attr_destroy(&attr);
    if (error == 0)
        resolver->users++;
    return -error;
}

/* ---- threads that look up ---- */

static bool may_run(const struct name *name, unsigned int others)
{
    unsigned int limit = name->is_in_hosts ? LIMIT_RESOLVER_THREADS
                         : name->is_slow   ? LIMIT_RESOLVER_SLOW
                                           : LIMIT_RESOLVER_UNKNOWN;
    return others < limit;
}

/* The first name in the queue that may be looked up while `others` look-ups are running. */
static struct name *take_queued(struct resolver *resolver, unsigned int others)
{
    list_for_each (node, &resolver->queue) {
        struct name *name = container_of(node, struct name, queue_node);
        if (!may_run(name, others))
            continue;
        list_remove(&name->queue_node);
        name->state = NAME_RUNNING;
        name->begun_at_ns = clock_monotonic_ns();
        return name;
    }
    return NULL;
}

/* found is NULL if the result is an error. is_final: see resolver_ask_system. */
static void resolver_take_result(struct name *name, const struct name_addresses *found, int result,
                                 bool is_final)
{
    uint64_t now_ns = clock_monotonic_ns();
    name->state = NAME_IDLE;
    list_remove(&name->impatient_node);
    name->is_slow = now_ns - name->begun_at_ns >= PATIENCE_NS;
    name->is_troubled = result != 0;
    name->error = result;
    if (result == 0) {
        name->good = *found;
        name->good_count++;
    } else {
        name->failed_until_ns = now_ns + ms_to_ns(LIMIT_RESOLVER_FAILED_MS);
    }
    name->has_good = result == 0 || (name->has_good && !is_final);
    answer_askers(name, result);
    name->ended_in_poll = name->resolver->polls;
    if (name->resolver->event_fd >= 0)
        (void)eventfd_write(name->resolver->event_fd, 1);
}

static void *look_up_thread(void *arg)
{
    struct name *name = arg;
    struct resolver *resolver = name->resolver;
    (void)pthread_mutex_lock(&resolver->lock);
    while (name != NULL && !resolver->stopping) {
        struct name_addresses found;
        bool is_final = false;
        (void)pthread_mutex_unlock(&resolver->lock);
        int result = resolver_ask_system(name->host, &found, &is_final);
        (void)pthread_mutex_lock(&resolver->lock);
        resolver_take_result(name, &found, result, is_final);
        name = take_queued(resolver, resolver->running - 1);
    }
    resolver->running--;
    tell_keeper(resolver);
    (void)pthread_mutex_unlock(&resolver->lock);
    resolver_leave(resolver);
    return NULL;
}

static void start_look_ups(struct resolver *resolver)
{
    struct name *name;
    while ((name = take_queued(resolver, resolver->running)) != NULL) {
        int result = resolver_start_thread(resolver, look_up_thread, name);
        if (result == 0) {
            resolver->running++;
        } else if (resolver->running > 0) {
            name->state = NAME_QUEUED; /* a running thread takes it when it is done */
            list_push_front(&resolver->queue, &name->queue_node);
            return;
        } else {
            resolver_take_result(name, NULL, result, false);
        }
    }
}

/* ---- the keeper: a thread that starts look-ups, watches the time and posts answers ---- */

/* Finds out whether a queued name is in the hosts file and so may use one of the reserved threads.
 * Checks one name per call. Releases the lock while it reads the file. */
static void check_hosts_file(struct resolver *resolver)
{
    char host[ADDR_HOST_SIZE] = "";
    list_for_each (node, &resolver->queue) {
        struct name *name = container_of(node, struct name, queue_node);
        if (!name->hosts_checked) {
            name->hosts_checked = true;
            memcpy(host, name->host, sizeof(host));
            break;
        }
    }
    if (host[0] == '\0')
        return;
    (void)pthread_mutex_unlock(&resolver->lock);
    bool is_in_hosts = resolver_is_in_hosts_file(host);
    (void)pthread_mutex_lock(&resolver->lock);
    struct name *name = names_find(&resolver->names, host);
    if (name != NULL)
        name->is_in_hosts = is_in_hosts;
    tell_keeper(resolver); /* to start this name, and to check the next one */
}

static uint64_t impatient_at_ns(const struct name *name)
{
    return name->asked_at_ns + PATIENCE_NS;
}

/* Gives the last good addresses to everybody who has waited for LIMIT_RESOLVER_PATIENCE_MS. */
static void lose_patience(struct resolver *resolver, uint64_t now_ns)
{
    while (!list_is_empty(&resolver->impatient)) {
        struct name *name = container_of(resolver->impatient.next, struct name, impatient_node);
        if (impatient_at_ns(name) > now_ns)
            return;
        list_remove(&name->impatient_node);
        name->is_troubled = true;
        if (name->has_good)
            answer_askers(name, ERR_RESOLVE);
    }
}

/* When the keeper has to act next, unless tell_keeper wakes it before. */
static uint64_t next_look_ns(const struct resolver *resolver, uint64_t now_ns)
{
    if (!list_is_empty(&resolver->answered))
        return now_ns + ms_to_ns(MAILBOX_FULL_MS);
    if (!list_is_empty(&resolver->impatient))
        return impatient_at_ns(container_of(resolver->impatient.next, struct name, impatient_node));
    return now_ns + ms_to_ns(LIMIT_RESOLVER_IDLE_MS);
}

/* False: there was nothing to do for LIMIT_RESOLVER_IDLE_MS, so the keeper ends. */
static bool wait_for_work(struct resolver *resolver)
{
    uint64_t until_ns = next_look_ns(resolver, clock_monotonic_ns());
    struct timespec until = clock_timespec(until_ns);
    int result = 0;
    while (!resolver->told && !resolver->stopping && result == 0)
        result = pthread_cond_timedwait(&resolver->changed, &resolver->lock, &until);
    return resolver->told || resolver->running > 0 || !list_is_empty(&resolver->impatient) ||
           !list_is_empty(&resolver->answered);
}

static void *keeper_thread(void *arg)
{
    struct resolver *resolver = arg;
    (void)pthread_setname_np(pthread_self(), "resolver");
    if (resolver->thread_begins != NULL)
        resolver->thread_begins(); /* the threads that look up are started from here */
    (void)pthread_mutex_lock(&resolver->lock);
    while (!resolver->stopping && wait_for_work(resolver)) {
        resolver->told = false;
        start_look_ups(resolver);
        if (!list_is_empty(&resolver->queue))
            check_hosts_file(resolver);
        lose_patience(resolver, clock_monotonic_ns());
        if (!list_is_empty(&resolver->answered))
            post_answers(resolver);
    }
    resolver->has_keeper = false;
    (void)pthread_mutex_unlock(&resolver->lock);
    resolver_leave(resolver);
    return NULL;
}

/* ---- called by the owner and by askers ---- */

int resolver_create(struct resolver **ret)
{
    struct resolver *resolver = calloc(1, sizeof(*resolver));
    if (resolver == NULL)
        return -ENOMEM;
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&resolver->changed, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_mutex_init(&resolver->posting, NULL);
    (void)pthread_mutex_init(&resolver->lock, NULL);
    resolver->users = 1;
    resolver->event_fd = resolver->starter_fd = -1;
    resolver->polls = 1;
    list_init(&resolver->answered);
    list_init(&resolver->queue);
    list_init(&resolver->impatient);
    names_init(&resolver->names, resolver);
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
    if (resolver->event_fd >= 0)
        (void)close(take_fd(&resolver->event_fd));
    (void)pthread_cond_signal(&resolver->changed);
    (void)pthread_mutex_unlock(&resolver->lock);
    (void)pthread_mutex_unlock(&resolver->posting);
    /* An idle thread ends as soon as it gets a core, which may take a while on a busy machine. A
     * thread that is stuck in a look-up is left behind; it frees the resolver when it ends. */
    bool is_alone = false, looks_up = false;
    for (unsigned int i = 0; !is_alone && i < (looks_up ? END_STEPS_LOOK_UP : END_STEPS); i++) {
        (void)pthread_mutex_lock(&resolver->lock);
        is_alone = resolver->users == 1;
        looks_up = resolver->running > 0;
        (void)pthread_mutex_unlock(&resolver->lock);
        if (!is_alone)
            (void)usleep(END_STEP_US);
    }
    resolver_leave(resolver);
}

void resolver_queue(struct name *name)
{
    struct resolver *resolver = name->resolver;
    name->state = NAME_QUEUED;
    name->asked_at_ns = clock_monotonic_ns();
    name->hosts_checked = name->is_in_hosts = false;
    list_push_back(&resolver->queue, &name->queue_node);
    list_push_back(&resolver->impatient, &name->impatient_node);
    tell_keeper(resolver);
}

/* Under the lock. False: too many names or askers, or no memory. */
static bool ask_name(struct resolver_query *query, const char *host)
{
    struct resolver *resolver = query->resolver;
    struct name *name = names_get(&resolver->names, host);
    if (name == NULL || name->asker_count >= LIMIT_RESOLVER_ASKERS)
        return false;
    if (name->failed_until_ns > clock_monotonic_ns()) {
        answer_query(query, name, name->error);
        return true;
    }
    if (name->state == NAME_IDLE)
        resolver_queue(name);
    if (name->is_troubled && name->has_good) {
        answer_query(query, name, ERR_RESOLVE);
        return true;
    }
    query->name = name;
    name->asker_count++;
    list_push_back(&name->askers, &query->node);
    return true;
}

static int start_keeper(struct resolver *resolver)
{
    int result = resolver_start_thread(resolver, keeper_thread, resolver);
    resolver->has_keeper = result == 0;
    return result;
}

bool resolver_has_keeper(struct resolver *resolver)
{
    if (resolver->has_keeper || resolver->wants_keeper)
        return true;
    if (resolver->starter_fd < 0)
        return start_keeper(resolver) == 0;
    resolver->wants_keeper = true;
    (void)eventfd_write(resolver->starter_fd, 1);
    return true;
}

void resolver_start_elsewhere(struct resolver *resolver, int starter_fd)
{
    resolver->starter_fd = starter_fd;
}

void resolver_start_wanted(struct resolver *resolver)
{
    (void)pthread_mutex_lock(&resolver->lock);
    int result = resolver->wants_keeper ? start_keeper(resolver) : 0;
    resolver->wants_keeper = false;
    if (result < 0) {
        struct name *name;
        while ((name = take_queued(resolver, 0)) != NULL)
            resolver_take_result(name, NULL, result, false);
        post_answers(resolver);
        resolver->wants_keeper = !list_is_empty(&resolver->answered); /* a mailbox is full */
    }
    (void)pthread_mutex_unlock(&resolver->lock);
}

struct resolver_query *resolver_ask(struct resolver *resolver, const struct host_port *name,
                                    bool prefer_ipv6, struct mailbox *answer_to,
                                    resolver_answered_fn *answered, void *asker)
{
    struct resolver_query *query = calloc(1, sizeof(*query));
    if (query == NULL)
        return NULL;
    list_init(&query->node);
    query->resolver = resolver;
    query->port = name->port;
    query->prefer_ipv6 = prefer_ipv6;
    query->answer_to = answer_to;
    query->answered = answered;
    query->asker = asker;
    query->answer.count = addr_from_numeric(name, &query->answer.addrs[0]) ? 1 : 0;
    (void)pthread_mutex_lock(&resolver->lock);
    bool is_asked = resolver_has_keeper(resolver);
    if (is_asked && query->answer.count > 0)
        ready(query);
    else if (is_asked)
        is_asked = ask_name(query, name->host);
    (void)pthread_mutex_unlock(&resolver->lock);
    if (!is_asked) {
        metrics_add(mailbox_metrics(answer_to), METRIC_NAMES_REFUSED, 1);
        free(query);
        return NULL;
    }
    return query;
}

void resolver_abandon(struct resolver_query *query)
{
    if (query == NULL)
        return;
    query->answered = NULL;
    (void)pthread_mutex_lock(&query->resolver->lock);
    bool is_asker = query->name != NULL;
    if (is_asker) {
        query->name->asker_count--;
        list_remove(&query->node);
    }
    (void)pthread_mutex_unlock(&query->resolver->lock);
    if (is_asker)
        free(query); /* otherwise the answer is on its way, and deliver_answer frees the query */
}
