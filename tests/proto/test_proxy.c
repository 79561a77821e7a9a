/* The dialogue with a proxy: each kind of answer, whole, in each split, and cut at each byte. */
#include "proto/proxy.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "crypto/keys.h"
#include "testing.h"

#define TUNNEL "\x01tunnel"

static const struct proxy_request socks = {PROXY_SOCKS5, "example.org", 2333, NULL, NULL};
static const struct proxy_request socks_user = {PROXY_SOCKS5, "example.org", 2333, "me", "secret"};
static const struct proxy_request http = {PROXY_HTTP, "example.org", 2333, NULL, NULL};
static const struct proxy_request http_user = {PROXY_HTTP, "example.org", 2333, "me", "secret"};

struct dialogue {
    struct proxy proxy;
    uint8_t out[PROXY_OUT_MAX];
    size_t out_size, used;
    int result;
};

static void dialogue_begin(struct dialogue *dialogue, const struct proxy_request *request)
{
    struct wire_writer out;
    size_t used = 99;
    cr_assert_eq(keys_init(), 0);
    memset(dialogue, 0, sizeof(*dialogue));
    proxy_init(&dialogue->proxy, request);
    wire_writer_init(&out, dialogue->out, sizeof(dialogue->out));
    dialogue->result = proxy_step(&dialogue->proxy, NULL, 0, &used, &out);
    cr_assert_eq(used, 0);
    cr_assert_eq(wire_writer_done(&out, &dialogue->out_size), 0);
}

static void dialogue_feed(struct dialogue *dialogue, const void *bytes, size_t size)
{
    struct wire_writer out;
    size_t used, sent = 0;
    uint8_t room[PROXY_OUT_MAX];
    wire_writer_init(&out, room, sizeof(room));
    dialogue->result = proxy_step(&dialogue->proxy, bytes, size, &used, &out);
    cr_assert_leq(used, size);
    cr_assert(dialogue->result != PROXY_MORE || used == size, "what is not needed is not refused");
    dialogue->used += used;
    cr_assert_eq(wire_writer_done(&out, &sent), 0);
    cr_assert_leq(dialogue->out_size + sent, sizeof(dialogue->out));
    memcpy(dialogue->out + dialogue->out_size, room, sent);
    dialogue->out_size += sent;
}

/* Feeds it in pieces, as long as it wants more. */
static void dialogue_run(struct dialogue *dialogue, const struct proxy_request *request,
                         const char *bytes, size_t size, size_t piece)
{
    dialogue_begin(dialogue, request);
    for (size_t at = 0; at < size && dialogue->result == PROXY_MORE; at += piece)
        dialogue_feed(dialogue, bytes + at, MIN(piece, size - at));
}

static void expect_sent(const struct dialogue *dialogue, const void *bytes, size_t size)
{
    cr_expect_eq(dialogue->out_size, size, "%zu, not %zu", dialogue->out_size, size);
    cr_expect(memcmp(dialogue->out, bytes, size) == 0, "%.*s", (int)dialogue->out_size,
              (const char *)dialogue->out);
}

/* The answer, whole and in all pieces of one size and cut in two at each place, opens the tunnel,
 * and leaves what follows. */
static void expect_opens(const struct proxy_request *request, const char *answer, size_t size,
                         const void *sent, size_t sent_size)
{
    static char bytes[2 * LIMIT_PROXY_HEADER];
    struct dialogue dialogue;
    cr_assert_leq(size + sizeof(TUNNEL), sizeof(bytes));
    memcpy(bytes, answer, size);
    memcpy(bytes + size, TUNNEL, sizeof(TUNNEL));
    for (size_t piece = 1; piece <= size + sizeof(TUNNEL); piece += piece < 300 ? 1 : 61) {
        dialogue_run(&dialogue, request, bytes, size + sizeof(TUNNEL), piece);
        cr_expect_eq(dialogue.result, PROXY_FINISHED, "pieces of %zu: %s", piece,
                     dialogue.proxy.why);
        cr_expect_eq(dialogue.used, size, "the tunnel's bytes are left: %zu", dialogue.used);
        expect_sent(&dialogue, sent, sent_size);
    }
    for (size_t cut = 0; cut < size; cut++) {
        dialogue_begin(&dialogue, request);
        dialogue_feed(&dialogue, bytes, cut);
        cr_expect_eq(dialogue.result, PROXY_MORE, "nothing is known after %zu bytes", cut);
        cr_expect_eq(dialogue.used, cut);
        dialogue_feed(&dialogue, bytes + cut, size - cut);
        cr_expect_eq(dialogue.result, PROXY_FINISHED, "cut at %zu: %s", cut, dialogue.proxy.why);
        cr_expect_eq(dialogue.used, size);
    }
}

