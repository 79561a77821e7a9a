/* The resolver. The linker replaces getaddrinfo(3) by one whose answers and timing the test
 * decides. */
#include "base/clock.h"
#include "io/resolver.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "io/mailbox.h"
#include "resolver_priv.h"
#include "ring.h"

/* ---- the test's getaddrinfo ---- */

static sem_t look_ups; /* one post lets one look-up of a "slow..." name go on */
static _Atomic unsigned int look_up_count;
/* How a look-up of "moody" ends. */
static _Atomic enum { MOOD_GOOD, MOOD_DEAD, MOOD_STUCK, MOOD_GONE } mood;
static _Atomic unsigned char moody_address = 1;

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
void __wrap_freeaddrinfo(struct addrinfo *results);
bool __wrap_resolver_is_in_hosts_file(const char *host);
bool __real_resolver_is_in_hosts_file(const char *host);

static struct addrinfo *result_new(int family, unsigned char last, struct addrinfo *next)
{
    struct {
        struct addrinfo info;
        struct sockaddr_in6 addr;
    } *result = calloc(1, sizeof(*result));
    result->info.ai_family = family;
    result->info.ai_addr = (struct sockaddr *)(void *)&result->addr;
    result->info.ai_next = next;
    result->addr.sin6_family = (sa_family_t)family;
    if (family == AF_INET)
        ((struct sockaddr_in *)(void *)&result->addr)->sin_addr.s_addr = htonl(0x0a000000u + last);
    else
        result->addr.sin6_addr.s6_addr[15] = last;
    return &result->info;
}

static void wait_for_a_post(void)
{
    while (sem_wait(&look_ups) < 0)
        ;
}

static int look_up_moody(struct addrinfo **ret)
{
    switch (atomic_load(&mood)) {
    case MOOD_GOOD:
        *ret = result_new(AF_INET, atomic_load(&moody_address), NULL);
        return 0;
    case MOOD_STUCK:
        wait_for_a_post();
        return EAI_AGAIN;
    case MOOD_GONE:
        return EAI_NONAME;
    case MOOD_DEAD:
        break;
    }
    return EAI_AGAIN;
}

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    struct addrinfo *list = NULL;
    (void)atomic_fetch_add(&look_up_count, 1);
    if (strncasecmp(host, "slow", 4) == 0)
        wait_for_a_post();
    if (strcmp(host, "moody") == 0)
        return look_up_moody(ret);
    if (strcmp(host, "none") == 0)
        return EAI_NONAME;
    if (strcmp(host, "memory") == 0)
        return EAI_MEMORY;
    if (strcmp(host, "strange") == 0) {
        *ret = result_new(AF_UNIX, 1, NULL);
        return 0;
    }
    if (strcmp(host, "many") == 0) {
        for (unsigned char i = 20; i > 0; i--)
            list = result_new(AF_INET, i, list);
    } else {
        list = result_new(AF_INET, 1, result_new(AF_INET6, 1, result_new(AF_INET, 2, NULL)));
    }
    *ret = list;
    return 0;
}

void __wrap_freeaddrinfo(struct addrinfo *results)
{
    while (results != NULL) {
        struct addrinfo *next = results->ai_next;
        free(results);
        results = next;
    }
}

bool __wrap_resolver_is_in_hosts_file(const char *host)
{
    return strncmp(host, "hosts", 5) == 0;
}

static struct host_port name_of(const char *host, uint16_t port)
{
    struct host_port name = {.port = port};
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    return name;
}

static const char *text_of(const struct addr *addr)
{
    static char text[ADDR_TEXT_SIZE];
    return addr_format(addr, text, sizeof(text));
}

/* ---- one look-up ---- */

