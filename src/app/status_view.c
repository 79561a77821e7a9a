#include "status_view_priv.h"

#include <stdlib.h>
#include <string.h>

void status_view_finish(struct status_view *view)
{
    for (size_t i = 0; i < view->service_count; i++) {
        free(view->services[i].name);
        free(view->services[i].addr);
    }
    free(view->services);
}

static bool grow(struct status_view *view)
{
    if (view->service_count < view->service_room)
        return true;
    size_t room = MAX(2 * view->service_room, (size_t)16);
    struct status_service *services = realloc(view->services, room * sizeof(*services));
    if (services == NULL)
        return false;
    view->services = services;
    view->service_room = room;
    return true;
}

void status_view_add(void *arg, const struct service_report *report)
{
    struct status_view *view = arg;
    char addr[ADDR_HOST_SIZE + 8];
    (void)host_port_format(&report->config->addr, addr, sizeof(addr));
    struct status_service service = {
        .name = strdup(report->config->name),
        .addr = strdup(addr),
        .type = report->config->type,
        .report = *report,
    };
    service.report.config = NULL;
    if (service.name != NULL && service.addr != NULL && grow(view)) {
        view->services[view->service_count++] = service;
        return;
    }
    view->is_cut = true;
    free(service.name);
    free(service.addr);
}

void status_totals_add(void *arg, const struct service_report *report)
{
    struct status_totals *sum = arg;
    const struct service_totals *totals = &report->totals;
    bool is_udp = report->config->type == CONFIG_SERVICE_UDP;
    sum->visitors += totals->visitors;
    sum->open += totals->open;
    sum->udp_open += is_udp ? totals->open : 0;
    sum->waiting += report->waiting;
    for (unsigned int i = 0; i < 2; i++)
        sum->bytes[i] += totals->bytes[i];
    for (unsigned int i = 0; i < SERVICE_REASONS && !is_udp; i++)
        sum->refused += totals->reasons[i];
}

/* Sums fall when a service is removed. */
static float sample_rate(uint64_t now, uint64_t before, uint64_t ms)
{
    return now > before ? (float)(now - before) * 1e3f / (float)ms : 0;
}

void status_history_add(struct status_history *history, const struct status_totals *totals,
                        uint64_t now_ms)
{
    if (history->last_ms != 0 && now_ms > history->last_ms) {
        uint64_t ms = now_ms - history->last_ms;
        struct status_sample *sample = &history->samples[history->count++ % STATUS_SAMPLES];
        sample->visitors_per_s = sample_rate(totals->visitors, history->visitors, ms);
        for (unsigned int i = 0; i < 2; i++)
            sample->bytes_per_s[i] = sample_rate(totals->bytes[i], history->bytes[i], ms);
        sample->open = totals->open;
    }
    history->last_ms = now_ms;
    history->visitors = totals->visitors;
    memcpy(history->bytes, totals->bytes, sizeof(history->bytes));
}

const char *status_reason_name(const struct status_view *view, bool is_udp, unsigned int reason)
{
    if (reason >= SERVICE_REASONS)
        return NULL;
    return is_udp ? service_drop_name(reason) : view->refusal_name(reason);
}
