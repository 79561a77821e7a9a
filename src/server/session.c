#include "server/session.h"

#include "base/error.h"
#include "base/probe.h"
#include "server/gate.h"
#include "server/service.h"

/* ---- the table of session keys ---- */

static struct list *session_table_bucket(struct session_table *table, const uint8_t *key)
{
    return &table->buckets[keys_hash(key, KEYS_DIGEST_SIZE) % SESSION_BUCKETS];
}

void session_table_init(struct session_table *table, struct gate *gate)
{
    table->gate = gate;
    (void)pthread_mutex_init(&table->lock, NULL);
    for (size_t i = 0; i < SESSION_BUCKETS; i++)
        list_init(&table->buckets[i]);
}

void session_table_finish(struct session_table *table)
{
    (void)pthread_mutex_destroy(&table->lock);
}

/* Subtracts up to `count` from session->asked. Returns how many were subtracted. */
static uint32_t take_asked(struct session *session, uint32_t count)
{
    uint32_t asked = atomic_load(&session->asked);
    uint32_t taken;
    do {
        taken = MIN(asked, count);
    } while (!atomic_compare_exchange_weak(&session->asked, &asked, asked - taken));
    return taken;
}

bool session_table_find(struct session_table *table, const uint8_t key[static KEYS_DIGEST_SIZE],
                        struct session_found *ret)
{
    (void)pthread_mutex_lock(&table->lock);
    struct session *found = NULL;
    /* No early exit, and each comparison takes constant time: the time tells nothing about keys. */
    list_for_each (node, session_table_bucket(table, key)) {
        struct session *session = container_of(node, struct session, node);
        if (keys_equal(session->key, key, KEYS_DIGEST_SIZE))
            found = session;
    }
    if (found != NULL) {
        *ret = (struct session_found){.service = found->service,
                                      .source = found->source.handle,
                                      .client = found->client,
                                      .expected = take_asked(found, 1) == 1};
        service_use(found->service); /* it is alive: the session's control channel is a user */
    }
    (void)pthread_mutex_unlock(&table->lock);
    return found != NULL;
}

static void session_table_add(struct session_table *table, struct session *session)
{
    (void)pthread_mutex_lock(&table->lock);
    list_push_back(session_table_bucket(table, session->key), &session->node);
    (void)pthread_mutex_unlock(&table->lock);
}

/* From now on no data channel comes for the session. The caller holds the service's lock, so that
 * the session requests none at the same time. */
static void session_table_remove(struct session_table *table, struct session *session)
{
    (void)pthread_mutex_lock(&table->lock);
    list_remove(&session->node);
    (void)pthread_mutex_unlock(&table->lock);
    session_give_up(table, session, UINT32_MAX);
}

/* ---- beginning and ending ---- */

static struct session *session_of(struct list *node)
{
    return container_of(node, struct session, of_service);
}

/* Has the newest session take the place of all others. The caller holds the service's lock. */
static void replace_others(struct session_table *table, struct service *service, uint64_t now_ns,
                           struct session_change *change)
{
    list_for_each_safe (node, &service->session_list) {
        struct session *old = session_of(node);
        pool_notice notice;
        if (node == service->session_list.prev)
            continue;
        session_table_remove(table, old);
        list_remove(&old->of_service);
        channel_pool_close(&service->pool, &old->source, now_ns, &notice);
        atomic_store(&old->replaced, true);
        change->replaced = true;
        change->notice |= notice;
    }
}

/* A client that vanished without a word may be back: its older sessions are to be asked. */
static void doubt_others(const struct service *service, const struct session *newest)
{
    list_for_each (node, &service->session_list) {
        struct session *other = session_of(node);
        if (other != newest && addr_key_equal(&other->client, &newest->client))
            atomic_store(&other->doubted, true);
    }
}

