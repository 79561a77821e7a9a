#include "app/quick.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/cli.h"
#include "base/error.h"
#include "base/limits.h"
#include "crypto/keys.h"

#define PUBLIC  "Jjy1hTT0H+XG8rYLySmZfR6hg9fPGOZ3r38+yki4Rl4="
#define PRIVATE "uXXAOPKrzLglwiRV5butkoeJLLsZNdQ3dJfQO15SNxM="

enum { WORDS_MAX = 9 };

static char home[] = "/tmp/test_quick.XXXXXX";

static void begin(void)
{
    cr_assert_eq(keys_init(), 0);
    cr_assert_not_null(mkdtemp(home));
    cr_assert_eq(setenv("HOME", home, 1), 0);
    (void)unsetenv("XDG_CONFIG_HOME");
    (void)unsetenv(QUICK_TOKEN_VARIABLE);
}

static void end(void)
{
    char command[80];
    (void)snprintf(command, sizeof command, "rm -rf %s", home);
    cr_expect_eq(system(command), 0);
}

TestSuite(quick, .init = begin, .fini = end);

/* The words stay: struct quick points to them. */
static int parse(enum config_role role, const char *const words[], struct quick *ret,
                 char problem[static CLI_PROBLEM_SIZE])
{
    static char copies[WORDS_MAX + 2][400];
    char *argv[WORDS_MAX + 3] = {NULL};
    int count = 2;
    struct cli cli;
    (void)snprintf(copies[0], sizeof copies[0], "rathole-uring");
    (void)snprintf(copies[1], sizeof copies[0], role == CONFIG_SERVER ? "server" : "client");
    for (; words[count - 2] != NULL; count++)
        (void)snprintf(copies[count], sizeof copies[0], "%s", words[count - 2]);
    for (int i = 0; i < count; i++)
        argv[i] = copies[i];
    int result = cli_parse(count, argv, &cli, problem);
    if (result == 0)
        cr_expect_eq(cli.command, CLI_QUICK);
    *ret = cli.quick;
    return result;
}

/* The whole text, terminated. */
static char *text_of(const struct quick *quick)
{
    struct text text;
    text_init(&text, 1 << 20);
    quick_write(quick, &text);
    text_put(&text, "", 1);
    cr_assert_not(text.failed);
    return text.bytes;
}

/* The lines without comments and empty ones, with / in between. */
static void squeeze(const char *from, char *ret, size_t size)
{
    size_t used = 0;
    while (*from != '\0') {
        size_t length = strcspn(from, "\n");
        if (length > 0 && *from != '#') {
            cr_assert_lt(used + length + 1, size);
            memcpy(ret + used, from, length);
            used += length;
            ret[used++] = '|';
        }
        from += length + (from[length] == '\n');
    }
    ret[used] = '\0';
}

static void load(const struct quick *quick, struct config **ret)
{
    struct config_report report;
    char *text = text_of(quick);
    int result = config_parse(QUICK_FILE, text, strlen(text), ret, &report);
    cr_assert_eq(result, 0, "%s\n%s", report.count > 0 ? report.messages[0].text : "", text);
    config_report_finish(&report);
    free(text);
}

/* ---- forms ---- */

#define SERVER_HEAD \
    "[server]|bind_addr = \"127.0.0.1:2333\"|default_token = \"env:RATHOLE_URING_TOKEN\"|"
#define CLIENT_HEAD \
    "[client]|remote_addr = \"vps:2333\"|default_token = \"env:RATHOLE_URING_TOKEN\"|"
#define LOCAL "--bind", "127.0.0.1:2333"

