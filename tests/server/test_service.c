#include "server/service.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "testing.h"

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

Test(service, the_last_user_frees_it, .init = set_up, .fini = tear_down)
{
    struct service *other;
    cr_assert_eq(service_create(&registry, &config, 2, &other), 0);
    cr_assert_str_eq(service_name(other), "echo");
    cr_assert_neq(service_name(other), config.name, "a copy");
    service_use(other);
    service_drop(other);
    cr_assert_eq(registry.entries.prev, &other->entry.node);
    service_drop(other);
    cr_assert_eq(registry.entries.prev, &service->entry.node);
    service_drop(NULL);
}

Test(service, what_is_still_used_at_the_end_is_freed_too, .init = set_up, .fini = tear_down)
{
    struct service_registry own;
    struct service *other;
    service_registry_init(&own, service_free);
    cr_assert_eq(service_create(&own, &config, 2, &other), 0);
    service_use(other);
    service_registry_finish(&own);
}

Test(service, binding, .init = set_up, .fini = tear_down)
{
    static const struct socket_options none;
    size_t before = open_fd_count();
    (void)snprintf(config.addr.host, sizeof(config.addr.host), "127.0.0.1");
    struct addr addr = tcp_loopback(free_port());
    config.addr.port = addr_port(&addr);
    service_drop(service);
    cr_assert_eq(service_create(&registry, &config, 1, &service), 0);
    cr_assert_eq(service_bind(service, &config, &addr, &none, NULL, &service->binding), 0);
    cr_assert_eq(open_fd_count(), before + 1 + 1, "a listener and the guard");
    struct service *other;
    cr_assert_eq(service_create(&registry, &config, 1, &other), 0);
    cr_assert_eq(service_bind(other, &config, &addr, &none, NULL, &other->binding), -EADDRINUSE);
    service_drop(other);
    cr_assert_eq(open_fd_count(), before + 1 + 1);
}
