#include "tunnel/service_base.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "config/config_copy.h"
#include "config/config_diff.h"

struct thing {
    struct service_base entry;
};

static struct service_registry registry;
static unsigned int freed;

static void thing_free(struct service_base *entry)
{
    service_base_finish(entry);
    free(container_of(entry, struct thing, entry));
    freed++;
}

static void set_up(void)
{
    freed = 0;
    service_registry_init(&registry, thing_free);
}

static struct config_service config_of(const char *name, uint16_t port)
{
    return (struct config_service){.name = (char *)(uintptr_t)name,
                                   .token = (char *)(uintptr_t) "token",
                                   .addr = {.host = "127.0.0.1", .port = port}};
}

static struct service_base *make(const char *name, uint16_t port)
{
    struct config_service config = config_of(name, port);
    struct thing *thing = calloc(1, sizeof(*thing));
    cr_assert_not_null(thing);
    cr_assert_eq(service_base_init(&thing->entry, &config), 0);
    service_registry_add(&registry, &thing->entry);
    return &thing->entry;
}

Test(service_base, the_last_user_frees_it, .init = set_up)
{
    struct service_base *entry = make("a", 1);
    service_base_use(entry);
    service_base_drop(entry);
    cr_expect_eq(freed, 0);
    service_base_drop(entry);
    cr_expect_eq(freed, 1);
    service_base_use(make("b", 2));
    service_registry_finish(&registry);
    cr_expect_eq(freed, 2, "used or not");
}

Test(service_base, the_view_is_what_is_configured, .init = set_up)
{
    static const struct config_peer own = {.drain_timeout_ms = 7};
    struct service_base *a = make("a", 1), *b = make("b", 2), *c = make("c", 3);
    struct service_view view;
    service_base_remove(b, 100);
    cr_assert_eq(service_view_init(&view, &registry, &own), 0);
    cr_expect_eq(view.peer.drain_timeout_ms, 7);
    cr_assert_eq(view.peer.service_count, 2);
    cr_expect_eq(service_view_entry(&view, &view.peer.services[0]), a);
    cr_expect_eq(service_view_entry(&view, &view.peer.services[1]), c);

    struct config_peer wanted = {.services = (struct config_service[]){config_of("c", 4)},
                                 .service_count = 1,
                                 .drain_timeout_ms = 7};
    struct config_diff diff;
    cr_assert_eq(config_diff(CONFIG_SERVER, &view.peer, &wanted, &diff), 0);
    cr_assert_eq(diff.service_count, 2);
    cr_expect_eq(service_view_entry(&view, diff.services[0].old), a, "removed");
    cr_expect_eq(service_view_entry(&view, diff.services[1].old), c, "changed");
    config_diff_finish(&diff);
    service_view_finish(&view);
    service_registry_finish(&registry);
}

Test(service_base, a_new_configuration_takes_the_place_of_the_old, .init = set_up)
{
    struct service_base *entry = make("a", 1);
    struct config_service config = config_of("a", 9);
    const struct config_service *copy;
    cr_assert_eq(config_service_copy(&config, &copy), 0);
    const struct config_service *old = service_base_set_config(entry, copy);
    cr_expect_eq(old->addr.port, 1);
    cr_expect_eq(service_base_config(entry)->addr.port, 9);
    config_service_free(old);
    service_registry_finish(&registry);
}

Test(service_base, removed_ones_are_cut_in_time, .init = set_up)
{
    struct service_base *a = make("a", 1), *b = make("b", 2), *c = make("c", 3);
    uint64_t next_ms;
    cr_expect_not(service_registry_cut_due(&registry, 1000, &next_ms));
    cr_expect_eq(next_ms, UINT64_MAX);
    service_base_remove(a, 1500);
    service_base_remove(b, 1200);
    cr_expect_not(service_registry_cut_due(&registry, 1000, &next_ms));
    cr_expect_eq(next_ms, 1200);
    cr_expect(service_registry_cut_due(&registry, 1200, &next_ms));
    cr_expect_eq(next_ms, 1500);
    cr_expect(atomic_load(&b->cut) && !atomic_load(&a->cut) && !atomic_load(&c->cut));
    cr_expect_not(service_registry_cut_due(&registry, 1300, &next_ms), "once");
    cr_expect(service_registry_cut_due(&registry, 1600, &next_ms));
    cr_expect(atomic_load(&a->cut));
    cr_expect_eq(next_ms, UINT64_MAX);
    service_registry_finish(&registry);
}
