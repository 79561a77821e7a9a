/* A whole tunnel in one process: a server and a client with four workers each, an echo service, and
 * visitors that verify every echoed byte, while other visitors connect and reset and the client
 * restarts. */
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
#include "server/server.h"
#include "testing.h"

enum { WORKERS = 4, VISITORS = 6, CHURNERS = 2, CHUNK = 16384, EXIT_SKIP = 77 };

static struct addr service_addr;
static _Atomic bool stop, restarting;
static _Atomic unsigned int transfers, cut, failures;

/* ---- the echo service ---- */

static void *echo_connection(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char bytes[CHUNK];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
        for (ssize_t sent = 0; sent < got;) {
            ssize_t part = send(fd, bytes + sent, (size_t)(got - sent), MSG_NOSIGNAL);
            if (part < 0)
                break;
            sent += part;
        }
    }
    (void)close(fd);
    return NULL;
}

static void *echo_thread(void *arg)
{
    int listener = (int)(intptr_t)arg;
    while (!atomic_load(&stop)) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            (void)usleep(2000);
            continue;
        }
        struct timeval limit = {.tv_sec = 20};
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        pthread_t thread;
        if (pthread_create(&thread, NULL, echo_connection, (void *)(intptr_t)fd) == 0)
            (void)pthread_detach(thread);
        else
            (void)close(fd);
    }
    return NULL;
}

/* ---- visitors ---- */

static int visit(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 8};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(fd, &service_addr.any, service_addr.len) < 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* Sends and receives chunk by chunk. 0: everything came back; 1: the connection was cut; -1: wrong
 * bytes. */
static int transfer(int fd, size_t size, unsigned int *seed)
{
    unsigned char out[CHUNK], in[CHUNK];
    size_t done = 0;
    while (done < size) {
        size_t part = MIN(size - done, sizeof(out));
        for (size_t i = 0; i < part; i++)
            out[i] = (unsigned char)rand_r(seed);
        if (send(fd, out, part, MSG_NOSIGNAL) != (ssize_t)part)
            return 1;
        if (recv(fd, in, part, MSG_WAITALL) != (ssize_t)part) /* style: a blocking test socket */
            return 1;
        if (memcmp(in, out, part) != 0)
            return -1;
        done += part;
    }
    (void)shutdown(fd, SHUT_WR);
    return recv(fd, in, 1, 0) == 0 ? 0 : 1;
}

static void *visitor_thread(void *arg)
{
    unsigned int seed = 1 + (unsigned int)(uintptr_t)arg;
    while (!atomic_load(&stop)) {
        bool quiet_before = !atomic_load(&restarting);
        int fd = visit();
        if (fd < 0) {
            (void)usleep(5000);
            continue;
        }
        size_t size = (size_t)rand_r(&seed) % (rand_r(&seed) % 4 == 0 ? 2000000 : 20000) + 1;
        int result = transfer(fd, size, &seed);
        (void)close(fd);
        (void)atomic_fetch_add(result == 0 ? &transfers : &cut, 1);
        bool excused = !quiet_before || atomic_load(&restarting) || atomic_load(&stop);
        if (result < 0 || (result > 0 && !excused)) {
            (void)fprintf(stderr, "a transfer of %zu bytes: %s\n", size,
                          result < 0 ? "wrong bytes" : "cut");
            (void)atomic_fetch_add(&failures, 1);
        }
    }
    return NULL;
}

