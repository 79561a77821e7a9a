#include "app/status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "io/inherit.h"
#include "io/socket.h"
#include "status_priv.h"
#include "tunnel/handover.h"

/* ---- the thread ---- */

static void status_wake(const struct status *status)
{
    uint64_t one = 1;
    ssize_t written = write(status->wake_fd, &one, sizeof(one));
    (void)written;
}

static int thread_start(struct status *status)
{
    pthread_attr_t attr;
    if (status->is_running)
        return 0;
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, LIMIT_WORKER_STACK);
    int error = pthread_create(&status->thread, &attr, status_thread, status);
    (void)pthread_attr_destroy(&attr);
    status->is_running = error == 0;
    return -error;
}

static void thread_stop(struct status *status)
{
    if (!status->is_running)
        return;
    (void)pthread_mutex_lock(&status->lock);
    status->is_stopping = true;
    (void)pthread_mutex_unlock(&status->lock);
    status_wake(status);
    (void)pthread_join(status->thread, NULL);
    status->is_running = status->is_stopping = false;
}

/* Gives the thread its next listener, which it closes. -1: none. */
static void hand_over(struct status *status, int fd)
{
    (void)pthread_mutex_lock(&status->lock);
    if (status->next_fd >= 0) /* the thread has not taken it yet */
        (void)close(status->next_fd);
    status->next_fd = fd;
    status->is_changed = true;
    (void)pthread_mutex_unlock(&status->lock);
    status_wake(status);
}

/* ---- the address ---- */

static struct addr status_addr(const struct config_status *config)
{
    struct addr addr = {.len = 0};
    if (host_port_is_unix(&config->addr))
        return addr_of_unix(config->addr.host);
    if (!addr_from_numeric(&config->addr, &addr))
        addr.len = 0; /* config_load has checked it */
    return addr;
}

static bool is_same_addr(const struct config_status *a, const struct config_status *b)
{
    return a->addr.port == b->addr.port && strcmp(a->addr.host, b->addr.host) == 0;
}

static bool is_on(const struct config_status *config)
{
    return config->addr.host[0] != '\0';
}

static struct unix_access access_of(const struct config_status *config)
{
    return (struct unix_access){.mode = config->socket_mode, .owner = ""};
}

static int bind_address(const struct config_status *config, const struct addr *addr,
                        struct inherited *inherited, bool *ret_shared, int *ret_fd)
{
    static const struct socket_options options = {.nodelay = true};
    struct inherited_socket taken;
    int result = 0;
    *ret_shared = false;
    if (inherited_take(inherited, addr, SOCK_STREAM, &taken)) {
        *ret_fd = taken.fd;
        *ret_shared = taken.is_shared;
    } else if (addr_is_unix(addr)) {
        struct unix_access access = access_of(config);
        result = unix_socket_bind(config->addr.host, &access, ret_fd);
    } else {
        result = socket_bind_group(addr, &options, false, ret_fd, 1);
    }
    if (result < 0)
        return result;
    result = socket_listen(*ret_fd);
    if (result == 0 && fcntl(*ret_fd, F_SETFL, fcntl(*ret_fd, F_GETFL) | O_NONBLOCK) < 0)
        result = -errno;
    if (result < 0)
        (void)close(*ret_fd);
    return result;
}

/* The file of a unix socket that is ours, and no other process's too. */
static void remove_file(const struct status *status)
{
    int state = atomic_load(&status->state);
    if (status->bound.addr.host[0] == '/' && !status->is_shared && state != STATUS_AWAITING &&
        state != STATUS_LEFT)
        unix_socket_remove_own(status->bound.addr.host, &status->file);
}

/* Stops listening. The thread goes on with its readers. */
static void status_release(struct status *status)
{
    if (!is_on(&status->bound))
        return;
    remove_file(status);
    hand_over(status, -1);
    status->bound = (struct config_status){.token = NULL};
    status->bound_fd = -1;
}

/* An address that overlaps our old one can't be bound beside it. */
static void make_room(struct status *status, int error, const struct addr *addr)
{
    struct addr old = status_addr(&status->bound);
    if (error == -EADDRINUSE && is_on(&status->bound) && addr_overlaps(&old, addr)) {
        status_release(status);
        status->retry_at_ms = 0;
    }
}

static void try_to_bind(struct status *status, struct inherited *inherited, bool is_first)
{
    const struct addr addr = status_addr(&status->wanted);
    char text[ADDR_HOST_SIZE + 8];
    bool is_shared;
    int fd;
    int result = bind_address(&status->wanted, &addr, inherited, &is_shared, &fd);
    (void)host_port_format(&status->wanted.addr, text, sizeof(text));
    if (result == 0) {
        remove_file(status);
        hand_over(status, fd);
        status->bound = status->wanted;
        status->bound_fd = fd;
        status->is_shared = is_shared;
        status->file = unix_socket_file(
            host_port_is_unix(&status->bound.addr) ? status->bound.addr.host : "@");
        result = thread_start(status);
        if (result < 0)
            status_release(status);
    }
    if (result == 0) {
        status->retry_at_ms = UINT64_MAX;
        log_info("status: on %s", text);
        return;
    }
    status->retry_at_ms = clock_monotonic_ms() + LIMIT_ADDRESS_RETRY_MS;
    make_room(status, result, &addr);
    if (is_first)
        log_error("status: cannot listen on %s: %s; it is tried again every second", text,
                  error_text(result));
}

