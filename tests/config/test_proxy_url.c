/* client.transport.tcp.proxy: which URLs are taken, as what, and the messages, none of which quotes
 * a URL. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limits.h"
#include "options_priv.h"
#include "secret_priv.h"
#include "whole_files.h"

#define EXPECTED "expected socks5://[user:password@]host:port or http://[user:password@]host:port: "
#define BYTES_64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define BYTES_255 \
    BYTES_64 BYTES_64 BYTES_64 "0123456789abcdef0123456789abcdef0123456789abcdef012345678901234"

static char problem[512];

static struct option_value value_of(const char *text)
{
    *problem = '\0';
    return (struct option_value){.text = text, .problem = problem, .problem_size = sizeof problem};
}

static const struct {
    const char *text;
    enum config_proxy_type type;
    const char *host;
    uint16_t port;
    const char *user, *password;
    const char *warning;
} good[] = {
    {"socks5://127.0.0.1:1080", CONFIG_PROXY_SOCKS5, "127.0.0.1", 1080, NULL, NULL, ""},
    {"socks5://myuser:mypass@127.0.0.1:1080", CONFIG_PROXY_SOCKS5, "127.0.0.1", 1080, "myuser",
     "mypass", ""},
    {"http://myuser:mypass@proxy.example:8080", CONFIG_PROXY_HTTP, "proxy.example", 8080, "myuser",
     "mypass", ""},
    {"HTTP://h:80/", CONFIG_PROXY_HTTP, "h", 80, NULL, NULL, ""},
    {"Socks5://[2001:db8::1]:1080", CONFIG_PROXY_SOCKS5, "2001:db8::1", 1080, NULL, NULL, ""},
    {"http://u:p@[::1]:3128/?a#b", CONFIG_PROXY_HTTP, "::1", 3128, "u", "p",
     "what stands behind host:port is left out"},
    {"http://h:1?x", CONFIG_PROXY_HTTP, "h", 1, NULL, NULL,
     "what stands behind host:port is left out"},
    /* One of the two may be missing; an @ alone says nothing. */
    {"http://user@h:1", CONFIG_PROXY_HTTP, "h", 1, "user", "", ""},
    {"http://:pass@h:1", CONFIG_PROXY_HTTP, "h", 1, "", "pass", ""},
    {"http://:@h:1", CONFIG_PROXY_HTTP, "h", 1, NULL, NULL, ""},
    {"http://@h:1", CONFIG_PROXY_HTTP, "h", 1, NULL, NULL, ""},
    /* The first colon and the last @ count. */
    {"socks5://u:p:q@r@h:1", CONFIG_PROXY_SOCKS5, "h", 1, "u", "p:q@r", ""},
    {"socks5://a%40b:%2f%3F%23%25%e2%82%AC@h:1", CONFIG_PROXY_SOCKS5, "h", 1, "a@b", "/?#%€", ""},
    {"socks5://a%3Ab:c@h:1", CONFIG_PROXY_SOCKS5, "h", 1, "a:b", "c", ""},
    /* Not an escape: it stands for itself. */
    {"socks5://u:100%@h:1", CONFIG_PROXY_SOCKS5, "h", 1, "u", "100%", ""},
    {"socks5://u:100%2@h:1", CONFIG_PROXY_SOCKS5, "h", 1, "u", "100%2", ""},
    {"socks5://u:%zz%%41@h:1", CONFIG_PROXY_SOCKS5, "h", 1, "u", "%zz%A", ""},
    {"socks5://" BYTES_255 ":" BYTES_255 "@h:1", CONFIG_PROXY_SOCKS5, "h", 1, BYTES_255, BYTES_255,
     ""},
    /* A user or password of an http proxy may be longer, as tokens are. */
    {"http://u:" BYTES_255 "x@h:1", CONFIG_PROXY_HTTP, "h", 1, "u", BYTES_255 "x", ""},
};

static void check_text(const char *text, const char *expected)
{
    cr_expect_eq(text == NULL, expected == NULL);
    if (text != NULL && expected != NULL)
        cr_expect_str_eq(text, expected);
}

Test(proxy_url, good)
{
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct config_proxy proxy = {0};
        struct option_value value = value_of(good[i].text);
        cr_assert_eq(value_proxy(&value, &proxy), 0, "%s: %s", good[i].text, problem);
        cr_expect_str_eq(problem, good[i].warning, "%s", good[i].text);
        cr_expect_eq(proxy.type, good[i].type, "%s", good[i].text);
        cr_expect_str_eq(proxy.addr.host, good[i].host);
        cr_expect_eq(proxy.addr.port, good[i].port);
        check_text(proxy.user, good[i].user);
        check_text(proxy.password, good[i].password);
        cr_expect_eq(value.is_inline_secret, good[i].user != NULL, "%s", good[i].text);
        secret_free(proxy.user);
        secret_free(proxy.password);
    }
}