/* It is refused in these words when the first `known` bytes are there, in whatever pieces. */
static void expect_fails(const struct proxy_request *request, const char *answer, size_t size,
                         size_t known, const char *why)
{
    struct dialogue dialogue;
    for (size_t piece = 1; piece <= size; piece++) {
        dialogue_run(&dialogue, request, answer, size, piece);
        cr_expect_eq(dialogue.result, ERR_PROXY, "%s: pieces of %zu", why, piece);
        cr_expect_str_eq(dialogue.proxy.why, why);
        cr_expect_eq(dialogue.used, known, "%s: %zu, not %zu", why, dialogue.used, known);
        cr_expect_eq(dialogue.proxy.state, PROXY_FAILED);
        cr_expect_eq((strstr(dialogue.proxy.why, "secret")), NULL);
        dialogue_feed(&dialogue, "more", 4);
        cr_expect_eq(dialogue.result, ERR_PROXY, "it stays so");
        cr_expect_eq(dialogue.used, known);
    }
    dialogue_begin(&dialogue, request);
    dialogue_feed(&dialogue, answer, known - 1);
    cr_expect_eq(dialogue.result, PROXY_MORE, "%s: one byte less does not say so", why);
}

#define OPENS(request, answer, sent) \
    expect_opens(request, answer, sizeof(answer) - 1, sent, sizeof(sent) - 1)
#define FAILS(request, answer, known, why) \
    expect_fails(request, answer, sizeof(answer) - 1, known, why)

/* ---- SOCKS5 ---- */

#define CONNECT       "\5\1\0\3\13example.org\x09\x1d"
#define GREETING      "\5\1\0"
#define GREETING_USER "\5\2\0\2"
#define USER          "\1\2me\6secret"
#define IPV4_END      "\0\1\1\2\3\4\0\1"

Test(proxy, socks5_without_a_password)
{
    OPENS(&socks, "\5\0\5\0" IPV4_END, GREETING CONNECT);
    /* One is there, and the proxy does not want it. */
    OPENS(&socks_user, "\5\0\5\0" IPV4_END, GREETING_USER CONNECT);
}

Test(proxy, socks5_with_a_password)
{
    OPENS(&socks_user, "\5\2\1\0\5\0" IPV4_END, GREETING_USER USER CONNECT);
    OPENS(&socks_user, "\5\2\5\0\5\0" IPV4_END, GREETING_USER USER CONNECT); /* wrong version */
}

Test(proxy, socks5_each_kind_of_address)
{
    char answer[4 + 4 + 1 + 255 + 2];
    OPENS(&socks,
          "\5\0\5\0\0\4"
          "0123456789abcdef"
          "\0\1",
          GREETING CONNECT);
    OPENS(&socks, "\5\0\5\0\0\3\0\0\1", GREETING CONNECT);
    OPENS(&socks, "\5\0\5\0\xff\3\1x\0\1", GREETING CONNECT); /* reserved: anything */
    for (size_t size = 0; size <= 255; size += 51) {
        memset(answer, 'x', sizeof(answer));
        memcpy(answer, "\5\0\5\0\0\3", 6);
        answer[6] = (char)size;
        expect_opens(&socks, answer, 7 + size + 2, GREETING CONNECT, sizeof(GREETING CONNECT) - 1);
    }
    for (unsigned int kind = 0; kind <= 255; kind++) {
        char why[PROXY_WHY_SIZE];
        if (kind == 1 || kind == 3 || kind == 4)
            continue;
        memcpy(answer, "\5\0\5\0\0", 5);
        answer[5] = (char)kind;
        (void)snprintf(why, sizeof(why), "the proxy's answer has an unknown kind of address (%u)",
                       kind);
        expect_fails(&socks, answer, 10, 6, why);
    }
}