Test(resolver, what_the_system_has_found)
{
    struct name_addresses found;
    struct addr addrs[LIMIT_ADDRESSES];
    bool is_final;
    cr_assert_eq(resolver_ask_system("both", &found, &is_final), 0);
    cr_assert_eq(resolver_choose(&found, 82, false, addrs), 3);
    cr_assert_str_eq(text_of(&addrs[0]), "10.0.0.1:82");
    cr_assert_str_eq(text_of(&addrs[1]), "10.0.0.2:82");
    cr_assert_str_eq(text_of(&addrs[2]), "[::1]:82");
    cr_assert_eq(resolver_choose(&found, 82, true, addrs), 3);
    cr_assert_str_eq(text_of(&addrs[0]), "[::1]:82");
    cr_assert_str_eq(text_of(&addrs[1]), "10.0.0.1:82");

    cr_assert_eq(resolver_ask_system("many", &found, &is_final), 0);
    cr_assert_eq(resolver_choose(&found, 83, false, addrs), LIMIT_ADDRESSES);
    cr_assert_str_eq(text_of(&addrs[LIMIT_ADDRESSES - 1]), "10.0.0.8:83");
}

Test(resolver, failures)
{
    static const struct {
        const char *host;
        int error;
        bool is_final;
    } rows[] = {{"none", ERR_RESOLVE, true},
                {"memory", -ENOMEM, false},
                {"strange", ERR_RESOLVE, true}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct name_addresses found;
        struct addr addrs[LIMIT_ADDRESSES];
        bool is_final;
        int error = resolver_ask_system(rows[i].host, &found, &is_final);
        cr_expect_eq(error, rows[i].error, "%s: %d", rows[i].host, error);
        cr_expect_eq(is_final, rows[i].is_final, "%s", rows[i].host);
        cr_expect_eq(resolver_choose(&found, 1, false, addrs), 0);
    }
}

/* Every name in this machine's hosts file is found. */
Test(resolver, names_of_the_hosts_file)
{
    char line[1024];
    FILE *file = fopen("/etc/hosts", "re");
    if (file == NULL)
        SKIP_LOUDLY("no hosts file");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        char host[256];
        if (sscanf(line, " %*[0-9a-fA-F.:] %255[^ \t\r\n#]", host) != 1)
            continue;
        cr_expect(__real_resolver_is_in_hosts_file(host), "%s", host);
        host[0] = (char)toupper((unsigned char)host[0]);
        cr_expect(__real_resolver_is_in_hosts_file(host), "%s", host);
    }
    if (file != NULL)
        (void)fclose(file);
    cr_expect_not(__real_resolver_is_in_hosts_file("no-such-host.invalid"));
    cr_expect_not(__real_resolver_is_in_hosts_file("127.0.0.1"), "an address is no name");
    cr_expect_not(__real_resolver_is_in_hosts_file(""));
}

Test(resolver, names_make_room_for_others)
{
    struct names names;
    char host[32];
    names_init(&names, NULL);
    struct name *first = names_get(&names, "host0");
    struct name *busy = names_get(&names, "busy");
    busy->state = NAME_QUEUED;
    for (unsigned int i = 1; i < LIMIT_RESOLVER_NAMES - 1; i++) {
        (void)snprintf(host, sizeof(host), "host%u", i);
        cr_assert_not_null(names_get(&names, host));
    }
    cr_assert_eq(names.count, LIMIT_RESOLVER_NAMES);
    cr_assert_eq(names_get(&names, "HOST0"), first, "and now it is the last");
    cr_assert_not_null(names_get(&names, "one-more"));
    cr_assert_eq(names.count, LIMIT_RESOLVER_NAMES);
    cr_assert_eq(names_find(&names, "host0"), first);
    cr_assert_eq(names_find(&names, "busy"), busy, "somebody waits for it");
    cr_assert_null(names_find(&names, "host1"));
    list_for_each (node, &names.recent)
        container_of(node, struct name, recent_node)->state = NAME_RUNNING;
    cr_assert_null(names_get(&names, "two-more"), "all are busy");
    list_for_each_safe (node, &names.recent)
        names_remove(&names, container_of(node, struct name, recent_node));
    cr_assert_eq(names.count, 0);
}

