/* The table of options and, through its rows, src/config/values.c. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "options_priv.h"

Test(options, rows_are_unique_and_whole)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option *a = &options[i];
        cr_expect(a->roles == FOR_SERVER || a->roles == FOR_CLIENT || a->roles == FOR_BOTH);
        cr_expect_not_null(a->parse);
        cr_expect(a->unit != NULL && *a->unit != '\0' && a->help != NULL && *a->help != '\0');
        cr_expect_leq(a->min, a->max);
        cr_expect_leq(a->max, a->parse == value_bandwidth ? INT64_C(1) << 53 : UINT32_MAX);
        cr_expect_eq(a->parse == value_unused, (a->flags & OPTION_UNUSED) != 0, "%s", a->key);
        cr_expect_eq(a->parse == value_secret || a->parse == value_default_token ||
                         a->parse == value_password || a->parse == value_local_private_key,
                     strcmp(a->unit, "secret") == 0 && (a->flags & OPTION_UNUSED) == 0, "%s",
                     a->key);
        for (size_t j = 0; j < i; j++)
            cr_expect_not(a->section == options[j].section && (a->roles & options[j].roles) != 0 &&
                              strcmp(a->key, options[j].key) == 0,
                          "%s is there twice", a->key);
    }
}

Test(options, defaults_are_valid)
{
    for (size_t i = 0; i < option_count; i++) {
        char problem[256] = "";
        union {
            struct config_peer peer;
            struct config_service service;
        } target = {0};
        struct option_value value = {.option = &options[i],
                                     .text = options[i].default_text,
                                     .problem = problem,
                                     .problem_size = sizeof problem};
        if (value.text != NULL)
            cr_expect_eq(options[i].parse(&value, (char *)&target + options[i].offset), 0, "%s: %s",
                         options[i].key, problem);
    }
}

Test(options, find)
{
    int row = option_find(SECTION_ROLE, CONFIG_SERVER, "bind_addr");
    cr_assert_geq(row, 0);
    cr_expect_str_eq(options[row].key, "bind_addr");
    cr_expect_eq(option_row(SECTION_ROLE, CONFIG_SERVER, "bind_addr"), (size_t)row);
    cr_expect_eq(option_find(SECTION_ROLE, CONFIG_CLIENT, "bind_addr"), -1);
    cr_expect_eq(option_find(SECTION_TRANSPORT, CONFIG_SERVER, "bind_addr"), -1);
    cr_expect_neq(option_find(SECTION_TRANSPORT_TCP, CONFIG_SERVER, "proxy"),
                  option_find(SECTION_TRANSPORT_TCP, CONFIG_CLIENT, "proxy"));
    cr_expect_str_eq(option_section_name(SECTION_SERVICE), "services.NAME");
    cr_expect_str_eq(option_role_name(CONFIG_CLIENT), "client");
}

struct example {
    enum option_section section;
    enum config_role role;
    const char *key, *text;
    const char *problem; /* NULL: accepted; "... is read as ...": accepted with a warning */
    uint32_t expected;   /* for fields that are numbers */
};

#define SECONDS_WEEK   "expected whole seconds from 0 to 604800, got "
#define MODE           "expected octal permission bits from 0000 to 0777, got "
#define SECONDS_MOMENT "expected seconds from 0.1 to 3600, got "

