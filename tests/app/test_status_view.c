#include "status_view_priv.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct status_view view;
static struct status_history history;
static struct text out;
static char text_of_out[1 << 20];

static const char *refusal_name(unsigned int reason)
{
    static const char *const names[] = {"limit", "queue"};
    return reason < ARRAY_SIZE(names) ? names[reason] : NULL;
}

static void set_up(void)
{
    view.role = "server";
    view.started_at_s = 1000;
    view.now_s = 1012;
    view.workers = 2;
    view.is_ready = true;
    view.refusal_name = refusal_name;
    view.history = &history;
    text_init(&out, sizeof(text_of_out) - 1);
}

static void tear_down(void)
{
    status_view_finish(&view);
    text_finish(&out);
}

TestSuite(status_view, .init = set_up, .fini = tear_down);

static struct service_report report;

static void add(const char *name, enum config_service_type type)
{
    char name_copy[LIMIT_SERVICE_NAME + 1];
    struct config_service config = {.type = type, .addr = {"0.0.0.0", 6022}};
    (void)snprintf(name_copy, sizeof(name_copy), "%s", name);
    config.name = name_copy;
    report.config = &config;
    status_view_add(&view, &report);
    memset(name_copy, 0, sizeof(name_copy)); /* the view has a copy */
}

static const char *taken(void)
{
    cr_assert_not(out.failed);
    memcpy(text_of_out, out.bytes, out.len);
    text_of_out[out.len] = '\0';
    out.len = 0;
    return text_of_out;
}

static const char *metrics(bool is_openmetrics)
{
    status_write_metrics(&view, is_openmetrics, &out);
    return taken();
}

static void assert_has(const char *text, const char *line)
{
    cr_assert_not_null(strstr(text, line), "no line %s", line);
}

static void assert_has_not(const char *text, const char *line)
{
    cr_assert_null(strstr(text, line), "a line %s", line);
}

Test(status_view, metrics_of_a_service)
{
    report.is_up = true;
    report.clients = 2;
    report.waiting = 3;
    report.totals.visitors = 12;
    report.totals.bytes[0] = 100;
    report.totals.bytes[1] = UINT64_MAX;
    report.totals.reasons[1] = 7;
    add("web", CONFIG_SERVICE_TCP);
    const char *text = metrics(true);
    assert_has(text, "\nrathole_uring_service_up{service=\"web\"} 1\n");
    assert_has(text, "\nrathole_uring_service_clients{service=\"web\"} 2\n");
    assert_has(text, "\nrathole_uring_service_bound{service=\"web\"} 0\n");
    assert_has(text, "\nrathole_uring_visitors_waiting{service=\"web\"} 3\n");
    assert_has(text, "\nrathole_uring_visitor_connections_total{service=\"web\"} 12\n");
    assert_has(text, "\nrathole_uring_visitor_bytes_total{service=\"web\",direction=\"in\"} 100\n");
    assert_has(text, "{service=\"web\",direction=\"out\"} 18446744073709551615\n");
    assert_has(text, "_rejections_total{service=\"web\",reason=\"limit\"} 0\n");
    assert_has(text, "_rejections_total{service=\"web\",reason=\"queue\"} 7\n");
    assert_has(text, "\n# TYPE rathole_uring_visitor_connections counter\n");
    assert_has(text, "\n# TYPE rathole_uring_connect_seconds histogram\n");
    assert_has_not(text, "connect_seconds_bucket"); /* nobody has connected */
    cr_assert_str_eq(text + strlen(text) - 6, "# EOF\n");
}

Test(status_view, the_older_format)
{
    add("web", CONFIG_SERVICE_TCP);
    const char *text = metrics(false);
    assert_has(text, "\n# TYPE rathole_uring_visitor_connections_total counter\n");
    assert_has(text, "# TYPE rathole_uring_build_info gauge\n");
    assert_has_not(text, "# EOF");
}

