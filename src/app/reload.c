#include "app/reload.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/limits_check.h"
#include "app/log_filter.h"
#include "app/source.h"
#include "app/status.h"
#include "app/transport_check.h"
#include "app/worker.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/metrics.h"
#include "config/config_diff.h"
#include "crypto/aead.h"
#include "io/file_watch.h"
#include "net/recipe.h"

enum {
    PROBLEM_SIZE = 1024,
    PROBLEMS_LOGGED_MAX = 20,
};
static_assert((int)LIMITS_TEXT_SIZE <= (int)PROBLEM_SIZE &&
                  (int)TRANSPORT_PROBLEM_SIZE <= (int)PROBLEM_SIZE,
              "room for the texts of limits_allow and transport_check");

struct reload {
    struct reload_options options;
    struct file_watch watch;
    bool is_asked;

    struct config *config; /* the last valid file; NULL: there was none since the start */
    off_t size;            /* of that file, or of the start's */
    dev_t device;          /* of the last file that was whole, valid or not */
    ino_t inode;
    struct recipe *recipe; /* its own; NULL like it */
    uint32_t drain_delay_ms, drain_timeout_ms;
    bool needs_restart; /* part of the file is applied only by a restart */
    bool is_noise_ready, is_tls_known;
    bool has_new_status; /* [status] has changed, which is not logged yet */
    bool is_looking_up;  /* names of the file are being looked up, until names_until_ms */
    uint64_t names_until_ms;
    bool is_applying;
    enum reload_attempt attempt;   /* the latest */
    bool is_on_login;              /* it, or the one that it follows, was RELOAD_ON_LOGIN */
    struct reload_outcome outcome; /* the sum of the attempts so far */
    uint64_t begun_at_ns;
    uint64_t retry_at_ms; /* UINT64_MAX: nothing has failed */
    uint64_t cut_at_ms;
    uint64_t on_login_at_ms; /* the next look at services that come and go */

    char *last_problem; /* logged last */
    struct metrics metrics;
};

static const struct config_peer *wanted_peer(const struct reload *reload)
{
    if (reload->config == NULL)
        return reload->options.started;
    return config_half(reload->config, reload->options.role->half);
}

static const struct reload_ops *reload_ops_of(const struct reload *reload)
{
    return reload->options.role->reload;
}

void reload_configure_log(const struct config_peer *peer)
{
    enum log_level level = peer->log_level;
    const char *name = getenv("RATHOLE_URING_LOG"), *filter = getenv("RUST_LOG");
    bool known = name == NULL || log_level_from_name(name, &level);
    if (name == NULL && filter != NULL) /* rathole's units and containers set it */
        log_filter_level(filter, &level);
    log_configure(level, peer->log_format);
    if (!known)
        log_warn("RATHOLE_URING_LOG: ignored: expected error, warn, info, debug or trace");
}

/* ---- reading the file ---- */

/* One error line says that the file is not applied, and why; further errors follow as warnings. The
 * same problem is not logged again, unless SIGHUP has asked. */
static void reload_refuse(struct reload *reload, const struct config_report *report,
                          const char *problem)
{
    bool is_known = reload->last_problem != NULL && strcmp(reload->last_problem, problem) == 0;
    metrics_add(&reload->metrics, METRIC_RELOADS_REFUSED, 1);
    if (is_known && !reload->is_asked)
        return;
    free(reload->last_problem);
    reload->last_problem = strdup(problem); /* NULL: it is logged again, which does no harm */
    log_error("reload: nothing is changed: %s", problem);
    size_t said = 0;
    for (size_t i = 0, errors = 0; i < report->count && said < PROBLEMS_LOGGED_MAX; i++) {
        if (report->messages[i].is_error && errors++ > 0) {
            log_warn("reload: also: %s", report->messages[i].text);
            said++;
        }
    }
}