/* ---- with threads ---- */

struct asker {
    struct ring ring;
    struct mailbox_group *group;
    struct resolver *resolver;
    unsigned int answer_count;
    struct resolver_answer last;
};

static void answered(void *owner, const struct resolver_answer *answer)
{
    struct asker *asker = owner;
    asker->answer_count++;
    asker->last = *answer;
}

static void no_signals(void *owner, uint32_t bits)
{
}

static bool asker_open(struct asker *asker)
{
    *asker = (struct asker){.answer_count = 0};
    if (!ring_open(&asker->ring, &ring_sizes[0]))
        return false;
    (void)sem_init(&look_ups, 0, 0);
    cr_assert_eq(mailbox_group_create(1, &asker->group), 0);
    mailbox_attach(mailbox_of(asker->group, 0), asker->ring.loop, asker, no_signals);
    cr_assert_eq(resolver_create(&asker->resolver), 0);
    return true;
}

static void asker_close(struct asker *asker)
{
    mailbox_detach(mailbox_of(asker->group, 0));
    resolver_destroy(asker->resolver);
    ring_close(&asker->ring);
    mailbox_group_destroy(asker->group);
}

static struct resolver_query *ask(struct asker *asker, const char *host)
{
    struct host_port name = name_of(host, 99);
    return resolver_ask(asker->resolver, &name, false, mailbox_of(asker->group, 0), answered,
                        asker);
}

Test(resolver, answers_come_to_the_asker)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    cr_assert_not_null(ask(&asker, "both"));
    cr_assert_eq(asker.answer_count, 0, "never from inside");
    ring_run(&asker.ring, &asker.answer_count, 1);
    cr_assert_eq(asker.last.count, 3);
    cr_assert_str_eq(text_of(&asker.last.addrs[0]), "10.0.0.1:99");
    cr_assert_not_null(ask(&asker, "none"));
    ring_run(&asker.ring, &asker.answer_count, 2);
    cr_assert_eq(asker.last.error, ERR_RESOLVE);
    cr_assert_not_null(ask(&asker, "10.1.2.3"));
    ring_run(&asker.ring, &asker.answer_count, 3);
    cr_assert_str_eq(text_of(&asker.last.addrs[0]), "10.1.2.3:99");
    cr_assert_eq(atomic_load(&look_up_count), 2, "numbers need none");
    asker_close(&asker);
}

Test(resolver, who_abandons_hears_nothing)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    struct resolver_query *query = ask(&asker, "slow");
    struct resolver_query *waiting = ask(&asker, "both");
    cr_assert_not_null(query);
    cr_assert_not_null(waiting);
    resolver_abandon(query);
    (void)usleep(50000); /* the answer is on its way */
    resolver_abandon(waiting);
    resolver_abandon(NULL);
    cr_assert_not_null(ask(&asker, "none"));
    (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 1);
    ring_settle(&asker.ring);
    cr_assert_eq(asker.answer_count, 1);
    cr_assert_eq(asker.last.error, ERR_RESOLVE, "the third one's");
    asker_close(&asker);
}

static void wait_for_look_ups(unsigned int count)
{
    for (unsigned int i = 0; atomic_load(&look_up_count) < count; i++) {
        cr_assert_lt(i, 50000, "%u look-ups", atomic_load(&look_up_count));
        (void)usleep(100);
    }
    (void)usleep(20000); /* time for look-ups that must not happen */
    cr_assert_eq(atomic_load(&look_up_count), count);
}

static uint64_t count_of(const struct asker *asker, enum metric metric)
{
    return metrics_get(&asker->ring.metrics, metric);
}

