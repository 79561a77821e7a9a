/* The index of services that exist only while a client serves them. */
#include "server/range_set.h"

#include <criterion/criterion.h>
#include <string.h>

#include "side.h"

static struct range_set *set;

static void tear_down(void)
{
    range_set_destroy(set);
}

static void make(const char *services)
{
    static char text[2000];
    cr_assert_eq(keys_init(), 0);
    (void)snprintf(text, sizeof(text), "[server]\nbind_addr = 127.0.0.1:1\ndefault_token = t\n%s",
                   services);
    struct config *config = side_config(text);
    cr_assert_eq(range_set_create(&config->server, 7, &set), 0);
    config_destroy(config); /* the set has copies */
    cr_expect_eq(set->generation, 7);
}

static bool find(const char *name, uint32_t *ret)
{
    uint8_t digest[KEYS_DIGEST_SIZE];
    keys_service_digest(name, strlen(name), digest);
    return range_set_find(set, digest, ret);
}

Test(range_set, without_sections, .fini = tear_down)
{
    uint32_t member;
    make("[server.services.a]\nbind_addr = h:2\n");
    cr_expect_eq(set->member_count, 0);
    cr_expect_not(find("a", &member));
    cr_expect_not(find("", &member));
}

Test(range_set, members_of_several_sections, .fini = tear_down)
{
    make("[server.services.always]\nbind_addr = h:2\n"
         "[server.services.\"g{port}\"]\nbind_addr = h:6000-6009\ntoken = g\n"
         "[server.services.one]\nbind_addr = h:9\nbind = on_login\n"
         "[server.services.path]\nbind_addr = unix:/run/x\nbind = on_login\n"
         "[server.services.\"{port-1}z\"]\nbind_addr = h:6000-6001\ntype = udp\n");
    static const struct {
        const char *name, *section;
        uint16_t port;
    } members[] = {
        {"g6000", "g{port}", 6000}, {"g6009", "g{port}", 6009},   {"one", "one", 9},
        {"path", "path", 0},        {"5999z", "{port-1}z", 6000}, {"6000z", "{port-1}z", 6001},
    };
    static const char *const others[] = {"always", "g{port}", "g5999", "g6010", "", "6001z"};
    cr_assert_eq(set->member_count, 14);
    for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
        uint32_t member = 99;
        uint16_t port = 1;
        char name[LIMIT_SERVICE_NAME + 1];
        cr_assert(find(members[i].name, &member), "%s", members[i].name);
        cr_assert_lt(member, set->member_count);
        cr_expect_str_eq(range_set_section(set, member, &port)->name, members[i].section);
        cr_expect_eq(port, members[i].port);
        range_set_name(set, member, name);
        cr_expect_str_eq(name, members[i].name);
    }
    for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
        uint32_t member;
        cr_expect_not(find(others[i], &member), "%s", others[i]);
    }
}

/* Each member is found, and the searches stay short: strangers make them. */
Test(range_set, every_port, .fini = tear_down)
{
    char name[LIMIT_SERVICE_NAME + 1];
    size_t longest = 0, run = 0;
    make("[server.services.\"{port}\"]\nbind_addr = 1.2.3.4:2-65535\n");
    cr_assert_eq(set->member_count, 65534);
    for (uint32_t i = 0; i < set->member_count; i++) {
        uint32_t member;
        range_set_name(set, i, name);
        cr_assert(find(name, &member));
        cr_assert_eq(member, i);
    }
    for (size_t i = 0; i <= set->slot_mask; i++) {
        run = set->slots[i] != 0 ? run + 1 : 0;
        longest = MAX(longest, run);
    }
    cr_expect_lt(longest, 200, "of random numbers, half of the slots taken: 40");
}