static const char *first_error(const struct config_report *report)
{
    for (size_t i = 0; i < report->count; i++) {
        if (report->messages[i].is_error)
            return report->messages[i].text;
    }
    return "out of memory";
}

static void reload_log_warnings(const struct config_report *report)
{
    for (size_t i = 0; i < report->count; i++) {
        if (!report->messages[i].is_error)
            log_warn("%s", report->messages[i].text);
    }
}

/* Writes why the file can't be applied; "": it can. Also what the operator should know of the files
 * that it names, or ""; and its recipe. */
static void find_problem(const struct reload *reload, const struct config *config, int result,
                         const struct config_report *report, char problem[static PROBLEM_SIZE],
                         char warning[static TRANSPORT_PROBLEM_SIZE], struct recipe **recipe)
{
    const struct role *role = reload->options.role;
    const struct config_peer *peer = result == 0 ? config_half(config, role->half) : NULL;
    problem[0] = warning[0] = '\0';
    if (result < 0)
        (void)snprintf(problem, PROBLEM_SIZE, "%s (%zu errors)", first_error(report),
                       report->error_count);
    else if (peer == NULL)
        (void)snprintf(problem, PROBLEM_SIZE, "%s: section [%s] is missing",
                       reload->options.source->path, role->name);
    else if (transport_check(reload->options.source->path, role->half, peer, warning, recipe) < 0)
        (void)snprintf(problem, PROBLEM_SIZE, "%s", warning);
    else /* it writes only if there is a problem: too few descriptors */
        (void)limits_allow(role->half, peer, reload->options.worker_count, problem);
}

/* Whether the file, which is valid, may be half written all the same. A writer that changes it in
 * place may pause at the end of a line; then the services at the end are not there yet, or a
 * section behind them, such as that of the transport. A file renamed into place is whole. */
static bool may_be_cut_off(const struct reload *reload, const struct config *config)
{
    const struct stat *seen = &reload->watch.seen;
    enum config_role role = reload->options.role->half;
    const struct config_peer *old = wanted_peer(reload), *new = config_half(config, role);
    bool is_in_place = seen->st_dev == reload->device && seen->st_ino == reload->inode;
    bool lacks_section = seen->st_size < reload->size && config_peer_changes(role, old, new) != 0;
    return config->is_cut_off || (is_in_place && (lacks_section || config_lacks_last(old, new)));
}

static void note_whole(struct reload *reload)
{
    reload->device = reload->watch.seen.st_dev;
    reload->inode = reload->watch.seen.st_ino;
}

/* NULL: the file is not applied. Either that is logged, or the file may be half written and is read
 * again when it is at rest. */
static struct config *reload_load(struct reload *reload, struct recipe **recipe)
{
    struct config *config = NULL;
    struct config_report report;
    char problem[PROBLEM_SIZE], warning[TRANSPORT_PROBLEM_SIZE];
    bool is_finished = reload->is_asked || file_watch_is_at_rest(&reload->watch);
    int result = source_load(reload->options.source, &reload->options.role->half, &config, &report);
    find_problem(reload, config, result, &report, problem, warning, recipe);
    bool is_good = problem[0] == '\0';
    if (!is_finished && (!is_good || may_be_cut_off(reload, config))) {
        file_watch_doubt(&reload->watch);
        is_good = false;
    } else if (!is_good) {
        reload_refuse(reload, &report, problem);
        note_whole(reload);
    } else {
        note_whole(reload);
        reload->size = reload->watch.seen.st_size;
        reload_log_warnings(&report); /* config_check's warnings are for the start and --check */
        if (warning[0] != '\0')
            log_warn("%s", warning);
        free(reload->last_problem);
        reload->last_problem = NULL;
    }
    if (!is_good) {
        config_destroy(config);
        config = NULL;
        recipe_destroy(take_ptr(*recipe));
    }
    config_report_finish(&report);
    return config;
}

/* ---- logging what was applied ---- */

