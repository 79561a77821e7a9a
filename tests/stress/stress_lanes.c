/* Lanes that are created and destroyed while data channels are on their way to them: a server and a
 * client of a UDP service with four workers each, constant datagrams, and reloads that move the
 * service's address to and fro. The linker puts functions of this file in front of the channel pool
 * and the mailboxes: they delay channels between workers, and report every other mailbox full. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "app/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "client/client.h"
#include "server/reload.h"
#include "server/server.h"
#include "testing.h"

enum {
    WORKERS = 4,
    LANES = 8,
    VISITORS = 3,
    RELOADS = 60,
    CLIENTS = 4, /* one after the other */
    PATIENCE_MS = 20000,
    EXIT_SKIP = 77,
};

static uint16_t control_port, service_ports[2], echo_port;
static _Atomic bool stop;
static _Atomic unsigned int answers, undone;

/* ---- wrappers of the pool and the mailboxes ---- */

static uint32_t draw(void)
{
    static _Atomic uint32_t state = 1;
    return atomic_fetch_add(&state, 0x9e3779b9u) * 2654435761u >> 16;
}

static void dawdle(void)
{
    if (draw() % 2 == 0)
        (void)usleep(draw() % 4000);
}

enum pool_offered __real_channel_pool_offer(struct channel_pool *pool,
                                            const struct pool_offer *offer,
                                            struct pool_match *ret_match);
enum pool_offered __wrap_channel_pool_offer(struct channel_pool *pool,
                                            const struct pool_offer *offer,
                                            struct pool_match *ret_match);
enum pool_offered __wrap_channel_pool_offer(struct channel_pool *pool,
                                            const struct pool_offer *offer,
                                            struct pool_match *ret_match)
{
    enum pool_offered result = __real_channel_pool_offer(pool, offer, ret_match);
    if (result == POOL_MATCHED)
        dawdle();
    return result;
}

bool __real_channel_pool_undo(struct channel_pool *pool, const struct pool_match *match,
                              struct transport transport, uint64_t now_ns);
bool __wrap_channel_pool_undo(struct channel_pool *pool, const struct pool_match *match,
                              struct transport transport, uint64_t now_ns);
bool __wrap_channel_pool_undo(struct channel_pool *pool, const struct pool_match *match,
                              struct transport transport, uint64_t now_ns)
{
    (void)atomic_fetch_add(&undone, 1);
    dawdle();
    return __real_channel_pool_undo(pool, match, transport, now_ns);
}

int __real_mailbox_post(struct mailbox *to, struct mailbox *from, mailbox_deliver_fn *deliver,
                        const void *payload, size_t size);
int __wrap_mailbox_post(struct mailbox *to, struct mailbox *from, mailbox_deliver_fn *deliver,
                        const void *payload, size_t size);
int __wrap_mailbox_post(struct mailbox *to, struct mailbox *from, mailbox_deliver_fn *deliver,
                        const void *payload, size_t size)
{
    if (from != NULL && draw() % 2 == 0)
        return -ENOBUFS;
    return __real_mailbox_post(to, from, deliver, payload, size);
}

/* ---- datagrams ---- */

static int udp_socket_to(uint16_t port)
{
    struct addr addr = tcp_loopback(port);
    struct timeval limit = {.tv_usec = 50000};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (connect(fd, &addr.any, addr.len) < 0)
        abort();
    return fd;
}

static void *echo_thread(void *arg)
{
    struct addr addr = tcp_loopback(echo_port);
    struct timeval limit = {.tv_usec = 50000};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (bind(fd, &addr.any, addr.len) < 0)
        abort();
    while (!atomic_load(&stop)) {
        char bytes[64];
        struct addr from = {.len = sizeof(from.v4)};
        ssize_t got = recvfrom(fd, bytes, sizeof(bytes), 0, &from.any, &from.len);
        if (got > 0)
            (void)sendto(fd, bytes, (size_t)got, 0, &from.any, from.len);
    }
    (void)close(fd);
    return NULL;
}

/* Asks once. */
static bool ask_on(int fd)
{
    char bytes[64];
    (void)send(fd, "hello", 5, 0);
    return recv(fd, bytes, sizeof(bytes), 0) == 5;
}

/* Sends from a new socket, which the kernel may give to another lane. */
static bool ask(uint16_t port)
{
    int fd = udp_socket_to(port);
    bool answered = ask_on(fd);
    (void)close(fd);
    return answered;
}

static void *visitor_thread(void *arg)
{
    for (unsigned int i = (unsigned int)(uintptr_t)arg; !atomic_load(&stop); i++) {
        if (ask(service_ports[i % 2]))
            (void)atomic_fetch_add(&answers, 1);
    }
    return NULL;
}

/* ---- the roles ---- */

static struct config *parse(const char *text)
{
    struct config *config = NULL;
    struct config_report report;
    if (config_parse("stress", text, strlen(text), &config, &report) < 0)
        abort();
    config_report_finish(&report);
    return config;
}