static const struct form {
    enum config_role role;
    const char *words[WORDS_MAX];
    const char *text;
} forms[] = {
    {CONFIG_SERVER,
     {LOCAL, "--ports", "6000-6999"},
     SERVER_HEAD "[server.services.\"tcp-{port}\"]|bind_addr = \"127.0.0.1:6000-6999\"|"},
    {CONFIG_SERVER,
     {"--bind=localhost:1", "--ports=6000-6001/udp"},
     "[server]|bind_addr = \"localhost:1\"|default_token = \"env:RATHOLE_URING_TOKEN\"|"
     "[server.services.\"udp-{port}\"]|type = udp|bind_addr = \"localhost:6000-6001\"|"},
    {CONFIG_SERVER,
     {LOCAL, "--ports", "22", "--ports", "53/udp", "--ports", "80"},
     SERVER_HEAD "[server.services.\"tcp-22\"]|bind_addr = \"127.0.0.1:22\"|bind = on_login|"
                 "[server.services.\"udp-53\"]|type = udp|bind_addr = \"127.0.0.1:53\"|"
                 "bind = on_login|"
                 "[server.services.\"tcp-80\"]|bind_addr = \"127.0.0.1:80\"|bind = on_login|"},
    {CONFIG_SERVER,
     {LOCAL, "--ports", "1-2", "--ports", "3-4", "--ports", "5-6"},
     SERVER_HEAD "[server.services.\"tcp-{port}\"]|bind_addr = \"127.0.0.1:1-2\"|"
                 "[server.services.\"tcp-{port+0}\"]|bind_addr = \"127.0.0.1:3-4\"|"
                 "[server.services.\"tcp-{port+00}\"]|bind_addr = \"127.0.0.1:5-6\"|"},
    /* The same ports for both protocols; a UDP port may be that of --bind. */
    {CONFIG_SERVER,
     {LOCAL, "--ports", "1-2", "--ports", "1-9999/udp"},
     SERVER_HEAD "[server.services.\"tcp-{port}\"]|bind_addr = \"127.0.0.1:1-2\"|"
                 "[server.services.\"udp-{port}\"]|type = udp|bind_addr = \"127.0.0.1:1-9999\"|"},
    {CONFIG_SERVER,
     {"--bind", "[::1]:2333", "--ports", "6000-6000"},
     "[server]|bind_addr = \"[::1]:2333\"|default_token = \"env:RATHOLE_URING_TOKEN\"|"
     "[server.services.\"tcp-6000\"]|bind_addr = \"[::1]:6000\"|bind = on_login|"},
    {CONFIG_CLIENT,
     {"vps:2333", "6022=127.0.0.1:22", "6053/udp=192.0.2.1:53"},
     CLIENT_HEAD "[client.services.\"tcp-6022\"]|local_addr = \"127.0.0.1:22\"|"
                 "[client.services.\"udp-6053\"]|type = udp|local_addr = \"192.0.2.1:53\"|"},
    {CONFIG_CLIENT,
     {"vps:2333", "1=22", "2=:23", "3=::1:24", "4=[::1]:25", "5=host.example:26"},
     CLIENT_HEAD "[client.services.\"tcp-1\"]|local_addr = \"127.0.0.1:22\"|"
                 "[client.services.\"tcp-2\"]|local_addr = \"127.0.0.1:23\"|"
                 "[client.services.\"tcp-3\"]|local_addr = \"[::1]:24\"|"
                 "[client.services.\"tcp-4\"]|local_addr = \"[::1]:25\"|"
                 "[client.services.\"tcp-5\"]|local_addr = \"host.example:26\"|"},
    {CONFIG_CLIENT,
     {"vps:2333", "web=unix:/run/a b=c.sock", "d.n.s/udp=53", "3proxy=80", "q\"\\=/s", "1/udp=2"},
     CLIENT_HEAD "[client.services.\"web\"]|local_addr = \"unix:/run/a b=c.sock\"|"
                 "[client.services.\"d.n.s\"]|type = udp|local_addr = \"127.0.0.1:53\"|"
                 "[client.services.\"3proxy\"]|local_addr = \"127.0.0.1:80\"|"
                 "[client.services.\"q\\\"\\\\\"]|local_addr = \"unix:/s\"|"
                 "[client.services.\"udp-1\"]|type = udp|local_addr = \"127.0.0.1:2\"|"},
    /* The same port for both protocols; options may stand anywhere. */
    {CONFIG_CLIENT,
     {"--server-key", PUBLIC, "vps:2333", "1=2", "1/udp=2", "--print-config"},
     CLIENT_HEAD "[client.transport]|type = noise|[client.transport.noise]|"
                 "remote_public_key = \"" PUBLIC "\"|"
                 "[client.services.\"tcp-1\"]|local_addr = \"127.0.0.1:2\"|"
                 "[client.services.\"udp-1\"]|type = udp|local_addr = \"127.0.0.1:2\"|"},
};

