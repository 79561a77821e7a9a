#include "tunnel/descriptors.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/limits.h"

static struct config *parse(const char *text)
{
    struct config *config;
    struct config_report report;
    cr_assert_eq(config_parse("test", text, strlen(text), &config, &report), 0);
    config_report_finish(&report);
    return config;
}

static unsigned int needed(enum config_role role, const char *services, unsigned int workers)
{
    char text[512];
    bool is_server = role == CONFIG_SERVER;
    (void)snprintf(text, sizeof(text), "[%s]\n%s = a:1\ndefault_token = t\n%s",
                   is_server ? "server" : "client", is_server ? "bind_addr" : "remote_addr",
                   services);
    struct config *config = parse(text);
    const struct config_peer *peer = is_server ? &config->server : &config->client;
    unsigned int result = descriptors_needed(role, peer, workers);
    cr_expect_eq(result - descriptors_fixed(role, peer, workers) >= LIMIT_FDS_RESERVED, true);
    cr_expect_eq(descriptors_wanted(role, peer, workers) - result,
                 2 * LIMIT_POOL_MIN * descriptors_tcp_services(peer));
    config_destroy(config);
    return result;
}

Test(descriptors, each_service_and_each_worker_takes_its_own)
{
    static const char tcp[] = "[server.services.a]\nbind_addr = a:2\n";
    static const char udp[] = "[server.services.u]\ntype = udp\nbind_addr = a:2\n";
    static const char lanes[] =
        "[server.services.u]\ntype = udp\nbind_addr = a:2\nudp_data_channels = 9\n";
    unsigned int one = needed(CONFIG_SERVER, "", 1), four = needed(CONFIG_SERVER, "", 4);
    /* And a seventh of that for strangers. */
    cr_expect_geq(four - one, 3 * 5); /* ring, mailbox, time, polls; a listener */
    cr_expect_leq(four - one, 3 * 5 * 8 / 7 + 1);
    cr_expect_geq(needed(CONFIG_SERVER, tcp, 1) - one, 3 + 2); /* listener, guard, control; relay */
    cr_expect_leq(needed(CONFIG_SERVER, tcp, 1) - one, 3 + 2 + 1);
    cr_expect_geq(needed(CONFIG_SERVER, tcp, 4) - four, 6 + 2);
    cr_expect_leq(needed(CONFIG_SERVER, tcp, 4) - four, 6 + 2 + 2);
    cr_expect_geq(needed(CONFIG_SERVER, udp, 1) - one, 1 + 2 * 2); /* control; lanes, channels */
    cr_expect_leq(needed(CONFIG_SERVER, udp, 1) - one, 1 + 2 * 2 + 1);
    cr_expect_geq(needed(CONFIG_SERVER, lanes, 4) - four, 1 + 2 * 9);
    cr_expect_leq(needed(CONFIG_SERVER, lanes, 4) - four, 1 + 2 * 9 + 3);
}

/* However many services there are, the descriptors for strangers come on top of those that are
 * needed. */
Test(descriptors, are_enough_beside_strangers)
{
    for (unsigned int pending = 1; pending <= 65536; pending *= 4) {
        for (unsigned int tcp = 1; tcp < 400; tcp += 3) {
            static struct config_service services[400];
            struct config_peer peer = {.services = services,
                                       .service_count = tcp,
                                       .max_pending_handshakes = pending};
            unsigned int fds = descriptors_needed(CONFIG_SERVER, &peer, 2) - LIMIT_FDS_RESERVED;
            unsigned int strangers = descriptors_strangers(&peer, fds);
            cr_assert_leq(strangers, pending);
            cr_assert_geq(fds - strangers, descriptors_fixed(CONFIG_SERVER, &peer, 2) + 2 * tcp);
        }
    }
}

Test(descriptors, of_a_client)
{
    static const char tcp[] = "[client.services.a]\nlocal_addr = a:2\n";
    static const char udp[] = "[client.services.u]\ntype = udp\nlocal_addr = a:2\n";
    unsigned int one = needed(CONFIG_CLIENT, "", 1), four = needed(CONFIG_CLIENT, "", 4);
    cr_expect_eq(four - one, 3 * 4);
    cr_expect_eq(needed(CONFIG_CLIENT, tcp, 4) - four, 1 + 2);
    cr_expect_eq(needed(CONFIG_CLIENT, udp, 4) - four, 1 + 4 + 1); /* control, channels, visitor */
}

/* Whatever UDP's share is: with the descriptors that are needed, each TCP service can have a
 * channel. */
Test(descriptors, are_enough_beside_what_udp_keeps)
{
    for (unsigned int tcp = 1; tcp < 200; tcp++) {
        struct config_service services[201] = {{.type = CONFIG_SERVICE_UDP}};
        struct config_peer peer = {.services = services, .service_count = tcp + 1};
        unsigned int room = descriptors_needed(CONFIG_CLIENT, &peer, 2) - LIMIT_FDS_RESERVED -
                            descriptors_fixed(CONFIG_CLIENT, &peer, 2);
        unsigned int kept = MAX(room, 1u) / LIMIT_UDP_KEPT_PART; /* of a share of 100 % */
        cr_assert_geq(room, 2 * tcp + kept, "%u services", tcp);
    }
}