static size_t say_count(char *text, size_t size, size_t used, unsigned int count, const char *what)
{
    if (count == 0 || used >= size)
        return used;
    return used +
           (size_t)snprintf(text + used, size - used, "%s%u %s", used > 0 ? ", " : "", count, what);
}

static void log_applied(const struct reload *reload)
{
    const struct reload_outcome *outcome = &reload->outcome;
    char services[100] = "", changes[120];
    size_t used = 0;
    used = say_count(services, sizeof(services), used, outcome->added, "added");
    used = say_count(services, sizeof(services), used, outcome->removed, "removed");
    (void)say_count(services, sizeof(services), used, outcome->changed, "changed");
    (void)config_changes_format(outcome->changes, changes, sizeof(changes));
    bool has_services = outcome->added + outcome->removed + outcome->changed > 0;
    log_info("reload: %s%s%s%s; took %.1f ms%s%s", has_services ? "services: " : "",
             has_services            ? services
             : outcome->changes == 0 ? "nothing has changed"
                                     : "",
             has_services && outcome->changes != 0 ? "; " : "", changes,
             (double)(clock_monotonic_ns() - reload->begun_at_ns) / 1e6,
             outcome->failed > 0 ? "; what failed is tried again every second" : "",
             reload->needs_restart ? "; a change of threads, user, group or sandbox needs a restart"
                                   : "");
}

/* ---- applying ---- */

static void finish_attempt(struct reload *reload, uint64_t now_ms);

static void add_outcome(struct reload_outcome *sum, const struct reload_outcome *part)
{
    /* A service that one attempt removes and the next one adds back counts as changed. */
    unsigned int back = MIN(part->added, sum->replaced);
    sum->added += part->added - back;
    sum->changed += part->changed + back;
    sum->removed += part->removed;
    sum->bound += part->bound;
    sum->changes |= part->changes;
    sum->failed = part->failed;
    sum->deferred = part->deferred;
    sum->replaced = part->replaced;
}

static void attempt_to_apply(struct reload *reload, enum reload_attempt attempt, uint64_t now_ms)
{
    struct reload_outcome outcome;
    const struct reload_options *options = &reload->options;
    if (attempt != RELOAD_AGAIN) {
        reload->outcome =
            (struct reload_outcome){.changes = reload->has_new_status ? CONFIG_CHANGE_STATUS : 0};
        reload->is_on_login = attempt == RELOAD_ON_LOGIN;
    }
    reload->has_new_status = false;
    if (attempt == RELOAD_RETRY || attempt == RELOAD_ON_LOGIN)
        reload->begun_at_ns = clock_monotonic_ns();
    reload->attempt = attempt;
    reload->retry_at_ms = UINT64_MAX;
    int result = reload_ops_of(reload)->begin(options->shared, wanted_peer(reload), reload->recipe,
                                              attempt, now_ms, &outcome);
    if (result < 0) {
        log_error("reload: nothing is changed: %s", error_text(result));
        metrics_add(&reload->metrics, METRIC_RELOADS_REFUSED, 1);
        reload->retry_at_ms = now_ms + LIMIT_ADDRESS_RETRY_MS;
        return;
    }
    add_outcome(&reload->outcome, &outcome);
    if (result > 0) {
        reload->is_applying = true;
        workers_signal(options->workers, TUNNEL_SIGNAL_PLAN);
        return;
    }
    finish_attempt(reload, now_ms);
}

/* All workers have applied the attempt's plan, or there was nothing to apply. */
static void finish_attempt(struct reload *reload, uint64_t now_ms)
{
    const struct reload_outcome *outcome = &reload->outcome;
    reload->cut_at_ms = now_ms; /* so that cut_due finds the next time */
    if (outcome->deferred > 0) {
        attempt_to_apply(reload, RELOAD_AGAIN, now_ms);
        return;
    }
    if (outcome->failed > 0)
        reload->retry_at_ms = now_ms + LIMIT_ADDRESS_RETRY_MS;
    bool did = outcome->added + outcome->removed + outcome->changed > 0 || outcome->changes != 0;
    if ((reload->attempt == RELOAD_RETRY || reload->is_on_login) &&
        !did) /* each address that was found is logged already */
        return;
    metrics_add(&reload->metrics, METRIC_RELOADS_APPLIED, 1);
    log_applied(reload);
}

