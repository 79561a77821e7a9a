/* Every allocation of a whole tunnel fails in turn (A28). A server and a client on fake loops, in
 * one thread, start, log in, open channels, relay one connection and end. Nothing crashes, nothing
 * is closed twice, and all memory and descriptors are freed. The linker places the functions below
 * between the code and the C library. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/client.h"
#include "server/server.h"
#include "side.h"

/* ---- memory ---- */

enum { BLOCKS_MAX = 1 << 14 };

static unsigned int countdown; /* 0 = off; the allocation at which it reaches 0 fails */
static bool has_failed, is_counting;
static void *blocks[BLOCKS_MAX]; /* allocated while counting and not yet freed */
static unsigned int bad_close_count;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
int __real_posix_memalign(void **ret, size_t alignment, size_t size);
void __real_free(void *block);
int __real_close(int fd);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
int __wrap_posix_memalign(void **ret, size_t alignment, size_t size);
void __wrap_free(void *block);
int __wrap_close(int fd);

static bool must_fail(void)
{
    if (countdown == 0 || --countdown > 0)
        return false;
    has_failed = true;
    errno = ENOMEM;
    return true;
}

static void *note(void *block)
{
    for (size_t i = 0; is_counting && block != NULL && i < BLOCKS_MAX; i++) {
        if (blocks[i] == NULL) {
            blocks[i] = block;
            break;
        }
    }
    return block;
}

static size_t block_count(void)
{
    size_t count = 0;
    for (size_t i = 0; i < BLOCKS_MAX; i++)
        count += blocks[i] != NULL ? 1 : 0;
    return count;
}

void *__wrap_malloc(size_t size)
{
    return must_fail() ? NULL : note(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return must_fail() ? NULL : note(__real_calloc(count, size));
}

int __wrap_posix_memalign(void **ret, size_t alignment, size_t size)
{
    if (must_fail())
        return ENOMEM;
    int result = __real_posix_memalign(ret, alignment, size);
    (void)note(*ret);
    return result;
}

void __wrap_free(void *block)
{
    for (size_t i = 0; is_counting && block != NULL && i < BLOCKS_MAX; i++) {
        if (blocks[i] == block) {
            blocks[i] = NULL;
            break;
        }
    }
    __real_free(block);
}

int __wrap_close(int fd)
{
    int result = __real_close(fd);
    if (result < 0 && errno == EBADF)
        bad_close_count++;
    return result;
}

/* ---- the two sides ---- */

static struct config *configs[2];
static struct addr service_addr, local_addr;
static struct side sides[2];
static struct server *server;
static struct client *client;
static unsigned int visits; /* visits that succeeded */

static int side_begin(struct side *side, const struct role *role, void *shared)
{
    int result = side_init(side, SIDE_WORKERS_MAX);
    return result < 0 ? result : side_start(side, role, shared);
}

static void turns(int count)
{
    for (int turn = 0; turn < count; turn++) {
        side_settle(&sides[0], 1);
        side_settle(&sides[1], 1);
    }
}

/* One visitor's connection, which succeeds if memory allows. */
static void visit(int local_listener)
{
    char bytes[8] = "";
    turns(150);
    int visitor = tcp_dial(&service_addr);
    if (visitor < 0)
        return;
    say(visitor, "hello", 5);
    turns(60);
    int local = accept4(local_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (local >= 0) {
        if (recv(local, bytes, sizeof(bytes), 0) > 0) {
            cr_assert_str_eq(bytes, "hello");
            visits++;
        }
        (void)close(local);
    }
    turns(20);
    (void)close(visitor);
    turns(20);
}

static void live_and_die(int local_listener)
{
    if (server_create(&configs[0]->server, SIDE_WORKERS_MAX, NULL, &server) < 0)
        server = NULL;
    if (server != NULL && client_create(&configs[1]->client, SIDE_WORKERS_MAX, &client) < 0)
        client = NULL;
    if (server != NULL && client != NULL && side_begin(&sides[0], &server_role, server) == 0 &&
        side_begin(&sides[1], &client_role, client) == 0)
        visit(local_listener);
    side_finish(&sides[1]);
    side_finish(&sides[0]);
    if (client != NULL)
        cr_assert_eq(client->fds.tcp_channels + client->fds.half_open + client->fds.tcp_served, 0);
    client_destroy(client);
    server_destroy(server);
    client = NULL;
    server = NULL;
}

static struct config *parse(const char *text)
{
    struct config *config = NULL;
    config = side_config(text);
    return config;
}

/* A key pair for these tests only. */
#define PRIVATE_KEY "uXXAOPKrzLglwiRV5butkoeJLLsZNdQ3dJfQO15SNxM="
#define PUBLIC_KEY  "Jjy1hTT0H+XG8rYLySmZfR6hg9fPGOZ3r38+yki4Rl4="

static void configure(bool with_noise)
{
    char text[1000];
    uint16_t port = free_port();
    service_addr = local_addr;
    service_addr.v4.sin_port = htons(free_port());
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[server.services.a]\nbind_addr = \"127.0.0.1:%u\"\n"
                   "max_connections_per_ip = 5\n%s",
                   port, addr_port(&service_addr),
                   with_noise ? "[server.transport]\ntype = \"noise\"\n[server.transport.noise]\n"
                                "local_private_key = \"" PRIVATE_KEY "\"\n"
                              : "");
    configs[0] = parse(text);
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[client.services.a]\nlocal_addr = \"127.0.0.1:%u\"\n"
                   "[client.services.b]\nlocal_addr = \"127.0.0.1:1\"\n"
                   "[client.services.c]\nlocal_addr = \"127.0.0.1:1\"\n%s",
                   port, addr_port(&local_addr),
                   with_noise ? "[client.transport]\ntype = \"noise\"\n[client.transport.noise]\n"
                                "remote_public_key = \"" PUBLIC_KEY "\"\n"
                              : "");
    configs[1] = parse(text);
}

static void fail_each_allocation(bool with_noise)
{
    int listener = tcp_listener(&local_addr);
    log_configure(LOG_ERROR, LOG_TEXT);
    cr_assert_eq(keys_init(), 0);
    configure(with_noise);
    live_and_die(listener); /* some memory is allocated once and kept */
    cr_assert_eq(visits, 1, "a visitor goes through when nothing fails");
    size_t fds_before = open_fd_count();
    unsigned int n = 0;
    do {
        has_failed = false;
        is_counting = true;
        countdown = ++n;
        live_and_die(listener);
        countdown = 0;
        is_counting = false;
        cr_expect_eq(block_count(), 0, "%zu blocks are left when allocation %u fails",
                     block_count(), n);
        memset(blocks, 0, sizeof(blocks));
        cr_expect_eq(open_fd_count(), fds_before, "descriptors when allocation %u fails", n);
        fds_before = open_fd_count();
        cr_expect_eq(bad_close_count, 0, "closed twice when allocation %u fails", n);
        bad_close_count = 0;
    } while (has_failed);
    cr_assert_gt(n, 20, "not what it tests: %u", n);
    config_destroy(configs[0]);
    config_destroy(configs[1]);
    (void)close(listener);
}

Test(memory, each_allocation_fails_once, .timeout = 240)
{
    fail_each_allocation(false);
}

Test(memory, each_allocation_fails_once_with_noise, .timeout = 240)
{
    fail_each_allocation(true);
}