Test(resolver, one_look_up_for_all_who_ask_meanwhile)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    for (unsigned int i = 0; i < 3; i++) {
        cr_assert_not_null(ask(&asker, "slow"));
        cr_assert_not_null(ask(&asker, "SLOW"));
    }
    wait_for_look_ups(1);
    (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 6);
    cr_assert_eq(asker.last.count, 3);
    /* Each asker gets its own port and preferred family. */
    struct host_port name = name_of("both", 7);
    cr_assert_not_null(
        resolver_ask(asker.resolver, &name, true, mailbox_of(asker.group, 0), answered, &asker));
    ring_run(&asker.ring, &asker.answer_count, 7);
    cr_assert_str_eq(text_of(&asker.last.addrs[0]), "[::1]:7");
    wait_for_look_ups(2);
    cr_assert_not_null(ask(&asker, "both"));
    ring_run(&asker.ring, &asker.answer_count, 8);
    cr_assert_str_eq(text_of(&asker.last.addrs[0]), "10.0.0.1:99");
    wait_for_look_ups(3); /* a good answer is not cached: each question looks up anew */
    asker_close(&asker);
}

static void ask_slow(struct asker *asker, unsigned int first, unsigned int count)
{
    for (unsigned int i = first; i < first + count; i++) {
        char host[16];
        (void)snprintf(host, sizeof(host), "slow%u", i);
        cr_assert_not_null(ask(asker, host));
    }
}

/* Dead names delay no other names, however many they are. */
Test(resolver, names_do_not_wait_for_each_other)
{
    enum { SLOW = 40 };
    struct asker asker;
    if (!asker_open(&asker))
        return;
    ask_slow(&asker, 0, 6);
    cr_assert_not_null(ask(&asker, "both"));
    ring_run(&asker.ring, &asker.answer_count, 1);
    ask_slow(&asker, 6, SLOW - 6);
    wait_for_look_ups(LIMIT_RESOLVER_UNKNOWN + 1);
    cr_assert_not_null(ask(&asker, "both"));
    for (unsigned int i = 1; i <= 5; i++) {
        cr_assert_not_null(ask(&asker, "hosts"));
        ring_run(&asker.ring, &asker.answer_count, 1 + i);
    }
    wait_for_look_ups(LIMIT_RESOLVER_UNKNOWN + 1 + 5);
    for (unsigned int i = 0; i < SLOW; i++)
        (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 1 + 5 + SLOW + 1);
    cr_assert_eq(atomic_load(&look_up_count), 1 + 5 + SLOW + 1, "each name once");
    asker_close(&asker);
}

/* Names that were slow the last time leave threads to names that were never looked up. */
Test(resolver, slow_names_take_no_more_than_their_share)
{
    enum { SLOW = LIMIT_RESOLVER_UNKNOWN };
    struct asker asker;
    if (!asker_open(&asker))
        return;
    ask_slow(&asker, 0, SLOW);
    (void)usleep((LIMIT_RESOLVER_PATIENCE_MS + 100) * 1000);
    wait_for_look_ups(SLOW);
    for (unsigned int i = 0; i < SLOW; i++)
        (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, SLOW);
    cr_assert_eq(count_of(&asker, METRIC_NAMES_STALE), 0, "there was nothing else to say");
    ask_slow(&asker, 0, SLOW);
    wait_for_look_ups(SLOW + LIMIT_RESOLVER_SLOW);
    cr_assert_not_null(ask(&asker, "both"));
    ring_run(&asker.ring, &asker.answer_count, SLOW + 1);
    cr_assert_not(asker.last.is_stale);
    /* By now the last good addresses are the answer, also for names that are still queued. */
    ring_run(&asker.ring, &asker.answer_count, SLOW + 1 + SLOW);
    cr_assert_eq(count_of(&asker, METRIC_NAMES_STALE), SLOW);
    for (unsigned int i = 0; i < SLOW; i++)
        (void)sem_post(&look_ups);
    wait_for_look_ups(2 * SLOW + 1);
    asker_close(&asker);
}

