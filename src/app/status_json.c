#include <string.h>

#include "base/addr.h"
#include "status_view_priv.h"

enum { SERVICES_MAX = 1000, NAME_SIZE = 6 * LIMIT_SERVICE_NAME + 4 };

static const char *bool_text(bool value)
{
    return value ? "true" : "false";
}

static const char *type_text(enum config_service_type type)
{
    return type == CONFIG_SERVICE_UDP             ? "udp"
           : type == CONFIG_SERVICE_SOCKET_STREAM ? "socket_stream"
                                                  : "tcp";
}

static void put_number(struct text *out, const char *key, uint64_t value)
{
    text_printf(out, ",\"%s\":%llu", key, (unsigned long long)value);
}

static void put_string(struct text *out, const char *key, const char *value)
{
    char escaped[NAME_SIZE];
    text_printf(out, ",\"%s\":\"%s\"", key, log_escape_json(value, escaped, sizeof(escaped)));
}

static void put_quantiles(struct text *out, const char *key, const struct histogram_totals *totals)
{
    text_printf(out, ",\"%s\":{\"count\":%llu,\"p50\":%.3f,\"p99\":%.3f}", key,
                (unsigned long long)histogram_count(totals), histogram_quantile_ms(totals, 0.5),
                histogram_quantile_ms(totals, 0.99));
}

static void put_reasons(const struct status_view *view, const struct status_service *service,
                        struct text *out)
{
    bool is_udp = service->type == CONFIG_SERVICE_UDP;
    const char *name;
    text_puts(out, is_udp ? ",\"dropped\":{" : ",\"refused\":{");
    for (unsigned int i = 0; (name = status_reason_name(view, is_udp, i)) != NULL; i++)
        text_printf(out, "%s\"%s\":%llu", i > 0 ? "," : "", name,
                    (unsigned long long)service->report.totals.reasons[i]);
    text_puts(out, "}");
}

static void put_json_service(const struct status_view *view, const struct status_service *service,
                             struct text *out)
{
    const struct service_report *report = &service->report;
    const struct service_totals *totals = &report->totals;
    char name[NAME_SIZE], peer[ADDR_TEXT_SIZE] = "";
    text_printf(out, "{\"name\":\"%s\",\"type\":\"%s\"",
                log_escape_json(service->name, name, sizeof(name)), type_text(service->type));
    put_string(out, "addr", service->addr);
    text_printf(out, ",\"bound\":%s,\"up\":%s", bool_text(report->has_address),
                bool_text(report->is_up));
    if (report->is_up)
        (void)addr_format(&report->peer, peer, sizeof(peer));
    text_printf(out, ",\"client\":\"%s\",\"client_since\":%lld", peer,
                report->is_up ? (long long)report->up_since_s : 0);
    put_number(out, "clients", report->clients);
    if (strcmp(view->role, "client") == 0)
        put_number(out, "servers_up", report->servers_up);
    put_number(out, "open", totals->open);
    put_number(out, "waiting", report->waiting);
    put_number(out, "parked", report->parked);
    put_number(out, "visitors_total", totals->visitors);
    put_reasons(view, service, out);
    put_number(out, "bytes_in_total", totals->bytes[0]);
    put_number(out, "bytes_out_total", totals->bytes[1]);
    if (service->type == CONFIG_SERVICE_UDP) {
        put_number(out, "datagrams_in_total", totals->datagrams[0]);
        put_number(out, "datagrams_out_total", totals->datagrams[1]);
    }
    put_quantiles(out, "connect_ms", &totals->connect);
    put_quantiles(out, "first_byte_ms", &totals->first_byte);
    text_puts(out, "}");
}

static void put_program(const struct status_view *view, struct text *out)
{
    text_printf(out,
                "{\"version\":1,\n\"program\":{\"name\":\"rathole-uring\",\"version\":\"%s\","
                "\"role\":\"%s\",\"started_at\":%lld,\"uptime_s\":%lld,\"workers\":%u,"
                "\"ready\":%s,\"draining\":%s,\"sandbox\":{\"on\":%s",
                PROJECT_VERSION, view->role, (long long)view->started_at_s,
                (long long)(view->now_s - view->started_at_s), view->workers,
                bool_text(view->is_ready), bool_text(view->is_draining),
                bool_text(view->sandbox.is_on));
    for (unsigned int i = 0; i < SANDBOX_PARTS; i++)
        text_printf(out, ",\"%s\":%s", sandbox_part_name((enum sandbox_part)i),
                    bool_text(view->sandbox.parts[i] > 0));
    text_printf(out, ",\"refused_total\":%u}},\n", view->sandbox.refusals);
}

