/* The resolver, asked by a thread that polls. The linker replaces getaddrinfo(3) by one whose
 * answers and timing the test decides. */
#include "io/resolver.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../support/testing.h"

/* ---- the test's getaddrinfo ---- */

static sem_t dead_may_end; /* one post lets one look-up of a "dead..." name end */
static _Atomic unsigned int count, dead_count, begun_count;
static _Atomic int last_byte = 1; /* of the address of all other names; 0: they have none */

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret);
void __wrap_freeaddrinfo(struct addrinfo *results);

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **ret)
{
    (void)atomic_fetch_add(&count, 1);
    if (strncmp(host, "dead", 4) == 0) {
        (void)atomic_fetch_add(&dead_count, 1);
        while (sem_wait(&dead_may_end) < 0)
            ;
        return EAI_AGAIN;
    }
    if (atomic_load(&last_byte) == 0)
        return EAI_NONAME;
    struct addrinfo *info = calloc(1, sizeof(*info) + sizeof(struct sockaddr_in));
    struct sockaddr_in *addr = (struct sockaddr_in *)(void *)(info + 1);
    addr->sin_family = AF_INET;
    addr->sin_addr.s_addr = htonl(0x0a000000u + (uint32_t)atomic_load(&last_byte));
    info->ai_family = AF_INET;
    info->ai_addr = (struct sockaddr *)(void *)addr;
    *ret = info;
    return 0;
}

void __wrap_freeaddrinfo(struct addrinfo *results)
{
    free(results);
}

/* ---- the main thread's side ---- */

static struct resolver *resolver;

static void begins(void)
{
    (void)atomic_fetch_add(&begun_count, 1);
}

static void set_up(void)
{
    cr_assert_eq(sem_init(&dead_may_end, 0, 0), 0);
    cr_assert_eq(resolver_create_polled(begins, &resolver), 0);
}

static void tear_down(void)
{
    resolver_destroy(resolver);
}

static struct host_port name_of(const char *host, uint16_t port)
{
    struct host_port name = {.port = port};
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    return name;
}

static void ask(const char *host)
{
    struct host_port name = name_of(host, 1);
    resolver_begin(resolver, &name);
}

/* The first address as text, "" if there is none. */
static const char *find(const char *host, uint16_t port)
{
    static char text[ADDR_TEXT_SIZE];
    struct addr addrs[LIMIT_ADDRESSES];
    struct host_port name = name_of(host, port);
    size_t found = resolver_find(resolver, &name, addrs);
    return found == 0 ? "" : addr_format(&addrs[0], text, sizeof(text));
}

/* Waits until a look-up ends. */
static void await_one(void)
{
    struct pollfd fd = {.fd = resolver_fd(resolver), .events = POLLIN};
    cr_assert_eq(poll(&fd, 1, 10000), 1);
}

static void await_all(void)
{
    struct pollfd fd = {.fd = resolver_fd(resolver), .events = POLLIN};
    while (!resolver_poll(resolver))
        await_one();
    cr_assert_eq(poll(&fd, 1, 0), 0, "nobody is woken for nothing");
}

static void until_dead(unsigned int wanted)
{
    for (int i = 0; i < 2000 && atomic_load(&dead_count) < wanted; i++)
        (void)usleep(1000);
    cr_assert_eq(atomic_load(&dead_count), wanted);
}

Test(resolver_poll, addresses_need_none, .init = set_up, .fini = tear_down)
{
    ask("127.0.0.1");
    ask("::1");
    cr_expect(resolver_poll(resolver));
    cr_expect_str_eq(find("127.0.0.1", 80), "127.0.0.1:80");
    cr_expect_str_eq(find("::1", 81), "[::1]:81");
    cr_expect_eq(atomic_load(&count), 0);
}

Test(resolver_poll, one_look_up_for_all_ports_of_a_name, .init = set_up, .fini = tear_down)
{
    cr_expect_str_eq(find("moves", 80), "", "never asked for");
    ask("moves");
    ask("moves");
    await_one();
    ask("moves");
    await_all();
    cr_expect_eq(atomic_load(&count), 1);
    cr_expect_eq(atomic_load(&begun_count), 1, "the thread began as its owner wants");
    cr_expect_str_eq(find("moves", 80), "10.0.0.1:80");
    cr_expect_str_eq(find("moves", 81), "10.0.0.1:81");
}