Test(quick, forms)
{
    (void)setenv(QUICK_TOKEN_VARIABLE, "secret", 1);
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        char problem[CLI_PROBLEM_SIZE] = "", lines[2000];
        struct quick quick;
        struct config *config;
        cr_assert_eq(parse(forms[i].role, forms[i].words, &quick, problem), 0, "row %zu: %s", i,
                     problem);
        cr_assert_eq(quick_prepare(&quick, problem), 0, "row %zu: %s", i, problem);
        char *text = text_of(&quick);
        squeeze(text, lines, sizeof lines);
        cr_expect_str_eq(lines, forms[i].text, "row %zu", i);
        load(&quick, &config);
        cr_expect_not_null(config_half(config, forms[i].role), "row %zu", i);
        config_destroy(config);
        quick_finish(&quick);
        free(text);
    }
}

/* [::] has IPv4 as well; a kernel without IPv6 has 0.0.0.0. */
Test(quick, all_addresses)
{
    static const char *const words[][WORDS_MAX] = {{"--ports", "1-2"},
                                                   {"--ports", "1-2", "--bind", ":2333"},
                                                   {"--bind=2333", "--ports=1-2"}};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        char problem[CLI_PROBLEM_SIZE] = "";
        struct quick quick;
        cr_assert_eq(parse(CONFIG_SERVER, words[i], &quick, problem), 0, "%s", problem);
        cr_expect(strcmp(quick.addr.host, "::") == 0 || strcmp(quick.addr.host, "0.0.0.0") == 0);
        cr_expect_eq(quick.addr.port, 2333);
        quick_finish(&quick);
    }
}

/* A member of any range has the name that a client asks for. */
Test(quick, names_of_many_ranges)
{
    static const char *const words[] = {LOCAL,     "--ports",   "6000-6001",
                                        "--ports", "7000-7001", NULL};
    char problem[CLI_PROBLEM_SIZE] = "";
    struct quick quick;
    struct config *config;
    (void)setenv(QUICK_TOKEN_VARIABLE, "secret", 1);
    cr_assert_eq(parse(CONFIG_SERVER, words, &quick, problem), 0, "%s", problem);
    cr_assert_eq(quick_prepare(&quick, problem), 0);
    load(&quick, &config);
    cr_assert_eq(config->server.service_count, 2);
    for (size_t i = 0; i < 2; i++)
        cr_expect_eq(config->server.services[i].bind, CONFIG_BIND_ON_LOGIN);
    config_destroy(config);
    quick_finish(&quick);
}

/* ---- usage errors ---- */

#define PORTS_EXPECTED "--ports: expected PORT or FIRST-LAST, and /udp for UDP, got "
#define EXPECTED       ": expected PORT=ADDR or NAME=ADDR, as in 6022=22, 53/udp=dns:53, web=unix:/path"
#define CLIENT_NEEDS   "client needs a server and services, as in vps:2333 6022=22"
#define BIND           "--bind: expected :PORT or HOST:PORT, got "
#define UNKNOWN(flag)  "unknown argument \"" flag "\", see --help"

