#include "server/access.h"

#include <criterion/criterion.h>
#include <string.h>

#include "server/server_worker.h"
#include "service_rig.h"

static struct service_rig rig;
static const struct cidr_set *set;

static void set_up(void)
{
    struct cidr prefix;
    cr_assert_eq(cidr_parse("10.0.0.0/8", strlen("10.0.0.0/8"), &prefix), 0);
    prefix.is_denied = true;
    cr_assert_eq(cidr_set_create(&prefix, 1, true, &set), 0);
    service_rig_init(&rig);
}

static void tear_down(void)
{
    service_rig_finish(&rig);
    cidr_set_drop(set);
}

TestSuite(access, .init = set_up, .fini = tear_down);

static struct addr v4(uint32_t address)
{
    return (struct addr){.v4 = {.sin_family = AF_INET, .sin_addr = {htonl(address)}},
                         .len = sizeof(struct sockaddr_in)};
}

/* The service with the rig's configuration. */
static void make_anew(void)
{
    service_drop(rig.service);
    cr_assert_eq(service_create(&rig.registry, &rig.config, 1, &rig.service), 0);
}

Test(access, without_a_list_everybody_may_come)
{
    struct addr denied = v4(0x0a000001);
    cr_expect(access_allows_visitor(rig.service, &denied));
    cr_expect(access_allows_visitor(rig.service, NULL), "also who has no address");
}

Test(access, visitors)
{
    struct addr denied = v4(0x0a000001), other = v4(0x0b000001), path = addr_of_unix("/x");
    rig.config.access.set = set;
    make_anew();
    cr_expect_not(access_allows_visitor(rig.service, &denied));
    cr_expect(access_allows_visitor(rig.service, &other));
    cr_expect_not(access_allows_visitor(rig.service, NULL), "not known");
    cr_expect(access_allows_visitor(rig.service, &path));
}

Test(access, strangers)
{
    static struct server server;
    struct addr denied = v4(0x0a000001), other = v4(0x0b000001);
    struct config_peer config = {.addr = {.port = 1}};
    atomic_store(&server.config, &config);
    cr_expect(access_allows_stranger(&server, &denied));
    config.access.set = set;
    cr_expect_not(access_allows_stranger(&server, &denied));
    cr_expect(access_allows_stranger(&server, &other));
}

Test(access, only_what_needs_it_asks_for_the_address)
{
    struct config_service config = {.max_connections = 7};
    cr_expect_not(access_needs_address(&config));
    config.max_connections_per_ip = 1;
    cr_expect(access_needs_address(&config));
    config = (struct config_service){.max_new_per_second_per_ip = 1};
    cr_expect(access_needs_address(&config));
    config = (struct config_service){.access = {.set = set}};
    cr_expect(access_needs_address(&config));
}
