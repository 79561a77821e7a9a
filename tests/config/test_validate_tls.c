/* [*.transport.tls] and [*.transport.websocket]: what they are read as, what each role needs, and
 * what contradicts itself. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "whole_files.h"

/* Lines 6 to 8; the keys that follow begin in line 9. */
#define SERVER_TLS       SERVER SERVICE "[server.transport]\ntype=tls\n[server.transport.tls]\n"
#define CLIENT_TLS       CLIENT LOCAL "[client.transport]\ntype=tls\n[client.transport.tls]\n"
/* Lines 6 and 7. */
#define SERVER_WEBSOCKET SERVER SERVICE "[server.transport]\ntype=websocket\n"
#define CLIENT_WEBSOCKET CLIENT LOCAL "[client.transport]\ntype=websocket\n"

#define NEEDS_CERTIFICATE \
    "a server needs a certificate: pkcs12 and pkcs12_password, or certificate and private_key\n"
#define NEEDS_SECTION                                                                         \
    "client.transport.tls: missing: TLS needs the section; an empty one trusts the system's " \
    "root certificates, and trusted_root adds another one\n"
#define NEEDS_KEY                                                                          \
    "missing, type = websocket needs it: true for TLS below the WebSocket, false without " \
    "encryption or behind a proxy that does the TLS\n"

static void check_text(const char *text, const char *expected)
{
    cr_expect_eq(text == NULL, expected == NULL, "%s instead of %s", text, expected);
    if (text != NULL && expected != NULL)
        cr_expect_str_eq(text, expected);
}

/* ---- valid files ---- */

static const struct {
    const char *text;
    struct {
        const char *pkcs12, *pkcs12_password, *certificate, *private_key, *client_ca, *hostname,
            *trusted_root;
        bool trust_only_file;
        unsigned int line; /* of struct config_tls; 0: TLS is not used */
    } expected;
} valid[] = {
    {SERVER_TLS "pkcs12=\"id #1.pfx\"\npkcs12_password=\"1234\"\n",
     {.pkcs12 = "id #1.pfx", .pkcs12_password = "1234", .line = 8}},
    {SERVER_TLS "pkcs12=a#b.pfx\npkcs12_password=\"\"\n",
     {.pkcs12 = "a#b.pfx", .pkcs12_password = "", .line = 8}},
    {SERVER_TLS "certificate=/c.pem\nprivate_key=/k.pem\nclient_ca=/ca.pem\n",
     {.certificate = "/c.pem", .private_key = "/k.pem", .client_ca = "/ca.pem", .line = 8}},
    {CLIENT_TLS, {.line = 8}},
    {CLIENT_TLS "trusted_root=\"\"\nhostname=\"\"\n", {.line = 8}},
    {CLIENT_TLS "trusted_root=ca.crt\nhostname=example.com\n",
     {.trusted_root = "ca.crt", .hostname = "example.com", .line = 8}},
    {CLIENT_TLS "trusted_root=ca.crt\ntrust_only_file=true\nhostname=192.0.2.1\n",
     {.trusted_root = "ca.crt", .hostname = "192.0.2.1", .trust_only_file = true, .line = 8}},
    {CLIENT_TLS "hostname=2001:db8::1\n", {.hostname = "2001:db8::1", .line = 8}},
    {CLIENT_TLS "hostname=\"[::1]\"\n", {.hostname = "::1", .line = 8}},
    /* A client that shows a certificate of its own. */
    {CLIENT_TLS "certificate=c\nprivate_key=k\n",
     {.certificate = "c", .private_key = "k", .line = 8}},
    {CLIENT_TLS "pkcs12=p\npkcs12_password=env:RU_TEST_PASSWORD\n",
     {.pkcs12 = "p", .pkcs12_password = "of the environment", .line = 8}},
    /* Credentials of the unit. */
    {SERVER_TLS "certificate=${CREDENTIALS_DIRECTORY}/certificate\n"
                "private_key=${CREDENTIALS_DIRECTORY}/private_key\n",
     {.certificate = "/run/c/certificate", .private_key = "/run/c/private_key", .line = 8}},
    /* With dots, in braces, and before the type. */
    {CLIENT LOCAL "[client.transport]\ntls.hostname=h\ntype=tls\n", {.hostname = "h", .line = 7}},
    {CLIENT "transport={tls={hostname=h},type=tls}\n" LOCAL, {.hostname = "h", .line = 4}},
    {CLIENT LOCAL "[client.transport.tls]\nhostname=h\n[client.transport]\ntype=tls\n",
     {.hostname = "h", .line = 6}},
    /* WebSocket over TLS. */
    {CLIENT_WEBSOCKET
     "[client.transport.websocket]\ntls=true\n[client.transport.tls]\nhostname=h\n",
     {.hostname = "h", .line = 10}},
    {SERVER_WEBSOCKET "websocket.tls=true\ntls.pkcs12=p\ntls.pkcs12_password=x\n",
     {.pkcs12 = "p", .pkcs12_password = "x", .line = 9}},
    /* Not used: no values, whatever stands there. */
    {SERVER_WEBSOCKET "websocket.tls=false\ntls.pkcs12=p\n", {0}},
    {CLIENT LOCAL "[client.transport.tls]\nhostname=\"a b\"\npkcs12_password=env:RU_NO_SUCH\n",
     {0}},
    {CLIENT LOCAL "[client.transport.websocket]\ntls=whatever\n", {0}},
};