static const struct example examples[] = {
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "0", NULL, 0},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "30", NULL, 30000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "007", NULL, 7000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "604800", NULL, 604800000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "604801", "604801 is read as 604800",
     604800000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "0.5", SECONDS_WEEK "\"0.5\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "-1", SECONDS_WEEK "\"-1\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "+1", NULL, 1000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "1_0", NULL, 10000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "0x10", NULL, 16000},
    {SECTION_ROLE, CONFIG_CLIENT, "heartbeat_timeout", "1_000_000", "1_000_000 is read as 604800",
     604800000},
    {SECTION_ROLE, CONFIG_CLIENT, "retry_interval", "0x7fffffffffffffff",
     "0x7fffffffffffffff is read as 604800", 604800000},
    {SECTION_SERVICE, CONFIG_CLIENT, "retry_interval", "604801", "604801 is read as 604800",
     604800000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "30s", SECONDS_WEEK "\"30s\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "", SECONDS_WEEK "\"\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "99999999999999999999999",
     "99999999999999999999999 is read as 604800", 604800000},
    {SECTION_ROLE, CONFIG_SERVER, "heartbeat_interval", "a\x1b\"\n",
     SECONDS_WEEK "\"a\\x1b\\\"\\x0a\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "5", NULL, 5000},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "0.1", NULL, 100},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "1.005", NULL, 1005},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "2.50", NULL, 2500},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "3600", NULL, 3600000},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "0.099", SECONDS_MOMENT "\"0.099\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "0.8999999999999999",
     "expected seconds from 0.1 to 3600 with up to 3 decimals, got \"0.8999999999999999\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "1.0005",
     "expected seconds from 0.1 to 3600 with up to 3 decimals, got \"1.0005\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", ".5", SECONDS_MOMENT "\".5\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "5.", SECONDS_MOMENT "\"5.\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "1.2.3", SECONDS_MOMENT "\"1.2.3\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "1e3", SECONDS_MOMENT "\"1e3\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "handshake_timeout", "9007199254740992",
     SECONDS_MOMENT "\"9007199254740992\"", 0},
    {SECTION_ROLE, CONFIG_SERVER, "max_pending_handshakes", "1", NULL, 1},
    {SECTION_ROLE, CONFIG_SERVER, "max_pending_handshakes", "0",
     "expected a number from 1 to 65536, got \"0\"", 0},
    {SECTION_ROLE, CONFIG_CLIENT, "threads", "auto", NULL, 0},
    {SECTION_ROLE, CONFIG_CLIENT, "threads", "256", NULL, 256},
    {SECTION_ROLE, CONFIG_CLIENT, "threads", "257",
     "expected a number from 1 to 256 or auto, got \"257\"", 0},
    {SECTION_ROLE, CONFIG_CLIENT, "log_level", "trace", NULL, LOG_TRACE},
    {SECTION_ROLE, CONFIG_CLIENT, "log_level", "verbose",
     "expected error, warn, info, debug or trace, got \"verbose\"", 0},
    {SECTION_ROLE, CONFIG_CLIENT, "log_format", "json", NULL, LOG_JSON},
    {SECTION_ROLE, CONFIG_CLIENT, "log_format", "xml", "expected text or json, got \"xml\"", 0},
    {SECTION_TRANSPORT_TCP, CONFIG_CLIENT, "keepalive_secs", "0", NULL, 0},
    {SECTION_TRANSPORT_TCP, CONFIG_CLIENT, "keepalive_secs", "32767", NULL, 32767},
    {SECTION_TRANSPORT_TCP, CONFIG_CLIENT, "keepalive_secs", "86400", "86400 is read as 32767",
     32767},
    {SECTION_TRANSPORT_TCP, CONFIG_CLIENT, "keepalive_secs", "one",
     "expected a number from 0 to 32767, got \"one\"", 0},
    {SECTION_TRANSPORT_TCP, CONFIG_SERVER, "keepalive_interval", "0", "0 is read as 1", 1},
    {SECTION_TRANSPORT_TCP, CONFIG_SERVER, "keepalive_interval", "4294967297",
     "4294967297 is read as 32767", 32767},
    /* Keys that rathole does not have are not clamped. */
    {SECTION_ROLE, CONFIG_SERVER, "max_pending_handshakes", "65537",
     "expected a number from 1 to 65536, got \"65537\"", 0},
    {SECTION_TRANSPORT, CONFIG_SERVER, "type", "noise", NULL, CONFIG_TRANSPORT_NOISE},
    {SECTION_TRANSPORT, CONFIG_CLIENT, "type", "tls", NULL, CONFIG_TRANSPORT_TLS},
    {SECTION_TRANSPORT, CONFIG_CLIENT, "type", "websocket", NULL, CONFIG_TRANSPORT_WEBSOCKET},
    {SECTION_TRANSPORT, CONFIG_CLIENT, "type", "quic",
     "expected tcp, noise, tls or websocket, got \"quic\"", 0},
    {SECTION_TRANSPORT_NOISE, CONFIG_SERVER, "pattern", "Noise_NK_25519_ChaChaPoly_BLAKE2s", NULL,
     NOISE_NK},
    {SECTION_TRANSPORT_NOISE, CONFIG_CLIENT, "pattern", "Noise_XX_25519_ChaChaPoly_BLAKE2s", NULL,
     NOISE_XX},
    {SECTION_TRANSPORT_NOISE, CONFIG_CLIENT, "pattern", "Noise_KK_25519_ChaChaPoly_BLAKE2s", NULL,
     NOISE_KK},
    {SECTION_SERVICE, CONFIG_SERVER, "nodelay", "true", NULL, CONFIG_TRUE},
    {SECTION_SERVICE, CONFIG_SERVER, "nodelay", "false", NULL, CONFIG_FALSE},
    {SECTION_SERVICE, CONFIG_SERVER, "nodelay", "1", "expected true or false, got \"1\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "nodelay", "True", "expected true or false, got \"True\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "type", "tcp", NULL, CONFIG_SERVICE_TCP},
    {SECTION_SERVICE, CONFIG_SERVER, "type", "sctp",
     "expected tcp, udp or socket_stream, got \"sctp\"", 0},
    {SECTION_SERVICE, CONFIG_CLIENT, "type", "socket_stream", NULL, CONFIG_SERVICE_SOCKET_STREAM},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "0660", NULL, 0660},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "666", NULL, 0666},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "0o7", NULL, 07},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "0", NULL, 0},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "1777", MODE "\"1777\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "00660", MODE "\"00660\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "0680", MODE "\"0680\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "0o", MODE "\"0o\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "socket_mode", "rw-rw----", MODE "\"rw-rw----\"", 0},
    {SECTION_SERVICE, CONFIG_SERVER, "type", "udp", NULL, CONFIG_SERVICE_UDP},
    {SECTION_SERVICE, CONFIG_SERVER, "udp_timeout", "whatever",
     "expected seconds from 0.1 to 604800, got \"whatever\"", 0},
    {SECTION_SERVICE, CONFIG_CLIENT, "udp_timeout", "2.5", NULL, 2500},
    {SECTION_SERVICE, CONFIG_SERVER, "udp_data_channels", "auto", NULL, 0},
    {SECTION_SERVICE, CONFIG_SERVER, "udp_data_channels", "3", NULL, 3},
    {SECTION_SERVICE, CONFIG_SERVER, "max_udp_visitors", "10000", NULL, 10000},
};