Test(proxy, socks5_each_refusal)
{
    static const char *const texts[] = {"general failure",
                                        "not allowed by its rules",
                                        "network unreachable",
                                        "host unreachable",
                                        "connection refused",
                                        "TTL expired",
                                        "it does not know the command",
                                        "it does not take names"};
    for (unsigned int code = 1; code <= 255; code++) {
        char answer[] = "\5\0\5\0\0\1\0\0\0\0\0\0", why[PROXY_WHY_SIZE];
        answer[3] = (char)code;
        if (code <= ARRAY_SIZE(texts))
            (void)snprintf(why, sizeof(why), "the proxy refused: %s", texts[code - 1]);
        else
            (void)snprintf(why, sizeof(why), "the proxy refused: unknown reason %u", code);
        expect_fails(&socks, answer, sizeof(answer) - 1, 4, why);
        expect_fails(&socks, answer, 4, 4, why); /* some proxies say no more than that */
    }
}

Test(proxy, socks5_methods)
{
    FAILS(&socks, "\5\xff", 2, "the proxy wants a user and a password");
    FAILS(&socks, "\5\2", 2, "the proxy wants a user and a password"); /* not offered */
    FAILS(&socks_user, "\5\xff", 2,
          "the proxy takes neither a user and password, nor goes without");
    FAILS(&socks_user, "\5\1", 2, "the proxy chose a method (1) that was not offered");
    FAILS(&socks, "\5\x80", 2, "the proxy chose a method (128) that was not offered");
}

Test(proxy, socks5_wrong_password)
{
    static const char why[] = "the proxy refused the user or the password";
    for (int status = 1; status <= 255; status++) {
        char answer[] = "\5\2\1?";
        answer[3] = (char)status;
        expect_fails(&socks_user, answer, 4, 4, why);
    }
}

Test(proxy, socks5_garbage)
{
    static const char why[] = "the answer is not that of a SOCKS5 proxy";
    for (int version = 0; version <= 255; version++) {
        char answer[] = {(char)version, 0, 5, 0};
        char reply[] = {5, 0, (char)version, 0};
        if (version == 5)
            continue;
        expect_fails(&socks, answer, 4, 1, why);
        expect_fails(&socks, reply, 4, 3, why);
    }
    FAILS(&socks, "HTTP/1.1 400 Bad Request\r\n\r\n", 1, why);
    FAILS(&socks, "SSH-2.0-OpenSSH_9.2\r\n", 1, why);
}

Test(proxy, socks5_longest_texts)
{
    char name[257], word[257];
    struct dialogue dialogue;
    memset(name, 'n', 255);
    memset(word, 'w', 255);
    name[255] = word[255] = '\0';
    struct proxy_request request = {PROXY_SOCKS5, name, 65535, word, word};
    dialogue_run(&dialogue, &request, "\5\2\1\0", 4, 4);
    cr_expect_eq(dialogue.result, PROXY_MORE);
    cr_expect_eq(dialogue.out_size, 4 + (1 + 2 * 256) + (4 + 256 + 2));
    cr_expect_eq(dialogue.out[4 + 513 + 4], 255);
    cr_expect_eq(dialogue.out[dialogue.out_size - 1], 255);

    strcpy(name + 255, "n");
    dialogue_begin(&dialogue, &request);
    cr_expect_eq(dialogue.result, ERR_PROXY);
    cr_expect_str_eq(dialogue.proxy.why, "no proxy takes this name of a server");
    cr_expect_eq(dialogue.out_size, 0);

    name[255] = '\0';
    strcpy(word + 255, "w");
    dialogue_begin(&dialogue, &request);
    cr_expect_eq(dialogue.result, ERR_PROXY);
    cr_expect_str_eq(dialogue.proxy.why,
                     "a user and a password for SOCKS5 have at most 255 bytes each");
    cr_expect_eq(dialogue.out_size, 0);
}