Test(tls, valid_files)
{
    (void)setenv("RU_TEST_PASSWORD", "of the environment", 1);
    (void)setenv("CREDENTIALS_DIRECTORY", "/run/c", 1);
    for (size_t i = 0; i < ARRAY_SIZE(valid); i++) {
        struct config *config = parse(valid[i].text);
        cr_assert_not_null(config, "%s\n%s", valid[i].text, said());
        const struct config_peer *peer = config->has_server ? &config->server : &config->client;
        const struct config_tls *tls = &peer->transport.tls;
        check_text(tls->pkcs12, valid[i].expected.pkcs12);
        check_text(tls->pkcs12_password, valid[i].expected.pkcs12_password);
        check_text(tls->certificate, valid[i].expected.certificate);
        check_text(tls->private_key, valid[i].expected.private_key);
        check_text(tls->client_ca, valid[i].expected.client_ca);
        check_text(tls->hostname, valid[i].expected.hostname);
        check_text(tls->trusted_root, valid[i].expected.trusted_root);
        cr_expect_eq(tls->trust_only_file, valid[i].expected.trust_only_file);
        cr_expect_eq(tls->line, valid[i].expected.line, "row %zu: %u", i, tls->line);
        cr_expect_eq(config_has_tls(&peer->transport), valid[i].expected.line != 0, "row %zu", i);
        config_destroy(config);
    }
}

Test(tls, websocket_alone)
{
    struct config *config = parse(CLIENT_WEBSOCKET "websocket={tls=false}\n");
    cr_expect_str_eq(said(), "");
    cr_expect_eq(config->client.transport.type, CONFIG_TRANSPORT_WEBSOCKET);
    cr_expect_not(config->client.transport.websocket_tls);
    cr_expect_not(config_has_tls(&config->client.transport));
    config_destroy(config);
}

Test(tls, credentials_without_their_directory)
{
    (void)unsetenv("CREDENTIALS_DIRECTORY");
    cr_expect_null(parse(CLIENT_TLS "trusted_root=${CREDENTIALS_DIRECTORY}/ca\n"));
    cr_expect_str_eq(said(), "f:9: client.transport.tls.trusted_root: CREDENTIALS_DIRECTORY is not "
                             "set (systemd sets it for a unit with LoadCredential=)\n");
}

Test(tls, empty_texts_are_not_given)
{
    static const struct example examples[] = {
        {CLIENT_TLS "trusted_root=\"\"\nhostname=\"\"\n",
         "W f:9: client.transport.tls.trusted_root: is empty and counts as not given\n"
         "W f:10: client.transport.tls.hostname: is empty and counts as not given\n"},
        {SERVER_TLS "pkcs12=\"\"\n",
         "f:8: server.transport.tls: " NEEDS_CERTIFICATE
         "W f:9: server.transport.tls.pkcs12: is empty and counts as not given\n"},
        /* Then everybody could log in. */
        {SERVER_TLS "certificate=c\nprivate_key=k\nclient_ca=\"\"\n",
         "f:11: server.transport.tls.client_ca: expected the path of a file, got \"\"\n"},
    };
    CHECK_EXAMPLES(examples);
}

