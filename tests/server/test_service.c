#include "server/service.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "service_rig.h"
#include "testing.h"

static struct service_rig rig;

static void set_up(void)
{
    service_rig_init(&rig);
}

static void tear_down(void)
{
    service_rig_finish(&rig);
}

Test(service, the_last_user_frees_it, .init = set_up, .fini = tear_down)
{
    struct service *other;
    cr_assert_eq(service_create(&rig.registry, &rig.config, 2, &other), 0);
    cr_assert_str_eq(service_name(other), "echo");
    cr_assert_neq(service_name(other), rig.config.name, "a copy");
    service_use(other);
    service_drop(other);
    cr_assert_eq(rig.registry.entries.prev, &other->entry.node);
    service_drop(other);
    cr_assert_eq(rig.registry.entries.prev, &rig.service->entry.node);
    service_drop(NULL);
}

Test(service, what_is_still_used_at_the_end_is_freed_too, .init = set_up, .fini = tear_down)
{
    struct service_registry own;
    struct service *other;
    service_registry_init(&own, service_free);
    cr_assert_eq(service_create(&own, &rig.config, 2, &other), 0);
    service_use(other);
    service_registry_finish(&own);
}

Test(service, binding, .init = set_up, .fini = tear_down)
{
    static const struct socket_options none;
    size_t before = open_fd_count();
    (void)snprintf(rig.config.addr.host, sizeof(rig.config.addr.host), "127.0.0.1");
    struct addr addr = tcp_loopback(free_port());
    rig.config.addr.port = addr_port(&addr);
    service_drop(rig.service);
    cr_assert_eq(service_create(&rig.registry, &rig.config, 1, &rig.service), 0);
    cr_assert_eq(service_bind(rig.service, &rig.config, &addr, &none, NULL, &rig.service->binding),
                 0);
    cr_assert_eq(open_fd_count(), before + 1 + 1, "a listener and the guard");
    struct service *other;
    cr_assert_eq(service_create(&rig.registry, &rig.config, 1, &other), 0);
    cr_assert_eq(service_bind(other, &rig.config, &addr, &none, NULL, &other->binding),
                 -EADDRINUSE);
    service_drop(other);
    cr_assert_eq(open_fd_count(), before + 1 + 1);
}