static const struct wrong {
    enum config_role role;
    const char *words[WORDS_MAX];
    const char *problem;
} wrongs[] = {
    {CONFIG_SERVER, {NULL}, "server needs --ports, as in --ports 6000-6999"},
    {CONFIG_SERVER, {"--ports"}, "--ports needs a value"},
    {CONFIG_SERVER, {"--ports="}, PORTS_EXPECTED "\"\""},
    {CONFIG_SERVER, {"--ports", "0"}, PORTS_EXPECTED "\"0\""},
    {CONFIG_SERVER, {"--ports", "01"}, PORTS_EXPECTED "\"01\""},
    {CONFIG_SERVER, {"--ports", "65536"}, PORTS_EXPECTED "\"65536\""},
    {CONFIG_SERVER, {"--ports", "4294967297"}, PORTS_EXPECTED "\"4294967297\""},
    {CONFIG_SERVER, {"--ports", "2-1"}, PORTS_EXPECTED "\"2-1\""},
    {CONFIG_SERVER, {"--ports", "1-"}, PORTS_EXPECTED "\"1-\""},
    {CONFIG_SERVER, {"--ports", "1-2-3"}, PORTS_EXPECTED "\"1-2-3\""},
    {CONFIG_SERVER, {"--ports", "1,2"}, PORTS_EXPECTED "\"1,2\""},
    {CONFIG_SERVER, {"--ports", "1-2/sctp"}, PORTS_EXPECTED "\"1-2/sctp\""},
    {CONFIG_SERVER, {"--ports", "x\n"}, PORTS_EXPECTED "\"x?\""},
    {CONFIG_SERVER, {"--bind"}, "--bind needs a value"},
    {CONFIG_SERVER, {"--bind", "vps"}, BIND "\"vps\""},
    {CONFIG_SERVER, {"--bind", ":0"}, BIND "\":0\""},
    {CONFIG_SERVER, {"--bind", ""}, BIND "\"\""},
    {CONFIG_SERVER, {"--bind", ":"}, BIND "\":\""},
    {CONFIG_SERVER, {"--bind", "a b:1"}, BIND "\"a b:1\""},
    {CONFIG_SERVER, {"--noise=1"}, "--noise takes no value"},
    {CONFIG_SERVER, {"--print-config=x"}, "--print-config takes no value"},
    {CONFIG_SERVER, {"--token-file"}, "--token-file needs a FILE"},
    {CONFIG_SERVER, {"6022=22"}, UNKNOWN("6022=22")},
    {CONFIG_SERVER, {"--server-key", "x"}, UNKNOWN("--server-key")},
    {CONFIG_SERVER, {"--token", "x"}, UNKNOWN("--token")},
    {CONFIG_SERVER, {"--status"}, UNKNOWN("--status")},
    {CONFIG_CLIENT, {"--check"}, UNKNOWN("--check")},
    {CONFIG_CLIENT, {"--ports", "1"}, UNKNOWN("--ports")},
    {CONFIG_CLIENT, {"-x"}, UNKNOWN("-x")},
    {CONFIG_CLIENT, {"--server-key"}, "--server-key needs a value"},
    {CONFIG_CLIENT, {NULL}, CLIENT_NEEDS},
    {CONFIG_CLIENT, {"vps:2333"}, CLIENT_NEEDS},
    {CONFIG_CLIENT, {"vps"}, "\"vps\": expected HOST:PORT of the server"},
    {CONFIG_CLIENT, {":2333"}, "\":2333\": expected HOST:PORT of the server"},
    {CONFIG_CLIENT, {"1=2", "vps:1"}, "\"1=2\": expected HOST:PORT of the server"},
    {CONFIG_CLIENT, {"vps:1", "1"}, "\"1\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "=2"}, "\"=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "/udp=2"}, "\"/udp=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "0=2"}, "\"0=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "65536=2"}, "\"65536=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1-2=3"}, "\"1-2=3\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1/tcp=2"}, "\"1/tcp=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1/tpc=2"}, "\"1/tpc=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "a/b/udp=2"}, "\"a/b/udp=2\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1="}, "\"1=\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1=a"}, "\"1=a\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1=unix:a"}, "\"1=unix:a\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "1=2-3"}, "\"1=2-3\"" EXPECTED},
    {CONFIG_CLIENT, {"vps:1", "a/udp=/s"}, "\"a/udp=/s\"" EXPECTED},
};

Test(quick, usage_errors)
{
    for (size_t i = 0; i < ARRAY_SIZE(wrongs); i++) {
        char problem[CLI_PROBLEM_SIZE] = "";
        struct quick quick;
        cr_expect_eq(parse(wrongs[i].role, wrongs[i].words, &quick, problem), -EINVAL, "row %zu",
                     i);
        cr_expect_str_eq(problem, wrongs[i].problem, "row %zu", i);
        quick_finish(&quick);
    }
}

