/* A configuration file. Any bytes are accepted or refused, with messages of one printable line
 * each. An accepted file reads the same when it is rewritten, with quotes and sections or with
 * braces and dots. */
#include <string.h>

#include "base/error.h"
#include "config/config.h"
#include "config/config_diff.h"
#include "config/range.h"
#include "fuzz.h"

enum { COPY_SIZE = 64 << 10 };

static void check_report(const struct config_report *report, int result)
{
    FUZZ_CHECK((report->error_count > 0) == (result != 0));
    for (size_t i = 0; i < report->count; i++) {
        FUZZ_CHECK(i == 0 || report->messages[i - 1].line <= report->messages[i].line);
        for (const char *at = report->messages[i].text; *at != '\0'; at++)
            FUZZ_CHECK((unsigned char)*at >= 0x20 && *at != 0x7f);
    }
}

static void check_addr(const struct host_port *addr)
{
    FUZZ_CHECK(addr->port != 0 && strnlen(addr->host, sizeof(addr->host)) < sizeof(addr->host));
}

/* Of a service: only UDP has to have a port. */
static void check_service_addr(const struct config_service *service)
{
    bool is_unix = host_port_is_unix(&service->addr);
    FUZZ_CHECK(!is_unix || service->type != CONFIG_SERVICE_UDP);
    FUZZ_CHECK(is_unix || service->type != CONFIG_SERVICE_SOCKET_STREAM);
    if (is_unix)
        FUZZ_CHECK(service->addr.port == 0 && strlen(service->addr.host) <= ADDR_UNIX_MAX);
    else
        check_addr(&service->addr);
    FUZZ_CHECK(service->socket_mode <= 0777);
    FUZZ_CHECK(strnlen(service->socket_owner, sizeof(service->socket_owner)) <
               sizeof(service->socket_owner));
}

static bool is_zero(const uint8_t key[static KEYS_X25519_SIZE])
{
    static const uint8_t zeros[KEYS_X25519_SIZE];
    return memcmp(key, zeros, sizeof(zeros)) == 0;
}

/* There is a certificate with its key or password, or none, which is a client's right. */
static void check_tls(const struct config_transport *transport, enum config_role role)
{
    const struct config_tls *tls = &transport->tls;
    bool is_used = config_has_tls(transport);
    FUZZ_CHECK((tls->line != 0) == is_used);
    FUZZ_CHECK(tls->pkcs12 == NULL || tls->pkcs12_password != NULL);
    FUZZ_CHECK((tls->certificate != NULL) == (tls->private_key != NULL));
    FUZZ_CHECK(tls->pkcs12 == NULL || tls->certificate == NULL);
    FUZZ_CHECK(!tls->trust_only_file || tls->trusted_root != NULL);
    bool has_certificate = tls->pkcs12 != NULL || tls->certificate != NULL;
    if (!is_used)
        FUZZ_CHECK(!has_certificate && tls->hostname == NULL && tls->trusted_root == NULL);
    if (role == CONFIG_SERVER) {
        FUZZ_CHECK(has_certificate == is_used);
        FUZZ_CHECK(tls->hostname == NULL && tls->trusted_root == NULL && !tls->trust_only_file);
    } else {
        FUZZ_CHECK(tls->client_ca == NULL);
    }
}

static void check_proxy(const struct config_proxy *proxy, enum config_role role)
{
    FUZZ_CHECK(proxy->type == CONFIG_PROXY_NONE || role == CONFIG_CLIENT);
    FUZZ_CHECK((proxy->user != NULL) == (proxy->password != NULL));
    if (proxy->type == CONFIG_PROXY_NONE)
        FUZZ_CHECK(proxy->addr.port == 0 && proxy->user == NULL);
    else
        check_addr(&proxy->addr);
    if (proxy->type == CONFIG_PROXY_HTTP && proxy->user != NULL)
        FUZZ_CHECK(strchr(proxy->user, ':') == NULL);
}

/* A key is zero if and only if it is absent, and with noise the keys that the pattern needs are
 * there. */