static void put_totals(const struct status_view *view, struct text *out)
{
    struct status_totals sum = {0};
    for (size_t i = 0; i < view->service_count; i++) {
        const struct config_service config = {.type = view->services[i].type};
        struct service_report report = view->services[i].report;
        report.config = &config;
        status_totals_add(&sum, &report);
    }
    text_printf(out, "\"totals\":{\"visitors_total\":%llu", (unsigned long long)sum.visitors);
    put_number(out, "visitors_open", sum.open - sum.udp_open);
    put_number(out, "visitors_waiting", sum.waiting);
    put_number(out, "bytes_in_total", sum.bytes[0]);
    put_number(out, "bytes_out_total", sum.bytes[1]);
    put_number(out, "refused_total", sum.refused);
    put_number(out, "udp_visitors_open", sum.udp_open);
    text_puts(out, "},\n");
}

static double sample_value(const struct status_sample *sample, unsigned int column)
{
    switch (column) {
    case 0:
        return sample->visitors_per_s;
    case 1:
    case 2:
        return sample->bytes_per_s[column - 1];
    default:
        return (double)sample->open;
    }
}

static void put_history(const struct status_history *history, struct text *out)
{
    static const char *const columns[] = {"visitors_per_s", "bytes_in_per_s", "bytes_out_per_s",
                                          "open"};
    size_t count = MIN(history->count, (size_t)STATUS_SAMPLES);
    text_printf(out, "\"history\":{\"interval_s\":%d,\"samples\":%zu", STATUS_SAMPLE_MS / 1000,
                count);
    for (unsigned int column = 0; column < ARRAY_SIZE(columns); column++) {
        text_printf(out, ",\"%s\":[", columns[column]);
        for (size_t i = 0; i < count; i++) {
            size_t at = (history->count - count + i) % STATUS_SAMPLES;
            text_printf(out, "%s%.10g", i > 0 ? "," : "",
                        sample_value(&history->samples[at], column));
        }
        text_puts(out, "]");
    }
    text_puts(out, "},\n");
}

static void put_errors(const struct status_view *view, struct text *out)
{
    text_puts(out, "\"errors\":[");
    for (size_t i = 0; i < view->record_count; i++) {
        const struct log_record *record = &view->records[i];
        text_printf(out,
                    "%s{\"time\":%lld.%03lld,\"level\":\"%s\",\"service\":\"%s\",\"text\":\"%s\"}",
                    i > 0 ? ",\n" : "", (long long)record->time_ms / 1000,
                    (long long)record->time_ms % 1000, log_level_name(record->level),
                    record->service, record->text);
    }
    text_puts(out, "],\n");
}

void status_write_json(const struct status_view *view, struct text *out)
{
    put_program(view, out);
    put_totals(view, out);
    text_puts(out, "\"services\":[");
    for (size_t i = 0; i < MIN(view->service_count, (size_t)SERVICES_MAX); i++) {
        text_puts(out, i > 0 ? ",\n" : "");
        put_json_service(view, &view->services[i], out);
    }
    text_printf(out, "],\n\"services_total\":%zu,\n", view->service_count);
    put_history(view->history, out);
    put_errors(view, out);
    text_puts(out, "\"counters\":{");
    for (unsigned int i = 0; i < METRIC_COUNT; i++)
        text_printf(out, "%s\"%s\":%llu", i > 0 ? "," : "", metrics_name((enum metric)i),
                    (unsigned long long)view->metrics[i]);
    put_number(out, "log_lines_dropped", view->log_dropped);
    text_puts(out, "}}\n");
}

/* ---- for --status ---- */

void status_write_table(const struct status_view *view, struct text *out)
{
    for (size_t i = 0; i < view->service_count; i++) {
        const struct status_service *service = &view->services[i];
        const struct service_report *report = &service->report;
        const struct service_totals *totals = &report->totals;
        char name[NAME_SIZE], peer[ADDR_TEXT_SIZE] = "-";
        if (report->is_up)
            (void)addr_format(&report->peer, peer, sizeof(peer));
        text_printf(out, "%s\t%s\t%s\t%s\t%llu\t%u\t%llu\t%llu\t%llu\t%.1f\n",
                    log_escape_json(service->name, name, sizeof(name)), type_text(service->type),
                    !report->has_address ? "unbound"
                    : report->is_up      ? "up"
                                         : "down",
                    peer, (unsigned long long)totals->open, report->waiting,
                    (unsigned long long)totals->visitors, (unsigned long long)totals->bytes[0],
                    (unsigned long long)totals->bytes[1],
                    histogram_quantile_ms(&totals->first_byte, 0.99));
    }
}
