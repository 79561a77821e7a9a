#include "tunnel/service.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "io/udp_socket.h"

/* ---- the table of session keys ---- */

static struct list *bucket_of(struct session_table *table, const uint8_t *key)
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
    bool found = false;
    (void)pthread_mutex_lock(&table->lock);
    /* No early exit, and each comparison in constant time. */
    list_for_each (node, bucket_of(table, key)) {
        const struct session *session = container_of(node, struct session, node);
        if (keys_equal(session->key, key, KEYS_DIGEST_SIZE)) {
            *ret_service = session->service;
            *ret_client = session->client;
            found = true;
        }
    }
    (void)pthread_mutex_unlock(&table->lock);
    return found;
}

static void table_add(struct session_table *table, struct session *session)
{
    (void)pthread_mutex_lock(&table->lock);
    list_push_back(bucket_of(table, session->key), &session->node);
    (void)pthread_mutex_unlock(&table->lock);
}

static void table_remove(struct session_table *table, struct session *session)
{
    (void)pthread_mutex_lock(&table->lock);
    list_remove(&session->node);
    (void)pthread_mutex_unlock(&table->lock);
}

/* ---- the service ---- */

int service_init(struct service *service, const struct config_service *config, unsigned int index)
{
    memset(service, 0, sizeof(*service));
    service->config = config;
    service->index = index;
    service->claim_fd = -1;
    keys_service_digest(config->name, strlen(config->name), service->digest);
    (void)pthread_mutex_init(&service->lock, NULL);
    int result = channel_pool_init(&service->pool);
    service->pool.for_lanes = service_is_udp(service);
    return result;
}

void service_finish(struct service *service)
{
    if (service->config == NULL)
        return;
    for (unsigned int i = 0; i < service->fd_count; i++) {
        if (service->fds[i] >= 0)
            (void)close(service->fds[i]);
    }
    free(service->fds);
    free(service->lanes);
    if (service->claim_fd >= 0)
        (void)close(service->claim_fd);
    channel_pool_finish(&service->pool);
    addr_table_finish(&service->per_ip);
    (void)pthread_mutex_destroy(&service->lock);
}

int service_bind(struct service *service, const struct addr *addr,
                 const struct socket_options *options, unsigned int workers)
{
    service->addr = *addr;
    service->fds = calloc(workers, sizeof(*service->fds));
    if (service->fds == NULL)
        return -ENOMEM;
    service->claim_fd = socket_claim(addr);
    if (service->claim_fd < 0)
        return service->claim_fd;
    int result = socket_bind_group(addr, options, service->fds, workers);
    if (result < 0) {
        (void)close(take_fd(&service->claim_fd));
        return result;
    }
    service->fd_count = workers;
    return result;
}

int service_bind_udp(struct service *service, const struct addr *addr, unsigned int workers)
{
    unsigned int count = service->config->udp_data_channels;
    if (count == 0)
        count = MAX(workers, 2u); /* one client core is not enough for what a server core carries */
    service->addr = *addr;
    service->fds = calloc(count, sizeof(*service->fds));
    service->lanes = calloc(count, sizeof(*service->lanes));
    if (service->fds == NULL || service->lanes == NULL)
        return -ENOMEM;
    for (unsigned int i = 0; i < count; i++)
        list_init(&service->lanes[i].waiter.node);
    int result = udp_socket_bind_group(addr, service->fds, count);
    if (result == 0)
        service->fd_count = count;
    return result;
}

void service_begin_session(struct service *service, struct session_table *table,
                           struct session *session, uint64_t now_ns, struct service_leftovers *ret)
{
    (void)pthread_mutex_lock(&service->lock);
    struct session *old = service->session;
    ret->replaced = old != NULL;
    if (old != NULL) {
        ret->client = old->client;
        table_remove(table, old);
        atomic_store(&old->replaced, true); /* the last touch: its owner may free it from here on */
    }
    ret->asked = atomic_exchange(&service->asked, 0);
    ret->fd_count = channel_pool_close(&service->pool, ret->fds, true);
    /* Each lane changes to a channel of the new client, and keeps the old one until then. */
    for (unsigned int i = 0; service->lanes != NULL && i < service->fd_count; i++)
        channel_pool_queue(&service->pool, &service->lanes[i].waiter);
    channel_pool_open(&service->pool, now_ns);
    service->session = session;
    table_add(table, session);
    atomic_store(&service->owner, session->worker_index);
    atomic_store(&service->up, true);
    (void)pthread_mutex_unlock(&service->lock);
}

bool service_end_session(struct service *service, struct session_table *table,
                         struct session *session, struct service_leftovers *ret)
{
    (void)pthread_mutex_lock(&service->lock);
    bool was_newest = service->session == session;
    ret->replaced = false;
    ret->fd_count = 0;
    ret->asked = 0;
    if (was_newest) {
        service->session = NULL;
        table_remove(table, session);
        ret->client = session->client;
        ret->asked = atomic_exchange(&service->asked, 0);
        ret->fd_count = channel_pool_close(&service->pool, ret->fds, false);
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

int service_enter(struct service *service, const struct addr_key *key)
{
    uint32_t max = service->config->max_connections;
    if (atomic_fetch_add(&service->connections, 1) >= max && max != 0) {
        (void)atomic_fetch_sub(&service->connections, 1);
        return ERR_LIMIT;
    }
    if (service->config->max_connections_per_ip == 0)
        return 0;
    int result = 0;
    (void)pthread_mutex_lock(&service->lock);
    struct addr_entry *entry = addr_table_get(&service->per_ip, key);
    if (entry == NULL)
        result = -ENOMEM;
    else if (entry->count >= service->config->max_connections_per_ip)
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
    if (service->config->max_connections_per_ip == 0)
        return;
    (void)pthread_mutex_lock(&service->lock);
    struct addr_entry *entry = addr_table_find(&service->per_ip, key);
    if (entry != NULL)
        entry->count--;
    addr_table_trim(&service->per_ip, key);
    (void)pthread_mutex_unlock(&service->lock);
}