int session_begin(struct session_table *table, struct session *session, uint64_t now_ns,
                  struct session_change *ret)
{
    struct service *service = session->service;
    *ret = (struct session_change){.replaced = false};
    (void)pthread_mutex_lock(&service->lock);
    int result = ERR_RECONFIGURED;
    if (!service->closed && session->epoch == atomic_load(&service->epoch))
        /* Before the others are closed: visitors must not find the pool without a source. */
        result = channel_pool_open(&service->pool, &session->source, session->worker_index, now_ns,
                                   &ret->notice);
    if (result < 0) {
        (void)pthread_mutex_unlock(&service->lock);
        return result;
    }
    /* Each lane gets a channel of the new client, and keeps the old one until then. With clients
     * side by side it looks by itself (lane_places_review). */
    for (unsigned int i = 0;
         service->is_udp && service->binding != NULL &&
         service_config(service)->clients == CONFIG_CLIENTS_REPLACE && i < service->binding->count;
         i++)
        channel_pool_queue(&service->pool, &service->binding->lanes[i].waiters[0]);
    list_push_back(&service->session_list, &session->of_service);
    if (service_config(service)->clients == CONFIG_CLIENTS_REPLACE)
        replace_others(table, service, now_ns, ret);
    doubt_others(service, session);
    service->is_claimed = false;
    (void)atomic_fetch_add(&service->sessions, 1);
    session_table_add(table, session);
    service_base_note_peer(&service->entry, &session->peer);
    atomic_store(&service->up, true);
    (void)pthread_mutex_unlock(&service->lock);
    PROBE2(session_begin, service_name(service), session);
    return 0;
}

void session_keep_newest(struct session_table *table, struct service *service, uint64_t now_ns,
                         struct session_change *ret)
{
    *ret = (struct session_change){.replaced = false};
    (void)pthread_mutex_lock(&service->lock);
    if (service_config(service)->clients == CONFIG_CLIENTS_REPLACE)
        replace_others(table, service, now_ns, ret);
    (void)pthread_mutex_unlock(&service->lock);
}

void session_refuse_all(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    service->closed = true;
    (void)pthread_mutex_unlock(&service->lock);
}

bool session_refuse_if_idle(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    service->closed |= list_is_empty(&service->session_list) && !service->is_claimed;
    service->is_claimed = false;
    bool is_closed = service->closed;
    (void)pthread_mutex_unlock(&service->lock);
    return is_closed;
}

bool session_claim(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    bool is_open = !service->closed;
    service->is_claimed |= is_open;
    (void)pthread_mutex_unlock(&service->lock);
    return is_open;
}

void session_expire_all(struct service *service)
{
    (void)pthread_mutex_lock(&service->lock);
    (void)atomic_fetch_add(&service->epoch, 1);
    (void)pthread_mutex_unlock(&service->lock);
}

void session_end(struct session_table *table, struct session *session, uint64_t now_ns,
                 struct session_change *ret)
{
    struct service *service = session->service;
    *ret = (struct session_change){.replaced = false};
    (void)pthread_mutex_lock(&service->lock);
    if (!atomic_load(&session->replaced)) {
        session_table_remove(table, session);
        list_remove(&session->of_service);
        channel_pool_close(&service->pool, &session->source, now_ns, &ret->notice);
        ret->is_down = list_is_empty(&service->session_list);
        struct list *last = service->session_list.prev;
        service_base_note_peer(&service->entry, ret->is_down ? NULL : &session_of(last)->peer);
        atomic_store(&service->up, !ret->is_down);
    }
    (void)pthread_mutex_unlock(&service->lock);
    PROBE2(session_end, service_name(service), session);
}

/* ---- requested channels ---- */

uint32_t session_ask(struct session_table *table, struct session *session, uint32_t max)
{
    struct service *service = session->service;
    uint32_t count = 0;
    (void)pthread_mutex_lock(&service->lock);
    if (!atomic_load(&session->replaced)) {
        count = channel_pool_claim_requests(&service->pool, &session->source, max);
        gate_expect(table->gate, &session->client, (int)count);
        (void)atomic_fetch_add(&session->asked, count);
    }
    (void)pthread_mutex_unlock(&service->lock);
    return count;
}

void session_give_up(struct session_table *table, struct session *session, uint32_t count)
{
    gate_expect(table->gate, &session->client, -(int)take_asked(session, count));
}
