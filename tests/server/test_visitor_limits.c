#include "server/visitor_limits.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "service_rig.h"

static struct service_rig rig;

static void set_up(void)
{
    service_rig_init(&rig);
}

static void tear_down(void)
{
    service_rig_finish(&rig);
}

static void set_limits(uint32_t all, uint32_t per_ip)
{
    rig.config.max_connections = all;
    rig.config.max_connections_per_ip = per_ip;
    service_drop(rig.service);
    cr_assert_eq(service_create(&rig.registry, &rig.config, 1, &rig.service), 0);
}

Test(visitor_limits, in_all_and_per_address, .init = set_up, .fini = tear_down)
{
    struct addr_key a = {{1}}, b = {{2}}, other;
    set_limits(3, 2);
    cr_assert_eq(visitor_limits_enter(rig.service, &a), 0);
    cr_assert_eq(visitor_limits_enter(rig.service, &a), 0);
    cr_assert_eq(visitor_limits_enter(rig.service, &a), ERR_LIMIT);
    cr_assert_eq(visitor_limits_enter(rig.service, &b), 0);
    cr_assert_eq(visitor_limits_enter(rig.service, &b), ERR_LIMIT, "in all");
    visitor_limits_leave(rig.service, &a);
    cr_assert_eq(visitor_limits_enter(rig.service, &b), 0);
    cr_assert_eq(visitor_limits_enter(rig.service, &a), ERR_LIMIT);
    visitor_limits_leave(rig.service, &a);
    visitor_limits_leave(rig.service, &b);
    visitor_limits_leave(rig.service, &b);
    cr_assert_eq(atomic_load(&rig.service->connections), 0);
    cr_assert_null(addr_table_find(&rig.service->per_ip, &a), "nothing is left");
    set_limits(0, 0);
    for (int i = 0; i < 100; i++) {
        other = a;
        cr_assert_eq(visitor_limits_enter(rig.service, &other), 0);
        cr_assert_eq(other.bytes[0], 0, "not counted by its address");
    }
    for (int i = 0; i < 100; i++)
        visitor_limits_leave(rig.service, &other);
    cr_assert_eq(atomic_load(&rig.service->connections), 0);
}
