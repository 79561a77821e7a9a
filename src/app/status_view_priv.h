/* What the status pages show, as plain numbers: one moment of the process. Pure: the writers turn a
 * view into text, and are tested without threads and sockets. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "app/sandbox.h"
#include "app/worker.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/metrics.h"
#include "base/text.h"
#include "tunnel/service_stats.h"

/* One service. The texts are owned. report.config is not valid any more. */
struct status_service {
    char *name, *addr;
    enum config_service_type type;
    struct service_report report;
};

/* The last ten minutes, one sample every five seconds. */
enum { STATUS_SAMPLES = 120, STATUS_SAMPLE_MS = 5000 };
struct status_sample {
    float visitors_per_s, bytes_per_s[2];
    uint64_t open;
};
struct status_history {
    struct status_sample samples[STATUS_SAMPLES]; /* a ring; `count` is ever */
    size_t count;
    uint64_t last_ms, visitors, bytes[2]; /* at the last sample; last_ms 0: there was none */
};

struct status_view {
    const char *role;
    int64_t started_at_s, now_s;
    unsigned int workers;
    bool is_ready, is_draining;
    struct status_service *services;
    size_t service_count, service_room;
    bool is_cut; /* no memory for all of them */
    uint64_t metrics[METRIC_COUNT];
    uint64_t log_dropped;
    struct sandbox_facts sandbox;
    struct worker_load loads[LIMIT_WORKERS];
    const char *(*refusal_name)(unsigned int reason);
    const struct status_history *history;
    struct log_record records[LOG_RECENT];
    size_t record_count;
};

/* A service_report_fn; arg is a view. Copies. */
void status_view_add(void *arg, const struct service_report *report);
void status_view_finish(struct status_view *view);

struct status_totals {
    uint64_t visitors, open, waiting, bytes[2], refused, udp_open;
};
/* A service_report_fn; arg is a struct status_totals. */
void status_totals_add(void *arg, const struct service_report *report);
/* Takes a sample. now_ms: by a clock that nobody sets. */
void status_history_add(struct status_history *history, const struct status_totals *totals,
                        uint64_t now_ms);

/* The name of a reason in a service's totals; NULL: there are no more. */
const char *status_reason_name(const struct status_view *view, bool is_udp, unsigned int reason);

/* GET /metrics, as OpenMetrics 1.0 or in the older text format of Prometheus (0.0.4). */
void status_write_metrics(const struct status_view *view, bool is_openmetrics, struct text *out);
/* GET /status. */
void status_write_json(const struct status_view *view, struct text *out);
/* GET /status.tsv, for --status: a line for each service, its fields separated by tabs. */
void status_write_table(const struct status_view *view, struct text *out);