Test(resolver_poll, the_last_good_address_stays, .init = set_up, .fini = tear_down)
{
    ask("moves");
    await_all();
    atomic_store(&last_byte, 0);
    ask("moves");
    cr_expect_str_eq(find("moves", 80), "10.0.0.1:80", "while it is looked up");
    await_all();
    cr_expect_str_eq(find("moves", 80), "10.0.0.1:80", "and when that fails");
    atomic_store(&last_byte, 2);
    ask("moves");
    await_all();
    cr_expect_str_eq(find("moves", 80), "10.0.0.2:80");
}

Test(resolver_poll, a_dead_name_delays_no_other, .init = set_up, .fini = tear_down)
{
    char name[16];
    for (unsigned int i = 0; i < LIMIT_RESOLVER_UNKNOWN - 1u; i++) {
        (void)snprintf(name, sizeof(name), "dead%u", i);
        ask(name);
    }
    ask("moves");
    await_one();
    cr_expect_str_eq(find("moves", 80), "10.0.0.1:80");
    cr_expect_not(resolver_poll(resolver));
    /* More dead names than threads: the others are queued, and looked up later. */
    ask("dead98");
    ask("dead99");
    ask("alive");
    until_dead(LIMIT_RESOLVER_UNKNOWN);
    cr_expect_str_eq(find("alive", 80), "");
    for (unsigned int i = 0; i < LIMIT_RESOLVER_UNKNOWN + 1u; i++)
        (void)sem_post(&dead_may_end);
    await_all();
    cr_expect_str_eq(find("alive", 80), "10.0.0.1:80");
    cr_expect_str_eq(find("dead99", 80), "");
    cr_expect_eq(atomic_load(&dead_count), LIMIT_RESOLVER_UNKNOWN + 1);
    ask("dead99"); /* a retry begins another look-up */
    (void)sem_post(&dead_may_end);
    await_all();
    cr_expect_eq(atomic_load(&dead_count), LIMIT_RESOLVER_UNKNOWN + 2);
}

/* The end of the process does not wait for a name server. */
Test(resolver_poll, the_end_comes_in_the_middle, .init = set_up)
{
    struct timespec begun, ended;
    for (unsigned int i = 0; i < LIMIT_RESOLVER_UNKNOWN + 2u; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "dead%u", i);
        ask(name);
    }
    until_dead(LIMIT_RESOLVER_UNKNOWN);
    /* Not all descriptors: a look-up thread may have the hosts file open at the moment. */
    int fd = resolver_fd(resolver);
    cr_expect_geq(fcntl(fd, F_GETFD), 0);
    (void)clock_gettime(CLOCK_MONOTONIC, &begun);
    resolver_destroy(resolver);
    (void)clock_gettime(CLOCK_MONOTONIC, &ended);
    cr_expect_lt(ended.tv_sec - begun.tv_sec, 2);
    cr_expect_lt(fcntl(fd, F_GETFD), 0, "closed");
    for (unsigned int i = 0; i < LIMIT_RESOLVER_UNKNOWN; i++)
        (void)sem_post(&dead_may_end); /* the threads that end now must not touch freed memory */
    (void)usleep(20000);
}

Test(resolver_poll, a_list_counts_look_ups, .init = set_up, .fini = tear_down)
{
    struct addr addrs[LIMIT_SERVERS];
    struct host_port name = name_of("a", 7);
    uint32_t look_up = 0;
    cr_expect_eq(resolver_list(resolver, &name, false, &look_up, addrs), 0, "not known");
    last_byte = 5;
    ask("a");
    await_all();
    cr_assert_eq(resolver_list(resolver, &name, false, &look_up, addrs), 1);
    cr_expect_eq(look_up, 1);
    cr_expect_eq(addr_port(&addrs[0]), 7);
    cr_assert_eq(resolver_list(resolver, &name, true, &look_up, addrs), 1, "the other family");
    last_byte = 0; /* it fails */
    ask("a");
    await_all();
    cr_expect_eq(resolver_list(resolver, &name, false, &look_up, addrs), 1);
    cr_expect_eq(look_up, 1, "still the one before");
    last_byte = 6;
    ask("a");
    await_all();
    cr_expect_eq(resolver_list(resolver, &name, false, &look_up, addrs), 1);
    cr_expect_eq(look_up, 2);
}
