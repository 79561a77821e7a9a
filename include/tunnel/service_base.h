/* What a service has in both roles: its configuration, which a reload replaces, and a count of its
 * users. The last user frees it.
 *
 *     configured --(removed from the file)--> removed --(drain_timeout)--> cut
 *                                             no new work, relays go on   relays are ended
 *
 * The registry has all services that are not freed yet. Its list changes under its lock. Only the
 * main thread decides which services are configured. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "base/macros.h"
#include "config/config.h"

struct service_registry;

struct service_base {
    _Atomic(const struct config_service *) config; /* owned */
    struct service_registry *registry;
    struct list node;
    _Atomic unsigned int users;
    _Atomic bool cut; /* its relays have to end */
    /* Grows when the other side of its relays may be gone: a session of the service has ended
     * without a word, or another client has taken over. Each relay then asks the kernel to probe
     * that side (relay/relay.h), and ends only if nobody answers. */
    _Atomic uint32_t doubts;
    pthread_mutex_t link_lock; /* protects the two below */
    struct addr peer;          /* of its session; len 0: there is none */
    int64_t up_since_s;
    bool removed; /* these two are the main thread's */
    uint64_t cut_at_ms;
};

struct service_registry {
    pthread_mutex_t lock; /* protects the list */
    struct list entries;
    /* Frees the object around it; calls service_base_finish. */
    void (*free)(struct service_base *base);
};

void service_registry_init(struct service_registry *registry,
                           void (*free)(struct service_base *base));
/* Frees all services that are left, whatever their users. */
void service_registry_finish(struct service_registry *registry);

/* Copies the configuration. The caller is the first user. -ENOMEM. */
MUST_CHECK int service_base_init(struct service_base *base, const struct config_service *config);
/* For a service that was never added to a registry, and for registry->free. */
void service_base_finish(struct service_base *base);
/* Adds a service. From now on its last service_base_drop frees it. */
void service_registry_add(struct service_registry *registry, struct service_base *base);
void service_base_use(struct service_base *base);
void service_base_drop(struct service_base *base);
static inline void service_base_doubt(struct service_base *base)
{
    (void)atomic_fetch_add_explicit(&base->doubts, 1, memory_order_relaxed);
}

/* A session has begun with this peer, or has ended (NULL). Any thread. */
void service_base_note_peer(struct service_base *base, const struct addr *peer);
/* The session with that peer has ended, and this is one that has been there beside it. */
void service_base_replace_peer(struct service_base *base, const struct addr *ended,
                               const struct addr *peer);
/* What was noted. False: there is no session. Any thread. */
bool service_base_peer(struct service_base *base, struct addr *ret_peer, int64_t *ret_since_s);

/* The configuration at this moment. A reload frees the old one when every worker has ended the
 * callback that it was in. So read it where it is needed and never keep the pointer over a
 * callback. Any thread. */
static inline const struct config_service *service_base_config(const struct service_base *base)
{
    return atomic_load_explicit(&base->config, memory_order_acquire);
}
/* Replaces the configuration. Returns the old one, which the caller then owns. */
MUST_CHECK const struct config_service *service_base_set_config(
    struct service_base *base, const struct config_service *config);

/* To be called between service_base_set_config and the end of the old configuration: waits until
 * no thread that holds the registry's lock reads it. */
void service_registry_settle(struct service_registry *registry);

/* The services that are configured now, in the form that config_diff takes. The strings belong to
 * the services. */
struct service_view {
    struct config_peer peer;
    struct service_base **entries; /* of peer.services, in the same order */
};
/* own: everything but the services. -ENOMEM. For the main thread, like all functions below. */
MUST_CHECK int service_view_init(struct service_view *view, struct service_registry *registry,
                                 const struct config_peer *own);
void service_view_finish(struct service_view *view);
/* The service that has this configuration, which is one in the view. */
struct service_base *service_view_entry(const struct service_view *view,
                                        const struct config_service *config);

/* Marks a service as removed. The caller remains a user. */
void service_base_remove(struct service_base *base, uint64_t cut_at_ms);
/* Cuts the removed services whose time has come. True: there was one, and the caller signals the
 * workers. *ret_next_ms: when to call again; UINT64_MAX: no removed service waits. */
MUST_CHECK bool service_registry_cut_due(struct service_registry *registry, uint64_t now_ms,
                                         uint64_t *ret_next_ms);
