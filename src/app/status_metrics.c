#include <stdio.h>
#include <string.h>

#include "status_view_priv.h"

/* Histograms are most of the text: a server with more services has none. */
enum { HISTOGRAM_SERVICES_MAX = 1000, LABELS_SIZE = 2 * LIMIT_SERVICE_NAME + 80 };

enum kind { GAUGE, COUNTER, HISTOGRAM };

/* An answer under construction. */
struct page {
    const struct status_view *view;
    struct text *out;
    bool is_openmetrics;
    const char *family; /* the one whose samples are being written */
    enum kind kind;
};

/* ---- lines ---- */

/* help NULL: none. The two formats name a family of counters differently. */
static void begin(struct page *page, enum kind kind, const char *family, const char *help)
{
    static const char *const kinds[] = {"gauge", "counter", "histogram"};
    const char *suffix = kind == COUNTER && !page->is_openmetrics ? "_total" : "";
    page->family = family;
    page->kind = kind;
    text_printf(page->out, "# TYPE rathole_uring_%s%s %s\n", family, suffix, kinds[kind]);
    if (help != NULL)
        text_printf(page->out, "# HELP rathole_uring_%s%s %s\n", family, suffix, help);
}

static void sample(struct page *page, const char *labels, uint64_t value)
{
    bool has_labels = labels[0] != '\0';
    text_printf(page->out, "rathole_uring_%s%s%s%s%s %llu\n", page->family,
                page->kind == COUNTER ? "_total" : "", has_labels ? "{" : "", labels,
                has_labels ? "}" : "", (unsigned long long)value);
}

/* Writes `service="NAME"`, and a second label if key is not NULL. */
static const char *labels_of(const struct status_service *service, const char *key,
                             const char *value, char out[static LABELS_SIZE])
{
    size_t used = (size_t)snprintf(out, LABELS_SIZE, "service=\"");
    for (const char *at = service->name; *at != '\0'; at++) {
        if (*at == '\\' || *at == '"' || *at == '\n')
            out[used++] = '\\';
        out[used++] = (char)(*at == '\n' ? 'n' : *at);
    }
    out[used++] = '"';
    out[used] = '\0';
    if (key != NULL)
        (void)snprintf(out + used, LABELS_SIZE - used, ",%s=\"%s\"", key, value);
    return out;
}

/* ---- services ---- */

static bool is_udp(const struct status_service *service)
{
    return service->type == CONFIG_SERVICE_UDP;
}

enum service_number { IS_UP, IS_BOUND, CLIENTS, SERVERS_UP, OPEN, WAITING, PARKED, VISITORS };

static uint64_t number_of(const struct status_service *service, enum service_number number)
{
    const struct service_report *report = &service->report;
    switch (number) {
    case IS_UP:
        return report->is_up;
    case IS_BOUND:
        return report->has_address;
    case CLIENTS:
        return report->clients;
    case SERVERS_UP:
        return report->servers_up;
    case OPEN:
        return report->totals.open;
    case WAITING:
        return report->waiting;
    case PARKED:
        return report->parked;
    case VISITORS:
        return report->totals.visitors;
    }
    return 0;
}

static void put_numbers(struct page *page)
{
    static const struct {
        enum kind kind;
        enum service_number number;
        const char *family, *help;
    } families[] = {
        {GAUGE, IS_UP, "service_up", "Whether a client serves it."},
        {GAUGE, IS_BOUND, "service_bound", "Whether its address is bound."},
        {GAUGE, CLIENTS, "service_clients", "Control channels that are up."},
        {GAUGE, SERVERS_UP, "service_servers_up", "Servers that a client is logged in to."},
        {GAUGE, OPEN, "visitor_connections_open", "Visitors that are being served."},
        {GAUGE, WAITING, "visitors_waiting", "Visitors that wait for a data channel."},
        {GAUGE, PARKED, "pool_channels", "Data channels that wait for a visitor."},
        {COUNTER, VISITORS, "visitor_connections", "Visitors accepted."},
    };
    const struct status_view *view = page->view;
    char labels[LABELS_SIZE];
    bool is_client = strcmp(view->role, "client") == 0;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        if (families[i].number == SERVERS_UP && !is_client)
            continue;
        begin(page, families[i].kind, families[i].family, families[i].help);
        for (size_t j = 0; j < view->service_count; j++)
            sample(page, labels_of(&view->services[j], NULL, NULL, labels),
                   number_of(&view->services[j], families[i].number));
    }
}

