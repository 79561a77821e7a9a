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
#include "app/worker.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "crypto/aead.h"
#include "crypto/x25519.h"
#include "io/kernel.h"
#include "tunnel/client.h"
#include "tunnel/server.h"

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
    int signal_fd;
    uint32_t drain_timeout_ms;
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
    log_info("stopping: open connections may finish for up to %u s; a second signal stops at once",
             run->drain_timeout_ms / 1000);
    run->is_draining = true;
    run->stop_at_ms = now_ms() + run->drain_timeout_ms;
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
            break;
        case SIGHUP:
            log_warn("reload: not built into this version; restart to apply a changed file");
            break;
        default:
            break;
        }
    }
}

static int run_poll_timeout_ms(const struct run *run)
{
    if (!run->is_draining || run->is_stopping)
        return -1;
    uint64_t now = now_ms();
    return run->stop_at_ms > now ? (int)(run->stop_at_ms - now) : 0;
}

static void run_until_ended(struct run *run)
{
    bool failed = false;
    struct pollfd fds[] = {
        {.fd = run->signal_fd, .events = POLLIN},
        {.fd = workers_ended_fd(run->workers), .events = POLLIN},
    };
    for (;;) {
        int count = poll(fds, ARRAY_SIZE(fds), run_poll_timeout_ms(run));
        if (count == 0) {
            log_info("drain_timeout is over: stopping now");
            run_stop(run);
            continue;
        }
        run_handle_signal(run);
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

enum exit_code run_role(enum config_role role, const struct config *config)
{
    const struct config_peer *peer = role == CONFIG_SERVER ? &config->server : &config->client;
    unsigned int count = peer->threads != 0 ? peer->threads : workers_usable_cores();
    struct run run = {.signal_fd = -1, .drain_timeout_ms = peer->drain_timeout_ms};
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
        if (peer->transport.noise.zerocopy_send == CONFIG_ZEROCOPY_ON)
            log_warn("transport.noise.zerocopy_send = on: not built into this version");
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
    if (made < 0)
        goto out;
    run_until_ended(&run);
    log_info("stopped");
    result = run.failed ? EXIT_START_ERROR : EXIT_STOPPED;

out:
    workers_destroy(run.workers);
    client_destroy(client);
    server_destroy(server);
    (void)close(run.signal_fd);
    return result;
}
