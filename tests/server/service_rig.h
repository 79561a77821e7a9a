/* A service of three workers in a registry of its own, for the tests of what a service has: one at a
 * time, made and ended by each test. */
#pragma once

#include <criterion/criterion.h>
#include <string.h>

#include "server/service.h"

struct service_rig {
    struct service_registry registry;
    struct config_service config; /* its strings are not owned */
    struct service *service;
};

static inline void service_rig_init(struct service_rig *rig)
{
    cr_assert_eq(keys_init(), 0);
    memset(&rig->config, 0, sizeof(rig->config));
    rig->config.name = (char *)(uintptr_t) "echo";
    rig->config.token = (char *)(uintptr_t) "a token";
    service_registry_init(&rig->registry, service_free);
    cr_assert_eq(service_create(&rig->registry, &rig->config, 3, &rig->service), 0);
}

/* The service must have no user left but the rig. */
static inline void service_rig_finish(struct service_rig *rig)
{
    service_drop(rig->service);
    cr_assert(list_is_empty(&rig->registry.entries));
    service_registry_finish(&rig->registry);
}