static void *churn_thread(void *arg)
{
    unsigned int seed = 100 + (unsigned int)(uintptr_t)arg;
    while (!atomic_load(&stop)) {
        int fd = visit();
        if (fd >= 0) {
            if (rand_r(&seed) % 2 == 0)
                (void)send(fd, "gone", 4, MSG_NOSIGNAL);
            if (rand_r(&seed) % 4 == 0)
                (void)usleep(1000);
            tcp_abort_on_close(fd);
            (void)close(fd);
        }
        (void)usleep(1000);
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

static void end_workers(struct workers *workers)
{
    bool failed;
    workers_signal(workers, TUNNEL_SIGNAL_STOP);
    uint64_t until_ms = clock_monotonic_ms() + 10000;
    while (!workers_have_ended(workers, &failed)) {
        if (clock_monotonic_ms() > until_ms) {
            (void)fprintf(stderr, "the workers do not stop\n");
            _exit(1);
        }
        (void)usleep(2000);
    }
    workers_destroy(workers);
    if (clock_monotonic_ms() + 10000 - until_ms > 2000)
        (void)fprintf(stderr, "slow: the workers stopped after %llu ms\n",
                      (unsigned long long)(clock_monotonic_ms() + 10000 - until_ms));
}

static bool service_is_up(void)
{
    unsigned int seed = 1;
    uint64_t begun_ms = clock_monotonic_ms();
    int fd = visit();
    uint64_t connected_ms = clock_monotonic_ms();
    if (connected_ms - begun_ms > 1000)
        (void)fprintf(stderr, "slow: a visitor was %s after %llu ms\n",
                      fd >= 0 ? "connected" : "refused",
                      (unsigned long long)(connected_ms - begun_ms));
    if (fd < 0)
        return false;
    int result = transfer(fd, 100, &seed);
    if (clock_monotonic_ms() - connected_ms > 1000)
        (void)fprintf(stderr, "slow: a visitor was %s after %llu ms\n",
                      result == 0 ? "served" : "not served",
                      (unsigned long long)(clock_monotonic_ms() - connected_ms));
    (void)close(fd);
    return result == 0;
}

/* False: the service did not come up. */
static bool run_client(const struct config *config, unsigned int ms)
{
    struct client *client;
    struct workers *workers;
    if (client_create(&config->client, WORKERS, &client) < 0 ||
        workers_start(&client_role, client, WORKERS, &workers) < 0)
        return false;
    uint64_t begun_ms = clock_monotonic_ms(), until_ms = begun_ms + 20000;
    while (!service_is_up()) {
        if (clock_monotonic_ms() > until_ms)
            return false;
        (void)usleep(20000);
    }
    uint64_t up_ms = clock_monotonic_ms() - begun_ms;
    if (up_ms > 3000)
        (void)fprintf(stderr, "slow: the service was up after %llu ms\n",
                      (unsigned long long)up_ms);
    /* Visitors that came before the service was up are served or refused by then. */
    (void)usleep(100000);
    atomic_store(&restarting, false);
    (void)usleep(ms * 1000);
    atomic_store(&restarting, true);
    end_workers(workers);
    client_destroy(client);
    return true;
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
    pthread_t threads[VISITORS + CHURNERS];
    atomic_store(&restarting, true);
    for (unsigned int i = 0; i < VISITORS + CHURNERS; i++)
        (void)pthread_create(&threads[i], NULL, i < VISITORS ? visitor_thread : churn_thread,
                             (void *)(uintptr_t)i);
    bool up = true;
    for (uint64_t i = 0; up && i < 3 * env_number("STRESS_SCALE", 1); i++)
        up = run_client(client_config, 2000);
    atomic_store(&stop, true);
    end_workers(workers);
    for (unsigned int i = 0; i < VISITORS + CHURNERS; i++)
        (void)pthread_join(threads[i], NULL);
    server_destroy(server);
    (void)printf("%u transfers, %u cut by restarts, %u failures\n", atomic_load(&transfers),
                 atomic_load(&cut), atomic_load(&failures));
    if (!up)
        (void)fprintf(stderr, "the service did not come up\n");
    return up && atomic_load(&failures) == 0 && atomic_load(&transfers) > 0 ? 0 : 1;
}

int main(void)
{
    char text[400];
    struct addr echo_addr;
    if (keys_init() < 0)
        return 1;
    log_configure(LOG_ERROR, LOG_TEXT);
    int listener = tcp_listener(&echo_addr);
    uint16_t control_port = free_port(), service_port = free_port();
    service_addr = echo_addr;
    service_addr.v4.sin_port = htons(service_port);
    (void)snprintf(text, sizeof(text),
                   "[server]\nbind_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[server.services.echo]\nbind_addr = \"127.0.0.1:%u\"\n",
                   control_port, service_port);
    struct config *server_config = parse(text);
    (void)snprintf(text, sizeof(text),
                   "[client]\nremote_addr = \"127.0.0.1:%u\"\ndefault_token = \"x\"\n"
                   "[client.services.echo]\nlocal_addr = \"127.0.0.1:%u\"\n",
                   control_port, addr_port(&echo_addr));
    struct config *client_config = parse(text);
    pthread_t echo;
    (void)pthread_create(&echo, NULL, echo_thread, (void *)(intptr_t)listener);
    int result = run(server_config, client_config);
    atomic_store(&stop, true);
    (void)pthread_join(echo, NULL);
    (void)usleep(50000); /* the last echoes */
    config_destroy(server_config);
    config_destroy(client_config);
    (void)close(listener);
    return result;
}