static struct config *server_file(unsigned int port)
{
    char text[400];
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[server.services.echo]\ntype = \"udp\"\nbind_addr = \"127.0.0.1:%u\"\n"
                   "udp_data_channels = %d\n",
                   control_port, service_ports[port], LANES);
    return parse(text);
}

static struct config *client_file(void)
{
    char text[400];
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[client.services.echo]\ntype = \"udp\"\nlocal_addr = \"127.0.0.1:%u\"\n",
                   control_port, echo_port);
    return parse(text);
}

static void fail(const char *what)
{
    (void)fprintf(stderr, "%s\n", what);
    _exit(1);
}

static void end_workers(struct workers *workers)
{
    bool failed;
    workers_signal(workers, TUNNEL_SIGNAL_STOP);
    uint64_t until_ms = clock_monotonic_ms() + PATIENCE_MS;
    while (!workers_have_ended(workers, &failed)) {
        if (clock_monotonic_ms() > until_ms)
            fail("the workers do not stop");
        (void)usleep(2000);
    }
    workers_destroy(workers);
}

/* Applies a changed file, as the main thread does. */
static void reload(struct server *server, struct workers *workers, unsigned int port)
{
    struct reload_outcome outcome;
    struct config *config = server_file(port);
    int result = server_reload_ops.begin(server, &config->server, NULL, RELOAD_FIRST,
                                         clock_monotonic_ms(), &outcome);
    config_destroy(config);
    if (result < 0 || outcome.failed > 0)
        fail("a reload failed");
    if (result == 0)
        return;
    workers_signal(workers, TUNNEL_SIGNAL_PLAN);
    uint64_t until_ms = clock_monotonic_ms() + PATIENCE_MS;
    while (!server_reload_ops.finish(server)) {
        if (clock_monotonic_ms() > until_ms)
            fail("a reload does not finish");
        (void)usleep(200);
    }
}

/* The kernel picks the lane by the socket's address, so the same socket asks again until it has an
 * answer. A slow machine only takes longer; a lane that stays without a channel fails. */
static void wait_for_lane(uint16_t port)
{
    int fd = udp_socket_to(port);
    uint64_t until_ms = clock_monotonic_ms() + PATIENCE_MS;
    while (!ask_on(fd)) {
        if (clock_monotonic_ms() > until_ms)
            fail("a lane gets no data channel");
    }
    (void)close(fd);
}

static void wait_for_service(uint16_t port)
{
    for (unsigned int i = 0; i < 2 * LANES; i++)
        wait_for_lane(port);
}

static void run_client(const struct config *config, struct server *server, struct workers *workers)
{
    struct client *client;
    struct workers *own;
    if (client_create(&config->client, WORKERS, &client) < 0 ||
        workers_start(&client_role, client, WORKERS, &own) < 0)
        fail("the client does not start");
    uint64_t reloads = RELOADS / CLIENTS * env_number("STRESS_SCALE", 1);
    for (unsigned int i = 0; i < reloads; i++) {
        reload(server, workers, i % 2);
        (void)usleep(draw() % 40000);
    }
    wait_for_service(service_ports[(reloads - 1) % 2]);
    end_workers(own);
    client_destroy(client);
}

static int run(const struct config *server_config, const struct config *client_config)
{
    struct server *server;
    struct workers *workers;
    if (server_create(&server_config->server, WORKERS, NULL, &server) < 0)
        return 1;
    if (workers_start(&server_role, server, WORKERS, &workers) < 0) {
        server_destroy(server);
        SKIP_LOUDLY("no io_uring");
        return EXIT_SKIP;
    }
    pthread_t threads[VISITORS + 1];
    for (unsigned int i = 0; i <= VISITORS; i++)
        (void)pthread_create(&threads[i], NULL, i < VISITORS ? visitor_thread : echo_thread,
                             (void *)(uintptr_t)i);
    for (int i = 0; i < CLIENTS; i++)
        run_client(client_config, server, workers);
    atomic_store(&stop, true);
    for (unsigned int i = 0; i <= VISITORS; i++)
        (void)pthread_join(threads[i], NULL);
    end_workers(workers);
    server_destroy(server);
    (void)printf("%u answers, %u matches undone\n", atomic_load(&answers), atomic_load(&undone));
    return atomic_load(&answers) > 0 && atomic_load(&undone) > 0 ? 0 : 1;
}

int main(void)
{
    if (keys_init() < 0)
        return 1;
    log_configure(LOG_ERROR, LOG_TEXT);
    control_port = free_port();
    service_ports[0] = free_port();
    service_ports[1] = free_port();
    echo_port = free_port();
    struct config *server_config = server_file(0);
    struct config *client_config = client_file();
    int result = run(server_config, client_config);
    config_destroy(server_config);
    config_destroy(client_config);
    return result;
}
