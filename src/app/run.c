#include "app/run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "app/privileges.h"
#include "app/reload.h"
#include "app/worker.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "crypto/aead.h"
#include "crypto/x25519.h"
#include "io/kernel.h"
#include "tunnel/client.h"
#include "tunnel/client_reload.h"
#include "tunnel/server.h"
#include "tunnel/server_reload.h"

/* ---- what the process sets up for itself ---- */

static void raise_nofile_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_debug("cannot raise the limit of open files: %s", error_text(-errno));
}

/* Rings count against it once root is given away. Root may ask for more than it has. */
static void raise_memlock_limit(unsigned int workers)
{
    struct rlimit limit, wanted;
    wanted.rlim_cur = wanted.rlim_max = LIMIT_MEMLOCK_MIN + (rlim_t)workers * LIMIT_MEMLOCK_WORKER;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        return;
    if (limit.rlim_max < wanted.rlim_max && setrlimit(RLIMIT_MEMLOCK, &wanted) == 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        log_debug("cannot raise the limit of locked memory: %s", error_text(-errno));
}

/* Signals are read from a descriptor; blocked before the first thread, they stay blocked in all. */
static int signals_open(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR1);
    (void)sigaddset(&set, SIGPIPE); /* splice(2) has no MSG_NOSIGNAL */
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -EINVAL;
    (void)sigdelset(&set, SIGPIPE);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* ---- running ---- */

struct run {
    struct workers *workers;
    struct reload *reload;
    int signal_fd;
    bool is_draining, is_stopping;
    uint64_t stop_at_ms; /* while draining */
    bool failed;
};

static uint64_t now_ms(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void run_stop(struct run *run)
{
    if (run->is_stopping)
        return;
    run->is_stopping = true;
    workers_signal(run->workers, TUNNEL_SIGNAL_STOP);
}

static void run_asked_to_stop(struct run *run)
{
    if (run->is_draining) {
        log_info("stopping now");
        run_stop(run);
        return;
    }
    uint32_t drain_timeout_ms = reload_drain_timeout_ms(run->reload);
    log_info("stopping: open connections may finish for up to %u s; a second signal stops at once",
             drain_timeout_ms / 1000);
    run->is_draining = true;
    run->stop_at_ms = now_ms() + drain_timeout_ms;
    workers_signal(run->workers, TUNNEL_SIGNAL_DRAIN);
}

static void run_handle_signal(struct run *run)
{
    struct signalfd_siginfo info;
    while (read(run->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        switch (info.ssi_signo) {
        case SIGTERM:
        case SIGINT:
            run_asked_to_stop(run);
            break;
        case SIGUSR1:
            workers_log_metrics(run->workers);
            reload_log_metrics(run->reload);
            break;
        case SIGHUP:
            reload_ask(run->reload);
            break;
        default:
            break;
        }
    }
}

static int run_poll_timeout_ms(const struct run *run)
{
    uint64_t now = now_ms();
    if (!run->is_draining)
        return reload_timeout_ms(run->reload, now);
    if (run->is_stopping)
        return -1;
    return run->stop_at_ms > now ? (int)(run->stop_at_ms - now) : 0;
}

static void run_until_ended(struct run *run)
{
    bool failed = false;
    struct pollfd fds[2 + RELOAD_FDS] = {
        {.fd = run->signal_fd, .events = POLLIN},
        {.fd = workers_ended_fd(run->workers), .events = POLLIN},
    };
    reload_pollfds(run->reload, &fds[2]);
    for (;;) {
        /* Nothing is reloaded on the way out. */
        nfds_t watched = run->is_draining ? 2 : ARRAY_SIZE(fds);
        int count = poll(fds, watched, run_poll_timeout_ms(run));
        if (count == 0 && run->is_draining) {
            log_info("drain_timeout is over: stopping now");
            run_stop(run);
            continue;
        }
        run_handle_signal(run);
        if (!run->is_draining)
            reload_run(run->reload, now_ms());
        if (workers_have_ended(run->workers, &failed))
            break;
        if (failed && !run->failed) {
            run->failed = true; /* one worker is gone: the others can't serve for it */
            run_stop(run);
        }
    }
    run->failed = failed;
}

static void log_start(enum config_role role, const struct config_peer *peer, unsigned int workers)
{
    char addr[ADDR_HOST_SIZE + 8];
    char kernel[KERNEL_TEXT_SIZE];
    log_info("rathole-uring " PROJECT_VERSION ", %s %s, %zu services, %u workers, %s",
             role == CONFIG_SERVER ? "server on" : "client of",
             host_port_format(&peer->addr, addr, sizeof(addr)), peer->service_count, workers,
             kernel_describe(kernel, sizeof(kernel)));
}

static int start_reloads(struct run *run, enum config_role role, const struct config_peer *peer,
                         const char *path, void *shared)
{
    struct reload_options options = {
        .path = path,
        .role = role,
        .ops = role == CONFIG_SERVER ? &server_reload_ops : &client_reload_ops,
        .shared = shared,
        .workers = run->workers,
        .started = peer,
    };
    int result = reload_create(&options, &run->reload);
    if (result < 0)
        log_error("cannot watch %s: %s", path, error_text(result));
    return result;
}

enum exit_code run_role(enum config_role role, const struct config *config, const char *path)
{
    const struct config_peer *peer = role == CONFIG_SERVER ? &config->server : &config->client;
    unsigned int count = peer->threads != 0 ? peer->threads : workers_usable_cores();
    struct run run = {.signal_fd = -1};
    struct server *server = NULL;
    struct client *client = NULL;
    enum exit_code result = EXIT_START_ERROR;

    raise_nofile_limit();
    raise_memlock_limit(count);
    run.signal_fd = signals_open();
    if (run.signal_fd < 0) {
        log_error("cannot receive signals: %s", error_text(run.signal_fd));
        return EXIT_START_ERROR;
    }
    if (peer->transport.type == CONFIG_TRANSPORT_NOISE) {
        aead_setup();
        x25519_setup();
        log_info("noise: %s, AEAD by %s, X25519 by %s",
                 noise_pattern_name(peer->transport.noise.pattern), aead_description(),
                 x25519_description());
    }
    int made = privileges_change(peer->user, peer->group);
    if (made < 0)
        goto out;
    made = role == CONFIG_SERVER ? server_create(peer, count, &server)
                                 : client_create(peer, count, &client);
    if (made == 0)
        made = privileges_drop(peer->user); /* before the first thread and its ring */
    if (made < 0)
        goto out;
    log_start(role, peer, count);
    if (role == CONFIG_SERVER)
        made = workers_start(&server_role, server, count, &run.workers);
    else
        made = workers_start(&client_role, client, count, &run.workers);
    if (made == 0)
        made =
            start_reloads(&run, role, peer, path, role == CONFIG_SERVER ? (void *)server : client);
    if (made < 0)
        goto out;
    run_until_ended(&run);
    log_info("stopped");
    result = run.failed ? EXIT_START_ERROR : EXIT_STOPPED;

out:
    if (made < 0 && run.workers != NULL)
        workers_signal(run.workers, TUNNEL_SIGNAL_STOP);
    workers_destroy(run.workers);
    reload_destroy(run.reload);
    client_destroy(client);
    server_destroy(server);
    (void)close(run.signal_fd);
    return result;
}
