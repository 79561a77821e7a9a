#include "client/service.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"

enum {
    VALID_MS = 10000,      /* how long an answer is used */
    STALE_VALID_MS = 1000, /* an old answer, used because the new look-up has failed */
};

int client_service_create(struct service_registry *registry, const struct config_service *config,
                          unsigned int workers, struct client_service **ret)
{
    struct client_service *service = calloc(1, sizeof(*service));
    if (service == NULL)
        return -ENOMEM;
    service->locals = calloc(workers, sizeof(*service->locals));
    if (service->locals == NULL || service_base_init(&service->entry, config) < 0) {
        free(service->locals);
        free(service);
        return -ENOMEM;
    }
    dial_memory_init(&service->memory);
    list_init(&service->controls);
    list_init(&service->worker_node);
    service->worker_count = workers;
    for (unsigned int i = 0; i < workers; i++)
        service->locals[i].memory = &service->memory;
    service->is_udp = config->type == CONFIG_SERVICE_UDP;
    service_registry_add(registry, &service->entry);
    *ret = service;
    return 0;
}

void client_service_free(struct service_base *base)
{
    struct client_service *service = client_service_of(base);
    service_base_finish(base);
    for (unsigned int i = 0; i < service->worker_count; i++)
        service_stats_free(&service->locals[i].stats);
    dial_memory_finish(&service->memory);
    free(service->locals);
    free(service);
}

static bool same_addresses(const struct resolver_answer *a, const struct resolver_answer *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; i++)
        same = addr_equal(&a->addrs[i], &b->addrs[i]);
    return same;
}

void client_local_take(struct client_local *local, const struct resolver_answer *answer,
                       uint64_t now_ns)
{
    struct resolver_answer sorted = *answer;
    local->memory_version = atomic_load(&local->memory->version);
    (void)dial_put_first(local->memory, &sorted, now_ns);
    if (!same_addresses(&sorted, &local->answer))
        local->version++;
    local->answer = sorted;
    local->valid_until_ns = now_ns + ms_to_ns(answer->is_stale ? STALE_VALID_MS : VALID_MS);
}

void client_local_forget(struct client_local *local)
{
    local->answer.count = 0;
    local->valid_until_ns = 0;
    local->generation++;
    local->version++;
}

void client_local_catch_up(struct client_local *local, uint64_t now_ns)
{
    uint32_t memory_version = atomic_load(&local->memory->version);
    if (memory_version == local->memory_version)
        return;
    local->memory_version = memory_version;
    if (dial_put_first(local->memory, &local->answer, now_ns))
        local->version++;
}

void client_local_worked(struct client_local *local, size_t index, uint64_t now_ns)
{
    if (index == 0)
        return; /* not remembered, so that a changed order ends after LIMIT_DIAL_WORKED_MS */
    dial_remember(local->memory, &local->answer.addrs[index], now_ns);
    client_local_catch_up(local, now_ns);
}

void client_local_rotate(struct client_local *local, uint64_t now_ns)
{
    size_t last = local->answer.count - 1;
    struct addr first = local->answer.addrs[0];
    for (size_t i = 0; i < last; i++)
        local->answer.addrs[i] = local->answer.addrs[i + 1];
    local->answer.addrs[last] = first;
    local->version++;
    dial_remember(local->memory, &local->answer.addrs[0], now_ns);
    local->memory_version = atomic_load(&local->memory->version);
}
