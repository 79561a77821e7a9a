#include "server/service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "tunnel/descriptors.h"

/* ---- the life of a service ---- */

void service_free(struct service_base *entry)
{
    struct service *service = service_of(entry);
    binding_destroy(service->binding);
    channel_pool_finish(&service->pool);
    addr_table_finish(&service->per_ip);
    (void)pthread_mutex_destroy(&service->lock);
    service_base_finish(entry);
    for (unsigned int i = 0; i < service->worker_count; i++)
        service_stats_free(&service->parts[i].stats);
    free(service->parts);
    free(service);
}

static void init_parts(struct service *service, unsigned int workers)
{
    service->worker_count = workers;
    for (unsigned int i = 0; i < workers; i++) {
        service->parts[i].service = service;
        list_init(&service->parts[i].node);
        list_init(&service->parts[i].changed);
        list_init(&service->parts[i].ports);
        list_init(&service->parts[i].sessions);
    }
}

int service_create(struct service_registry *registry, const struct config_service *config,
                   unsigned int workers, struct service **ret)
{
    struct service *service = calloc(1, sizeof(*service));
    if (service == NULL)
        return -ENOMEM;
    service->parts = calloc(workers, sizeof(*service->parts));
    if (service->parts == NULL || service_base_init(&service->entry, config) < 0)
        goto err;
    if (channel_pool_init(&service->pool) < 0) {
        service_base_finish(&service->entry);
        goto err;
    }
    service->is_udp = service->pool.for_lanes = config->type == CONFIG_SERVICE_UDP;
    init_parts(service, workers);
    list_init(&service->session_list);
    atomic_store(&service->up, config->routes != NULL);
    service_update_rates(service);
    keys_service_digest(config->name, strlen(config->name), service->digest);
    (void)pthread_mutex_init(&service->lock, NULL);
    service_registry_add(registry, &service->entry);
    *ret = service;
    return 0;

err:
    free(service->parts);
    free(service);
    return -ENOMEM;
}

void service_update_rates(struct service *service)
{
    const struct config_service *config = service_config(service);
    pace_rates_set(&service->rates, config->bandwidth, config->connection_bandwidth);
}

/* ---- its address ---- */

struct unix_access service_unix_access(const struct config_service *config)
{
    return (struct unix_access){.mode = config->socket_mode, .owner = config->socket_owner};
}

int service_bind(const struct service *service, const struct config_service *config,
                 const struct addr *addr, const struct socket_options *options,
                 struct inherited *inherited, struct binding **ret)
{
    struct binding_options binding = {
        .addr = addr,
        .is_udp = service->is_udp,
        .is_guarded = true,
        .tcp = *options,
        .inherited = inherited,
        .count = service->worker_count,
    };
    if (addr_is_unix(addr)) {
        binding.unix_path = config->addr.host;
        binding.unix_access = service_unix_access(config);
    }
    if (config->nodelay != CONFIG_UNSET)
        binding.tcp.nodelay = config->nodelay == CONFIG_TRUE;
    /* A UDP service may have more lanes than workers: each lane is a data channel, and one client
     * core can't keep up with one server core. */
    if (service->is_udp)
        binding.count = descriptors_lanes(config, service->worker_count);
    return binding_create(&binding, ret);
}

struct binding *service_set_binding(struct service *service, struct binding *binding)
{
    (void)pthread_mutex_lock(&service->lock);
    struct binding *old = service->binding;
    service->binding = binding;
    (void)pthread_mutex_unlock(&service->lock);
    return old;
}

void service_release_binding(struct service *service, struct binding *binding)
{
    if (binding == NULL)
        return;
    /* An undone match may have put a closed lane back into the queue, or be about to. */
    for (unsigned int i = 0; i < binding->count && binding->lanes != NULL; i++) {
        for (unsigned int j = 0; j < LIMIT_UDP_CHANNELS; j++)
            channel_pool_forget(&service->pool, &binding->lanes[i].waiters[j]);
    }
    binding_destroy(binding);
}
