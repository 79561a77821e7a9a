/* What a service has on either side: its configuration, which a reload puts another in the place
 * of, and the count of its users. The last of them frees it.
 *
 *     configured --(removed from the file)--> removed --(drain_timeout)--> cut
 *                                             no new work, relays go on   relays are ended
 *
 * The registry knows all that are not freed yet. It is changed under its lock; what is configured
 * is the main thread's to decide. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "base/macros.h"
#include "config/config.h"

struct service_registry;

struct service_base {
    _Atomic(const struct config_service *) config; /* owned */
    struct service_registry *registry;
    struct list node;
    _Atomic unsigned int users;
    _Atomic bool cut; /* its relays are to end */
    /* Grows when there is reason to doubt that the other side of its relays is there: a session of
     * it has ended without a word, or another client has taken over. Each relay asks then
     * (relay/relay.h), and ends only if nobody answers. */
    _Atomic uint32_t doubts;
    bool removed; /* the main thread's, as is this: */
    uint64_t cut_at_ms;
};

struct service_registry {
    pthread_mutex_t lock; /* over the list */
    struct list entries;
    void (*free)(struct service_base *base); /* what it is embedded in, after _finish */
};

void service_registry_init(struct service_registry *registry,
                           void (*free)(struct service_base *base));
/* Frees all that are left, whoever uses them. */
void service_registry_finish(struct service_registry *registry);

/* Copies the configuration; the caller is the first user. -ENOMEM. */
MUST_CHECK int service_base_init(struct service_base *base, const struct config_service *config);
/* For one that is not in a registry. */
void service_base_finish(struct service_base *base);
/* From here on the last user's service_base_drop frees it. */
void service_registry_add(struct service_registry *registry, struct service_base *base);
void service_base_use(struct service_base *base);
void service_base_drop(struct service_base *base);
static inline void service_base_doubt(struct service_base *base)
{
    (void)atomic_fetch_add_explicit(&base->doubts, 1, memory_order_relaxed);
}

/* As configured now. A reload frees the old object when every worker has ended the callback that it
 * was in: so it is read where it is needed, and never kept. Any thread. */
static inline const struct config_service *service_base_config(const struct service_base *base)
{
    return atomic_load_explicit(&base->config, memory_order_acquire);
}
/* Returns the old one, which is the caller's then. */
MUST_CHECK const struct config_service *service_base_set_config(
    struct service_base *base, const struct config_service *config);

/* What is configured now, in the form that config_diff takes. The strings are the entries' own. */
struct service_view {
    struct config_peer peer;
    struct service_base **entries; /* of peer.services, one by one */
};
/* own: all else than the services. -ENOMEM. The main thread's, as all below. */
MUST_CHECK int service_view_init(struct service_view *view, struct service_registry *registry,
                                 const struct config_peer *own);
void service_view_finish(struct service_view *view);
/* Whose configuration that is, out of the view. */
struct service_base *service_view_entry(const struct service_view *view,
                                        const struct config_service *config);

/* Not configured any more; the caller's use goes on. */
void service_base_remove(struct service_base *base, uint64_t cut_at_ms);
/* Cuts the removed ones whose time has come: true if there was one, and the workers are to look.
 * ret_next_ms: when to call again; UINT64_MAX = there is none that waits. */
MUST_CHECK bool service_registry_cut_due(struct service_registry *registry, uint64_t now_ms,
                                         uint64_t *ret_next_ms);
