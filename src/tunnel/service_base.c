#include "tunnel/service_base.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "config/config_copy.h"

static struct service_base *service_base_of(struct list *node)
{
    return container_of(node, struct service_base, node);
}

/* ---- the registry and the users ---- */

void service_registry_init(struct service_registry *registry,
                           void (*free)(struct service_base *base))
{
    (void)pthread_mutex_init(&registry->lock, NULL);
    list_init(&registry->entries);
    registry->free = free;
}

void service_registry_finish(struct service_registry *registry)
{
    struct list *node;
    while ((node = list_pop_front(&registry->entries)) != NULL)
        registry->free(service_base_of(node));
    (void)pthread_mutex_destroy(&registry->lock);
}

int service_base_init(struct service_base *base, const struct config_service *config)
{
    const struct config_service *copy;
    int result = config_service_copy(config, &copy);
    if (result < 0)
        return result;
    *base = (struct service_base){.config = copy, .users = 1};
    (void)pthread_mutex_init(&base->link_lock, NULL);
    list_init(&base->node);
    return 0;
}

void service_base_finish(struct service_base *base)
{
    config_service_free(service_base_config(base));
    (void)pthread_mutex_destroy(&base->link_lock);
}

void service_registry_add(struct service_registry *registry, struct service_base *base)
{
    base->registry = registry;
    (void)pthread_mutex_lock(&registry->lock);
    list_push_back(&registry->entries, &base->node);
    (void)pthread_mutex_unlock(&registry->lock);
}

void service_base_use(struct service_base *base)
{
    (void)atomic_fetch_add(&base->users, 1);
}

void service_base_drop(struct service_base *base)
{
    if (atomic_fetch_sub(&base->users, 1) != 1)
        return;
    struct service_registry *registry = base->registry;
    (void)pthread_mutex_lock(&registry->lock);
    list_remove(&base->node);
    (void)pthread_mutex_unlock(&registry->lock);
    registry->free(base);
}

const struct config_service *service_base_set_config(struct service_base *base,
                                                     const struct config_service *config)
{
    return atomic_exchange(&base->config, config);
}

void service_registry_settle(struct service_registry *registry)
{
    (void)pthread_mutex_lock(&registry->lock);
    (void)pthread_mutex_unlock(&registry->lock);
}

void service_base_note_peer(struct service_base *base, const struct addr *peer)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)pthread_mutex_lock(&base->link_lock);
    base->peer = peer != NULL ? *peer : (struct addr){.len = 0};
    base->up_since_s = now.tv_sec;
    (void)pthread_mutex_unlock(&base->link_lock);
}

void service_base_replace_peer(struct service_base *base, const struct addr *ended,
                               const struct addr *peer)
{
    (void)pthread_mutex_lock(&base->link_lock);
    if (addr_equal(&base->peer, ended))
        base->peer = *peer;
    (void)pthread_mutex_unlock(&base->link_lock);
}

bool service_base_peer(struct service_base *base, struct addr *ret_peer, int64_t *ret_since_s)
{
    (void)pthread_mutex_lock(&base->link_lock);
    *ret_peer = base->peer;
    *ret_since_s = base->up_since_s;
    (void)pthread_mutex_unlock(&base->link_lock);
    return ret_peer->len != 0;
}

/* ---- what is configured ---- */

int service_view_init(struct service_view *view, struct service_registry *registry,
                      const struct config_peer *own)
{
    size_t count = 0, room = 0;
    view->peer = *own;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries)
        room++;
    view->peer.services = calloc(room + 1, sizeof(*view->peer.services));
    view->entries = calloc(room + 1, sizeof(*view->entries));
    bool has_memory = view->peer.services != NULL && view->entries != NULL;
    list_for_each (node, &registry->entries) {
        struct service_base *base = service_base_of(node);
        if (!has_memory || base->removed)
            continue;
        view->peer.services[count] = *service_base_config(base);
        view->entries[count++] = base;
    }
    (void)pthread_mutex_unlock(&registry->lock);
    view->peer.service_count = count;
    if (!has_memory)
        service_view_finish(view);
    return has_memory ? 0 : -ENOMEM;
}

void service_view_finish(struct service_view *view)
{
    free(view->peer.services);
    free(view->entries);
    view->peer.services = NULL;
    view->entries = NULL;
}

struct service_base *service_view_entry(const struct service_view *view,
                                        const struct config_service *config)
{
    assert(config >= view->peer.services &&
           config < view->peer.services + view->peer.service_count);
    return view->entries[config - view->peer.services];
}

void service_base_remove(struct service_base *base, uint64_t cut_at_ms)
{
    (void)pthread_mutex_lock(&base->registry->lock);
    base->removed = true;
    base->cut_at_ms = cut_at_ms;
    (void)pthread_mutex_unlock(&base->registry->lock);
}

bool service_registry_cut_due(struct service_registry *registry, uint64_t now_ms,
                              uint64_t *ret_next_ms)
{
    bool found = false;
    *ret_next_ms = UINT64_MAX;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service_base *base = service_base_of(node);
        if (!base->removed || atomic_load(&base->cut))
            continue;
        if (base->cut_at_ms <= now_ms) {
            atomic_store(&base->cut, true);
            found = true;
        } else {
            *ret_next_ms = MIN(*ret_next_ms, base->cut_at_ms);
        }
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return found;
}