/* ---- errors ---- */

Test(tls, what_a_server_needs)
{
    static const struct example examples[] = {
        {SERVER SERVICE "[server.transport]\ntype=tls\n",
         "f:7: server.transport.tls: " NEEDS_CERTIFICATE},
        {SERVER_TLS, "f:8: server.transport.tls: " NEEDS_CERTIFICATE},
        {SERVER_TLS "client_ca=ca\n", "f:8: server.transport.tls: " NEEDS_CERTIFICATE},
        {SERVER_WEBSOCKET "websocket.tls=true\n", "f:7: server.transport.tls: " NEEDS_CERTIFICATE},
        {SERVER_TLS "pkcs12=p\n",
         "f:9: server.transport.tls.pkcs12: needs pkcs12_password as well\n"},
        {SERVER_TLS "pkcs12_password=p\n",
         "f:9: server.transport.tls.pkcs12_password: needs pkcs12 as well\n"},
        {SERVER_TLS "certificate=c\n",
         "f:9: server.transport.tls.certificate: needs private_key as well\n"},
        {SERVER_TLS "private_key=k\n",
         "f:9: server.transport.tls.private_key: needs certificate as well\n"},
        {SERVER_TLS "certificate=c\nprivate_key=k\npkcs12=p\npkcs12_password=x\n",
         "f:9: server.transport.tls.certificate: there is one in pkcs12 as well: only one of them "
         "is used\n"},
        /* A refused value is not reported as missing. */
        {SERVER_TLS "pkcs12=p\npkcs12_password=env:RU_NO_SUCH\n",
         "f:10: server.transport.tls.pkcs12_password: environment variable \"RU_NO_SUCH\" is not "
         "set\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(tls, what_a_client_needs)
{
    static const struct example examples[] = {
        {CLIENT LOCAL "[client.transport]\ntype=tls\n", "f:7: " NEEDS_SECTION},
        {CLIENT_WEBSOCKET "websocket.tls=true\n", "f:7: " NEEDS_SECTION},
        {CLIENT_TLS "trust_only_file=true\n",
         "f:9: client.transport.tls.trust_only_file: needs trusted_root as well\n"},
        {CLIENT_TLS "trust_only_file=false\n", ""},
        {CLIENT_TLS "pkcs12=p\n",
         "f:9: client.transport.tls.pkcs12: needs pkcs12_password as well\n"},
        {CLIENT_TLS "private_key=k\n",
         "f:9: client.transport.tls.private_key: needs certificate as well\n"},
        {CLIENT_TLS "hostname=h:2333\n",
         "f:9: client.transport.tls.hostname: expected a host name or an IP address, without a "
         "port, got \"h:2333\"\n"},
        {CLIENT_TLS "hostname=\"*.h\"\n",
         "f:9: client.transport.tls.hostname: expected a host name or an IP address, without a "
         "port, got \"*.h\"\n"},
        {CLIENT_TLS "trust_only_file=1\n",
         "f:9: client.transport.tls.trust_only_file: expected true or false, got \"1\"\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(tls, what_a_websocket_needs)
{
    static const struct example examples[] = {
        {SERVER_WEBSOCKET, "f:7: server.transport.websocket.tls: " NEEDS_KEY},
        {CLIENT_WEBSOCKET, "f:7: client.transport.websocket.tls: " NEEDS_KEY},
        {CLIENT_WEBSOCKET "[client.transport.websocket]\n",
         "f:8: client.transport.websocket.tls: " NEEDS_KEY},
        {CLIENT_WEBSOCKET "websocket.tls=1\n",
         "f:8: client.transport.websocket.tls: expected true or false, got \"1\"\n"},
    };
    CHECK_EXAMPLES(examples);
}

/* ---- what --check adds ---- */

static void check_notes(const char *text, const char *expected)
{
    struct config *config = parse(text);
    cr_assert_not_null(config, "%s", said());
    cr_expect_str_eq(said(), "", "a note is for --check alone");
    config_check("/nonexistent", config, &report);
    cr_expect_str_eq(said(), expected, "%s", said());
    config_destroy(config);
}

Test(tls, keys_without_effect)
{
    static const char tls_only[] = "has no effect (for type = tls, or websocket with tls = true)\n";
    char expected[512];
    (void)snprintf(expected, sizeof expected,
                   "W f:7: client.transport.tls.hostname: %sW f:8: client.transport.tls.pkcs12: %s",
                   tls_only, tls_only);
    check_notes(CLIENT LOCAL "[client.transport.tls]\nhostname=h\npkcs12=p\n", expected);
    check_notes(CLIENT LOCAL "[client.transport.websocket]\ntls=true\n",
                "W f:7: client.transport.websocket.tls: has no effect (for type = websocket)\n");
    check_notes(CLIENT_TLS "client_ca=x\npkcs12_password=x\n",
                "W f:9: client.transport.tls.client_ca: has no effect (a client has no use for it; "
                "see trusted_root)\n"
                "W f:10: client.transport.tls.pkcs12_password: has no effect without pkcs12\n");
    check_notes("[server]\nbind_addr=[::1]:1\ndefault_token=t\n" SERVICE
                "[server.transport]\ntype=tls\n[server.transport.tls]\nhostname=h\n"
                "trusted_root=r\ntrust_only_file=true\npkcs12=/nonexistent\npkcs12_password=x\n",
                "W f:9: server.transport.tls.hostname: has no effect (a server has no use for "
                "it)\n"
                "W f:10: server.transport.tls.trusted_root: has no effect (a server has no use for "
                "it; see client_ca)\n"
                "W f:11: server.transport.tls.trust_only_file: has no effect (a server has no use "
                "for it)\n");
}

Test(tls, a_public_port_without_encryption)
{
    check_notes(SERVER_WEBSOCKET "websocket.tls=false\n",
                "W f:2: server.bind_addr: other machines can reach it, and transport.type = "
                "websocket with tls = false does not encrypt\n");
    check_notes(SERVER_WEBSOCKET "websocket.tls=true\ntls.certificate=/nonexistent\n"
                                 "tls.private_key=/nonexistent\n",
                "");
    check_notes(SERVER_TLS "certificate=/nonexistent\nprivate_key=/nonexistent\n", "");
}

Test(tls, a_key_that_every_user_can_read)
{
    static const struct {
        mode_t mode;
        bool is_said;
    } cases[] = {{0644, true}, {0640, false}, {0600, false}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char path[] = "/tmp/test_tls_XXXXXX", text[512], expected[256] = "";
        int fd = mkstemp(path);
        cr_assert_geq(fd, 0);
        cr_assert_eq(fchmod(fd, cases[i].mode), 0);
        (void)close(fd);
        (void)snprintf(text, sizeof text, SERVER_TLS "certificate=/nonexistent\nprivate_key=%s\n",
                       path);
        if (cases[i].is_said)
            (void)snprintf(expected, sizeof expected,
                           "W f:10: server.transport.tls.private_key: every user can read the file "
                           "with the private key; chmod 600 fixes it\n");
        check_notes(text, expected);
        (void)unlink(path);
    }
}

Test(tls, an_error_of_the_other_half)
{
    static const char text[] = SERVER SERVICE "[client]\nremote_addr=h:1\ndefault_token=t\n"
                                              "[client.services.a]\nlocal_addr=h:2\n"
                                              "[client.transport]\ntype=tls\n";
    char path[] = "/tmp/test_tls_XXXXXX";
    struct config *config = NULL;
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    cr_expect_eq(config_load_half(path, CONFIG_SERVER, &config, &report), 0);
    cr_expect_not(config->has_client);
    cr_expect_eq(report.count, 1);
    config_destroy(config);
    config = NULL;
    config_report_finish(&report);
    cr_expect_eq(config_load_half(path, CONFIG_CLIENT, &config, &report), ERR_CONFIG);
    cr_expect_null(config);
    (void)unlink(path);
}
