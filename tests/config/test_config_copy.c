#include "config/config_copy.h"

#include <criterion/criterion.h>
#include <string.h>

static const char text[] = "[server]\nbind_addr = 127.0.0.1:2333\ndefault_token = one\n"
                           "heartbeat_interval = 7\ndeny = 10.1.0.0/16\n"
                           "[server.services.web]\nbind_addr = 127.0.0.1:80\nmax_connections = 3\n"
                           "allow = 10.0.0.0/8\naccept_proxy_protocol = 10.1.0.0/16\n"
                           "[server.transport]\ntype = tls\n[server.transport.tls]\n"
                           "pkcs12 = p\npkcs12_password = w\nclient_ca = a\n";

static bool allows_10_1(const struct cidr_set *set)
{
    const struct addr addr = {.v4 = {.sin_family = AF_INET, .sin_addr = {htonl(0x0a010000)}},
                              .len = sizeof(addr.v4)};
    return cidr_set_allows(set, &addr);
}

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
    cr_expect(allows_10_1(service->access.set));
    cr_expect(allows_10_1(service->balancers.set));
    cr_expect_not(allows_10_1(peer->access.set));
    cr_expect_eq(peer->heartbeat_interval_ms, 7000);
    cr_expect_str_eq(peer->transport.tls.pkcs12, "p");
    cr_expect_str_eq(peer->transport.tls.pkcs12_password, "w");
    cr_expect_str_eq(peer->transport.tls.client_ca, "a");
    cr_expect_null(peer->transport.tls.hostname);
    cr_expect_null(peer->default_token);
    cr_expect_null(peer->services);
    cr_expect_eq(peer->service_count, 0);
    config_service_free(service);
    config_peer_free(peer);
    config_service_free(NULL);
    config_peer_free(NULL);
}

/* Each text is another one in the copy. */
Test(config_copy, texts_of_a_transport)
{
    char a[] = "a", b[] = "b", c[] = "c", d[] = "d", e[] = "e", f[] = "f", g[] = "g", h[] = "h",
         i[] = "i";
    const struct config_transport transport = {
        .type = CONFIG_TRANSPORT_WEBSOCKET,
        .websocket_tls = true,
        .tls = {.pkcs12 = a,
                .pkcs12_password = b,
                .certificate = c,
                .private_key = d,
                .client_ca = e,
                .hostname = f,
                .trusted_root = g,
                .trust_only_file = true},
        .proxy = {.type = CONFIG_PROXY_HTTP, .addr = {"h", 1}, .user = h, .password = i},
    };
    struct config_transport copy;
    cr_assert_eq(config_transport_copy(&transport, &copy), 0);
    const char *const texts[][2] = {
        {copy.tls.pkcs12, a},       {copy.tls.pkcs12_password, b}, {copy.tls.certificate, c},
        {copy.tls.private_key, d},  {copy.tls.client_ca, e},       {copy.tls.hostname, f},
        {copy.tls.trusted_root, g}, {copy.proxy.user, h},          {copy.proxy.password, i},
    };
    for (size_t n = 0; n < sizeof(texts) / sizeof(texts[0]); n++) {
        cr_expect_neq(texts[n][0], texts[n][1]);
        cr_expect_str_eq(texts[n][0], texts[n][1]);
    }
    cr_expect(copy.tls.trust_only_file && copy.websocket_tls);
    cr_expect_eq(copy.proxy.addr.port, 1);
    config_transport_finish(&copy);
    cr_expect_null(copy.tls.pkcs12_password);
    cr_expect_null(copy.proxy.password);
    config_transport_finish(&copy);
}
