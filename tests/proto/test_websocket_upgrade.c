/* The upgrade to WebSocket: the bytes of both sides, every way of cutting them, and what is
 * refused. */
#include "proto/websocket_upgrade.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

/* RFC 6455 section 1.3. */
#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#define REQUEST(fields) "GET / HTTP/1.1\r\nHost: a:1\r\n" fields "\r\n"
#define ANSWER(fields)  "HTTP/1.1 101 Switching Protocols\r\n" fields "\r\n"
#define C_CONNECTION    "Connection: Upgrade\r\n"
#define C_UPGRADE       "Upgrade: websocket\r\n"
#define C_VERSION       "Sec-WebSocket-Version: 13\r\n"
#define C_KEY           "Sec-WebSocket-Key: " KEY "\r\n"
#define C_ACCEPT        "Sec-WebSocket-Accept: " ACCEPT "\r\n"

static const char request[] = REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY);
static const char answer[] = ANSWER(C_CONNECTION C_UPGRADE C_ACCEPT);

static struct websocket_upgrade upgrade;

static void begin(bool is_server)
{
    websocket_upgrade_init(&upgrade, is_server);
    if (!is_server) {
        char out[WEBSOCKET_REQUEST_MAX];
        cr_assert_gt(websocket_upgrade_request(&upgrade, "a:1", (const uint8_t *)"the sample nonce",
                                               out),
                     0);
    }
}

/* In pieces of at most `chunk` bytes, in memory of exactly that size. Returns the result, and in
 * *ret how many bytes were taken. */
static int parse(const void *bytes, size_t size, size_t chunk, size_t *ret)
{
    int result = 0;
    *ret = 0;
    while (*ret < size && result == 0) {
        size_t count = MIN(chunk, size - *ret), used = SIZE_MAX;
        char *copy = malloc(count);
        cr_assert_not_null(copy);
        memcpy(copy, (const char *)bytes + *ret, count);
        result = websocket_upgrade_parse(&upgrade, copy, count, &used);
        free(copy);
        cr_assert(used == count || (result != 0 && used >= 1 && used < count));
        *ret += used;
    }
    return result;
}

static void expect_taken(bool is_server, const char *text)
{
    size_t used;
    begin(is_server);
    cr_expect_eq(parse(text, strlen(text), SIZE_MAX, &used), 1, "%s: %s", upgrade.why, text);
    cr_expect_eq(used, strlen(text));
}

/* Refused with these words, and not before the whole line, whose last byte is that of `text`. */
static void expect_refused(bool is_server, const char *text, const char *why)
{
    size_t used;
    begin(is_server);
    cr_assert_eq(parse(text, strlen(text), SIZE_MAX, &used), ERR_PROTOCOL, "taken: %s", text);
    cr_expect_not_null(strstr(upgrade.why, why), "%s, not: %s", upgrade.why, why);
    begin(is_server);
    cr_expect_eq(parse(text, strlen(text), 1, &used), ERR_PROTOCOL);
    cr_expect_not_null(strstr(upgrade.why, why));
}

/* ---- what is sent ---- */

Test(websocket_upgrade, the_request_of_rathole_and_one_field)
{
    char out[WEBSOCKET_REQUEST_MAX + 1];
    static const char expected[] = "GET / HTTP/1.1\r\n"
                                   "Host: tunnel.example.com:2333\r\n"
                                   "Connection: Upgrade\r\n"
                                   "Upgrade: websocket\r\n"
                                   "Sec-WebSocket-Version: 13\r\n"
                                   "Sec-WebSocket-Key: " KEY "\r\n"
                                   "Rathole-Uring: half-close\r\n"
                                   "\r\n";
    websocket_upgrade_init(&upgrade, false);
    ssize_t size = websocket_upgrade_request(&upgrade, "tunnel.example.com:2333",
                                             (const uint8_t *)"the sample nonce", out);
    cr_assert_eq(size, (ssize_t)strlen(expected));
    cr_assert_arr_eq(out, expected, (size_t)size);
}

Test(websocket_upgrade, the_answer_of_rathole)
{
    char out[WEBSOCKET_ANSWER_MAX];
    static const char expected[] = "HTTP/1.1 101 Switching Protocols\r\n"
                                   "connection: Upgrade\r\n"
                                   "upgrade: websocket\r\n"
                                   "sec-websocket-accept: " ACCEPT "\r\n"
                                   "\r\n";
    expect_taken(true, request);
    size_t size = websocket_upgrade_answer(&upgrade, out);
    cr_assert_eq(size, strlen(expected));
    cr_assert_arr_eq(out, expected, size);
}