Test(resolver, a_failure_is_remembered_for_a_second)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    atomic_store(&mood, MOOD_DEAD);
    for (unsigned int i = 1; i <= 5; i++) {
        cr_assert_not_null(ask(&asker, "moody"));
        ring_run(&asker.ring, &asker.answer_count, i);
        cr_assert_eq(asker.last.error, ERR_RESOLVE);
    }
    wait_for_look_ups(1);
    cr_assert_eq(count_of(&asker, METRIC_NAMES_FAILED), 5);
    atomic_store(&mood, MOOD_GOOD);
    (void)usleep((LIMIT_RESOLVER_FAILED_MS + 50) * 1000);
    cr_assert_not_null(ask(&asker, "moody"));
    ring_run(&asker.ring, &asker.answer_count, 6);
    cr_assert_eq(asker.last.error, 0);
    wait_for_look_ups(2);
    asker_close(&asker);
}

static void ask_moody(struct asker *asker, int error, bool is_stale, const char *address)
{
    unsigned int before = asker->answer_count;
    cr_assert_not_null(ask(asker, "moody"));
    ring_run(&asker->ring, &asker->answer_count, before + 1);
    cr_assert_eq(asker->last.error, error);
    cr_assert_eq(asker->last.is_stale, is_stale);
    if (error == 0)
        cr_assert_str_eq(text_of(&asker->last.addrs[0]), address);
}

static void let_failure_pass(void)
{
    (void)usleep((LIMIT_RESOLVER_FAILED_MS + 50) * 1000);
}

Test(resolver, the_last_good_answer_while_nobody_answers)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    atomic_store(&mood, MOOD_GOOD);
    ask_moody(&asker, 0, false, "10.0.0.1:99");
    atomic_store(&mood, MOOD_STUCK);
    uint64_t begun_ms = clock_monotonic_ms();
    ask_moody(&asker, 0, true, "10.0.0.1:99");
    cr_assert_geq(clock_monotonic_ms() - begun_ms, LIMIT_RESOLVER_PATIENCE_MS, "too early");
    begun_ms = clock_monotonic_ms();
    ask_moody(&asker, 0, true, "10.0.0.1:99");
    cr_assert_lt(clock_monotonic_ms() - begun_ms, LIMIT_RESOLVER_PATIENCE_MS,
                 "the trouble is known");
    wait_for_look_ups(2); /* the first stuck look-up is still running */
    (void)sem_post(&look_ups);
    (void)usleep(50000); /* it fails */
    ask_moody(&asker, 0, true, "10.0.0.1:99");
    wait_for_look_ups(2);
    let_failure_pass();
    atomic_store(&moody_address, 9);
    atomic_store(&mood, MOOD_GOOD);
    ask_moody(&asker, 0, true, "10.0.0.1:99"); /* answered at once, and a look-up begins */
    wait_for_look_ups(3);
    ask_moody(&asker, 0, false, "10.0.0.9:99");
    cr_assert_eq(count_of(&asker, METRIC_NAMES_STALE), 4);
    asker_close(&asker);
}

Test(resolver, a_name_that_has_ceased_to_exist_has_no_last_answer)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    ask_moody(&asker, 0, false, "10.0.0.1:99");
    atomic_store(&mood, MOOD_GONE);
    ask_moody(&asker, ERR_RESOLVE, false, NULL);
    let_failure_pass();
    atomic_store(&mood, MOOD_DEAD);
    ask_moody(&asker, ERR_RESOLVE, false, NULL);
    asker_close(&asker);
}

/* There are more answers than a mailbox has room for: they are posted as it is emptied. */
Test(resolver, more_askers_than_a_name_may_have)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    for (unsigned int i = 0; i < LIMIT_RESOLVER_ASKERS; i++)
        cr_assert_not_null(ask(&asker, "slow"));
    cr_assert_null(ask(&asker, "slow"), "full");
    cr_assert_eq(count_of(&asker, METRIC_NAMES_REFUSED), 1);
    cr_assert_not_null(ask(&asker, "both"), "that is no matter of others");
    ring_run(&asker.ring, &asker.answer_count, 1);
    (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 1 + LIMIT_RESOLVER_ASKERS);
    wait_for_look_ups(2);
    cr_assert_not_null(ask(&asker, "slow"), "room again");
    (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 2 + LIMIT_RESOLVER_ASKERS);
    asker_close(&asker);
}

