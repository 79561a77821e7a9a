#include "server/visitor_limits.h"

#include <errno.h>

#include "base/error.h"

/* False for the all-zero key, which visitor_limits_enter makes without a limit per address. */
static bool is_counted(const struct addr_key *key)
{
    static const struct addr_key none;
    return !addr_key_equal(key, &none);
}

int visitor_limits_enter(struct service *service, struct addr_key *key)
{
    const struct config_service *config = service_config(service);
    if (atomic_fetch_add(&service->connections, 1) >= config->max_connections &&
        config->max_connections != 0) {
        (void)atomic_fetch_sub(&service->connections, 1);
        return ERR_LIMIT;
    }
    if (config->max_connections_per_ip == 0)
        *key = (struct addr_key){{0}};
    if (!is_counted(key))
        return 0;
    int result = 0;
    (void)pthread_mutex_lock(&service->lock);
    struct addr_entry *entry = addr_table_get(&service->per_ip, key);
    if (entry == NULL)
        result = -ENOMEM;
    else if (entry->count >= config->max_connections_per_ip)
        result = ERR_LIMIT;
    else
        entry->count++;
    (void)pthread_mutex_unlock(&service->lock);
    if (result < 0)
        (void)atomic_fetch_sub(&service->connections, 1);
    return result;
}

void visitor_limits_leave(struct service *service, const struct addr_key *key)
{
    (void)atomic_fetch_sub(&service->connections, 1);
    if (!is_counted(key))
        return;
    (void)pthread_mutex_lock(&service->lock);
    struct addr_entry *entry = addr_table_find(&service->per_ip, key);
    if (entry != NULL)
        entry->count--;
    addr_table_trim(&service->per_ip, key);
    (void)pthread_mutex_unlock(&service->lock);
}