/* aead_setup runs once in a process, while no worker encrypts yet. */
static void prepare_noise(struct reload *reload, const struct config_peer *peer)
{
    if (reload->is_noise_ready || peer->transport.type != CONFIG_TRANSPORT_NOISE)
        return;
    aead_setup();
    reload->is_noise_ready = true;
    log_info("noise: AEAD by %s", aead_description());
}

static void note_tls(struct reload *reload, const struct config_peer *peer)
{
    if (!reload->is_tls_known && config_has_tls(&peer->transport)) {
        reload->is_tls_known = true;
        transport_log_library(peer);
    }
}

static void apply_file(struct reload *reload, uint64_t now_ms)
{
    reload->begun_at_ns = clock_monotonic_ns();
    file_watch_begin_read(&reload->watch, now_ms);
    struct recipe *recipe = NULL;
    struct config *config = reload_load(reload, &recipe);
    reload->is_asked = false;
    if (config == NULL)
        return;
    config_destroy(reload->config);
    recipe_destroy(reload->recipe);
    reload->config = config;
    reload->recipe = recipe;
    const struct config_peer *peer = wanted_peer(reload);
    reload->drain_delay_ms = peer->drain_delay_ms;
    reload->drain_timeout_ms = peer->drain_timeout_ms;
    reload->needs_restart =
        (config_peer_changes(reload->options.role->half, reload->options.started, peer) &
         CONFIG_CHANGE_RESTART) != 0;
    reload_configure_log(peer);
    prepare_noise(reload, peer);
    note_tls(reload, peer);
    reload->has_new_status = status_configure(reload->options.status, peer->status, NULL);
    reload_ops_of(reload)->look_up(reload->options.shared, peer);
    reload->is_looking_up = true;
    reload->names_until_ms = now_ms + LIMIT_RELOAD_NAMES_MS;
    reload->retry_at_ms = UINT64_MAX; /* a retry of the previous file is obsolete */
}

/* ---- the main thread's turn ---- */

static void cut_due(struct reload *reload, uint64_t now_ms)
{
    if (now_ms < reload->cut_at_ms)
        return;
    if (reload_ops_of(reload)->cut_due(reload->options.shared, now_ms, &reload->cut_at_ms))
        workers_signal(reload->options.workers, TUNNEL_SIGNAL_CUT);
}

/* Names of a new file get LIMIT_RELOAD_NAMES_MS. One that is not found by then is retried like a
 * port that is in use. */
static void look_at_names(struct reload *reload, uint64_t now_ms)
{
    bool is_over = reload_ops_of(reload)->has_looked_up(reload->options.shared);
    if (!reload->is_looking_up || (!is_over && now_ms < reload->names_until_ms))
        return;
    reload->is_looking_up = false;
    attempt_to_apply(reload, RELOAD_FIRST, now_ms);
}

void reload_run(struct reload *reload, uint64_t now_ms)
{
    file_watch_look(&reload->watch, now_ms);
    look_at_names(reload, now_ms);
    bool has_finished = false;
    if (reload->is_applying && reload_ops_of(reload)->finish(reload->options.shared)) {
        reload->is_applying = false;
        has_finished = true;
        finish_attempt(reload, now_ms);
    }
    cut_due(reload, now_ms);
    if (reload->is_applying || reload->is_looking_up)
        return; /* a change that comes meanwhile has to wait */
    if (reload->is_asked || file_watch_is_due(&reload->watch)) {
        apply_file(reload, now_ms);
        look_at_names(reload, now_ms); /* at once if there are only numeric addresses */
    } else if (reload->retry_at_ms <= now_ms) {
        attempt_to_apply(reload, RELOAD_RETRY, now_ms);
    } else if (!has_finished && /* so that an upgrade that waits comes before the next login */
               reload_ops_of(reload)->on_login_due(reload->options.shared, now_ms,
                                                   &reload->on_login_at_ms)) {
        attempt_to_apply(reload, RELOAD_ON_LOGIN, now_ms);
    }
}

