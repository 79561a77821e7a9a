#include "app/run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "app/awake.h"
#include "app/drain.h"
#include "app/limits_check.h"
#include "app/notify.h"
#include "app/privileges.h"
#include "app/process.h"
#include "app/program.h"
#include "app/reload.h"
#include "app/sandbox.h"
#include "app/source.h"
#include "app/status.h"
#include "app/transport_check.h"
#include "app/upgrade.h"
#include "app/watchdog.h"
#include "app/worker.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "crypto/aead.h"
#include "io/inherit.h"
#include "io/kernel.h"
#include "tunnel/handover.h"
#include "tunnel/role.h"

/* ---- running ---- */

enum {
    START_STEP_MS = 5,       /* between two checks whether all workers serve */
    START_BIND_STEP_MS = 10, /* between two attempts to bind the addresses */
    OWN_FDS = 3,
};

struct run {
    const struct role *role;
    void *shared; /* of the role */
    struct workers *workers;
    struct reload *reload;
    struct status *status;
    struct handover *handover;
    const struct program *program;
    const struct source *source;
    struct notify notify;
    struct watchdog watchdog;
    struct upgrade upgrade;
    struct awake awake;
    int signal_fd;
    unsigned int worker_count;
    bool has_predecessor;
    bool is_ready; /* the service manager knows that it serves */
    bool is_reloading, wants_upgrade;
    bool is_asked_to_stop;
    struct drain drain;
    bool failed;
};

static uint64_t run_now_ms(const struct run *run)
{
    return awake_ms(&run->awake, clock_monotonic_ms());
}

static struct drain_view run_drain_view(const struct run *run)
{
    /* A process that does not serve yet, or not any more, has no visitors to wait for. */
    bool is_alone = run->is_ready && run->upgrade.state == UPGRADE_NONE;
    return (struct drain_view){
        .now_ms = run_now_ms(run),
        .delay_ms = is_alone ? reload_drain_delay_ms(run->reload) : 0,
        .timeout_ms = reload_drain_timeout_ms(run->reload),
        .waiting_visitors = run->role->status(run->shared).waiting_visitors,
    };
}

/* bits: what a function of drain.h has returned. */
static void run_drain(struct run *run, uint32_t bits)
{
    if (bits == 0)
        return;
    if ((bits & (TUNNEL_SIGNAL_DRAIN | TUNNEL_SIGNAL_STOP)) != 0)
        run->role->leave_addresses(run->shared); /* so that another process can have them at once */
    workers_signal(run->workers, bits);
}

/* The text becomes the status of the unit. */
static void run_tell_ready(struct run *run)
{
    unsigned int unbound_count = run->role->status(run->shared).unbound_services;
    if (unbound_count == 0)
        notify_ready(&run->notify, "serving with %u workers", run->worker_count);
    else
        notify_ready(&run->notify, "serving with %u workers; %u services wait for their address",
                     run->worker_count, unbound_count);
}

/* To be called when anything below has changed. */
static void run_tell_status(const struct run *run)
{
    enum status_state state = run->is_ready ? STATUS_READY : STATUS_STARTING;
    if (run->is_asked_to_stop || run->drain.state != DRAIN_NONE || run->drain.is_stopping)
        state = STATUS_DRAINING;
    /* In both of these the address is another process's, whatever else this one is about. */
    if (run->upgrade.state == UPGRADE_AWAITING)
        state = STATUS_AWAITING;
    if (run->upgrade.state == UPGRADE_LEFT)
        state = STATUS_LEFT;
    status_set(run->status, state);
}

static void run_asked_to_stop(struct run *run)
{
    if (run->is_asked_to_stop) {
        log_info("stopping now");
        run_drain(run, drain_stop(&run->drain));
        return;
    }
    run->is_asked_to_stop = true;
    run_tell_status(run); /* /readyz says it before anything else changes */
    upgrade_cancel(&run->upgrade);
    struct drain_view view = run_drain_view(run);
    bool is_first = run->drain.state == DRAIN_NONE;
    if (is_first && view.delay_ms > 0)
        log_info("stopping: not ready any more; new visitors may come for %u s",
                 view.delay_ms / 1000);
    log_info("stopping: open connections may finish for up to %u s; a second signal stops at once",
             view.timeout_ms / 1000);
    if (is_first)
        notify_stopping(&run->notify);
    run_drain(run, drain_begin(&run->drain, &view));
}