static void check_transport(const struct config_transport *transport, enum config_role role)
{
    const struct config_noise *noise = &transport->noise;
    FUZZ_CHECK(transport->type <= CONFIG_TRANSPORT_WEBSOCKET);
    FUZZ_CHECK(!transport->websocket_tls || transport->type == CONFIG_TRANSPORT_WEBSOCKET);
    check_tls(transport, role);
    check_proxy(&transport->proxy, role);
    FUZZ_CHECK(noise->has_local_private_key == !is_zero(noise->local_private_key));
    FUZZ_CHECK(noise->has_remote_public_key == !is_zero(noise->remote_public_key));
    bool is_noise = transport->type == CONFIG_TRANSPORT_NOISE;
    FUZZ_CHECK(is_noise || (!noise->has_local_private_key && !noise->has_remote_public_key));
    bool is_server = role == CONFIG_SERVER;
    if (is_noise && noise->pattern == NOISE_NK)
        FUZZ_CHECK(noise->has_local_private_key == is_server &&
                   noise->has_remote_public_key != is_server);
    if (is_noise && noise->pattern == NOISE_KK)
        FUZZ_CHECK(noise->has_local_private_key && noise->has_remote_public_key);
}

/* The prefixes have become a set, and are gone. */
static void check_access(const struct config_access *access)
{
    FUZZ_CHECK(access->prefixes == NULL && access->count == 0);
    FUZZ_CHECK(!access->has_allow || access->set != NULL);
}

/* A reload of the same file changes nothing. */
static void check_diff(const struct config_peer *peer, enum config_role role)
{
    struct config_diff diff;
    FUZZ_CHECK(config_diff(role, peer, peer, &diff) == 0);
    FUZZ_CHECK(diff.changes == CONFIG_CHANGE_NONE && diff.service_count == 0);
    config_diff_finish(&diff);
}

static void check_peer(const struct config_peer *peer, enum config_role role)
{
    check_diff(peer, role);
    check_addr(&peer->addr);
    check_transport(&peer->transport, role);
    FUZZ_CHECK(peer->log_level < LOG_LEVEL_COUNT && peer->log_format < LOG_FORMAT_COUNT);
    for (size_t i = 0; i < peer->service_count; i++) {
        const struct config_service *service = &peer->services[i];
        FUZZ_CHECK(service->name[0] != '\0' && service->line > 0);
        FUZZ_CHECK(service->token != NULL && service->token[0] != '\0');
        FUZZ_CHECK(service->type <= CONFIG_SERVICE_SOCKET_STREAM);
        check_service_addr(service);
        check_access(&service->access);
    }
    check_access(&peer->access);
}

static void write_quoted(FILE *out, const char *text)
{
    (void)fputc('"', out);
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f || *text == '"' || *text == '\\')
            (void)fprintf(out, "\\u%04x", (unsigned int)*text);
        else
            (void)fputc(*text, out);
    }
    (void)fputc('"', out);
}

static void write_noise(FILE *out, const char *role, const struct config_noise *noise)
{
    char text[KEYS_TEXT_SIZE];
    (void)fprintf(out, "[%s.transport.noise]\npattern = '%s'\n", role,
                  noise_pattern_name(noise->pattern));
    keys_to_text(noise->local_private_key, text);
    if (noise->has_local_private_key)
        (void)fprintf(out, "local_private_key = \"%s\"\n", text);
    keys_to_text(noise->remote_public_key, text);
    if (noise->has_remote_public_key)
        (void)fprintf(out, "remote_public_key = %s\n", text);
    (void)fprintf(out, "[%s.transport]\ntype = noise\n", role);
}

static void write_text(FILE *out, const char *before, const char *key, const char *text)
{
    if (text == NULL)
        return;
    (void)fprintf(out, "%s%s = ", before, key);
    write_quoted(out, text);
}

/* Percent-encodes each byte of a user or a password. */
static void write_proxy(FILE *out, const char *before, const struct config_proxy *proxy)
{
    char addr[ADDR_HOST_SIZE + 16];
    if (proxy->type == CONFIG_PROXY_NONE)
        return;
    (void)fprintf(out, "%stcp.proxy = \"%s://", before,
                  proxy->type == CONFIG_PROXY_HTTP ? "http" : "socks5");
    for (const char *at = proxy->user; at != NULL && *at != '\0'; at++)
        (void)fprintf(out, "%%%02x", (unsigned int)(unsigned char)*at);
    for (const char *at = proxy->password; at != NULL && *at != '\0'; at++)
        (void)fprintf(out, "%s%%%02X", at == proxy->password ? ":" : "",
                      (unsigned int)(unsigned char)*at);
    (void)fprintf(out, "%s%s\"", proxy->user != NULL ? "@" : "",
                  host_port_format(&proxy->addr, addr, sizeof(addr)));
}

