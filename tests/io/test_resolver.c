/* The resolver, with a getaddrinfo(3) whose answers and pace are ours: the linker puts it in
 * between. */
#include "io/resolver.h"

#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "io/mailbox.h"
#include "ring.h"

/* ---- the other getaddrinfo ---- */

static sem_t look_ups; /* posted by a test for each look-up of "slow" that may go on */
static _Atomic unsigned int look_up_count;

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
void __wrap_freeaddrinfo(struct addrinfo *results);

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

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    struct addrinfo *list = NULL;
    (void)atomic_fetch_add(&look_up_count, 1);
    if (strcmp(host, "slow") == 0) {
        while (sem_wait(&look_ups) < 0)
            ;
    }
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

/* ---- here and now ---- */

Test(resolver, look_up)
{
    struct resolver_answer answer;
    struct host_port name = name_of("127.0.0.1", 80);
    resolver_look_up(&name, true, &answer);
    cr_assert_eq(answer.error, 0);
    cr_assert_eq(answer.count, 1);
    cr_assert_str_eq(text_of(&answer.addrs[0]), "127.0.0.1:80");
    name = name_of("::1", 81);
    resolver_look_up(&name, false, &answer);
    cr_assert_str_eq(text_of(&answer.addrs[0]), "[::1]:81");
    cr_assert_eq(atomic_load(&look_up_count), 0, "numbers need nobody");

    name = name_of("both", 82);
    resolver_look_up(&name, false, &answer);
    cr_assert_eq(answer.count, 3);
    cr_assert_str_eq(text_of(&answer.addrs[0]), "10.0.0.1:82");
    cr_assert_str_eq(text_of(&answer.addrs[1]), "10.0.0.2:82");
    cr_assert_str_eq(text_of(&answer.addrs[2]), "[::1]:82");
    resolver_look_up(&name, true, &answer);
    cr_assert_str_eq(text_of(&answer.addrs[0]), "[::1]:82");
    cr_assert_str_eq(text_of(&answer.addrs[1]), "10.0.0.1:82");

    name = name_of("many", 83);
    resolver_look_up(&name, false, &answer);
    cr_assert_eq(answer.count, LIMIT_ADDRESSES);
    cr_assert_str_eq(text_of(&answer.addrs[LIMIT_ADDRESSES - 1]), "10.0.0.8:83");
}

Test(resolver, failures)
{
    static const struct {
        const char *host;
        int error;
    } rows[] = {{"none", ERR_RESOLVE}, {"memory", -ENOMEM}, {"strange", ERR_RESOLVE}};
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct resolver_answer answer;
        struct host_port name = name_of(rows[i].host, 1);
        resolver_look_up(&name, false, &answer);
        cr_expect_eq(answer.error, rows[i].error, "%s: %d", rows[i].host, answer.error);
        cr_expect_eq(answer.count, 0);
    }
}

/* ---- by the thread ---- */

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

Test(resolver, more_than_the_queue_takes)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    cr_assert_not_null(ask(&asker, "slow"));
    while (atomic_load(&look_up_count) == 0)
        (void)usleep(100);
    for (unsigned int i = 0; i < LIMIT_RESOLVER_QUEUE; i++)
        cr_assert_not_null(ask(&asker, "both"));
    cr_assert_null(ask(&asker, "both"), "full");
    (void)sem_post(&look_ups);
    ring_run(&asker.ring, &asker.answer_count, 1 + LIMIT_RESOLVER_QUEUE);
    cr_assert_not_null(ask(&asker, "both"), "room again");
    ring_run(&asker.ring, &asker.answer_count, 2 + LIMIT_RESOLVER_QUEUE);
    asker_close(&asker);
}

static uint64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* A thread that is stuck is left behind. */
Test(resolver, the_end_does_not_wait_for_a_look_up)
{
    struct asker asker;
    if (!asker_open(&asker))
        return;
    cr_assert_not_null(ask(&asker, "slow"));
    cr_assert_not_null(ask(&asker, "both"));
    while (atomic_load(&look_up_count) == 0)
        (void)usleep(100);
    uint64_t begun_ms = now_ms();
    asker_close(&asker);
    cr_assert_lt(now_ms() - begun_ms, 2000);
    cr_assert_eq(asker.answer_count, 0);
    resolver_destroy(NULL);
}