Test(status_view, every_counter_is_there)
{
    for (unsigned int i = 0; i < METRIC_COUNT; i++)
        view.metrics[i] = 1000 + i;
    const char *text = metrics(true);
    for (unsigned int i = 0; i < METRIC_COUNT; i++) {
        char line[100];
        (void)snprintf(line, sizeof(line), "\nrathole_uring_%s_total %u\n",
                       metrics_name((enum metric)i), 1000 + i);
        assert_has(text, line);
    }
    char line[100];
    (void)snprintf(line, sizeof(line), "_udp_drops_total{reason=\"other\"} %u\n",
                   1000 + METRIC_UDP_DROPPED_OTHER);
    assert_has(text, line);
}

/* No family stands twice, as OpenMetrics demands. */
Test(status_view, families_are_distinct)
{
    static char families[200][100];
    size_t count = 0;
    const char *text = metrics(true);
    for (const char *at = text; (at = strstr(at, "# TYPE ")) != NULL; count++) {
        at += 7;
        cr_assert_lt(count, ARRAY_SIZE(families));
        (void)snprintf(families[count], 100, "%.*s", (int)strcspn(at, " "), at);
        for (size_t i = 0; i < count; i++)
            cr_assert_str_neq(families[i], families[count]);
    }
    cr_assert_gt(count, 50);
}

Test(status_view, labels_are_escaped)
{
    add("a\"b\\c\nd", CONFIG_SERVICE_TCP);
    assert_has(metrics(true), "service_up{service=\"a\\\"b\\\\c\\nd\"} 0\n");
    status_write_json(&view, &out);
    assert_has(taken(), "{\"name\":\"a\\\"b\\\\c\\nd\",\"type\":\"tcp\",\"addr\":\"0.0.0.0:6022\"");
}

Test(status_view, the_longest_name)
{
    char name[LIMIT_SERVICE_NAME + 1], line[2 * LIMIT_SERVICE_NAME + 100];
    memset(name, '"', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    add(name, CONFIG_SERVICE_UDP);
    size_t used = (size_t)snprintf(line, sizeof(line), "{service=\"");
    for (size_t i = 0; i < LIMIT_SERVICE_NAME; i++)
        used += (size_t)snprintf(line + used, sizeof(line) - used, "\\\"");
    (void)snprintf(line + used, sizeof(line) - used, "\",direction=\"out\"} 0\n");
    assert_has(metrics(true), line);
}

Test(status_view, histograms_are_cumulative)
{
    report.totals.connect.counts[0] = 2;
    report.totals.connect.counts[3] = 5;
    report.totals.connect.counts[HISTOGRAM_BOUNDS] = 1;
    report.totals.connect.sum_ns = 1500000000;
    add("web", CONFIG_SERVICE_TCP);
    const char *text = metrics(true);
    assert_has(text, "connect_seconds_bucket{service=\"web\",le=\"0.0001\"} 2\n");
    assert_has(text, "connect_seconds_bucket{service=\"web\",le=\"0.001\"} 2\n");
    assert_has(text, "connect_seconds_bucket{service=\"web\",le=\"0.0025\"} 7\n");
    assert_has(text, "connect_seconds_bucket{service=\"web\",le=\"10.0\"} 7\n");
    assert_has(text, "connect_seconds_bucket{service=\"web\",le=\"+Inf\"} 8\n");
    assert_has(text, "connect_seconds_count{service=\"web\"} 8\n");
    assert_has(text, "connect_seconds_sum{service=\"web\"} 1.500000\n");
}

Test(status_view, totals_of_tcp_and_udp)
{
    report.totals.visitors = 10;
    report.totals.open = 4;
    report.totals.reasons[0] = 2;
    report.waiting = 1;
    add("a", CONFIG_SERVICE_TCP);
    add("b", CONFIG_SERVICE_UDP);
    status_write_json(&view, &out);
    assert_has(taken(), "\"totals\":{\"visitors_total\":20,\"visitors_open\":4,"
                        "\"visitors_waiting\":2,\"bytes_in_total\":0,\"bytes_out_total\":0,"
                        "\"refused_total\":2,\"udp_visitors_open\":4}");
}

Test(status_view, the_list_is_cut_but_not_the_count)
{
    for (unsigned int i = 0; i < 1001; i++)
        add("a", CONFIG_SERVICE_TCP);
    status_write_json(&view, &out);
    const char *text = taken();
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, "{\"name\":\"a\"")) != NULL; at++)
        count++;
    cr_assert_eq(count, 1000);
    assert_has(text, "\"services_total\":1001,");
    assert_has_not(metrics(true), "connect_seconds");
}