static void put_directions(struct page *page)
{
    static const char *const names[] = {"in", "out"};
    const struct status_view *view = page->view;
    char labels[LABELS_SIZE];
    begin(page, COUNTER, "visitor_bytes", "Bytes from (in) and to (out) visitors.");
    for (size_t i = 0; i < 2 * view->service_count; i++) {
        const struct status_service *service = &view->services[i / 2];
        sample(page, labels_of(service, "direction", names[i % 2], labels),
               service->report.totals.bytes[i % 2]);
    }
    begin(page, COUNTER, "visitor_datagrams", "Datagrams from (in) and to (out) UDP visitors.");
    for (size_t i = 0; i < 2 * view->service_count; i++) {
        const struct status_service *service = &view->services[i / 2];
        if (is_udp(service))
            sample(page, labels_of(service, "direction", names[i % 2], labels),
                   service->report.totals.datagrams[i % 2]);
    }
}

static void put_service_reasons(struct page *page, bool of_udp)
{
    const struct status_view *view = page->view;
    char labels[LABELS_SIZE];
    const char *name;
    for (size_t i = 0; i < view->service_count; i++) {
        const struct status_service *service = &view->services[i];
        for (unsigned int reason = 0;
             is_udp(service) == of_udp && (name = status_reason_name(view, of_udp, reason)) != NULL;
             reason++)
            sample(page, labels_of(service, "reason", name, labels),
                   service->report.totals.reasons[reason]);
    }
}

/* A bound in seconds, as OpenMetrics writes a float. */
static const char *bound_text(unsigned int index, char out[static 16])
{
    int len = snprintf(out, 16, "%g", histogram_bounds_us[index] / 1e6);
    if (strchr(out, '.') == NULL)
        (void)snprintf(out + len, 16 - (size_t)len, ".0");
    return out;
}

static void put_histogram(struct page *page, const struct status_service *service,
                          const struct histogram_totals *totals)
{
    struct text *out = page->out;
    const char *family = page->family;
    char labels[LABELS_SIZE], le[16];
    uint64_t count = 0;
    (void)labels_of(service, NULL, NULL, labels);
    for (unsigned int i = 0; i <= HISTOGRAM_BOUNDS; i++) {
        count += totals->counts[i];
        text_printf(out, "rathole_uring_%s_bucket{%s,le=\"%s\"} %llu\n", family, labels,
                    i < HISTOGRAM_BOUNDS ? bound_text(i, le) : "+Inf", (unsigned long long)count);
    }
    text_printf(out, "rathole_uring_%s_count{%s} %llu\nrathole_uring_%s_sum{%s} %.6f\n", family,
                labels, (unsigned long long)count, family, labels, (double)totals->sum_ns / 1e9);
}

/* A service that nobody has visited has no lines here. */
static void put_histograms(struct page *page, bool of_first_byte)
{
    const struct status_view *view = page->view;
    for (size_t i = 0; i < view->service_count; i++) {
        const struct service_totals *totals = &view->services[i].report.totals;
        const struct histogram_totals *histogram =
            of_first_byte ? &totals->first_byte : &totals->connect;
        if (histogram_count(histogram) > 0)
            put_histogram(page, &view->services[i], histogram);
    }
}

static void put_services(struct page *page)
{
    put_numbers(page);
    put_directions(page);
    begin(page, COUNTER, "visitor_rejections", "Visitors refused.");
    put_service_reasons(page, false);
    begin(page, COUNTER, "visitor_datagram_drops", "Datagrams of a service dropped.");
    put_service_reasons(page, true);
    if (page->view->service_count > HISTOGRAM_SERVICES_MAX)
        return;
    begin(page, HISTOGRAM, "connect_seconds", "From a visitor's arrival to its relay.");
    put_histograms(page, false);
    begin(page, HISTOGRAM, "first_byte_seconds",
          "From a visitor's arrival to the service's first byte.");
    put_histograms(page, true);
}

/* ---- the process ---- */