static void run_asked_to_upgrade(struct run *run)
{
    if (run->is_asked_to_stop || run->drain.state != DRAIN_NONE)
        log_warn("upgrade: refused: this process is stopping");
    else if (run->upgrade.state != UPGRADE_NONE)
        log_warn("upgrade: refused: one is going on already");
    else
        run->wants_upgrade = true; /* not during a reload, which changes the sockets to hand over */
}

/* SIGHUP is what `systemctl reload` sends, also after a package was updated: if the program file
 * has changed, it is started, else the configuration is read again. */
static void run_asked_to_reload(struct run *run)
{
    if (program_has_changed(run->program))
        run_asked_to_upgrade(run);
    else
        reload_ask(run->reload);
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
        case SIGUSR2:
            run_asked_to_upgrade(run);
            break;
        case SIGHUP:
            run_asked_to_reload(run);
            break;
        default:
            break;
        }
    }
}

/* The shorter of two timeouts; -1 means none. */
static int sooner_ms(int a, int b)
{
    return a < 0 ? b : b < 0 ? a : MIN(a, b);
}

/* No reload once visitors are refused, nor while two processes hold the same sockets. */
static bool run_may_reload(const struct run *run)
{
    return run->is_ready && !drain_has_ended_service(&run->drain) &&
           run->upgrade.state == UPGRADE_NONE;
}

static int run_poll_timeout_ms(const struct run *run)
{
    uint64_t now = run_now_ms(run);
    const struct drain_view view = run_drain_view(run);
    int timeout_ms = sooner_ms(upgrade_timeout_ms(&run->upgrade, now),
                               watchdog_timeout_ms(&run->watchdog, clock_monotonic_ms()));
    if (run->drain.state != DRAIN_NONE || run->upgrade.state != UPGRADE_NONE)
        timeout_ms = sooner_ms(timeout_ms, AWAKE_STEP_MS);
    if (!run->is_ready)
        timeout_ms = sooner_ms(timeout_ms, START_STEP_MS);
    if (!drain_has_ended_service(&run->drain))
        timeout_ms = sooner_ms(timeout_ms, status_timeout_ms(run->status, clock_monotonic_ms()));
    if (run_may_reload(run))
        timeout_ms = sooner_ms(timeout_ms, reload_timeout_ms(run->reload, now));
    return sooner_ms(timeout_ms, drain_timeout_ms(&run->drain, &view));
}

static void run_tell_reload(struct run *run)
{
    bool is_reloading = reload_is_of_file(run->reload);
    if (run->is_asked_to_stop)
        return; /* a service manager that knows of the end does not hear of reloads */
    if (is_reloading && !run->is_reloading)
        notify_reloading(&run->notify);
    else if (!is_reloading && run->is_reloading)
        run_tell_ready(run);
    run->is_reloading = is_reloading;
}

static void run_reloads(struct run *run, uint64_t now)
{
    if (run_may_reload(run)) {
        run_tell_reload(run);
        reload_run(run->reload, now);
        run_tell_reload(run);
    }
    if (run->wants_upgrade && !run->is_asked_to_stop && run->drain.state == DRAIN_NONE &&
        !reload_is_busy(run->reload)) {
        run->wants_upgrade = false;
        upgrade_begin(&run->upgrade, now);
    }
}

/* Does what is due. */
static void run_turn(struct run *run)
{
    uint64_t now = run_now_ms(run);
    /* Not run_now_ms(): the manager's clock went on during an absence. */
    watchdog_turn(&run->watchdog, clock_monotonic_ms());
    sandbox_log_refusals();
    run_reloads(run, now);
    if (upgrade_turn(&run->upgrade, now))
        drain_follow(&run->drain, now);
    if (!run->is_ready && run->drain.state == DRAIN_NONE &&
        handover_all_reached(run->handover, run->worker_count, HANDOVER_SERVING)) {
        run->is_ready = true;
        run_tell_ready(run);
        if (!run->has_predecessor)
            source_welcome(run->source);
    }
    run_tell_status(run);
    if (!drain_has_ended_service(&run->drain))
        status_turn(run->status, clock_monotonic_ms());
    const struct drain_view view = run_drain_view(run);
    run_drain(run, drain_turn(&run->drain, &view));
}