Test(status_view, a_table_row)
{
    report.is_up = true;
    report.totals.open = 2;
    report.totals.bytes[1] = 5;
    add("a\tb", CONFIG_SERVICE_TCP);
    report.has_address = true;
    add("c", CONFIG_SERVICE_UDP);
    status_write_table(&view, &out);
    cr_assert_str_eq(taken(), "a\\tb\ttcp\tunbound\t(none)\t2\t0\t0\t0\t5\t0.0\n"
                              "c\tudp\tup\t(none)\t2\t0\t0\t0\t5\t0.0\n");
}

/* ---- the history ---- */

static void sample(uint64_t visitors, uint64_t open, uint64_t now_ms)
{
    const struct status_totals totals = {.visitors = visitors,
                                         .open = open,
                                         .bytes = {visitors * 100, visitors * 1000}};
    status_history_add(&history, &totals, now_ms);
}

static const char *history_text(void)
{
    status_write_json(&view, &out);
    char *text = strstr(taken(), "\"history\"");
    cr_assert_not_null(text);
    text[strcspn(text, "\n")] = '\0';
    return text;
}

Test(status_view, no_history_before_the_second_sample)
{
    sample(5, 1, 1000);
    cr_assert_str_eq(history_text(), "\"history\":{\"interval_s\":5,\"samples\":0,"
                                     "\"visitors_per_s\":[],\"bytes_in_per_s\":[],"
                                     "\"bytes_out_per_s\":[],\"open\":[]},");
}

Test(status_view, rates_are_by_the_time_between_samples)
{
    sample(5, 1, 1000);
    sample(15, 2, 6000);
    sample(17, 3, 16000);
    sample(10, 0, 21000); /* a service was removed */
    cr_assert_str_eq(history_text(), "\"history\":{\"interval_s\":5,\"samples\":3,"
                                     "\"visitors_per_s\":[2,0.200000003,0],"
                                     "\"bytes_in_per_s\":[200,20,0],"
                                     "\"bytes_out_per_s\":[2000,200,0],\"open\":[2,3,0]},");
}

Test(status_view, the_oldest_samples_go)
{
    for (unsigned int i = 0; i <= STATUS_SAMPLES + 2; i++)
        sample(0, i, 1000 + i * UINT64_C(5000));
    const char *text = history_text();
    assert_has(text, "\"samples\":120,");
    assert_has(text, "\"open\":[3,4,");
    assert_has(text, ",121,122]},");
}

Test(status_view, recent_errors)
{
    view.records[0] = (struct log_record){.time_ms = 1732900000007, .level = LOG_WARN, .text = "a"};
    view.records[1] = (struct log_record){
        .time_ms = 1732900001123, .level = LOG_ERROR, .service = "ssh", .text = "b"};
    view.record_count = 2;
    status_write_json(&view, &out);
    assert_has(taken(), "\"errors\":[{\"time\":1732900000.007,\"level\":\"warn\",\"service\":\"\","
                        "\"text\":\"a\"},\n{\"time\":1732900001.123,\"level\":\"error\","
                        "\"service\":\"ssh\",\"text\":\"b\"}],\n");
}
