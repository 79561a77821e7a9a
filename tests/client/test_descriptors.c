/* How a client shares its last descriptors. */
#include "client/descriptors.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/limits.h"
#include "client/service.h"
#include "tunnel/descriptors.h"

static const char text[] = "[client]\nremote_addr = a:1\ndefault_token = t\n"
                           "[client.services.a]\nlocal_addr = a:2\n"
                           "[client.services.b]\nlocal_addr = a:3\n"
                           "[client.services.u]\ntype = udp\nlocal_addr = a:4\n";

static struct client_fds fds;
static struct client_service a, b, udp;

/* Sets a limit that leaves this many descriptors beyond the fixed ones. */
static void begin(int more)
{
    struct config *config;
    struct config_report report;
    cr_assert_eq(config_parse("test", text, strlen(text), &config, &report), 0);
    config_report_finish(&report);
    cr_assert_eq(client_fds_init(&fds, &config->client, 2), 0);
    cr_expect_eq(fds.fixed, descriptors_fixed(CONFIG_CLIENT, &config->client, 2));
    cr_expect_eq(fds.tcp_services, 2);
    config_destroy(config);
    fds.max = fds.fixed + more;
    udp.is_udp = true;
}

static void hold(struct client_service *service, int count)
{
    while (count-- > 0)
        cr_assert(client_fds_hold(&fds, service), "%d more", count + 1);
    int channels = fds.tcp_channels, served = fds.tcp_served;
    cr_expect_not(client_fds_hold(&fds, service));
    cr_expect(fds.tcp_channels == channels && fds.tcp_served == served, "nothing is left of it");
}

static void release(struct client_service *service, int count)
{
    while (count-- > 0)
        client_fds_release(&fds, service);
}

Test(client_fds, the_last_are_for_a_service_that_has_none)
{
    begin(20);
    hold(&a, 9);
    hold(&b, 1);
    release(&a, 1);
    cr_assert(client_fds_hold(&fds, &b), "whoever comes first, now that both have some");
    release(&b, 2);
    hold(&a, 1);
    hold(&b, 1);
    release(&a, 9);
    release(&b, 1);
    cr_expect(fds.tcp_channels == 0 && fds.tcp_served == 0);
    client_fds_finish(&fds);
}

Test(client_fds, a_part_is_kept_for_udp_once_it_has_a_channel)
{
    begin(20);
    fds.udp.max = 6 * LIMIT_UDP_KEPT_PART;
    fds.udp.channels = 1;
    cr_assert(client_fds_hold(&fds, &b));
    hold(&a, 6); /* of 9 */
    udp_share_add(&fds.udp, 0);
    hold(&a, 0); /* UDP's sockets count as used, so what is left stays the same */
    cr_expect(client_fds_hold(&fds, &udp));
    client_fds_release(&fds, &udp);
    udp_share_remove(&fds.udp, 0);
    fds.udp.channels = 0;
    hold(&a, 3);
    release(&a, 9);
    release(&b, 1);
    client_fds_finish(&fds);
}

Test(client_fds, numbers)
{
    begin(20);
    fds.half_open = 3;
    cr_expect_eq(client_fds_channel_max(&fds, &a), fds.max - 3);
    cr_expect_eq(client_fds_channel_max(&fds, &udp), fds.max + LIMIT_FDS_RESERVED_UDP);
    cr_expect_lt(LIMIT_FDS_RESERVED_UDP, LIMIT_FDS_RESERVED);
    client_fds_finish(&fds);
}

/* A reload removes services whose relays go on. */
Test(client_fds, more_are_served_than_there_are)
{
    begin(8);
    hold(&a, 3);
    hold(&b, 1);
    fds.tcp_services = 1;
    release(&a, 1);
    hold(&a, 1);
    release(&a, 3);
    release(&b, 1);
    client_fds_finish(&fds);
}