static void run_until_ended(struct run *run)
{
    bool failed = false;
    for (;;) {
        struct pollfd fds[OWN_FDS + RELOAD_FDS] = {
            {.fd = run->signal_fd, .events = POLLIN},
            {.fd = workers_ended_fd(run->workers), .events = POLLIN},
            {.fd = upgrade_fd(&run->upgrade), .events = POLLIN},
        };
        reload_pollfds(run->reload, &fds[OWN_FDS]);
        nfds_t watched = run_may_reload(run) ? ARRAY_SIZE(fds) : OWN_FDS;
        uint64_t began_ms = clock_monotonic_ms();
        int timeout_ms = run_poll_timeout_ms(run);
        (void)poll(fds, watched, timeout_ms);
        awake_waited(&run->awake, timeout_ms, clock_monotonic_ms() - began_ms);
        run_handle_signal(run);
        run_turn(run);
        if (workers_have_ended(run->workers, &failed))
            break;
        if (failed && !run->failed) {
            run->failed = true; /* the other workers can't serve the lost one's visitors */
            run_drain(run, drain_stop(&run->drain));
        }
    }
    run->failed = failed;
    /* If there is no relay, the workers end as soon as they have left, and "go" may not be said
     * yet. */
    (void)upgrade_turn(&run->upgrade, run_now_ms(run));
    run_tell_status(run); /* the successor may have the status' address now */
}

static void log_start(const struct role *role, const struct config_peer *peer, unsigned int workers)
{
    char addr[ADDR_HOST_SIZE + 8 + 256]; /* of a long list the log has the beginning */
    char kernel[KERNEL_TEXT_SIZE];
    log_info("rathole-uring " PROJECT_VERSION ", %s %s, %zu services, %u workers, %s",
             role->start_text, config_addrs_format(peer, addr, sizeof(addr)),
             config_count_services(peer), workers, kernel_describe(kernel, sizeof(kernel)));
}

static void setup_noise(const struct config_peer *peer)
{
    if (peer->transport.type != CONFIG_TRANSPORT_NOISE)
        return;
    aead_setup();
    log_info("noise: %s, AEAD by %s", noise_pattern_name(peer->transport.noise.pattern),
             aead_description());
}

/* Binds the addresses. Names and ports may take some time, so the signals that end the process are
 * answered meanwhile. */
static int run_bind(struct run *run, struct inherited *inherited)
{
    uint64_t begun_ms = clock_monotonic_ms();
    int result;
    while ((result = run->role->bind(run->shared, inherited,
                                     (uint32_t)(clock_monotonic_ms() - begun_ms))) == -EAGAIN) {
        if (process_is_asked_to_stop(START_BIND_STEP_MS)) {
            log_info("stopping: the start was not complete yet");
            return -ECANCELED;
        }
    }
    return result;
}

/* Before the addresses, so that /readyz can tell that they are not bound yet. */
static int run_make_status(struct run *run, const struct config_peer *peer,
                           const struct role_options *role, struct inherited *inherited)
{
    const struct status_options options = {
        .role = run->role,
        .shared = run->shared,
        .workers = run->worker_count,
        .thread_begins = role->thread_begins,
        .has_predecessor = run->has_predecessor,
    };
    int result = status_create(&options, &run->status);
    if (result == 0)
        (void)status_configure(run->status, peer->status, inherited);
    run->upgrade.status = run->status;
    return result;
}

/* shared_count: as in inherited_init. */
static int run_make_role(struct run *run, const struct config_peer *peer, struct recipe **recipe,
                         const char *file, int shared_count)
{
    const struct role_options options = {
        .config = peer,
        .recipe = recipe,
        .file = file,
        .workers = run->worker_count,
        .thread_begins = *peer->user != '\0' ? privileges_drop_in_thread : NULL,
    };
    struct inherited inherited;
    int result = inherited_init(&inherited, shared_count);
    if (result < 0 && run->role->has_addresses) {
        log_error("LISTEN_FDS: %s", error_text(result));
        return result;
    }
    result = run->role->create(&options, &run->shared);
    if (result == 0)
        result = run_make_status(run, peer, &options, &inherited);
    bool is_made = result == 0;
    if (is_made)
        result = run_bind(run, &inherited);
    /* An address that can't be bound has its own line. */
    if (result < 0 && (!is_made || result == -ENOMEM))
        log_error("cannot start: %s", error_text(result));
    process_close_leftovers(&inherited);
    return result;
}

