#include "server/visitor_limits.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"

static struct service_registry registry;
static struct service *service;
static struct config_service config;

static void set_up(void)
{
    cr_assert_eq(keys_init(), 0);
    memset(&config, 0, sizeof(config));
    config.name = (char *)(uintptr_t) "echo";
    config.token = (char *)(uintptr_t) "a token";
    service_registry_init(&registry, service_free);
    cr_assert_eq(service_create(&registry, &config, 3, &service), 0);
}

static void tear_down(void)
{
    service_drop(service);
    cr_assert(list_is_empty(&registry.entries));
    service_registry_finish(&registry);
}

static void set_limits(uint32_t all, uint32_t per_ip)
{
    config.max_connections = all;
    config.max_connections_per_ip = per_ip;
    service_drop(service);
    cr_assert_eq(service_create(&registry, &config, 1, &service), 0);
}

Test(visitor_limits, in_all_and_per_address, .init = set_up, .fini = tear_down)
{
    struct addr_key a = {{1}}, b = {{2}}, other;
    set_limits(3, 2);
    cr_assert_eq(visitor_limits_enter(service, &a), 0);
    cr_assert_eq(visitor_limits_enter(service, &a), 0);
    cr_assert_eq(visitor_limits_enter(service, &a), ERR_LIMIT);
    cr_assert_eq(visitor_limits_enter(service, &b), 0);
    cr_assert_eq(visitor_limits_enter(service, &b), ERR_LIMIT, "in all");
    visitor_limits_leave(service, &a);
    cr_assert_eq(visitor_limits_enter(service, &b), 0);
    cr_assert_eq(visitor_limits_enter(service, &a), ERR_LIMIT);
    visitor_limits_leave(service, &a);
    visitor_limits_leave(service, &b);
    visitor_limits_leave(service, &b);
    cr_assert_eq(atomic_load(&service->connections), 0);
    cr_assert_null(addr_table_find(&service->per_ip, &a), "nothing is left");
    set_limits(0, 0);
    for (int i = 0; i < 100; i++) {
        other = a;
        cr_assert_eq(visitor_limits_enter(service, &other), 0);
        cr_assert_eq(other.bytes[0], 0, "not counted by its address");
    }
    for (int i = 0; i < 100; i++)
        visitor_limits_leave(service, &other);
    cr_assert_eq(atomic_load(&service->connections), 0);
}