Test(websocket_upgrade, hosts)
{
    static const char *const wrong[] = {
        "", " ", "a b:1", "a:1\r\nX: y", "a:1\n", "a\t:1", "a\x7f:1", "a\x01",
    };
    static const char *const right[] = {"[::1]:2333", "[fe80::1%eth0]:1", "b\xc3\xbc:1",
                                        "1.2.3.4:5"};
    const uint8_t nonce[WEBSOCKET_NONCE_SIZE] = {0};
    char out[WEBSOCKET_REQUEST_MAX], text[64], longest[WEBSOCKET_HOST_MAX + 2];
    websocket_upgrade_init(&upgrade, false);
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
        cr_expect_eq(websocket_upgrade_request(&upgrade, wrong[i], nonce, out), -EINVAL, "%zu", i);
    for (size_t i = 0; i < ARRAY_SIZE(right); i++) {
        cr_expect_gt(websocket_upgrade_request(&upgrade, right[i], nonce, out), 0);
        (void)snprintf(text, sizeof(text), "\r\nHost: %s\r\nConnection", right[i]);
        cr_expect_not_null(strstr(out, text));
    }
    memset(longest, 'a', sizeof(longest));
    longest[WEBSOCKET_HOST_MAX + 1] = '\0';
    cr_expect_eq(websocket_upgrade_request(&upgrade, longest, nonce, out), -EINVAL);
    longest[WEBSOCKET_HOST_MAX] = '\0';
    ssize_t size = websocket_upgrade_request(&upgrade, longest, nonce, out);
    cr_expect(size > WEBSOCKET_HOST_MAX && size < WEBSOCKET_REQUEST_MAX);
    cr_expect_arr_eq(out + size - 4, "\r\n\r\n", 4);
}

/* Our own two sides understand each other, and the server learns who the client is. */
Test(websocket_upgrade, both_sides)
{
    static struct websocket_upgrade server;
    char out[WEBSOCKET_REQUEST_MAX];
    for (unsigned int i = 0; i < 200; i++) {
        uint8_t nonce[WEBSOCKET_NONCE_SIZE];
        size_t used;
        for (size_t j = 0; j < sizeof(nonce); j++)
            nonce[j] = (uint8_t)(i * 31 + j * j * 7);
        websocket_upgrade_init(&upgrade, false);
        websocket_upgrade_init(&server, true);
        ssize_t size = websocket_upgrade_request(&upgrade, "a:1", nonce, out);
        cr_assert_eq(websocket_upgrade_parse(&server, out, (size_t)size, &used), 1);
        cr_assert_eq(used, (size_t)size);
        cr_assert(server.keeps_half);
        size = (ssize_t)websocket_upgrade_answer(&server, out);
        cr_assert_eq(websocket_upgrade_parse(&upgrade, out, (size_t)size, &used), 1);
        cr_assert_eq(used, (size_t)size);
    }
}

/* ---- cuts ---- */

static void cut(bool is_server, const char *text)
{
    size_t size = strlen(text), used;
    char with_more[600];
    cr_assert_lt(size + 8, sizeof(with_more));
    /* What follows is not taken, however it comes. */
    memcpy(with_more, text, size);
    memcpy(with_more + size, "\x82\x01x\0\r\n\r\n", 8);
    for (size_t chunk = 1; chunk <= size + 8; chunk++) {
        begin(is_server);
        cr_assert_eq(parse(with_more, size + 8, chunk, &used), 1, "chunks of %zu", chunk);
        cr_assert_eq(used, size);
    }
    for (size_t at = 1; at < size; at++) {
        size_t rest;
        begin(is_server);
        cr_assert_eq(parse(text, at, SIZE_MAX, &used), 0, "cut at %zu", at);
        cr_assert_eq(used, at);
        cr_assert_eq(parse(text + at, size - at, SIZE_MAX, &rest), 1, "cut at %zu", at);
        cr_assert_eq(rest, size - at);
    }
    begin(is_server);
    cr_assert_eq(websocket_upgrade_parse(&upgrade, text, 0, &used), 0);
    cr_assert_eq(used, 0);
}

Test(websocket_upgrade, cut_anywhere)
{
    cut(true, request);
    cut(false, answer);
}

/* ---- what is taken ---- */