/* An address goes as a name, whatever it is. */
Test(proxy, socks5_addresses_are_names)
{
    struct proxy_request request = {PROXY_SOCKS5, "::1", 258, NULL, NULL};
    OPENS(&request, "\5\0\5\0" IPV4_END, GREETING "\5\1\0\3\3::1\1\2");
    request.host = "127.0.0.1";
    OPENS(&request, "\5\0\5\0" IPV4_END,
          GREETING "\5\1\0\3\x09"
                   "127.0.0.1\1\2");
}

/* ---- HTTP ---- */

#define HEAD  "CONNECT example.org:2333 HTTP/1.1\r\nHost: example.org:2333\r\n"
#define BASIC "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"
#define OK    "HTTP/1.1 200 Connection established\r\n"

Test(proxy, http_opens)
{
    OPENS(&http, OK "\r\n", HEAD "\r\n");
    OPENS(&http_user, OK "\r\n", HEAD BASIC "\r\n");
    OPENS(&http, OK "Via: 1.1 x\r\nProxy-Agent: y\r\n\r\n", HEAD "\r\n");
    OPENS(&http, "HTTP/1.0 200 OK\r\n\r\n", HEAD "\r\n");
    OPENS(&http, "HTTP/1.1 200\r\n\r\n", HEAD "\r\n"); /* no reason, and not even its space */
    OPENS(&http, "HTTP/1.1 200 \r\n\r\n", HEAD "\r\n");
    OPENS(&http, "HTTP/1.1 204 No Content\r\n\r\n", HEAD "\r\n");
    /* Fields about a body mean nothing here. */
    OPENS(&http, OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", HEAD "\r\n");
    /* Lines that end with LF alone (RFC 9112, section 2.2). */
    OPENS(&http, "HTTP/1.0 200 OK\n\n", HEAD "\r\n");
    OPENS(&http, "HTTP/1.0 200\nA: b\n\r\n", HEAD "\r\n");
    /* A CR inside a line is none of its end. */
    OPENS(&http, OK "\r\r\n\rx\r\n\r\n", HEAD "\r\n");
}

Test(proxy, http_interim_answers)
{
    OPENS(&http, "HTTP/1.1 100 Continue\r\n\r\n" OK "\r\n", HEAD "\r\n");
    OPENS(&http, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 199 X\r\n\r\n" OK "\r\n",
          HEAD "\r\n");
    FAILS(&http, "HTTP/1.1 101 Switching\r\n\r\n", 13, "the proxy refused: status 101");
    FAILS(&http, "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 502 x\r\n\r\n", 18 + 13,
          "the proxy refused: bad gateway (status 502)");
    FAILS(&http, "HTTP/1.1 100 x\r\n\r\nx", 19, "the answer is not that of an HTTP proxy");
}

Test(proxy, http_each_status)
{
    for (unsigned int status = 0; status <= 999; status++) {
        struct dialogue dialogue;
        char answer[64], number[8];
        int size = snprintf(answer, sizeof(answer), "HTTP/1.1 %03u Reason\r\n\r\n", status);
        if (status / 100 == 1 && status != 101)
            continue;
        dialogue_run(&dialogue, &http, answer, (size_t)size, (size_t)size);
        cr_expect_eq(dialogue.result, status / 100 == 2 ? PROXY_FINISHED : ERR_PROXY, "%u", status);
        (void)snprintf(number, sizeof(number), "%u", status);
        if (status / 100 != 2 && status != 407 && status != 401)
            cr_expect_neq(strstr(dialogue.proxy.why, number), NULL, "%s", dialogue.proxy.why);
    }
    FAILS(&http, "HTTP/1.1 407 x\r\n\r\n", 13, "the proxy wants a user and a password");
    FAILS(&http_user, "HTTP/1.1 407\n", 13, "the proxy refused the user or the password");
    FAILS(&http_user, "HTTP/1.0 401 x\r\n\r\n", 13, "the proxy refused the user or the password");
    FAILS(&http, "HTTP/1.1 403 x\r\n\r\n", 13, "the proxy refused: forbidden (status 403)");
    FAILS(&http, "HTTP/1.0 302 x\r\n\r\n", 13, "the proxy refused: status 302");
}

Test(proxy, http_garbage)
{
    static const char why[] = "the answer is not that of an HTTP proxy";
    static const char right[] = "HTTP/1.1 200 ";
    for (size_t at = 0; at < sizeof(right) - 1; at++) {
        static const char wrong[] = {'x', '\0', '\n', ':', '/'};
        for (size_t i = 0; i < sizeof(wrong); i++) {
            char answer[sizeof(right)];
            memcpy(answer, right, sizeof(right));
            bool is_line_end = at == sizeof(right) - 2 && wrong[i] == '\n';
            if (answer[at] == wrong[i] || is_line_end)
                continue;
            answer[at] = wrong[i];
            expect_fails(&http, answer, sizeof(answer) - 1, at + 1, why);
        }
    }
    FAILS(&http, "\5\0", 1, why);
    FAILS(&http, "SSH-2.0-OpenSSH_9.2\r\n", 1, why);
    FAILS(&http, "HTTP/2 200\r\n", 6, why);
}

Test(proxy, http_header_is_bounded)
{
    static char answer[LIMIT_PROXY_HEADER + 100];
    struct dialogue dialogue;
    memset(answer, 'x', sizeof(answer));
    memcpy(answer, OK, sizeof(OK) - 1);
    memcpy(answer + LIMIT_PROXY_HEADER - 4, "\r\n\r\n", 4);
    expect_opens(&http, answer, LIMIT_PROXY_HEADER, HEAD "\r\n", sizeof(HEAD "\r\n") - 1);

    memset(answer + LIMIT_PROXY_HEADER - 4, 'x', 4);
    for (size_t piece = 1; piece <= sizeof(answer); piece += 500) {
        dialogue_run(&dialogue, &http, answer, sizeof(answer), piece);
        cr_expect_eq(dialogue.result, ERR_PROXY);
        cr_expect_str_eq(dialogue.proxy.why, "the proxy's answer is longer than 4096 bytes");
        cr_expect_eq(dialogue.used, LIMIT_PROXY_HEADER);
    }
    /* Interim answers count as well. */
    dialogue_begin(&dialogue, &http);
    for (int i = 0; i < LIMIT_PROXY_HEADER && dialogue.result == PROXY_MORE; i++)
        dialogue_feed(&dialogue, "HTTP/1.1 100 \r\n\r\n", 17);
    cr_expect_eq(dialogue.result, ERR_PROXY);
    cr_expect_eq(dialogue.used, LIMIT_PROXY_HEADER);
}

Test(proxy, http_addresses)
{
    struct proxy_request request = {PROXY_HTTP, "2001:db8::1", 65535, NULL, NULL};
    OPENS(&request, OK "\r\n",
          "CONNECT [2001:db8::1]:65535 HTTP/1.1\r\nHost: [2001:db8::1]:65535\r\n\r\n");
    request.host = "10.0.0.1";
    request.port = 1;
    OPENS(&request, OK "\r\n", "CONNECT 10.0.0.1:1 HTTP/1.1\r\nHost: 10.0.0.1:1\r\n\r\n");
}

/* Passwords of each length: base64 in chunks is the same as in one piece. */
Test(proxy, http_basic)
{
    char password[302], plain[310], expected[PROXY_OUT_MAX];
    struct dialogue dialogue;
    for (size_t size = 0; size < sizeof(password) - 1; size++) {
        char base64[2 * sizeof(plain)];
        for (size_t i = 0; i < size; i++)
            password[i] = (char)(i + 1);
        password[size] = '\0';
        int plain_size = snprintf(plain, sizeof(plain), "me:%s", password);
        keys_base64(plain, (size_t)plain_size, base64, sizeof(base64));
        struct proxy_request request = http_user;
        request.password = password;
        dialogue_begin(&dialogue, &request);
        int expected_size = snprintf(expected, sizeof(expected),
                                     HEAD "Proxy-Authorization: Basic %s\r\n\r\n", base64);
        expect_sent(&dialogue, expected, (size_t)expected_size);
    }
    cr_expect_eq(dialogue.result, PROXY_MORE);
}

Test(proxy, http_longest_texts)
{
    static char name[256], word[LIMIT_CONFIG_TEXT + 2];
    struct dialogue dialogue;
    memset(name, ':', 255);
    memset(word, 'w', LIMIT_CONFIG_TEXT);
    struct proxy_request request = {PROXY_HTTP, name, 65535, word, word};
    dialogue_begin(&dialogue, &request);
    cr_expect_eq(dialogue.result, PROXY_MORE, "all of it has room");
    word[LIMIT_CONFIG_TEXT] = 'w';
    dialogue_begin(&dialogue, &request);
    cr_expect_eq(dialogue.result, ERR_PROXY);
    cr_expect_str_eq(dialogue.proxy.why, "the user or the password is too long");
    cr_expect_eq(dialogue.out_size, 0);
    request.user = "a:b";
    request.password = "";
    dialogue_begin(&dialogue, &request);
    cr_expect_eq(dialogue.result, ERR_PROXY);
    cr_expect_str_eq(dialogue.proxy.why, "a user for HTTP has no colon");
}

/* ---- both ---- */

/* A name cannot add a line to the request. */
Test(proxy, names_that_are_none)
{
    static const char *const names[] = {"", "a b", "a\r\nX: y", "a\n", "\x7f", "a\tb", "\x01"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct dialogue dialogue;
        struct proxy_request request = http;
        request.host = names[i];
        dialogue_begin(&dialogue, &request);
        cr_expect_eq(dialogue.result, ERR_PROXY);
        cr_expect_eq(dialogue.out_size, 0);
        request.type = PROXY_SOCKS5;
        dialogue_begin(&dialogue, &request);
        cr_expect_eq(dialogue.result, ERR_PROXY);
        cr_expect_eq(dialogue.out_size, 0);
    }
}

/* A user without a password, or the other way round, is none. */
Test(proxy, half_a_user)
{
    struct proxy_request request = socks;
    request.user = "me";
    OPENS(&request, "\5\0\5\0" IPV4_END, GREETING CONNECT);
    request.user = NULL;
    request.password = "secret";
    OPENS(&request, "\5\0\5\0" IPV4_END, GREETING CONNECT);
    request.type = PROXY_HTTP;
    OPENS(&request, OK "\r\n", HEAD "\r\n");
}

/* Random bytes behind each beginning never open a tunnel that the model does not, and how it ends
 * does not depend on the pieces. */
Test(proxy, random_answers)
{
    struct test_random random = {1};
    static const struct proxy_request *const requests[] = {&socks, &socks_user, &http, &http_user};
    static const char *const beginnings[] = {"\5", "\5\2\1", "HTTP/1.", OK};
    for (int round = 0; round < 20000; round++) {
        struct dialogue whole, pieces;
        uint8_t bytes[300];
        size_t which = test_random_below(&random, ARRAY_SIZE(requests));
        test_random_bytes(&random, bytes, sizeof(bytes));
        size_t size = strlen(beginnings[which]);
        memcpy(bytes, beginnings[which], size);
        size += test_random_below(&random, sizeof(bytes) - size);
        dialogue_run(&whole, requests[which], (char *)bytes, size, sizeof(bytes));
        dialogue_run(&pieces, requests[which], (char *)bytes, size,
                     1 + test_random_below(&random, 20));
        cr_assert_eq(whole.result, pieces.result);
        cr_assert_eq(whole.used, pieces.used);
        cr_assert_eq(whole.out_size, pieces.out_size);
        cr_assert_str_eq(whole.proxy.why, pieces.proxy.why);
    }
}

Test(proxy, every_state_has_a_name)
{
    for (int i = 0; i < PROXY_STATE_COUNT; i++)
        cr_expect_str_neq(proxy_state_name((enum proxy_state)i), "unknown");
    cr_expect_str_eq(proxy_state_name(PROXY_STATE_COUNT), "unknown");
}
