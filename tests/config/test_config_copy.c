#include "config/config_copy.h"

#include <criterion/criterion.h>
#include <string.h>

static const char text[] = "[server]\nbind_addr = 127.0.0.1:2333\ndefault_token = one\n"
                           "heartbeat_interval = 7\n"
                           "[server.services.web]\nbind_addr = 127.0.0.1:80\nmax_connections = 3\n";

Test(config_copy, outlives_the_whole)
{
    struct config *config;
    struct config_report report;
    const struct config_service *service;
    const struct config_peer *peer;
    cr_assert_eq(config_parse("test", text, sizeof(text) - 1, &config, &report), 0);
    config_report_finish(&report);
    cr_assert_eq(config_service_copy(&config->server.services[0], &service), 0);
    cr_assert_eq(config_peer_copy(&config->server, &peer), 0);
    cr_assert_neq(service->name, config->server.services[0].name);
    cr_assert_neq(service->token, config->server.services[0].token);
    config_destroy(config);
    cr_expect_str_eq(service->name, "web");
    cr_expect_str_eq(service->token, "one");
    cr_expect_eq(service->addr.port, 80);
    cr_expect_eq(service->max_connections, 3);
    cr_expect_eq(peer->heartbeat_interval_ms, 7000);
    cr_expect_null(peer->default_token);
    cr_expect_null(peer->services);
    cr_expect_eq(peer->service_count, 0);
    config_service_free(service);
    config_peer_free(peer);
    config_service_free(NULL);
    config_peer_free(NULL);
}