/* What is wrong only beside another word is an error of the file that --print-config shows. */
Test(quick, errors_of_the_file)
{
    static char long_name[LIMIT_SERVICE_NAME + 1 + sizeof "=2"];
    static const struct {
        enum config_role role;
        const char *words[WORDS_MAX];
        const char *problem;
    } rows[] = {
        {CONFIG_SERVER, {"--ports=1-5", "--ports=5"}, "--print-config:6: "},
        {CONFIG_SERVER, {"--ports=3/udp", "--ports=1-5/udp"}, "the name udp-3 is also one of "},
        {CONFIG_SERVER, {"--ports=2000-3000"}, ":2333 of server.bind_addr"},
        {CONFIG_CLIENT, {"vps:1", "1=2", "1=3"}, "--print-config:9: "},
        {CONFIG_CLIENT, {"vps:1", "a=2", "a/udp=2"}, "--print-config:9: "},
        {CONFIG_CLIENT, {"vps:1", "a\x1b=2"}, "control bytes"},
        {CONFIG_CLIENT, {"vps:1", long_name}, "the name of a service has 1 to 255 bytes"},
        {CONFIG_CLIENT, {"vps:1", "1=2", "--server-key=" PRIVATE "x"}, "remote_public_key: "},
        {CONFIG_CLIENT, {"vps:1", "1=2", "--token-file=/nowhere"}, "\"/nowhere\": no such file"},
    };
    memset(long_name, 'n', LIMIT_SERVICE_NAME + 1);
    memcpy(long_name + LIMIT_SERVICE_NAME + 1, "=2", 3);
    (void)setenv(QUICK_TOKEN_VARIABLE, "secret", 1);
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char problem[CLI_PROBLEM_SIZE] = "";
        struct quick quick;
        struct config *config;
        struct config_report report;
        cr_assert_eq(parse(rows[i].role, rows[i].words, &quick, problem), 0, "row %zu", i);
        cr_assert_eq(quick_prepare(&quick, problem), 0, "row %zu: %s", i, problem);
        char *text = text_of(&quick);
        cr_expect_eq(config_parse(QUICK_FILE, text, strlen(text), &config, &report), ERR_CONFIG,
                     "row %zu", i);
        bool is_said = false;
        for (size_t n = 0; n < report.count; n++) {
            is_said |= strstr(report.messages[n].text, rows[i].problem) != NULL;
            cr_expect_null(strstr(report.messages[n].text, PRIVATE));
        }
        cr_expect(is_said, "row %zu: %s\n%s", i, report.messages[0].text, text);
        config_report_finish(&report);
        quick_finish(&quick);
        free(text);
    }
}

/* ---- secrets ---- */

static int prepare(enum config_role role, const char *const words[], struct quick *ret,
                   char problem[static CLI_PROBLEM_SIZE])
{
    cr_assert_eq(parse(role, words, ret, problem), 0, "%s", problem);
    return quick_prepare(ret, problem);
}

static const char *const server_words[] = {LOCAL, "--ports", "6000-6999", "--noise", NULL};

Test(quick, client_without_a_token)
{
    static const char *const words[] = {"vps:1", "1=2", NULL};
    char problem[CLI_PROBLEM_SIZE] = "";
    struct quick quick;
    cr_expect_eq(prepare(CONFIG_CLIENT, words, &quick, problem), -EINVAL);
    cr_expect_str_eq(problem,
                     "client needs the token: --token-file FILE, or RATHOLE_URING_TOKEN in "
                     "the environment");
    quick_finish(&quick);
}

/* A file that is written by --print-config may be run elsewhere. */
Test(quick, token_file_becomes_absolute)
{
    static const char *const words[][4] = {{"vps:1", "1=2", "--token-file=t"},
                                           {"vps:1", "1=2", "--token-file=/a/t"}};
    char problem[CLI_PROBLEM_SIZE] = "", expected[200];
    struct quick quick;
    cr_assert_eq(chdir(home), 0);
    (void)setenv(QUICK_TOKEN_VARIABLE, "secret", 1); /* the file comes first */
    cr_expect_eq(prepare(CONFIG_CLIENT, words[0], &quick, problem), 0);
    (void)snprintf(expected, sizeof expected, "file:%s/t", home);
    cr_expect_str_eq(quick.token, expected);
    quick_finish(&quick);
    cr_expect_eq(prepare(CONFIG_CLIENT, words[1], &quick, problem), 0);
    cr_expect_str_eq(quick.token, "file:/a/t");
    quick_finish(&quick);
    /* A directory that is gone has no path. */
    char gone[200];
    (void)snprintf(gone, sizeof gone, "%s/gone", home);
    cr_assert(mkdir(gone, 0700) == 0 && chdir(gone) == 0 && rmdir(gone) == 0);
    cr_expect_eq(prepare(CONFIG_CLIENT, words[0], &quick, problem), -ENOENT);
    cr_expect_str_eq(problem, "--token-file: no such file or directory");
    quick_finish(&quick);
    cr_expect_eq(chdir("/"), 0);
}