Test(options, values)
{
    for (size_t i = 0; i < ARRAY_SIZE(examples); i++) {
        const struct example *example = &examples[i];
        char problem[256] = "";
        uint32_t target;
        memset(&target, 0xa5, sizeof target);
        struct option_value value = {
            .option = &options[option_row(example->section, example->role, example->key)],
            .text = example->text,
            .problem = problem,
            .problem_size = sizeof problem};
        bool is_taken =
            example->problem == NULL || strstr(example->problem, " is read as ") != NULL;
        int result = value.option->parse(&value, &target);
        cr_expect_eq(result, is_taken ? 0 : ERR_CONFIG, "%s = %s", example->key, example->text);
        cr_expect_str_eq(problem, example->problem != NULL ? example->problem : "");
        cr_expect_eq(target, is_taken ? example->expected : 0xa5a5a5a5, "%s = %s: %u", example->key,
                     example->text, target);
    }
}

Test(options, bool_values)
{
    bool target = false;
    struct option_value value = {.text = "true"};
    cr_expect_eq(value_bool(&value, &target), 0);
    cr_expect(target);
    value.text = "false";
    cr_expect_eq(value_bool(&value, &target), 0);
    cr_expect_not(target);
}

Test(options, addresses)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } good[] = {
        {"0.0.0.0:2333", "0.0.0.0", 2333},
        {"[::]:1", "::", 1},
        {"example.com:65535", "example.com", 65535},
        {"::1:80", "::1", 80},
        {":::2333", "::", 2333},
        {"2001:db8::5:3080", "2001:db8::5", 3080},
    };
    static const char *const bad[] = {"",        "22",   "h",   ":1",    "h:",   "h:0",
                                      "h:65536", "h:-1", "::1", "[::1]", "h:1 ", "h:http"};
    char problem[256];
    struct host_port target;
    struct option_value value = {.problem = problem, .problem_size = sizeof problem};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        value.text = good[i].text;
        *problem = '\0';
        cr_expect_eq(value_addr(&value, &target), 0);
        /* An IPv6 address without brackets is read as by rathole, with a warning. */
        bool is_doubtful = good[i].text[0] != '[' && strchr(good[i].host, ':') != NULL;
        char warning[256] = "";
        if (is_doubtful)
            (void)snprintf(warning, sizeof warning, "\"%s\" is read as [%s]:%u", good[i].text,
                           good[i].host, good[i].port);
        cr_expect_str_eq(problem, warning);
        cr_expect_str_eq(target.host, good[i].host);
        cr_expect_eq(target.port, good[i].port);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char expected[256];
        value.text = bad[i];
        (void)snprintf(expected, sizeof expected, "expected host:port, got \"%s\"", bad[i]);
        cr_expect_eq(value_addr(&value, &target), ERR_CONFIG, "%s", bad[i]);
        cr_expect_str_eq(problem, expected);
    }
}

