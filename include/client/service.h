/* A service on the client: its configuration, where its local service is, and its control channel.
 *
 * Its users (service_base.h) are the client while it is configured, its control channel, sessions,
 * data channels with their relays, and forwards. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/dial.h"
#include "io/resolver.h"
#include "tunnel/service_base.h"

struct client_control;

/* The addresses of the local service, as one worker knows them; the one that worked, or that is in
 * use, comes first. */
struct client_local {
    struct resolver_answer answer;
    uint64_t valid_until_ns;    /* 0 = none, or to be asked for again */
    uint32_t generation;        /* counts changes of local_addr: an answer to an older question is
                                 * none */
    uint32_t version;           /* counts changes of the addresses and their order */
    struct dial_memory *memory; /* the service's */
    uint32_t memory_version;    /* of it, as it is known here */
};

struct client_service {
    struct service_base entry;
    bool is_udp;
    _Atomic int tcp_channels;       /* see client/descriptors.h */
    unsigned int worker;            /* that has the control channel */
    struct client_control *control; /* that worker's; NULL: none, or it has ended for good */
    struct client_local *locals;    /* by worker */
    struct dial_memory memory;      /* which address of the local service worked */
};

/* The configuration is copied. The caller is the first user. -ENOMEM. */
MUST_CHECK int client_service_create(struct service_registry *registry,
                                     const struct config_service *config, unsigned int workers,
                                     struct client_service **ret);
/* For service_registry_init. */
void client_service_free(struct service_base *base);

static inline struct client_service *client_service_of(struct service_base *base)
{
    return container_of(base, struct client_service, entry);
}
/* Read where it is needed, and never kept: see service_base_config. */
static inline const struct config_service *client_service_config(
    const struct client_service *service)
{
    return service_base_config(&service->entry);
}
/* The name stays the same. */
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

/* New addresses. */
void client_local_take(struct client_local *local, const struct resolver_answer *answer,
                       uint64_t now_ns);
/* local_addr is another: what is known is of no use. */
void client_local_forget(struct client_local *local);
/* Before one of the addresses is tried: what other workers have found out counts here too. */
void client_local_catch_up(struct client_local *local, uint64_t now_ns);
/* This one of them has worked. */
void client_local_worked(struct client_local *local, size_t index, uint64_t now_ns);
/* The one in use does not work: the next one is. */
void client_local_rotate(struct client_local *local, uint64_t now_ns);