Test(proxy_url, bad)
{
    static const struct {
        const char *text, *problem;
    } bad[] = {
        {"", EXPECTED "it is empty"},
        {"h:1", EXPECTED "it begins with something else"},
        {"socks5:h:1", EXPECTED "it begins with something else"},
        {"socks5h://h:1", EXPECTED "it begins with something else"},
        {"socks4://h:1", EXPECTED "it begins with something else"},
        {"https://h:1", EXPECTED "it begins with something else"},
        {"socks5://", EXPECTED "the port is missing"},
        {"socks5://h", EXPECTED "the port is missing"},
        {"http://u:p@h/", EXPECTED "the port is missing"},
        {"http://h:", EXPECTED "the host or the port is not valid"},
        {"http://:80", EXPECTED "the host or the port is not valid"},
        {"http://h:0", EXPECTED "the host or the port is not valid"},
        {"http://h:65536", EXPECTED "the host or the port is not valid"},
        {"http://a b:1", EXPECTED "the host or the port is not valid"},
        {"http://[::1]", EXPECTED "the host or the port is not valid"},
        {"http://[h]:1", EXPECTED "the host or the port is not valid"},
        {"http://2001:db8::1:1080", EXPECTED "an IPv6 address needs brackets"},
        {"http://u:p@::1:80", EXPECTED "an IPv6 address needs brackets"},
        /* Would be the host u and the port 1. */
        {"socks5://u:1/2@h:1080",
         EXPECTED "a /, ? or # in the user or the password is written %2F, %3F or %23"},
        {"socks5://u:1#2@h:1080",
         EXPECTED "a /, ? or # in the user or the password is written %2F, %3F or %23"},
        {"socks5://u:1?2@h:1080",
         EXPECTED "a /, ? or # in the user or the password is written %2F, %3F or %23"},
        {"socks5://u%00:p@h:1", EXPECTED "the user and the password can't hold %00"},
        {"http://u:p%00@h:1", EXPECTED "the user and the password can't hold %00"},
        {"http://a%3Ab:c@h:1", EXPECTED "a user of an http proxy can't hold a colon"},
        {"socks5://" BYTES_255 "x:p@h:1",
         EXPECTED "the user and the password of a socks5 proxy have at most 255 bytes each"},
        {"socks5://u:" BYTES_255 "x@h:1",
         EXPECTED "the user and the password of a socks5 proxy have at most 255 bytes each"},
        {"env:RU_NO_SUCH_VARIABLE", "environment variable \"RU_NO_SUCH_VARIABLE\" is not set"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config_proxy proxy = {0};
        struct option_value value = value_of(bad[i].text);
        cr_expect_eq(value_proxy(&value, &proxy), ERR_CONFIG, "%s", bad[i].text);
        cr_expect_str_eq(problem, bad[i].problem, "%s: %s", bad[i].text, problem);
        cr_expect_eq(proxy.type, CONFIG_PROXY_NONE);
        cr_expect_null(proxy.user);
    }
}

Test(proxy_url, every_byte_can_be_written)
{
    for (unsigned int byte = 1; byte < 256; byte++) {
        struct config_proxy proxy = {0};
        char text[64];
        (void)snprintf(text, sizeof text,
                       byte % 2 == 0 ? "socks5://u:%%%02x@h:1" : "socks5://u:%%%02X@h:1", byte);
        struct option_value value = value_of(text);
        cr_assert_eq(value_proxy(&value, &proxy), 0, "%s", text);
        cr_expect_eq((unsigned char)proxy.password[0], byte);
        cr_expect_eq(proxy.password[1], '\0');
        secret_free(proxy.user);
        secret_free(proxy.password);
    }
}

Test(proxy_url, out_of_the_environment)
{
    (void)setenv("RU_TEST_PROXY", "http://u:p@h:8080", 1);
    struct config *config = parse(CLIENT LOCAL "[client.transport.tcp]\nproxy=env:RU_TEST_PROXY\n");
    cr_expect_str_eq(said(), "");
    const struct config_proxy *proxy = &config->client.transport.proxy;
    cr_expect_eq(proxy->type, CONFIG_PROXY_HTTP);
    cr_expect_str_eq(proxy->password, "p");
    config_destroy(config);
}

Test(proxy_url, goes_with_every_transport)
{
    static const char *const types[] = {
        "type=tcp\n", "type=websocket\nwebsocket.tls=false\n", "type=tls\ntls.hostname=h\n",
        "type=noise\nnoise.remote_public_key=Jjy1hTT0H+XG8rYLySmZfR6hg9fPGOZ3r38+yki4Rl4=\n"};
    char text[512];
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        (void)snprintf(text, sizeof text,
                       CLIENT LOCAL "[client.transport]\n%stcp.proxy=socks5://h:1\n", types[i]);
        struct config *config = parse(text);
        cr_expect_str_eq(said(), "");
        cr_expect_eq(config->client.transport.proxy.type, CONFIG_PROXY_SOCKS5);
        config_destroy(config);
    }
}