/* ---- what the main thread calls ---- */

int status_create(const struct status_options *options, struct status **ret)
{
    struct status *status = calloc(1, sizeof(*status));
    if (status == NULL)
        return -ENOMEM;
    status->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (status->wake_fd < 0) {
        int error = -errno;
        free(status);
        return error;
    }
    (void)pthread_mutex_init(&status->lock, NULL);
    status->options = *options;
    status->started_at_s = time(NULL);
    status->state = options->has_predecessor ? STATUS_AWAITING : STATUS_STARTING;
    status->bound_fd = status->next_fd = status->listen_fd = -1;
    status->retry_at_ms = UINT64_MAX;
    for (size_t i = 0; i < STATUS_CONNECTIONS; i++)
        status->connections[i].fd = -1;
    *ret = status;
    return 0;
}

void status_destroy(struct status *status)
{
    if (status == NULL)
        return;
    remove_file(status);
    thread_stop(status);
    if (status->next_fd >= 0)
        (void)close(status->next_fd);
    (void)close(status->wake_fd);
    (void)pthread_mutex_destroy(&status->lock);
    free(status);
}

/* True: it is another token, or the first, or none any more. */
static bool take_token(struct status *status, const char *token, bool is_loopback)
{
    uint8_t digest[KEYS_DIGEST_SIZE] = {0};
    if (token != NULL)
        keys_service_digest(token, strlen(token), digest);
    (void)pthread_mutex_lock(&status->lock);
    bool is_other = status->has_token != (token != NULL) ||
                    !keys_equal(digest, status->token_digest, sizeof(digest));
    memcpy(status->token_digest, digest, sizeof(digest));
    status->has_token = token != NULL;
    status->is_loopback = is_loopback;
    (void)pthread_mutex_unlock(&status->lock);
    return is_other;
}

bool status_configure(struct status *status, const struct config_status *config,
                      struct inherited *inherited)
{
    static const struct config_status off;
    const struct config_status old = status->wanted;
    if (config == NULL)
        config = &off;
    struct addr addr;
    bool is_loopback = addr_from_numeric(&config->addr, &addr) && addr_is_loopback(&addr);
    is_loopback |= strcmp(config->addr.host, "localhost") == 0;
    bool is_changed = take_token(status, config->token, is_loopback);
    is_changed |= !is_same_addr(&old, config) || old.socket_mode != config->socket_mode;
    status->wanted = *config;
    status->wanted.token = NULL;
    if (!is_on(config)) {
        status->retry_at_ms = UINT64_MAX;
        status_release(status);
        thread_stop(status);
    } else if (!is_same_addr(&status->bound, config)) {
        try_to_bind(status, inherited, is_changed);
    } else if (config->addr.host[0] == '/' && !status->is_shared) {
        struct unix_access access = access_of(config);
        int result = unix_socket_set_access(config->addr.host, &access);
        if (result < 0)
            log_error("status: %s: %s", config->addr.host, error_text(result));
    }
    return is_changed;
}

void status_watch(struct status *status, const struct workers *workers,
                  const struct metrics *main_thread)
{
    atomic_store(&status->workers, workers);
    atomic_store(&status->main_metrics, main_thread);
}

void status_set(struct status *status, enum status_state state)
{
    int old = atomic_load(&status->state);
    if (old == (int)state || old == STATUS_LEFT)
        return;
    atomic_store(&status->state, (int)state);
    if (state == STATUS_LEFT) {
        status->retry_at_ms = UINT64_MAX;
        status_release(status);
    }
    status_wake(status); /* it listens only if no predecessor does */
}

void status_turn(struct status *status, uint64_t now_ms)
{
    if (now_ms >= status->retry_at_ms)
        try_to_bind(status, NULL, false);
}

int status_timeout_ms(const struct status *status, uint64_t now_ms)
{
    if (status->retry_at_ms == UINT64_MAX)
        return -1;
    return status->retry_at_ms > now_ms ? (int)(status->retry_at_ms - now_ms) : 0;
}

int status_list_socket(const struct status *status, struct handover_sockets *sockets)
{
    if (!is_on(&status->bound))
        return 0;
    int result = handover_sockets_add(sockets, status->bound_fd, "status", NULL);
    if (result == 0 && status->is_shared) { /* to the other shared ones */
        size_t first = sockets->shared_count++, last = sockets->count - 1;
        char *name = sockets->names[first];
        sockets->names[first] = sockets->names[last];
        sockets->names[last] = name;
        sockets->fds[last] = sockets->fds[first];
        sockets->fds[first] = status->bound_fd;
    }
    return result;
}
