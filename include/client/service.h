/* A service on the client: its configuration, the addresses of its local service, and its control
 * channels. It is freed by its last user (service_base.h): the client while the service is
 * configured, its control channels, sessions, data channels with their relays, and forwards. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/dial.h"
#include "io/resolver.h"
#include "tunnel/service_base.h"
#include "tunnel/service_stats.h"

struct client_control;

/* The addresses of the local service, as one worker knows them; used by that worker's thread. The
 * address that is in use, or worked last, comes first. */
struct client_local {
    struct resolver_answer answer;
    uint64_t valid_until_ns;    /* 0 = the name has to be looked up */
    uint32_t generation;        /* changes of local_addr; older answers are ignored */
    uint32_t version;           /* changes of the addresses or of their order */
    struct dial_memory *memory; /* of the service */
    uint32_t memory_version;    /* the version of it that this order follows */
    service_stats_slot stats;   /* the worker's numbers of the service */
};

/* Why a visitor found no service. */
enum client_refusal { CLIENT_REFUSED_UNREACHABLE };

struct client_service {
    struct service_base entry;
    bool is_udp;
    unsigned int worker_count;
    _Atomic int tcp_channels; /* see client/descriptors.h */
    unsigned int worker;      /* index of the worker that has the control channels */
    struct list controls;     /* that worker's: one for each server; none has ended for good */
    struct list worker_node;  /* likewise; in its list of services, while configured */
    _Atomic unsigned int servers_up; /* control channels that are up */
    struct client_local *locals;     /* one for each worker */
    struct dial_memory memory;       /* which address of the local service worked */
};

/* Creates a service and registers it. The configuration is copied, and the caller is the first
 * user. -ENOMEM. */
MUST_CHECK int client_service_create(struct service_registry *registry,
                                     const struct config_service *config, unsigned int workers,
                                     struct client_service **ret);
/* For service_registry_init. */
void client_service_free(struct service_base *base);

static inline struct client_service *client_service_of(struct service_base *base)
{
    return container_of(base, struct client_service, entry);
}
/* Any thread. Never keep the pointer over a callback: see service_base_config. */
static inline const struct config_service *client_service_config(
    const struct client_service *service)
{
    return service_base_config(&service->entry);
}
/* A reload never changes the name, but it may move: do not keep the pointer. */
static inline const char *client_service_name(const struct client_service *service)
{
    return client_service_config(service)->name;
}
static inline void client_service_use(struct client_service *service)
{
    service_base_use(&service->entry);
}
static inline void client_service_drop(struct client_service *service)
{
    service_base_drop(&service->entry);
}

/* Takes the resolver's answer. */
void client_local_take(struct client_local *local, const struct resolver_answer *answer,
                       uint64_t now_ns);
/* local_addr has changed: forgets the addresses. */
void client_local_forget(struct client_local *local);
/* To be called before an address is tried: puts the address first that other workers have found to
 * work. */
void client_local_catch_up(struct client_local *local, uint64_t now_ns);
/* The address with this index has worked: it comes first from now on. */
void client_local_worked(struct client_local *local, size_t index, uint64_t now_ns);
/* The address in use does not work: moves on to the next one. */
void client_local_rotate(struct client_local *local, uint64_t now_ns);
