/* Files that are invalid, doubtful or no configuration at all, with every message word for word. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/limits.h"
#include "whole_files.h"

Test(config_errors, what_is_missing)
{
    static const struct example examples[] = {
        {"", "f: expected a [server] or a [client] section\n"},
        {"# nothing\n", "f: expected a [server] or a [client] section\n"},
        {"[server]\n", "f:1: server.bind_addr: missing, expected host:port\n"},
        {"\n" SERVICE, "f:2: server.bind_addr: missing, expected host:port\n"
                       "f:2: server.services.a.token: missing, and there is no "
                       "server.default_token\n"},
        {SERVER "[server.services.a]\n",
         "f:4: server.services.a.bind_addr: missing, expected host:port\n"},
        {CLIENT "[client.services.\"a b\\n\"]\ntoken=x\n",
         "f:4: client.services.\"a b\\x0a\".local_addr: missing, expected host:port\n"},
        {SERVER, "W f:1: server: no services: nothing will be tunnelled\n"},
        {SERVER "[server.services]\n", "W f:1: server: no services: nothing will be tunnelled\n"},
        /* A key with an invalid value is not reported as missing. */
        {"[server]\nbind_addr=x\ndefault_token=env:RU_NO_SUCH_VARIABLE\n" SERVICE,
         "f:2: server.bind_addr: expected host:port, got \"x\"\n"
         "f:3: server.default_token: environment variable \"RU_NO_SUCH_VARIABLE\" is not set\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(config_errors, unknown_words)
{
    static const struct example examples[] = {
        {SERVER SERVICE "bind_adr=h:1\n",
         "f:6: server.services.a.bind_adr: unknown key, did you mean bind_addr?\n"},
        {SERVER "heart_beat_interval=1\n" SERVICE,
         "f:4: server.heart_beat_interval: unknown key, did you mean heartbeat_interval?\n"},
        {SERVER "nodelay=true\n" SERVICE,
         "f:4: server.nodelay: unknown key, did you mean nodelay in [server.transport.tcp]?\n"},
        {SERVER "tokn=abc\n" SERVICE,
         "f:4: server.tokn: unknown key, did you mean token in [server.services.NAME]?\n"},
        {CLIENT LOCAL "heartbeat_timeout=1\n",
         "f:6: client.services.a.heartbeat_timeout: unknown "
         "key, did you mean heartbeat_timeout in [client]?\n"},
        {SERVER "remote_addr=h:1\n" SERVICE, "f:4: server.remote_addr: unknown key, " SERVER_KEYS},
        {SERVER "[server.services]\nfoo=1\n" SERVICE,
         "f:5: server.services.foo: unknown key, there are no keys here, only "
         "[server.services.NAME]\n"},
        {SERVER "\"x\\u001b\"=1\n" SERVICE, "f:4: server.x\\x1b: unknown key, " SERVER_KEYS},
        {SERVER SERVICE "[server.transprt]\nx=1\ny=2\n",
         "f:6: [server.transprt]: unknown section, did you mean [server.transport]?\n"},
        {SERVER SERVICE "[server.service.b]\nx=1\n",
         "f:6: [server.service.b]: unknown section, did you mean [server.services.NAME]?\n"},
        {SERVER SERVICE "[sever]\n", "f:6: [sever]: unknown section, did you mean [server]?\n"},
        {SERVER SERVICE "[logging]\n",
         "f:6: [logging]: unknown section, sections begin with server or client\n"},
        {SERVER SERVICE "[server.\"transport.tcp\"]\n",
         "f:6: [server.transport.tcp]: unknown section, did you mean [server.transport.tcp]?\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(config_errors, what_stands_twice)
{
    static const struct example examples[] = {
        {SERVER "bind_addr=1.2.3.4:1\n" SERVICE,
         "f:4: server.bind_addr: defined twice, first in line 2\n"},
        {SERVER SERVICE "[server]\nthreads=zzz\n",
         "f:6: [server]: defined twice, first in line 1\n"},
        {SERVER SERVICE "[server.transport.tcp]\n[server.transport.tcp]\n",
         "f:7: [server.transport.tcp]: defined twice, first in line 6\n"},
        {SERVER SERVICE "[server.services.b]\nbind_addr=h:3\n" SERVICE SERVICE,
         "f:8: [server.services.a]: defined twice, first in line 4\n"
         "f:10: [server.services.a]: defined twice, first in line 8\n"},
        {CLIENT LOCAL "[client.services.x.y]\nlocal_addr=h:3\n"
                      "[client.services.\"x.y\"]\nlocal_addr=h:4\n",
         "f:8: [client.services.x.y]: defined twice, first in line 6\n"},
        {SERVER SERVICE "bind_addr=1.2.3.4:3\n",
         "f:6: server.services.a.bind_addr: defined twice, first in line 5\n"},
    };
    CHECK_EXAMPLES(examples);
}

/* A table is defined once, in one of three forms; dotted keys may come in any order. */
Test(config_errors, tables_in_three_forms)
{
    static const struct example examples[] = {
        {SERVER "transport.tcp.nodelay=true\ntransport.type=tcp\ntransport.tcp.keepalive_secs=1\n"
                "services.a.bind_addr=h:1\nservices.b.bind_addr=h:2\nservices.a.token=x\n",
         ""},
        {SERVER "transport={type=tcp,tcp={nodelay=true}}\nservices={a={bind_addr=h:1}}\n", ""},
        {SERVER "services.a={bind_addr=h:1}\n[server.services]\nb={bind_addr=h:2}\n"
                "c.bind_addr=h:3\n[server.services.d]\nbind_addr=h:4\n",
         ""},
        {"server.bind_addr=h:1\n[server.services.a]\ntoken=x\nbind_addr=h:2\n", ""},
        {SERVER SERVICE "[server]\nservices.b.bind_addr=h:3\n",
         "f:6: [server]: defined twice, first in line 1\n"},
        {SERVER "services.a.bind_addr=h:1\n" SERVICE,
         "f:5: [server.services.a]: defined twice, first in line 4\n"},
        {SERVER SERVICE "[server.services]\na.bind_addr=h:1\nb.bind_addr=h:2\n",
         "f:7: [server.services.a]: defined twice, first in line 4\n"},
        {SERVER SERVICE "[server.services]\na={bind_addr=h:1}\n",
         "f:7: [server.services.a]: defined twice, first in line 4\n"},
        {SERVER "[server.services]\na={bind_addr=h:1}\na.token=x\n",
         "f:6: [server.services.a]: defined twice, first in line 5\n"},
        {SERVER "services.a.bind_addr=h:1\nservices.a.bind_addr=h:2\n",
         "f:5: server.services.a.bind_addr: defined twice, first in line 4\n"},
        {SERVER "services={a={bind_addr=h:1,bind_addr=h:2}}\n",
         "f:4: server.services.a.bind_addr: defined twice, first in line 4\n"},
        {SERVER "transport.type=tcp\n" SERVICE "[server.transport]\ntype=tcp\n",
         "f:7: [server.transport]: defined twice, first in line 4\n"},
        {SERVER SERVICE "[server.transport]\ntcp.nodelay=true\n[server.transport.tcp]\n",
         "f:8: [server.transport.tcp]: defined twice, first in line 7\n"},
        {SERVER SERVICE "[server.transport]\ntype=tcp\n[client]\nserver.transport.type=tcp\n",
         "f:8: client.remote_addr: missing, expected host:port\n"
         "f:9: [client.server.transport]: unknown section, did you mean "
         "[client.services.NAME]?\n"},
        /* A service has no tables. Only in a section line does a dotted name need no quotes. */
        {SERVER SERVICE "x.y=1\n[server.services.b]\nbind_addr=h:1\nx={}\n",
         "f:6: [server.services.a.x]: unknown section, did you mean [server.services.NAME]?\n"
         "f:9: [server.services.b.x]: unknown section, did you mean [server.services.NAME]?\n"},
        {SERVER "services.a.b.bind_addr=h:1\nservices.\"a.b\".bind_addr=h:2\n",
         "f:4: [server.services.a.b]: unknown section, did you mean [server.services.NAME]?\n"},
        {SERVER SERVICE "[server.transport]\ntype={}\n",
         "f:7: [server.transport.type]: unknown section, did you mean [server.transport.tcp]?\n"},
        {"x.y=1\nx={}\n" SERVER SERVICE,
         "f:1: [x]: unknown section, sections begin with server or client\n"
         "f:2: [x]: unknown section, sections begin with server or client\n"},
        /* The contents of a refused table give no further errors. */
        {SERVER SERVICE "[server.transprt]\na={b={c=1}}\nd.e=1\n",
         "f:6: [server.transprt]: unknown section, did you mean [server.transport]?\n"},
        {SERVER "services={\"\"={bind_addr=1,x={}},a={bind_addr=h:1}}\n",
         "f:4: the name of a service has 1 to 255 bytes, this one has 0\n"},
    };
    CHECK_EXAMPLES(examples);
}

#define NAME_16 "uuuuuuuuuuuuuuuu"
#define NAME_64 NAME_16 NAME_16 NAME_16 NAME_16

Test(config_errors, accounts)
{
    static const struct example examples[] = {
        {SERVER "user=www-data\n" SERVICE, ""},
        {SERVER "user=33\ngroup=www-data\n" SERVICE, ""},
        {SERVER "group=www-data\n" SERVICE, "f:4: server.group: needs user as well\n"},
        {CLIENT "group=g\n" LOCAL, "f:4: client.group: needs user as well\n"},
        {SERVER "user=\"\"\n" SERVICE,
         "f:4: server.user: expected a name of 1 to 64 bytes, got \"\"\n"},
        {SERVER "user=\"a b\"\n" SERVICE,
         "f:4: server.user: expected a name or a number, got \"a b\"\n"},
        {SERVER "user=www-data:33\n" SERVICE,
         "f:4: server.user: expected a name or a number, got \"www-data:33\"\n"},
        {SERVER "user=" NAME_64 "\n" SERVICE, ""},
        {SERVER "user=" NAME_64 "u\n" SERVICE,
         "f:4: server.user: expected a name of 1 to 64 bytes, got \"" NAME_64 "u\"\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(config_errors, types)
{
    static const struct example examples[] = {
        {CLIENT LOCAL "[client.transport]\ntype=quic\n",
         "f:7: client.transport.type: expected tcp, noise, tls or websocket, got \"quic\"\n"},
        {SERVER SERVICE "type=udp\n", ""},
        {SERVER SERVICE "[server.transport.tcp]\nproxy=\"socks5://user:pass@h:1\"\n", ""},
    };
    CHECK_EXAMPLES(examples);
}

/* rathole refuses these files too, the second one when it starts. */
Test(config_errors, files_without_the_table_of_their_transport)
{
    static const char *const paths[] = {CONFIG_TEST_DATA "/tls.toml",
                                        CONFIG_TEST_DATA "/websocket.toml"};
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        struct config *config;
        config_report_finish(&report);
        cr_expect_eq(config_load(paths[i], &config, &report), ERR_CONFIG);
        cr_expect_eq(report.error_count, 2, "%s", said());
    }
}

Test(config_errors, warnings)
{
    static const struct example examples[] = {
        {SERVER "heartbeat_interval=0\n" SERVICE, "W f:4: server.heartbeat_interval: 0 means no "
                                                  "heartbeats: clients need heartbeat_timeout = "
                                                  "0 too\n"},
        {CLIENT "retry_interval=0\nheartbeat_timeout=0\n" LOCAL,
         "W f:4: client.retry_interval: 0 is read as 1\n"},
        {CLIENT LOCAL "retry_interval=0\n",
         "W f:6: client.services.a.retry_interval: 0 is read as 1\n"},
        {SERVER SERVICE CLIENT "heartbeat_timeout=30\n" LOCAL,
         "W f:9: client.heartbeat_timeout: should be more than server.heartbeat_interval\n"},
        {SERVER "heartbeat_interval=60\n" SERVICE CLIENT LOCAL,
         "W f:7: client.heartbeat_timeout: should be more than server.heartbeat_interval\n"},
    };
    CHECK_EXAMPLES(examples);
    struct config *config = parse(CLIENT "retry_interval=0\n" LOCAL);
    cr_expect_eq(config->client.retry_interval_ms, 1000);
    cr_expect_eq(config->client.services[0].retry_interval_ms, 1000);
    config_destroy(config);
}

Test(config_errors, all_errors_are_listed_in_the_order_of_lines)
{
    static const struct example examples[] = {
        {"[server]\nbind_addr=22\nthreads=0\nthreads=[]\nk=[1]\n[server.services.a]\n[client]\n",
         "f:2: server.bind_addr: expected host:port, got \"22\"\n"
         "f:3: server.threads: expected a number from 1 to 256 or auto, got \"0\"\n"
         "f:4: server.threads: defined twice, first in line 3\n"
         "f:5: expected an array of strings in quotes, with commas between them and ] at its end\n"
         "f:6: server.services.a.bind_addr: missing, expected host:port\n"
         "f:6: server.services.a.token: missing, and there is no server.default_token\n"
         "f:7: client.remote_addr: missing, expected host:port\n"},
        {"[server]\nbind_addr=[\"h:1\"]\ndefault_token=[\"t\"]\n",
         "f:2: server.bind_addr: expected one value, not an array\n"
         "f:3: server.default_token: expected one value, not an array\n"},
    };
    CHECK_EXAMPLES(examples);
}

Test(config_errors, names_of_services)
{
    static char text[1024], name[LIMIT_SERVICE_NAME + 2];
    memset(name, 'x', sizeof name - 1);
    (void)snprintf(text, sizeof text, CLIENT "[client.services.%s]\nlocal_addr=h:1\n", name);
    struct example too_long = {text,
                               "f:4: the name of a service has 1 to 255 bytes, this one has 256\n"};
    check_examples(&too_long, 1);
    struct example empty = {CLIENT LOCAL "[client.services.\"\"]\nlocal_addr=h:1\n",
                            "f:6: the name of a service has 1 to 255 bytes, this one has 0\n"};
    check_examples(&empty, 1);
}

/* ---- secrets ---- */

Test(config_errors, no_message_repeats_a_secret)
{
    static const char *const texts[] = {
        SERVER SERVICE "token = \"HUSH\n",
        SERVER SERVICE "token = \"HUSH\\q\"\n",
        SERVER SERVICE "token = \"HUSH\" HUSH\n",
        SERVER SERVICE "token = [\"HUSH\"]\n",
        SERVER SERVICE "token = { a = HUSH }\n",
        SERVER SERVICE "token = \"\"\"HUSH\nHUSH = HUSH\n[HUSH]\n",
        SERVER SERVICE "token = '''\nHUSH\n\x01HUSH\nHUSH''' HUSH\n",
        SERVER SERVICE "x.token = HUSH\n",
        SERVER SERVICE "x = {token = HUSH}\n",
        SERVER "[server.services]\na = {token = HUSH, x = HUSH}\n",
        SERVER "[server.services]\na = {token = HUSH HUSH}\n",
        SERVER "[server.services]\na.token = HUSH\na.token = HUSH\n",
        SERVER SERVICE "token: HUSH\n",
        SERVER SERVICE "token HUSH\n",
        SERVER SERVICE "token = HUSH\x01\n",
        SERVER SERVICE "token = HUSH\xff\n",
        SERVER SERVICE "token = a\ntoken = HUSH\n",
        SERVER SERVICE "tokn = HUSH\n",
        SERVER SERVICE "[server.transport.noise]\nlocal_private_key = HUSH\nx = HUSH\n",
        SERVER SERVICE "[server.transport]\ntype = noise\n[server.transport.noise]\n"
                       "local_private_key = HUSH\nremote_public_key = HUSH\n",
        SERVER SERVICE "[server.transport.tls]\npkcs12_password = HUSH\nx = HUSH\n",
        SERVER SERVICE "[server.transport.tcp]\nproxy = \"http://u:HUSH@h:1\"\nx = HUSH\n",
        CLIENT LOCAL "[client.transport.tcp]\nproxy = \"https://u:HUSH@h:1\"\n",
        CLIENT LOCAL "[client.transport.tcp]\nproxy = \"http://u:HUSH@h\"\n",
        CLIENT LOCAL "[client.transport.tcp]\nproxy = \"http://u:HUSH@HUSH:x\"\n",
        CLIENT LOCAL "[client.transport.tcp]\nproxy = \"http://u:1/HUSH@h:1\"\n",
        CLIENT LOCAL "[client.transport.tcp]\nproxy = \"http://u:HUSH%00@h:1\"\n",
        SERVER SERVICE "[server.transport]\ntype = tls\n[server.transport.tls]\n"
                       "pkcs12_password = HUSH\n",
        "default_token = HUSH\n",
        "[x]\ntoken = HUSH\n",
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        config_destroy(parse(texts[i]));
        cr_expect_gt(report.error_count, 0, "row %zu", i);
        cr_expect_null(strstr(said(), "HUSH"), "%s", said());
    }
}

/* path is a template for mkstemp(3); the mode does not depend on the umask. */
static void write_file(char *path, const char *text, mode_t mode)
{
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    cr_assert_eq(fchmod(fd, mode), 0);
    (void)close(fd);
}

/* `expected` are the messages when that half starts, without the file name. */
static void check_half(const char *text, enum config_role half, bool is_fit, const char *expected)
{
    char path[] = "/tmp/test_config_XXXXXX", full[2048] = "";
    struct config *config = NULL;
    write_file(path, text, 0600);
    config_report_finish(&report);
    cr_expect_eq(config_load_half(path, half, &config, &report), is_fit ? 0 : ERR_CONFIG, "%s",
                 said());
    (void)unlink(path);
    size_t used = 0;
    for (const char *at = expected, *end; *at != '\0'; at = end + 1) {
        end = strchr(at, '\n');
        bool is_warning = strncmp(at, "W ", 2) == 0;
        used +=
            (size_t)snprintf(full + used, sizeof full - used, "%s%s:%.*s\n", is_warning ? "W " : "",
                             path, (int)(end - at) - 2 * is_warning, at + 2 * is_warning);
    }
    cr_expect_str_eq(said(), full);
    if (is_fit) {
        cr_expect_eq(config->has_server, half == CONFIG_SERVER);
        cr_expect_eq(config->has_client, half == CONFIG_CLIENT);
        const struct config_peer *left_out =
            half == CONFIG_SERVER ? &config->client : &config->server;
        cr_expect_eq(left_out->service_count, 0);
        cr_expect_null(left_out->services);
        cr_expect_eq(config_half(config, half),
                     half == CONFIG_SERVER ? &config->server : &config->client);
        cr_expect_null(config_half(config, half == CONFIG_SERVER ? CONFIG_CLIENT : CONFIG_SERVER));
    }
    config_destroy(config);
}

#define OTHER " (in the half that does not run)\n"

/* Several machines may share a file, each for its own half, so what only this machine lacks is a
 * warning in the other half. What rathole refuses in either half is an error: the file is wrong. */
Test(config_errors, the_half_that_does_not_run)
{
    (void)unsetenv("RU_NO_SUCH_VARIABLE");
    check_half(SERVER SERVICE CLIENT LOCAL "token=env:RU_NO_SUCH_VARIABLE\n", CONFIG_SERVER, true,
               "W 11: client.services.a.token: environment variable \"RU_NO_SUCH_VARIABLE\" is not "
               "set" OTHER);
    check_half(SERVER SERVICE CLIENT LOCAL "token=env:RU_NO_SUCH_VARIABLE\n", CONFIG_CLIENT, false,
               "11: client.services.a.token: environment variable \"RU_NO_SUCH_VARIABLE\" is not "
               "set\n");
    check_half(SERVER SERVICE "[server.transport]\ntype=noise\n" CLIENT LOCAL, CONFIG_CLIENT, true,
               "W 7: server.transport.noise.local_private_key: missing, "
               "Noise_NK_25519_ChaChaPoly_BLAKE2s needs it: make a key pair with rathole-uring "
               "--genkey; the private key goes here, the public key into "
               "client.transport.noise.remote_public_key of the other side" OTHER);
    check_half(SERVER SERVICE CLIENT "remote_adr=x\n" LOCAL, CONFIG_SERVER, false,
               "9: client.remote_adr: unknown key, did you mean remote_addr?\n");
    check_half(SERVER SERVICE "[client]\n" LOCAL "token=x\n", CONFIG_SERVER, false,
               "6: client.remote_addr: missing, expected host:port\n");
    check_half(SERVER SERVICE CLIENT LOCAL "local_addr=h:3\n", CONFIG_SERVER, false,
               "11: client.services.a.local_addr: defined twice, first in line 10\n");
    /* If the file has only the other half, its errors stay errors. */
    check_half(CLIENT LOCAL "token=env:RU_NO_SUCH_VARIABLE\n", CONFIG_SERVER, false,
               "6: client.services.a.token: environment variable \"RU_NO_SUCH_VARIABLE\" is not "
               "set\n");
}

/* If the list was cut, the half that runs may have errors that are not in it. */
Test(config_errors, too_many_errors_of_the_half_that_does_not_run)
{
    static char text[64 << 10];
    char path[] = "/tmp/test_config_XXXXXX";
    struct config *config = NULL;
    size_t used = (size_t)snprintf(text, sizeof text, "%s", SERVER SERVICE CLIENT);
    for (int i = 0; i < 120; i++)
        used += (size_t)snprintf(text + used, sizeof text - used,
                                 "[client.services.s%d]\nlocal_addr=x\n", i);
    write_file(path, text, 0600);
    cr_expect_eq(config_load_half(path, CONFIG_SERVER, &config, &report), ERR_CONFIG);
    (void)unlink(path);
    cr_expect_null(config);
    cr_expect_not_null(strstr(said(), "more errors than are listed here"));
}

static void check_mode(const char *text, mode_t mode, const char *expected)
{
    char path[] = "/tmp/test_config_XXXXXX";
    write_file(path, text, mode);
    struct config *config = load(path);
    config_check(path, config, &report);
    (void)unlink(path);
    char full[512] = "";
    if (*expected != '\0')
        (void)snprintf(full, sizeof full, "W %s%s\n", path, expected);
    cr_expect_str_eq(said(), full);
    config_destroy(config);
}

#define LOOPBACK \
    "[server]\nbind_addr=127.0.0.1:1\n[server.services.a]\nbind_addr=1.2.3.4:2\n" /* 1 to 4 */

Test(config_errors, check_warns_of_a_readable_file_with_secrets)
{
    static const char readable[] = ": every user can read the secrets in it; chmod 600 fixes it";
    (void)setenv("RU_TEST_TOKEN", "t", 1);
    check_mode(LOOPBACK "token=t\n", 0644, readable);
    check_mode(LOOPBACK "token=t\n", 0600, "");
    check_mode(LOOPBACK "token=t\n", 0640, "");
    check_mode(LOOPBACK "token=env:RU_TEST_TOKEN\n", 0644, "");
}

Test(config_errors, check_notes)
{
    static const struct example examples[] = {
        {SERVER SERVICE, "W f:2: server.bind_addr: other machines can reach it, and "
                         "transport.type = tcp does not encrypt\n"},
        {LOOPBACK "token=t\n", ""},
        {"[server]\nbind_addr=localhost:1\ndefault_token=t\n" SERVICE, ""},
        {"[server]\nbind_addr=[::1]:1\ndefault_token=t\n" SERVICE, ""},
        {CLIENT LOCAL, ""},
        {LOOPBACK "token=t\nudp_timeout=1\n[server.transport.tls]\npkcs12=x\n",
         "W f:8: server.transport.tls.pkcs12: has no effect (for type = tls, or "
         "websocket with tls = true)\n"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        struct config *config = parse(examples[i].text);
        cr_assert_not_null(config);
        cr_expect_str_eq(said(), "", "a note is for --check alone");
        config_check("/nonexistent", config, &report);
        cr_expect_str_eq(said(), examples[i].expected);
        config_destroy(config);
    }
}

/* ---- files that are no configuration ---- */

Test(config_errors, files_that_cannot_be_read)
{
    struct config *config = NULL;
    cr_expect_eq(config_load("/nonexistent\x1b/x", &config, &report), -ENOENT);
    cr_expect_str_eq(said(), "/nonexistent\\x1b/x: cannot be read: no such file or directory\n");
    config_report_finish(&report);
    cr_expect_eq(config_load("/", &config, &report), -EISDIR);
    cr_expect_eq(report.error_count, 1);
    config_report_finish(&report);
    cr_expect_null(config);
    config_destroy(NULL);
}

/* Seconds of CPU, enough for any build and machine unless the time grows with the square of the size. */
enum { BOMB_SECONDS = 30 };

/* No hostile file keeps the parser busy, and these are all refused. */
static void check_bomb(const char *text, size_t size)
{
    struct timespec start, end;
    struct config *config = NULL;
    config_report_finish(&report);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
    int result = config_parse("f", text, size, &config, &report);
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    double seconds =
        (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    cr_expect_lt(seconds, (double)BOMB_SECONDS);
    cr_expect_eq(result, ERR_CONFIG);
    cr_expect_leq(report.count, 201);
}

Test(config_errors, bombs)
{
    enum { SIZE = 10 << 20 };
    static const char *const patterns[] = {
        "[",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
        "a=1\n",
        "[server]\n",
        "[a.b.c]\nd=1\n",
        "\n",
        "a = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n",
        "[server]\nbind_addr = \"\\u0041\\u0041\\u0041",
        "\xff",
        "\"",
        "a={",
        "{",
        "a={},",
        "server={services={a={bind_addr=1},b.c=1}},",
        "server.services.a.token=1\n",
        "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r=1\n",
        "[server]\na=\"\"\"\n\"\"\"\n",
        "[server]\nbind_addr=\"\"\"\\\n\n\n\"\"\"\n",
        "{\"serverAddres",
    };
    char *text = malloc(SIZE);
    cr_assert_not_null(text);
    for (size_t i = 0; i < ARRAY_SIZE(patterns); i++) {
        size_t length = strlen(patterns[i]);
        for (size_t at = 0; at < SIZE; at += length)
            memcpy(text + at, patterns[i], at + length <= SIZE ? length : SIZE - at);
        check_bomb(text, SIZE);
        cr_expect_str_eq(said(), "f: larger than 4 MiB\n");
        check_bomb(text, LIMIT_CONFIG_FILE); /* the largest that is parsed */
    }
    free(text);
}

/* Each dotted key has to find its service among thousands. */
Test(config_errors, bomb_of_dots)
{
    static const char *const keys[] = {"bind_addr=h:1",  "token=x",
                                       "type=udp",       "nodelay=true",
                                       "idle_timeout=1", "max_connections=1",
                                       "udp_timeout=1",  "max_udp_visitors=1",
                                       "unknown=1"};
    char *text = malloc(LIMIT_CONFIG_FILE);
    cr_assert_not_null(text);
    size_t used =
        (size_t)snprintf(text, LIMIT_CONFIG_FILE, "[server]\nbind_addr=h:2\n[server.services]\n");
    for (size_t key = 0; key < ARRAY_SIZE(keys); key++)
        for (unsigned int i = 0; i < LIMIT_SERVICES; i++)
            used += (size_t)snprintf(text + used, LIMIT_CONFIG_FILE - used, "a_service_%u.%s\n", i,
                                     keys[key]);
    check_bomb(text, used);
    free(text);
}

Test(config_errors, bomb_as_a_file)
{
    char path[] = "/tmp/test_config_XXXXXX", expected[64];
    struct config *config;
    write_file(path, "[server]\n", 0600);
    cr_assert_eq(truncate(path, 10 << 20), 0);
    cr_expect_eq(config_load(path, &config, &report), ERR_CONFIG);
    (void)snprintf(expected, sizeof expected, "%s: larger than 4 MiB\n", path);
    cr_expect_str_eq(said(), expected);
    (void)unlink(path);
    struct rusage usage;
    cr_assert_eq(getrusage(RUSAGE_SELF, &usage), 0);
#if !defined(__SANITIZE_ADDRESS__)
    cr_expect_lt(usage.ru_maxrss, 64 << 10);
#endif
}

static char *services_text(size_t count, const char *keys)
{
    size_t room = count * (strlen(keys) + 48) + 128;
    char *text = malloc(room);
    cr_assert_not_null(text);
    size_t used = (size_t)snprintf(text, room, "%s", CLIENT);
    for (size_t i = 0; i < count; i++)
        used += (size_t)snprintf(text + used, room - used, "[client.services.s%zu]\n%s", i, keys);
    return text;
}

Test(config_errors, number_of_services)
{
    char *text = services_text(LIMIT_SERVICES, "local_addr=h:1\n");
    struct config *config = parse(text);
    cr_assert_not_null(config);
    cr_expect_eq(config->client.service_count, LIMIT_SERVICES);
    config_destroy(config);
    free(text);

    text = services_text(LIMIT_SERVICES + 1, "local_addr=h:1\n");
    check_bomb(text, strlen(text));
    cr_expect_str_eq(said(), "f:8196: more than 4096 services of a client\n");
    free(text);

    text = services_text(LIMIT_SERVICES, "retry_interval=0\n"); /* an error and a warning each */
    check_bomb(text, strlen(text));
    cr_expect_str_eq(report.messages[report.count - 1].text, "f: more errors than are listed here");
    free(text);
}

#define CLIENT_OF(list) "[client]\nremote_addr = " list "\ndefault_token = t\n" LOCAL

Test(config_errors, servers_of_a_client)
{
    static const struct example examples[] = {
        {CLIENT_OF("a:1, a:1"), "f:2: client.remote_addr: expected each server once\n"},
        {CLIENT_OF("a:1, A:1"), "f:2: client.remote_addr: expected each server once\n"},
        {CLIENT_OF("a:1,"), "f:2: client.remote_addr: expected host:port, got \"\"\n"},
        {CLIENT_OF("a:1, b"), "f:2: client.remote_addr: expected host:port, got \"b\"\n"},
        {CLIENT_OF("a:1,a:2,a:3,a:4,a:5,a:6,a:7,a:8,a:9,b:1,b:2,b:3,b:4,b:5,b:6,b:7,b:8"),
         "f:2: client.remote_addr: expected at most 16 servers\n"},
        {CLIENT_OF("a:1\nservers = both"),
         "f:3: client.servers: expected first or all, got \"both\"\n"},
        {CLIENT_OF("a:1\nservers = all\nresolve_interval = 0.9"),
         "f:4: client.resolve_interval: expected seconds from 1 to 604800, got \"0.9\"\n"},
    };
    CHECK_EXAMPLES(examples);
}