/* All of a transport but Noise, as dotted keys, each with `before` in front of it. */
static void write_transport(FILE *out, const char *before, const struct config_transport *transport)
{
    const struct config_tls *tls = &transport->tls;
    write_proxy(out, before, &transport->proxy);
    if (transport->type == CONFIG_TRANSPORT_WEBSOCKET)
        (void)fprintf(out, "%stype = websocket%swebsocket.tls = %s", before, before,
                      transport->websocket_tls ? "true" : "false");
    if (transport->type == CONFIG_TRANSPORT_TLS)
        (void)fprintf(out, "%stype = tls", before);
    if (!config_has_tls(transport))
        return;
    /* A client needs the table, even if it is empty. */
    write_text(out, before, "tls.hostname", tls->hostname != NULL ? tls->hostname : "");
    write_text(out, before, "tls.pkcs12", tls->pkcs12);
    write_text(out, before, "tls.pkcs12_password", tls->pkcs12_password);
    write_text(out, before, "tls.certificate", tls->certificate);
    write_text(out, before, "tls.private_key", tls->private_key);
    write_text(out, before, "tls.client_ca", tls->client_ca);
    write_text(out, before, "tls.trusted_root", tls->trusted_root);
    if (tls->trust_only_file)
        (void)fprintf(out, "%stls.trust_only_file = true", before);
}

static const char *type_name(const struct config_service *service)
{
    static const char *const names[] = {"tcp", "udp", "socket_stream"};
    return names[service->type];
}

static void write_peer(FILE *out, const char *role, const struct config_peer *peer)
{
    char addr[ADDR_HOST_SIZE + 16];
    (void)fprintf(out, "[%s]\n%s_addr = %s\n", role, *role == 's' ? "bind" : "remote",
                  host_port_format(&peer->addr, addr, sizeof(addr)));
    if (peer->transport.type == CONFIG_TRANSPORT_NOISE)
        write_noise(out, role, &peer->transport.noise);
    else
        (void)fprintf(out, "[%s.transport]", role);
    write_transport(out, "\n", &peer->transport);
    (void)fputc('\n', out);
    for (size_t i = 0; i < peer->service_count; i++) {
        (void)fprintf(out, "  [%s.services.", role);
        write_quoted(out, peer->services[i].name);
        (void)fprintf(out, "]\n\t%s_addr = ", *role == 's' ? "bind" : "local");
        write_quoted(out, config_addr_format(&peer->services[i], addr, sizeof(addr)));
        (void)fprintf(out, "\ntype = '%s'\ntoken = ", type_name(&peer->services[i]));
        write_quoted(out, peer->services[i].token);
        (void)fputc('\n', out);
    }
}

static void write_noise_in_braces(FILE *out, const struct config_noise *noise)
{
    char text[KEYS_TEXT_SIZE];
    (void)fprintf(out, ", noise.pattern = \"%s\", type = noise",
                  noise_pattern_name(noise->pattern));
    keys_to_text(noise->local_private_key, text);
    if (noise->has_local_private_key)
        (void)fprintf(out, ", noise.local_private_key = %s", text);
    keys_to_text(noise->remote_public_key, text);
    if (noise->has_remote_public_key)
        (void)fprintf(out, ", noise.remote_public_key = '''\n%s'''", text);
}

/* Writes the whole half as one line. */
static void write_peer_in_braces(FILE *out, const char *role, const struct config_peer *peer)
{
    char addr[ADDR_HOST_SIZE + 16];
    (void)fprintf(out, "%s = {%s_addr = %s", role, *role == 's' ? "bind" : "remote",
                  host_port_format(&peer->addr, addr, sizeof(addr)));
    (void)fputs(", transport = {tcp.keepalive_secs = 20", out);
    if (peer->transport.type == CONFIG_TRANSPORT_NOISE)
        write_noise_in_braces(out, &peer->transport.noise);
    write_transport(out, ", ", &peer->transport);
    (void)fputs("}, services = {", out);
    for (size_t i = 0; i < peer->service_count; i++) {
        (void)fputs(i > 0 ? ", " : "", out);
        write_quoted(out, peer->services[i].name);
        (void)fprintf(out, " = {%s_addr=", *role == 's' ? "bind" : "local");
        write_quoted(out, config_addr_format(&peer->services[i], addr, sizeof(addr)));
        (void)fprintf(out, ",type=%s,token=", type_name(&peer->services[i]));
        write_quoted(out, peer->services[i].token);
        (void)fputc('}', out);
    }
    (void)fputs("}}\n", out);
}