static unsigned int thread_count(void)
{
    unsigned int count = 0;
    char line[128];
    FILE *file = fopen("/proc/self/status", "re");
    cr_assert_not_null(file);
    while (fgets(line, sizeof(line), file) != NULL)
        (void)sscanf(line, "Threads: %u", &count);
    (void)fclose(file);
    return count;
}

Test(resolver, threads_come_and_go)
{
    struct asker asker;
    unsigned int before = thread_count();
    if (!asker_open(&asker))
        return;
    cr_assert_eq(thread_count(), before, "none before the first name");
    ask_slow(&asker, 0, 5);
    wait_for_look_ups(5);
    cr_assert_eq(thread_count(), before + 6);
    for (unsigned int i = 0; i < 5; i++)
        (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 5);
    for (unsigned int i = 0; i < 1000 && thread_count() > before + 1; i++)
        (void)usleep(1000);
    cr_assert_eq(thread_count(), before + 1, "the keeper stays for a while");
    asker_close(&asker);
    for (unsigned int i = 0; i < 1000 && thread_count() > before; i++)
        (void)usleep(1000);
    cr_assert_eq(thread_count(), before);
}

static bool has_no_threads; /* pthread_create(3) fails */
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                          void *arg)
{
    return has_no_threads ? EAGAIN : __real_pthread_create(thread, attr, run, arg);
}

/* What a worker may not do, its threads may not do either. */
Test(resolver, an_asker_may_have_its_threads_made_elsewhere)
{
    struct asker asker;
    unsigned int before = thread_count();
    int starter_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    eventfd_t count;
    if (!asker_open(&asker))
        return;
    resolver_start_elsewhere(asker.resolver, starter_fd);
    ask_slow(&asker, 0, 2);
    (void)usleep(20000);
    cr_assert_eq(thread_count(), before, "the asker makes none");
    cr_assert_eq(eventfd_read(starter_fd, &count), 0);
    cr_assert_eq(count, 1, "one call for both");
    resolver_start_wanted(asker.resolver);
    wait_for_look_ups(2);
    (void)sem_post(&look_ups);
    (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 2);
    cr_assert_eq(asker.last.error, 0);
    resolver_start_wanted(asker.resolver);
    cr_assert_lt(eventfd_read(starter_fd, &count), 0, "nothing is wanted");
    asker_close(&asker);
    (void)close(starter_fd);
}

Test(resolver, a_thread_that_cannot_be_made_elsewhere_is_an_answer)
{
    struct asker asker;
    int starter_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!asker_open(&asker))
        return;
    resolver_start_elsewhere(asker.resolver, starter_fd);
    ask_slow(&asker, 0, 2);
    has_no_threads = true;
    resolver_start_wanted(asker.resolver);
    has_no_threads = false;
    ring_run(&asker.ring, &asker.answer_count, 2);
    cr_assert_eq(asker.last.error, -EAGAIN);
    asker_close(&asker);
    (void)close(starter_fd);
}

/* A thread that is stuck in a look-up is left behind. */
Test(resolver, the_end_does_not_wait_for_a_look_up)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    ask_slow(&asker, 0, LIMIT_RESOLVER_UNKNOWN + 1); /* one of them is in the queue */
    wait_for_look_ups(LIMIT_RESOLVER_UNKNOWN);
    uint64_t begun_ms = clock_monotonic_ms();
    asker_close(&asker);
    cr_assert_lt(clock_monotonic_ms() - begun_ms, 2000);
    cr_assert_eq(asker.answer_count, 0);
    resolver_destroy(NULL);
}