Test(options, addresses_of_services)
{
    static const struct {
        const char *text, *host, *problem; /* host NULL: refused */
    } rows[] = {
        {"h:1", "h", ""},
        {"unix:/run/a b.sock", "/run/a b.sock", ""},
        {"/run/a", "/run/a", ""},
        {"unix:@name", "@name", ""},
        {"unix:", NULL, "expected unix:/path (absolute) or unix:@name, got \"unix:\""},
        {"unix:a", NULL, "expected unix:/path (absolute) or unix:@name, got \"unix:a\""},
        {"unix:/", NULL, "expected unix:/path (absolute) or unix:@name, got \"unix:/\""},
        {"unix:@", NULL, "expected unix:/path (absolute) or unix:@name, got \"unix:@\""},
        {"@name", NULL, "expected host:port or unix:/path, got \"@name\""},
        {"run/a", NULL, "expected host:port or unix:/path, got \"run/a\""},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        char problem[256] = "";
        struct host_port target;
        struct option_value value = {.text = rows[i].text,
                                     .problem = problem,
                                     .problem_size = sizeof problem};
        cr_expect_eq(value_addr_or_path(&value, &target), rows[i].host != NULL ? 0 : ERR_CONFIG);
        cr_expect_str_eq(problem, rows[i].problem);
        if (rows[i].host != NULL)
            cr_expect_str_eq(target.host, rows[i].host);
    }
}

/* sun_path has room for 107 bytes and a NUL. */
Test(options, paths_that_are_too_long)
{
    static const char *const forms[] = {"unix:/", "/", "unix:@"};
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        char text[200], problem[256] = "";
        struct host_port target;
        struct option_value value = {.text = text,
                                     .problem = problem,
                                     .problem_size = sizeof problem};
        size_t head = (size_t)snprintf(text, sizeof text, "%s", forms[i]);
        memset(text + head, 'x', 107);
        text[head + 106] = '\0';
        cr_expect_eq(value_addr_or_path(&value, &target), 0);
        cr_expect_eq(strlen(target.host), 107);
        text[head + 106] = 'x';
        text[head + 107] = '\0';
        cr_expect_eq(value_addr_or_path(&value, &target), ERR_CONFIG);
        cr_expect_str_eq(problem,
                         "the path of a unix socket has at most 107 bytes, this one has 108");
    }
}