void reload_ask(struct reload *reload)
{
    reload->is_asked = true;
}

int reload_timeout_ms(const struct reload *reload, uint64_t now_ms)
{
    uint64_t next_ms = MIN(file_watch_next_look_ms(&reload->watch), reload->cut_at_ms);
    if (reload->is_looking_up)
        next_ms = MIN(next_ms, reload->names_until_ms);
    else if (!reload->is_applying)
        next_ms = MIN(next_ms, MIN(reload->retry_at_ms, reload->on_login_at_ms));
    return next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
}

void reload_pollfds(const struct reload *reload, struct pollfd fds[static RELOAD_FDS])
{
    const struct reload_ops *ops = reload_ops_of(reload);
    void *shared = reload->options.shared;
    fds[0] = (struct pollfd){.fd = ops->slot(shared)->done_fd, .events = POLLIN};
    fds[1] = (struct pollfd){.fd = ops->names_fd(shared), .events = POLLIN};
    /* Not while another plan is on its way: it would stay readable. */
    int on_login_fd = reload_is_busy(reload) ? -1 : ops->on_login_fd(shared);
    fds[2] = (struct pollfd){.fd = on_login_fd, .events = POLLIN};
}

bool reload_is_busy(const struct reload *reload)
{
    return reload->is_asked || reload->is_applying || reload->is_looking_up;
}

bool reload_is_of_file(const struct reload *reload)
{
    bool is_on_login = reload->is_applying && reload->is_on_login;
    return reload_is_busy(reload) && (reload->is_asked || !is_on_login);
}

uint32_t reload_drain_delay_ms(const struct reload *reload)
{
    return reload->drain_delay_ms;
}

uint32_t reload_drain_timeout_ms(const struct reload *reload)
{
    return reload->drain_timeout_ms;
}

void reload_log_metrics(const struct reload *reload)
{
    char text[900];
    (void)metrics_format(&reload->metrics, text, sizeof(text));
    log_write(LOG_INFO, NULL, 0, "main: %s%slog_lines_dropped=%llu", text,
              text[0] != '\0' ? " " : "", (unsigned long long)log_dropped());
}

const struct metrics *reload_metrics(const struct reload *reload)
{
    return &reload->metrics;
}

/* ---- create and destroy ---- */

int reload_create(const struct reload_options *options, struct reload **ret)
{
    struct reload *reload = calloc(1, sizeof(*reload));
    if (reload == NULL)
        return -ENOMEM;
    reload->options = *options;
    reload->drain_delay_ms = options->started->drain_delay_ms;
    reload->drain_timeout_ms = options->started->drain_timeout_ms;
    reload->is_noise_ready = options->started->transport.type == CONFIG_TRANSPORT_NOISE;
    reload->is_tls_known = config_has_tls(&options->started->transport);
    reload->retry_at_ms = reload->cut_at_ms = UINT64_MAX;
    if (options->role->status(options->shared).unbound_services > 0)
        reload->retry_at_ms = 0; /* in the first turn, then every second */
    file_watch_init(&reload->watch, source_watched_path(options->source), &options->source->seen,
                    clock_monotonic_ms());
    reload->size = options->source->seen.st_size;
    reload->device = options->source->seen.st_dev;
    reload->inode = options->source->seen.st_ino;
    *ret = reload;
    return 0;
}

void reload_destroy(struct reload *reload)
{
    if (reload == NULL)
        return;
    config_destroy(reload->config);
    recipe_destroy(reload->recipe);
    free(reload->last_problem);
    free(reload);
}