Test(websocket_upgrade, requests_that_are_right)
{
    static const char *const texts[] = {
        /* what rathole's client sends */
        "GET / HTTP/1.1\r\nHost: localhost:2333\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: JOkFWSqwGvycMpUYNxbw0A==\r\n\r\n",
        /* path, query, host, offers and unknown fields do not count */
        "GET /a/b?c=d%20e HTTP/1.1\r\n" C_KEY C_VERSION C_UPGRADE C_CONNECTION "\r\n",
        "GET http://a/ HTTP/1.1\r\n" C_KEY C_VERSION C_UPGRADE C_CONNECTION "\r\n",
        REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY "Origin: http://a\r\n"
                                                       "Sec-WebSocket-Extensions: deflate\r\n"
                                                       "Sec-WebSocket-Protocol: x\r\n"
                                                       "Sec-WebSocket-Accept: x\r\n"
                                                       "X-Forwarded-For:\r\n"
                                                       "Via: 1.1 \xe4\t\x80\r\n"),
        REQUEST("connection:upgrade\r\nUPGRADE:\tWebSocket \t\r\n"
                "sec-websocket-version:13\r\nSEC-WEBSOCKET-KEY:   " KEY "  \r\n"),
        REQUEST("Connection: keep-alive , Upgrade\r\n" C_UPGRADE C_VERSION C_KEY),
        REQUEST("Connection: ,,UPGRADE ,\tclose\r\n" C_UPGRADE C_VERSION C_KEY),
        REQUEST("Connection: keep-alive\r\n" C_CONNECTION C_UPGRADE C_VERSION C_KEY),
        REQUEST(C_CONNECTION "Connection: keep-alive\r\n" C_UPGRADE C_VERSION C_KEY),
        REQUEST(C_CONNECTION C_UPGRADE C_VERSION "Sec-WebSocket-Key: +/8zAZaz09++++++AAAAAA==\r\n"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        expect_taken(true, texts[i]);
}

Test(websocket_upgrade, a_client_of_ours)
{
    static const struct {
        const char *text;
        bool keeps_half;
    } cases[] = {
        {REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY), false},
        {REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY "Rathole-Uring: half-close\r\n"), true},
        {REQUEST("rathole-uring:Half-Close\r\n" C_CONNECTION C_UPGRADE C_VERSION C_KEY), true},
        {REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY "Rathole-Uring: half-closed\r\n"), false},
        {REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY "Rathole-Uring:\r\n"), false},
        {REQUEST(C_CONNECTION C_UPGRADE C_VERSION C_KEY "Rathole-Uring2: half-close\r\n"), false},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        expect_taken(true, cases[i].text);
        cr_expect_eq(upgrade.keeps_half, cases[i].keeps_half, "%zu", i);
    }
}

