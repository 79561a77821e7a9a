/* A configuration file. Any bytes are accepted or refused, with messages of one printable line
 * each. An accepted file reads the same when it is rewritten, with quotes and sections or with
 * braces and dots. */
#include <string.h>

#include "base/error.h"
#include "config/config.h"
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

static bool is_zero(const uint8_t key[static KEYS_X25519_SIZE])
{
    static const uint8_t zeros[KEYS_X25519_SIZE];
    return memcmp(key, zeros, sizeof(zeros)) == 0;
}

/* A key is zero if and only if it is absent, and with noise the keys that the pattern needs are
 * there. */
static void check_transport(const struct config_transport *transport, enum config_role role)
{
    const struct config_noise *noise = &transport->noise;
    FUZZ_CHECK(transport->type == CONFIG_TRANSPORT_TCP ||
               transport->type == CONFIG_TRANSPORT_NOISE);
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

static void check_peer(const struct config_peer *peer, enum config_role role)
{
    check_addr(&peer->addr);
    check_transport(&peer->transport, role);
    FUZZ_CHECK(peer->log_level < LOG_LEVEL_COUNT && peer->log_format < LOG_FORMAT_COUNT);
    for (size_t i = 0; i < peer->service_count; i++) {
        const struct config_service *service = &peer->services[i];
        FUZZ_CHECK(service->name[0] != '\0' && service->line > 0);
        FUZZ_CHECK(service->token != NULL && service->token[0] != '\0');
        FUZZ_CHECK(service->type <= CONFIG_SERVICE_UDP);
        check_addr(&service->addr);
    }
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

static const char *type_name(const struct config_service *service)
{
    return service->type == CONFIG_SERVICE_UDP ? "udp" : "tcp";
}

static void write_peer(FILE *out, const char *role, const struct config_peer *peer)
{
    char addr[ADDR_HOST_SIZE + 16];
    (void)fprintf(out, "[%s]\n%s_addr = %s\n", role, *role == 's' ? "bind" : "remote",
                  host_port_format(&peer->addr, addr, sizeof(addr)));
    if (peer->transport.type == CONFIG_TRANSPORT_NOISE)
        write_noise(out, role, &peer->transport.noise);
    for (size_t i = 0; i < peer->service_count; i++) {
        (void)fprintf(out, "  [%s.services.", role);
        write_quoted(out, peer->services[i].name);
        (void)fprintf(out,
                      "]\n\t%s_addr = '%s'\ntype = '%s'\ntoken = ", *role == 's' ? "bind" : "local",
                      host_port_format(&peer->services[i].addr, addr, sizeof(addr)),
                      type_name(&peer->services[i]));
        write_quoted(out, peer->services[i].token);
        (void)fputc('\n', out);
    }
}

static void write_noise_in_braces(FILE *out, const struct config_noise *noise)
{
    char text[KEYS_TEXT_SIZE];
    (void)fprintf(out, ", transport = {noise.pattern = \"%s\", type = noise",
                  noise_pattern_name(noise->pattern));
    keys_to_text(noise->local_private_key, text);
    if (noise->has_local_private_key)
        (void)fprintf(out, ", noise.local_private_key = %s", text);
    keys_to_text(noise->remote_public_key, text);
    if (noise->has_remote_public_key)
        (void)fprintf(out, ", noise.remote_public_key = '''\n%s'''", text);
    (void)fputc('}', out);
}

/* Writes the whole half as one line. */
static void write_peer_in_braces(FILE *out, const char *role, const struct config_peer *peer)
{
    char addr[ADDR_HOST_SIZE + 16];
    (void)fprintf(out, "%s = {%s_addr = %s", role, *role == 's' ? "bind" : "remote",
                  host_port_format(&peer->addr, addr, sizeof(addr)));
    if (peer->transport.type == CONFIG_TRANSPORT_NOISE)
        write_noise_in_braces(out, &peer->transport.noise);
    (void)fputs(", services = {", out);
    for (size_t i = 0; i < peer->service_count; i++) {
        (void)fputs(i > 0 ? ", " : "", out);
        write_quoted(out, peer->services[i].name);
        (void)fprintf(out, " = {%s_addr=%s,type=%s,token=", *role == 's' ? "bind" : "local",
                      host_port_format(&peer->services[i].addr, addr, sizeof(addr)),
                      type_name(&peer->services[i]));
        write_quoted(out, peer->services[i].token);
        (void)fputc('}', out);
    }
    (void)fputs("}}\n", out);
}

static void check_same(const struct config_peer *a, const struct config_peer *b)
{
    FUZZ_CHECK(strcmp(a->addr.host, b->addr.host) == 0 && a->addr.port == b->addr.port);
    const struct config_noise *left = &a->transport.noise, *right = &b->transport.noise;
    FUZZ_CHECK(a->transport.type == b->transport.type);
    FUZZ_CHECK(a->transport.type == CONFIG_TRANSPORT_TCP || left->pattern == right->pattern);
    FUZZ_CHECK(keys_equal(left->local_private_key, right->local_private_key, KEYS_X25519_SIZE) &&
               keys_equal(left->remote_public_key, right->remote_public_key, KEYS_X25519_SIZE));
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