Test(quick, secrets_are_made_once)
{
    char problem[CLI_PROBLEM_SIZE] = "", token[KEYS_TEXT_SIZE];
    uint8_t private_key[KEYS_X25519_SIZE];
    struct quick quick;
    struct config *config;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(prepare(CONFIG_SERVER, server_words, &quick, problem), 0, "%s", problem);
        cr_expect(quick.is_token_kept);
        cr_expect_eq(quick.is_token_new, i == 0);
        load(&quick, &config);
        const struct config_noise *noise = &config->server.transport.noise;
        if (i == 0) {
            (void)snprintf(token, sizeof token, "%s", config->server.default_token);
            memcpy(private_key, noise->local_private_key, sizeof private_key);
            cr_expect_eq(strlen(token), KEYS_TEXT_SIZE - 1);
        } else {
            cr_expect_str_eq(config->server.default_token, token);
            cr_expect_arr_eq(noise->local_private_key, private_key, sizeof private_key);
        }
        config_destroy(config);
        quick_finish(&quick);
    }
}

Test(quick, secrets_that_cannot_be_made)
{
    char problem[CLI_PROBLEM_SIZE] = "";
    struct quick quick;
    (void)setenv("HOME", "/dev/null", 1);
    cr_expect_eq(prepare(CONFIG_SERVER, server_words, &quick, problem), -ENOTDIR);
    cr_expect_not_null(strstr(problem, "cannot make /dev/null/.config: "));
    quick_finish(&quick);
    (void)setenv(QUICK_TOKEN_VARIABLE, "secret", 1);
    cr_expect_eq(prepare(CONFIG_SERVER, server_words, &quick, problem), -ENOTDIR);
    cr_expect_not_null(strstr(problem, "/dev/null/.config: "));
    quick_finish(&quick);
}

/* ---- the line for the other side ---- */

static void expect_welcome(const char *const words[], const char *expected)
{
    char problem[CLI_PROBLEM_SIZE] = "";
    struct quick quick;
    struct config *config;
    struct text text;
    cr_assert_eq(prepare(CONFIG_SERVER, words, &quick, problem), 0, "%s", problem);
    load(&quick, &config);
    text_init(&text, 4096);
    quick_write_welcome(&quick, &config->server, &text);
    text_put(&text, "", 1);
    cr_assert_not(text.failed);
    cr_expect_not_null(strstr(text.bytes, expected), "%s has no %s", text.bytes, expected);
    config_destroy(config);
    quick_finish(&quick);
    text_finish(&text);
}

/* The token is said when it is made; a service's log does not get it again. */
Test(quick, welcome_with_a_token_that_is_kept)
{
    static const char *const words[] = {LOCAL, "--ports", "6000-6999", NULL};
    static const char *const udp_words[] = {"--ports", "53/udp", NULL};
    expect_welcome(words, "= rathole-uring client 127.0.0.1:2333 6000=ADDR\n\n");
    expect_welcome(words,
                   "/.config/rathole-uring/token\nOn the other side:\n\n    rathole-uring client "
                   "127.0.0.1:2333 --token-file FILE 6000=ADDR\n\n");
    expect_welcome(udp_words, " client HOST:2333 --token-file FILE 53/udp=ADDR\n");
}

Test(quick, welcome_with_a_token_of_the_user)
{
    static const char *const words[] = {LOCAL, "--ports", "6000-6999", "--noise", NULL};
    char path[200];
    (void)setenv(QUICK_TOKEN_VARIABLE, "secret", 1);
    expect_welcome(words, "On the other side:\n");
    (void)snprintf(path, sizeof path, "%s/.config/rathole-uring/noise.key", home);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert(fputs(PRIVATE "\n", file) >= 0 && fclose(file) == 0);
    expect_welcome(words,
                   "    rathole-uring client 127.0.0.1:2333 --token-file FILE --server-key " PUBLIC
                   " 6000=ADDR\n\n");
}