/* channel: to the predecessor, -1 = none. */
static int run_start(struct run *run, int channel)
{
    struct handover *handover = run->role->handover(run->shared);
    run->handover = run->upgrade.handover = handover;
    if (channel >= 0) {
        handover_set_phase(handover, HANDOVER_AWAITED);
        upgrade_await(&run->upgrade, channel);
    }
    int result = workers_start(run->role, run->shared, run->worker_count, &run->workers);
    run->upgrade.role = run->role;
    run->upgrade.shared = run->shared;
    run->upgrade.program = run->program;
    run->upgrade.notify = &run->notify;
    run->upgrade.workers = run->workers;
    run->upgrade.worker_count = run->worker_count;
    if (result == 0)
        watchdog_init(&run->watchdog, &run->notify, run->workers, clock_monotonic_ms());
    return result;
}

static int start_reloads(struct run *run, const struct config_peer *peer,
                         const struct source *source)
{
    struct reload_options options = {
        .source = source,
        .role = run->role,
        .shared = run->shared,
        .workers = run->workers,
        .status = run->status,
        .started = peer,
        .worker_count = run->worker_count,
    };
    int result = reload_create(&options, &run->reload);
    if (result < 0)
        log_error("cannot watch %s: %s", source->path, error_text(result));
    return result;
}

static bool run_has_descriptors(enum config_role half, const struct config_peer *peer,
                                unsigned int workers)
{
    char text[LIMITS_TEXT_SIZE];
    limits_note_foreign();
    bool are_enough = limits_allow(half, peer, workers, text);
    if (!are_enough)
        log_error("%s", text);
    else if (limits_are_tight(half, peer, workers, text))
        log_warn("%s", text);
    return are_enough;
}

/* Whether a unix socket has to be given to another user, which only root may do. */
static bool gives_files(const struct config_peer *peer)
{
    bool gives = false;
    for (size_t i = 0; i < peer->service_count; i++)
        gives |= peer->services[i].socket_owner[0] != '\0';
    return gives;
}

enum exit_code run_role(const struct role *role, const struct config_peer *peer,
                        struct recipe **recipe, const struct source *source,
                        const struct program *program)
{
    struct run run = {
        .role = role,
        .signal_fd = -1,
        .program = program,
        .source = source,
        .worker_count = peer->threads != 0 ? peer->threads : workers_usable_cores(),
        .upgrade = {.channel = -1},
    };
    enum exit_code result = EXIT_START_ERROR;
    int made = -1, channel = -1, shared_count = INHERITED_ALL_SHARED;
    run.has_predecessor = program_take_channel(&channel, &shared_count);

    process_raise_limits(run.worker_count);
    if (!run_has_descriptors(role->half, peer, run.worker_count))
        return EXIT_START_ERROR;
    notify_init(&run.notify);
    /* Before signals are blocked, so that they can end a process that waits for a slow user
     * directory (LDAP). */
    made = privileges_change(peer->user, peer->group, gives_files(peer));
    if (made < 0)
        goto out;
    sandbox_start(role->half, peer, program->path); /* before any thread */
    run.signal_fd = made = process_open_signals();
    if (run.signal_fd < 0) {
        log_error("cannot receive signals: %s", error_text(run.signal_fd));
        goto out;
    }
    setup_noise(peer);
    transport_log_library(peer);
    made = run_make_role(&run, peer, recipe, source->path, shared_count);
    if (made == 0)
        made = privileges_drop(peer->user); /* before the first worker and its ring */
    if (made < 0)
        goto out;
    log_start(role, peer, run.worker_count);
    made = run_start(&run, channel);
    if (made == 0) {
        sandbox_log();
        made = start_reloads(&run, peer, source);
    }
    if (made < 0)
        goto out;
    status_watch(run.status, run.workers, reload_metrics(run.reload));
    run_until_ended(&run);
    log_info("stopped");
    result = run.failed ? EXIT_START_ERROR : EXIT_STOPPED;

out:
    if (made == -ECANCELED)
        result = EXIT_STOPPED; /* a signal has ended the start */
    if (made < 0 && run.workers != NULL)
        workers_signal(run.workers, TUNNEL_SIGNAL_STOP);
    status_destroy(run.status);
    workers_destroy(run.workers);
    reload_destroy(run.reload);
    role->destroy(run.shared);
    notify_finish(&run.notify);
    if (run.signal_fd >= 0)
        (void)close(run.signal_fd);
    return result;
}