/* Counters under one name, with a label. All of them are also there under their own names. */
static void put_grouped(struct page *page)
{
    static const struct {
        const char *family, *labels;
        enum metric metric;
    } rows[] = {
        {"handshake_failures", "reason=\"timed_out\"", METRIC_STRANGERS_TIMED_OUT},
        {"handshake_failures", "reason=\"rejected\"", METRIC_STRANGERS_REJECTED},
        {"handshake_failures", "reason=\"evicted\"", METRIC_STRANGERS_EVICTED},
        {"handshake_failures", "reason=\"login_failed\"", METRIC_LOGINS_FAILED},
        {"handshake_failures", "reason=\"limited\"", METRIC_HANDSHAKES_LIMITED},
        {"relay_bytes", "mode=\"copied\"", METRIC_BYTES_COPIED},
        {"relay_bytes", "mode=\"bulk_copied\"", METRIC_BYTES_BULK_COPIED},
        {"relay_bytes", "mode=\"spliced\"", METRIC_BYTES_SPLICED},
        {"relay_mode_changes", "to=\"bulk\"", METRIC_PROMOTIONS},
        {"relay_mode_changes", "to=\"copy\"", METRIC_DEMOTIONS},
        {"reloads", "result=\"applied\"", METRIC_RELOADS_APPLIED},
        {"reloads", "result=\"refused\"", METRIC_RELOADS_REFUSED},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        if (i == 0 || strcmp(rows[i].family, rows[i - 1].family) != 0)
            begin(page, COUNTER, rows[i].family, NULL);
        sample(page, rows[i].labels, page->view->metrics[rows[i].metric]);
    }
    const char *name;
    char labels[64];
    begin(page, COUNTER, "udp_drops", NULL);
    for (unsigned int i = 0; (name = service_drop_name(i)) != NULL; i++) {
        (void)snprintf(labels, sizeof(labels), "reason=\"%s\"", name);
        sample(page, labels, page->view->metrics[METRIC_UDP_DROPPED_NO_CHANNEL + i]);
    }
}

static void put_counters(struct page *page)
{
    for (unsigned int i = 0; i < METRIC_COUNT; i++) {
        begin(page, COUNTER, metrics_name((enum metric)i), NULL);
        sample(page, "", page->view->metrics[i]);
    }
    begin(page, COUNTER, "log_lines_dropped", NULL);
    sample(page, "", page->view->log_dropped);
}

static void put_workers(struct page *page)
{
    const struct status_view *view = page->view;
    begin(page, GAUGE, "worker_busy_ratio", "Share of the last moments in which it ran.");
    for (unsigned int i = 0; i < view->workers; i++)
        text_printf(page->out, "rathole_uring_worker_busy_ratio{worker=\"%u\"} %.3f\n", i,
                    view->loads[i].busy_permille / 1e3);
    begin(page, GAUGE, "bulk_flows", "Directions of relays in bulk mode.");
    for (unsigned int i = 0; i < view->workers; i++)
        text_printf(page->out, "rathole_uring_bulk_flows{worker=\"%u\"} %u\n", i,
                    view->loads[i].bulk_flows);
}

static void put_process(struct page *page)
{
    const struct status_view *view = page->view;
    text_printf(page->out,
                "# TYPE rathole_uring_build%s %s\n"
                "rathole_uring_build_info{version=\"" PROJECT_VERSION "\",role=\"%s\"} 1\n"
                "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %lld\n",
                page->is_openmetrics ? "" : "_info", page->is_openmetrics ? "info" : "gauge",
                view->role, (long long)view->started_at_s);
    begin(page, GAUGE, "ready", NULL);
    sample(page, "", view->is_ready);
    begin(page, GAUGE, "draining", NULL);
    sample(page, "", view->is_draining);
}

static void put_sandbox(struct page *page)
{
    char labels[40];
    begin(page, GAUGE, "sandbox", "Parts of the sandbox that are in force.");
    for (unsigned int i = 0; i < SANDBOX_PARTS; i++) {
        (void)snprintf(labels, sizeof(labels), "part=\"%s\"",
                       sandbox_part_name((enum sandbox_part)i));
        sample(page, labels, page->view->sandbox.parts[i] > 0);
    }
    begin(page, COUNTER, "sandbox_refused_calls", "System calls that it has refused.");
    sample(page, "", page->view->sandbox.refusals);
}

void status_write_metrics(const struct status_view *view, bool is_openmetrics, struct text *out)
{
    struct page page = {.view = view, .out = out, .is_openmetrics = is_openmetrics};
    put_process(&page);
    put_sandbox(&page);
    put_services(&page);
    put_workers(&page);
    put_grouped(&page);
    put_counters(&page);
    if (is_openmetrics)
        text_puts(out, "# EOF\n");
}
