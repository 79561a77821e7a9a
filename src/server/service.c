#include "server/service.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "tunnel/descriptors.h"

/* ---- the table of session keys ---- */

static struct list *session_table_bucket(struct session_table *table, const uint8_t *key)
{
    return &table->buckets[keys_hash(key, KEYS_DIGEST_SIZE) % SESSION_BUCKETS];
}

void session_table_init(struct session_table *table)
{
    (void)pthread_mutex_init(&table->lock, NULL);
    for (size_t i = 0; i < SESSION_BUCKETS; i++)
        list_init(&table->buckets[i]);
}

void session_table_finish(struct session_table *table)
{
    (void)pthread_mutex_destroy(&table->lock);
}

bool session_table_find(struct session_table *table, const uint8_t key[static KEYS_DIGEST_SIZE],
                        struct service **ret_service, struct addr_key *ret_client)
{
    (void)pthread_mutex_lock(&table->lock);
    struct service *service = NULL;
    /* No early exit, and each comparison in constant time. */
    list_for_each (node, session_table_bucket(table, key)) {
        const struct session *session = container_of(node, struct session, node);
        if (keys_equal(session->key, key, KEYS_DIGEST_SIZE)) {
            service = session->service;
            *ret_client = session->client;
        }
    }
    /* Whoever is in the table uses its service. */
    if (service != NULL)
        service_use(service);
    (void)pthread_mutex_unlock(&table->lock);
    if (service != NULL)
        *ret_service = service;
    return service != NULL;
}

static void table_add(struct session_table *table, struct session *session)
{
    (void)pthread_mutex_lock(&table->lock);
    list_push_back(session_table_bucket(table, session->key), &session->node);
    (void)pthread_mutex_unlock(&table->lock);
}

static void table_remove(struct session_table *table, struct session *session)
{
    (void)pthread_mutex_lock(&table->lock);
    list_remove(&session->node);
    (void)pthread_mutex_unlock(&table->lock);
}

/* ---- the life of a service ---- */

void service_free(struct service_base *entry)
{
    struct service *service = service_of(entry);
    binding_destroy(service->binding);
    channel_pool_finish(&service->pool);
    addr_table_finish(&service->per_ip);
    (void)pthread_mutex_destroy(&service->lock);
    service_base_finish(entry);
    free(service->parts);
    free(service);
}

static void init_parts(struct service *service, unsigned int workers)
{
    service->worker_count = workers;
    for (unsigned int i = 0; i < workers; i++) {
        service->parts[i].service = service;
        list_init(&service->parts[i].node);
        list_init(&service->parts[i].ports);
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

/* ---- its address ---- */

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
    if (config->nodelay != CONFIG_UNSET)
        binding.tcp.nodelay = config->nodelay == CONFIG_TRUE;
    if (service->is_udp) /* one client core is not enough for what a server core carries */
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
    /* A match that could not be delivered may have put a closed lane back, or be about to. */
    for (unsigned int i = 0; i < binding->count && binding->lanes != NULL; i++)
        channel_pool_forget(&service->pool, &binding->lanes[i].waiter);
    binding_destroy(binding);
}

/* ---- sessions ---- */

int service_begin_session(struct service *service, struct session_table *table,
                          struct session *session, uint64_t now_ns, struct service_leftovers *ret)
{
    (void)pthread_mutex_lock(&service->lock);
    if (service->closed || session->epoch != atomic_load(&service->epoch)) {
        (void)pthread_mutex_unlock(&service->lock);
        return ERR_RECONFIGURED;
    }
    struct session *old = service->session;
    ret->replaced = old != NULL;
    if (old != NULL) {
        ret->client = old->client;
        table_remove(table, old);
        atomic_store(&old->replaced, true); /* the last touch: its owner may free it from here on */
    }
    ret->asked = atomic_exchange(&service->asked, 0);
    ret->channel_count = channel_pool_close(&service->pool, ret->channels, true);
    /* Each lane changes to a channel of the new client, and keeps the old one until then. */
    for (unsigned int i = 0;
         service->is_udp && service->binding != NULL && i < service->binding->count; i++)
        channel_pool_queue(&service->pool, &service->binding->lanes[i].waiter);
    channel_pool_open(&service->pool, now_ns);
    service->session = session;
    table_add(table, session);
    atomic_store(&service->owner, session->worker_index);
    atomic_store(&service->up, true);
    (void)pthread_mutex_unlock(&service->lock);
    return 0;
}

void service_close(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    service->closed = true;
    (void)pthread_mutex_unlock(&service->lock);
}

void service_expire_sessions(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    (void)atomic_fetch_add(&service->epoch, 1);
    (void)pthread_mutex_unlock(&service->lock);
}

bool service_end_session(struct service *service, struct session_table *table,
                         struct session *session, struct service_leftovers *ret)
{
    (void)pthread_mutex_lock(&service->lock);
    bool was_newest = service->session == session;
    ret->replaced = false;
    ret->channel_count = 0;
    ret->asked = 0;
    if (was_newest) {
        service->session = NULL;
        table_remove(table, session);
        ret->client = session->client;
        ret->asked = atomic_exchange(&service->asked, 0);
        ret->channel_count = channel_pool_close(&service->pool, ret->channels, false);
        atomic_store(&service->up, false);
    }
    (void)pthread_mutex_unlock(&service->lock);
    return was_newest;
}

void service_asked(struct service *service, uint32_t count)
{
    (void)atomic_fetch_add(&service->asked, count);
}

uint32_t service_answered(struct service *service, uint32_t count)
{
    uint32_t asked = atomic_load(&service->asked);
    uint32_t answered;
    do {
        answered = MIN(asked, count);
    } while (!atomic_compare_exchange_weak(&service->asked, &asked, asked - answered));
    return answered;
}

/* ---- visitors ---- */

static bool is_counted(const struct addr_key *key)
{
    static const struct addr_key none;
    return !addr_key_equal(key, &none);
}

int service_enter(struct service *service, struct addr_key *key)
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

void service_leave(struct service *service, const struct addr_key *key)
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
