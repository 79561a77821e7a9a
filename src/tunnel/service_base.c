#include "tunnel/service_base.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "config/config_copy.h"

static struct service_base *entry_of(struct list *node)
{
    return container_of(node, struct service_base, node);
}

/* ---- the registry and the users ---- */

void service_registry_init(struct service_registry *registry,
                           void (*free)(struct service_base *entry))
{
    (void)pthread_mutex_init(&registry->lock, NULL);
    list_init(&registry->entries);
    registry->free = free;
}

void service_registry_finish(struct service_registry *registry)
{
    struct list *node;
    while ((node = list_pop_front(&registry->entries)) != NULL)
        registry->free(entry_of(node));
    (void)pthread_mutex_destroy(&registry->lock);
}

int service_base_init(struct service_base *entry, const struct config_service *config)
{
    const struct config_service *copy;
    int result = config_service_copy(config, &copy);
    if (result < 0)
        return result;
    *entry = (struct service_base){.config = copy, .users = 1};
    list_init(&entry->node);
    return 0;
}

void service_base_finish(struct service_base *entry)
{
    config_service_free(service_base_config(entry));
}

void service_registry_add(struct service_registry *registry, struct service_base *entry)
{
    entry->registry = registry;
    (void)pthread_mutex_lock(&registry->lock);
    list_push_back(&registry->entries, &entry->node);
    (void)pthread_mutex_unlock(&registry->lock);
}

void service_base_use(struct service_base *entry)
{
    (void)atomic_fetch_add(&entry->users, 1);
}

void service_base_drop(struct service_base *entry)
{
    if (atomic_fetch_sub(&entry->users, 1) != 1)
        return;
    struct service_registry *registry = entry->registry;
    (void)pthread_mutex_lock(&registry->lock);
    list_remove(&entry->node);
    (void)pthread_mutex_unlock(&registry->lock);
    registry->free(entry);
}

const struct config_service *service_base_set_config(struct service_base *entry,
                                                     const struct config_service *config)
{
    return atomic_exchange(&entry->config, config);
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
        struct service_base *entry = entry_of(node);
        if (!has_memory || entry->removed)
            continue;
        view->peer.services[count] = *service_base_config(entry);
        view->entries[count++] = entry;
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

void service_base_remove(struct service_base *entry, uint64_t cut_at_ms)
{
    (void)pthread_mutex_lock(&entry->registry->lock);
    entry->removed = true;
    entry->cut_at_ms = cut_at_ms;
    (void)pthread_mutex_unlock(&entry->registry->lock);
}

bool service_registry_cut_due(struct service_registry *registry, uint64_t now_ms,
                              uint64_t *ret_next_ms)
{
    bool found = false;
    *ret_next_ms = UINT64_MAX;
    (void)pthread_mutex_lock(&registry->lock);
    list_for_each (node, &registry->entries) {
        struct service_base *entry = entry_of(node);
        if (!entry->removed || atomic_load(&entry->cut))
            continue;
        if (entry->cut_at_ms <= now_ms) {
            atomic_store(&entry->cut, true);
            found = true;
        } else {
            *ret_next_ms = MIN(*ret_next_ms, entry->cut_at_ms);
        }
    }
    (void)pthread_mutex_unlock(&registry->lock);
    return found;
}