Test(websocket_upgrade, answers_that_are_right)
{
    static const char *const texts[] = {
        "HTTP/1.1 101\r\n" C_ACCEPT C_UPGRADE C_CONNECTION "\r\n",
        "HTTP/1.1 101 \r\n" C_ACCEPT C_UPGRADE C_CONNECTION "\r\n",
        "HTTP/1.1 101 Web Socket Protocol Handshake\r\n" C_ACCEPT C_UPGRADE C_CONNECTION "\r\n",
        ANSWER("Server: nginx/1.22.1\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n" C_CONNECTION
               "upgrade: WEBSOCKET\r\nsec-websocket-accept:" ACCEPT "\r\nSet-Cookie: a=b\r\n"
               "Set-Cookie: c=d\r\n"),
        ANSWER("connection: upgrade\r\n" C_UPGRADE C_ACCEPT "Rathole-Uring: half-close\r\n"
               "Rathole-Uring: half-close\r\n"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        expect_taken(false, texts[i]);
        cr_expect_not(upgrade.keeps_half);
    }
}

static size_t fill(char *out, size_t size, bool is_server)
{
    static char filler[WEBSOCKET_HEADER_MAX];
    const char *text = is_server ? request : answer;
    size_t bare = strlen(text) - 2;
    memset(filler, 'x', sizeof(filler));
    return (size_t)snprintf(out, WEBSOCKET_HEADER_MAX + 16, "%.*sCookie: %.*s\r\n\r\n", (int)bare,
                            text, (int)(size - bare - 12), filler);
}

Test(websocket_upgrade, the_longest_header)
{
    static char text[WEBSOCKET_HEADER_MAX + 16];
    for (int is_server = 0; is_server < 2; is_server++) {
        for (size_t chunk = 1; chunk <= sizeof(text); chunk += sizeof(text) - 1) {
            size_t used, size = fill(text, WEBSOCKET_HEADER_MAX, is_server);
            cr_assert_eq(size, WEBSOCKET_HEADER_MAX);
            begin(is_server);
            cr_assert_eq(parse(text, size, chunk, &used), 1, "%s", upgrade.why);
            cr_assert_eq(used, size);
            size = fill(text, WEBSOCKET_HEADER_MAX + 1, is_server);
            cr_assert_eq(size, WEBSOCKET_HEADER_MAX + 1);
            begin(is_server);
            cr_assert_eq(parse(text, size, chunk, &used), ERR_PROTOCOL);
            cr_assert_eq(used, WEBSOCKET_HEADER_MAX);
            cr_assert_not_null(strstr(upgrade.why, "4,096"));
            /* also a line without an end */
            memset(text, 'G', sizeof(text));
            begin(is_server);
            cr_assert_eq(parse(text, sizeof(text), chunk, &used), ERR_PROTOCOL);
            cr_assert_eq(used, WEBSOCKET_HEADER_MAX);
        }
    }
}

/* ---- what is refused ---- */

Test(websocket_upgrade, wrong_requests)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"POST / HTTP/1.1\r\n", "GET"},
        {"get / HTTP/1.1\r\n", "GET"},
        {"GE\r\n", "GET"},
        {"\r\n", "GET"},
        {" GET / HTTP/1.1\r\n", "GET"},
        {"GET / HTTP/1.0\r\n", "HTTP/1.1"},
        {"GET / HTTP/1.1 \r\n", "HTTP/1.1"},
        {"GET / HTTP/1.10\r\n", "HTTP/1.1"},
        {"GET / http/1.1\r\n", "HTTP/1.1"},
        {"GET  / HTTP/1.1\r\n", "HTTP/1.1"},
        {"GET /  HTTP/1.1\r\n", "HTTP/1.1"},
        {"GET /\tHTTP/1.1\r\n", "HTTP/1.1"},
        {"GET / a HTTP/1.1\r\n", "HTTP/1.1"},
        {"GET  HTTP/1.1\r\n", "HTTP/1.1"},
        {"GET /\r\n", "HTTP/1.1"},
        {"GET \r\n", "HTTP/1.1"},
        {REQUEST(C_UPGRADE C_VERSION C_KEY), "lacks"},
        {REQUEST(C_CONNECTION C_VERSION C_KEY), "lacks"},
        {REQUEST(C_CONNECTION C_UPGRADE C_KEY), "lacks"},
        {REQUEST(C_CONNECTION C_UPGRADE C_VERSION), "lacks"},
        {REQUEST(""), "lacks"},
        {REQUEST("Connection: keep-alive\r\n" C_UPGRADE C_VERSION C_KEY), "lacks"},
        {REQUEST("Connection: not upgrade\r\n" C_UPGRADE C_VERSION C_KEY), "lacks"},
        {REQUEST("Connection: upgrade not\r\n" C_UPGRADE C_VERSION C_KEY), "lacks"},
        {REQUEST("Connection: upgrades\r\n" C_UPGRADE C_VERSION C_KEY), "lacks"},
        {REQUEST("Connection:\r\n" C_UPGRADE C_VERSION C_KEY), "lacks"},
        {REQUEST("Upgrade: h2c\r\n"), "Upgrade is not"},
        {REQUEST("Upgrade: websocket, h2c\r\n"), "Upgrade is not"},
        {REQUEST("Sec-WebSocket-Version: 8\r\n"), "version"},
        {REQUEST("Sec-WebSocket-Version: 13, 8\r\n"), "version"},
        {REQUEST("Sec-WebSocket-Version:\r\n"), "version"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ==\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ===\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==x\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbXB-ZSBub25jZQ==\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key: dGhlIHNhbX sZSBub25jZQ==\r\n"), "base64"},
        {REQUEST("Sec-WebSocket-Key:\r\n"), "base64"},
        {REQUEST(C_UPGRADE C_UPGRADE), "twice"},
        {REQUEST(C_VERSION C_VERSION), "twice"},
        {REQUEST(C_KEY "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), "twice"},
        {REQUEST("Rathole-Uring: half-close\r\nRathole-Uring: x\r\n"), "twice"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        expect_refused(true, cases[i].text, cases[i].why);
}

Test(websocket_upgrade, wrong_answers)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"HTTP/1.0 101 Switching Protocols\r\n", "HTTP/1.1"},
        {"HTTP/2 101 Switching Protocols\r\n", "HTTP/1.1"},
        {"SSH-2.0-OpenSSH_9.2p1\r\n", "HTTP/1.1"},
        {"\r\n", "HTTP/1.1"},
        {"HTTP/1.1\r\n", "HTTP/1.1"},
        {"HTTP/1.1 \r\n", "no HTTP status"},
        {"HTTP/1.1  101\r\n", "no HTTP status"},
        {"HTTP/1.1 1010 x\r\n", "no HTTP status"},
        {"HTTP/1.1 10 x\r\n", "no HTTP status"},
        {"HTTP/1.1 101x\r\n", "no HTTP status"},
        {"HTTP/1.1 200 OK\r\n", "HTTP status 200"},
        {"HTTP/1.1 404 Not Found\r\n", "HTTP status 404"},
        {"HTTP/1.1 502\r\n", "HTTP status 502"},
        {ANSWER(C_UPGRADE C_ACCEPT), "lacks"},
        {ANSWER(C_CONNECTION C_ACCEPT), "lacks"},
        {ANSWER(C_CONNECTION C_UPGRADE), "lacks"},
        {ANSWER("Connection: keep-alive\r\n" C_UPGRADE C_ACCEPT), "lacks"},
        {ANSWER("Connection: not upgrade\r\n" C_UPGRADE C_ACCEPT), "lacks"},
        {ANSWER(C_ACCEPT C_ACCEPT), "twice"},
        {ANSWER("Upgrade: h2c\r\n"), "Upgrade is not"},
        {ANSWER("Sec-WebSocket-Accept: S3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "match"},
        {ANSWER("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo\r\n"), "match"},
        {ANSWER("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=x\r\n"), "match"},
        {ANSWER("Sec-WebSocket-Accept:\r\n"), "match"},
        {ANSWER(C_CONNECTION C_UPGRADE C_ACCEPT "Sec-WebSocket-Extensions: deflate\r\n"),
         "extension"},
        {ANSWER(C_CONNECTION C_UPGRADE C_ACCEPT "Sec-WebSocket-Protocol: x\r\n"), "subprotocol"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        expect_refused(false, cases[i].text, cases[i].why);
}

/* What one parser takes for one line and another for two. */
Test(websocket_upgrade, smuggling)
{
    static const struct {
        const char *line, *why;
    } cases[] = {
        {"X: a\rY: b\r\n", "not an HTTP header"},
        {"X: a\nY: b\r\n", "not an HTTP header"},
        {"X: a\r\r\n", "not an HTTP header"},
        {"X: a\n", "not an HTTP header"},
        {"\n", "not an HTTP header"},
        {"X: a\x01\r\n", "not an HTTP header"},
        {"X: a\x7f\r\n", "not an HTTP header"},
        {"X: a\x1b[2J\r\n", "not an HTTP header"},
        {"X: a\r\n b\r\n", "no field"},
        {"X: a\r\n\tb\r\n", "no field"},
        {" X: a\r\n", "no field"},
        {"X : a\r\n", "no field"},
        {"X\t: a\r\n", "no field"},
        {": a\r\n", "no field"},
        {"X\r\n", "no field"},
        {"X y: a\r\n", "no field"},
        {"X\xe4: a\r\n", "no field"},
        {"X(y): a\r\n", "no field"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[600];
        (void)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\n%s" C_CONNECTION, cases[i].line);
        expect_refused(true, text, cases[i].why);
        (void)snprintf(text, sizeof(text), "HTTP/1.1 101\r\n%s" C_CONNECTION, cases[i].line);
        expect_refused(false, text, cases[i].why);
    }
}

/* A NUL anywhere, and any other control character instead of any byte. */
Test(websocket_upgrade, control_characters_anywhere)
{
    for (int is_server = 0; is_server < 2; is_server++) {
        const char *right = is_server ? request : answer;
        size_t size = strlen(right), used;
        char text[600];
        for (size_t at = 0; at < size; at++) {
            for (int c = 0; c < 0x20; c++) {
                if (c == '\t' || c == right[at])
                    continue;
                memcpy(text, right, size);
                text[at] = (char)c;
                begin(is_server);
                cr_assert_eq(parse(text, size, SIZE_MAX, &used), ERR_PROTOCOL, "0x%02x at %zu", c,
                             at);
                /* at once, or for a CR with the next byte */
                cr_assert_leq(used, at + 2);
            }
        }
    }
}

/* Peers that speak another protocol are refused at their first bytes. */
Test(websocket_upgrade, other_protocols)
{
    static const unsigned char tls[] = {0x16, 0x03, 0x01, 0x02, 0x00}, rathole[] = {0, 0, 0, 0, 1};
    size_t used;
    begin(true);
    cr_assert_eq(parse(tls, sizeof(tls), 1, &used), ERR_PROTOCOL);
    cr_assert_eq(used, 1);
    begin(true);
    cr_assert_eq(parse(rathole, sizeof(rathole), 1, &used), ERR_PROTOCOL);
    cr_assert_eq(used, 1);
    begin(false);
    cr_assert_eq(parse(tls, sizeof(tls), 1, &used), ERR_PROTOCOL);
    cr_assert_eq(used, 1);
}