Test(options, owners)
{
    static const char *const good[] = {"u", "u:g", ":g", "1000:33"};
    static const char *const bad[] = {"", ":", "u:", "u:g:x", "a b"};
    char problem[256], target[2 * LIMIT_ACCOUNT_NAME + 2];
    struct option_value value = {.problem = problem, .problem_size = sizeof problem};
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        value.text = good[i];
        cr_expect_eq(value_owner(&value, target), 0, "%s", good[i]);
        cr_expect_str_eq(target, good[i]);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        value.text = bad[i];
        cr_expect_eq(value_owner(&value, target), ERR_CONFIG, "%s", bad[i]);
    }
}

Test(options, nearest_word)
{
    static const char *const words[] = {"green", "greed", "blue"};
    cr_expect_str_eq(option_nearest_word("GREN", words, ARRAY_SIZE(words)), "green");
    cr_expect_null(option_nearest_word("gree", words, ARRAY_SIZE(words)), "which of the two?");
    cr_expect_str_eq(option_nearest_word("greeds", words, ARRAY_SIZE(words)), "greed");
    cr_expect_str_eq(option_nearest_word("blu", words, ARRAY_SIZE(words)), "blue");
    cr_expect_null(option_nearest_word("yellow", words, ARRAY_SIZE(words)));
    cr_expect_null(option_nearest_word("", words, 0));
}

Test(options, suggestions_fit_their_room)
{
    char out[16];
    (void)option_suggest_key(SECTION_ROLE, CONFIG_SERVER, "zzzzzzzzzzzzz", out, sizeof out);
    cr_expect_str_eq(out, "the keys here a");
    (void)option_suggest_section("servr", out, sizeof out);
    cr_expect_str_eq(out, "did you mean [s");
    char word[5000];
    memset(word, 'x', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    (void)option_suggest_key(SECTION_ROLE, CONFIG_SERVER, word, out, sizeof out);
    (void)option_suggest_section(word, out, sizeof out);
    cr_expect_str_eq(out, "sections begin ");
}

#define BITS "expected bits per second from 8k to 1T, as 500k, 100M or 1G; or 0, got "

Test(options, bandwidths)
{
    static const struct {
        const char *text, *problem; /* NULL: it is taken */
        uint64_t value;
    } texts[] = {
        {"0", NULL, 0},
        {"0M", NULL, 0},
        {"8000", NULL, 8000},
        {"8k", NULL, 8000},
        {"8K", NULL, 8000},
        {"500k", NULL, 500000},
        {"1.5M", NULL, 1500000},
        {"100M", NULL, 100000000},
        {"0.25G", NULL, 250000000},
        {"1G", NULL, 1000000000},
        {"12345678901", NULL, UINT64_C(12345678901)},
        {"1T", NULL, UINT64_C(1000000000000)},
        {"1000G", NULL, UINT64_C(1000000000000)},
        {"7999", BITS "\"7999\"", 0},
        {"100", BITS "\"100\"", 0},
        {"1.001T", BITS "\"1.001T\"", 0},
        {"99999999999999999999G", BITS "\"99999999999999999999G\"", 0},
        {"1m", BITS "\"1m\"", 0},
        {"100Mbit", BITS "\"100Mbit\"", 0},
        {"100 M", BITS "\"100 M\"", 0},
        {"-1M", BITS "\"-1M\"", 0},
        {"M", BITS "\"M\"", 0},
        {"", BITS "\"\"", 0},
        {"1.5", BITS "\"1.5\"", 0},
        {"00000000000000000000000000000000001M", BITS "\"00000000000000000000000000000000001M\"",
         0},
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        char problem[256] = "";
        uint64_t target = UINT64_MAX;
        struct option_value value = {
            .option = &options[option_row(SECTION_SERVICE, CONFIG_SERVER, "bandwidth")],
            .text = texts[i].text,
            .problem = problem,
            .problem_size = sizeof problem};
        int result = value.option->parse(&value, &target);
        cr_expect_eq(result, texts[i].problem == NULL ? 0 : ERR_CONFIG, "%s", texts[i].text);
        cr_expect_str_eq(problem, texts[i].problem == NULL ? "" : texts[i].problem);
        cr_expect_eq(target, texts[i].problem == NULL ? texts[i].value : UINT64_MAX, "%s",
                     texts[i].text);
    }
}