static bool same_text(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void check_same_transport(const struct config_transport *a, const struct config_transport *b)
{
    const struct config_noise *left = &a->noise, *right = &b->noise;
    FUZZ_CHECK(a->type == b->type && a->websocket_tls == b->websocket_tls);
    FUZZ_CHECK(a->type != CONFIG_TRANSPORT_NOISE || left->pattern == right->pattern);
    FUZZ_CHECK(keys_equal(left->local_private_key, right->local_private_key, KEYS_X25519_SIZE) &&
               keys_equal(left->remote_public_key, right->remote_public_key, KEYS_X25519_SIZE));
    FUZZ_CHECK(same_text(a->tls.pkcs12, b->tls.pkcs12));
    FUZZ_CHECK(same_text(a->tls.pkcs12_password, b->tls.pkcs12_password));
    FUZZ_CHECK(same_text(a->tls.certificate, b->tls.certificate));
    FUZZ_CHECK(same_text(a->tls.private_key, b->tls.private_key));
    FUZZ_CHECK(same_text(a->tls.client_ca, b->tls.client_ca));
    FUZZ_CHECK(same_text(a->tls.hostname, b->tls.hostname));
    FUZZ_CHECK(same_text(a->tls.trusted_root, b->tls.trusted_root));
    FUZZ_CHECK(a->tls.trust_only_file == b->tls.trust_only_file);
    FUZZ_CHECK(a->proxy.type == b->proxy.type && a->proxy.addr.port == b->proxy.addr.port);
    FUZZ_CHECK(strcmp(a->proxy.addr.host, b->proxy.addr.host) == 0);
    FUZZ_CHECK(same_text(a->proxy.user, b->proxy.user));
    FUZZ_CHECK(same_text(a->proxy.password, b->proxy.password));
}

static void check_same(const struct config_peer *a, const struct config_peer *b)
{
    FUZZ_CHECK(strcmp(a->addr.host, b->addr.host) == 0 && a->addr.port == b->addr.port);
    check_same_transport(&a->transport, &b->transport);
    FUZZ_CHECK(a->service_count == b->service_count);
    for (size_t i = 0; i < a->service_count; i++) {
        FUZZ_CHECK(strcmp(a->services[i].name, b->services[i].name) == 0);
        FUZZ_CHECK(strcmp(a->services[i].token, b->services[i].token) == 0);
        FUZZ_CHECK(a->services[i].type == b->services[i].type);
        FUZZ_CHECK(strcmp(a->services[i].addr.host, b->services[i].addr.host) == 0);
        FUZZ_CHECK(a->services[i].addr.port == b->services[i].addr.port);
    }
}

typedef void write_function(FILE *out, const char *role, const struct config_peer *peer);

static void check_rewritten(const struct config *config, write_function *write_one)
{
    static char text[COPY_SIZE];
    struct config *again;
    struct config_report report;
    FILE *out = fmemopen(text, sizeof(text), "w");
    FUZZ_CHECK(out != NULL);
    if (config->has_server)
        write_one(out, "server", &config->server);
    if (config->has_client)
        write_one(out, "client", &config->client);
    long size = ftell(out);
    /* Escapes (\u) are longer than the bytes, so the text may not fit. */
    if (fclose(out) != 0 || size < 0 || size >= COPY_SIZE - 1)
        return;
    FUZZ_CHECK(config_parse("again", text, (size_t)size, &again, &report) == 0);
    if (config->has_server)
        check_same(&config->server, &again->server);
    if (config->has_client)
        check_same(&config->client, &again->client);
    config_destroy(again);
    config_report_finish(&report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *config = NULL;
    struct config_report report;
    /* Do not read files or the environment of this machine. */
    if (data != NULL && size > 0 &&
        (memmem(data, size, "file:", 5) != NULL || memmem(data, size, "env:", 4) != NULL))
        return 0;
    int result = config_parse("\x1b[31mname", (const char *)data, size, &config, &report);
    FUZZ_CHECK(result == 0 || result == ERR_CONFIG);
    FUZZ_CHECK((result == 0) == (config != NULL));
    check_report(&report, result);
    if (result == 0) {
        FUZZ_CHECK(config->has_server || config->has_client);
        if (config->has_server)
            check_peer(&config->server, CONFIG_SERVER);
        if (config->has_client)
            check_peer(&config->client, CONFIG_CLIENT);
        config_check("/", config, &report);
        check_report(&report, result);
        check_rewritten(config, write_peer);
        check_rewritten(config, write_peer_in_braces);
    }
    config_destroy(config);
    config_report_finish(&report);
    return 0;
}
